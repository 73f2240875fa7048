"""Search for words on a Qdrant server, by a full-text payload index of prefixes (`service.index.words`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qdrant_client import models

from service.index.contract import WordMatch, WordQuery
from service.index.payload import to_word_match
from service.index.qdrant.points import Points, is_any, is_value
from service.index.words import MAX_WORD_CHARS, WORDS_KEY, describe_words, rank_by_words

TEXT_INDEX = models.TextIndexParams(
    type=models.TextIndexType.TEXT,
    tokenizer=models.TokenizerType.PREFIX,
    min_token_len=1,
    max_token_len=MAX_WORD_CHARS,
    lowercase=True,
)


def search_words(points: Points, query: WordQuery) -> list[WordMatch]:
    """Find assets by words of their names and metadata; see `Index.search_words`."""
    conditions = [
        is_value("index", 0),
        is_any("modalities", [query.target]),
        *points.to_conditions(query.filter),
    ]
    begun = [models.FieldCondition(key=WORDS_KEY, match=models.MatchText(text=word)) for word in query.words]

    def find(least: int, limit: int) -> Iterator[Mapping[str, Any]]:
        among = models.MinShould(conditions=[*begun], min_count=least)
        keys = ["asset_id", WORDS_KEY]
        records, _ = points.scroll_page(conditions, among=among, keys=keys, limit=limit, offset=None)
        return (record.payload or {} for record in records)

    ids = rank_by_words(query.words, query.limit, find)
    if not ids:
        return []
    records = points.scroll([is_value("index", 0), is_any("asset_id", ids)])
    heads = {head["asset_id"]: head for head in (record.payload or {} for record in records)}
    return [to_word_match(heads[asset_id]) for asset_id in ids if asset_id in heads]


def add_words(points: Points, limit: int) -> int:
    """Give up to `limit` assets the words that they were stored without; returns how many these were."""
    wordless = models.IsEmptyCondition(is_empty=models.PayloadField(key=WORDS_KEY))
    records, _ = points.scroll_page([is_value("index", 0), wordless], limit=limit, offset=None)
    facts = {str(record.id): describe_words(record.payload or {}) for record in records}
    points.set_each(facts)
    return len(facts)
