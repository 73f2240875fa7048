"""Search for words in a shard, by a payload index that finds what begins with a word (`service.index.words`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import qdrant_edge as edge

from service.index.contract import WordMatch, WordQuery
from service.index.embedded.changes import SetPoints
from service.index.embedded.ranking import to_edge
from service.index.payload import to_head_conditions, to_word_match
from service.index.words import WORDS_KEY, describe_words, rank_by_words

IS_HEAD = edge.FieldCondition("index", match=edge.MatchValue(0))


def search_words(shard: edge.EdgeShard, query: WordQuery) -> list[WordMatch]:
    """Find assets by words of their names and metadata; see `Index.search_words`."""
    conditions = [IS_HEAD, *to_edge(to_head_conditions(query))]
    places: dict[str, edge.PointId] = {}
    begun = [edge.FieldCondition(WORDS_KEY, match=edge.MatchPrefix(word)) for word in query.words]

    def find(least: int, limit: int) -> Iterator[Mapping[str, Any]]:
        chosen = edge.Filter(must=[*conditions], min_should=edge.MinShould([*begun], least))
        keys = ["asset_id", WORDS_KEY]
        request = edge.ScrollRequest(limit=limit, filter=chosen, with_payload=keys, with_vector=False)
        for record in shard.scroll(request)[0]:
            head = record.payload or {}
            places[head["asset_id"]] = record.id
            yield head

    ids = rank_by_words(query.words, query.limit, find)
    if not ids:
        return []
    records = shard.retrieve([places[asset_id] for asset_id in ids], with_payload=True, with_vector=False)
    heads = {record.id: record.payload or {} for record in records}
    return [to_word_match(heads[places[asset_id]]) for asset_id in ids]


def find_wordless(shard: edge.EdgeShard, limit: int) -> list[SetPoints]:
    """The words of up to `limit` assets that were stored without: an index of before has none."""
    chosen = edge.Filter(must=[IS_HEAD, edge.IsEmptyCondition(WORDS_KEY)])
    request = edge.ScrollRequest(limit=limit, filter=chosen, with_payload=True, with_vector=False)
    return [
        SetPoints(ids=[str(record.id)], facts=describe_words(record.payload or {}))
        for record in shard.scroll(request)[0]
    ]
