"""The requests of an index to one Qdrant collection; payload keys are those of `service.index.payload`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from service.index.contract import Filter
from service.index.failure import IndexFailure
from service.index.layout import TRACK_SUFFIX
from service.index.payload import (
    MAX_OPEN_INDEXES,
    OPEN_KEYS,
    AnyOf,
    Condition,
    keys_to_index,
    to_conditions,
)
from service.index.points import StoredPoint
from service.index.qdrant.link import Link

logger = logging.getLogger(__name__)

REQUEST_NUMBERS = 1_000_000  # in an upsert: 20 MB as JSON, and a server takes 32
TRACKS_AT_ONCE = 64  # 64 tracks of 16 × 768 are 3 MB over gRPC, 15 MB as JSON
SCROLL_POINTS = 1000
UNFINISHED = "unfinished"  # true in points of an asset that is being written; otherwise not there


class Points:
    """The points of one collection. Writes return when they are applied."""

    def __init__(self, link: Link, name: str) -> None:
        self.link = link
        self.name = name
        self._indexed: set[str] | None = None  # keys of numbers that have an index, or were refused one

    def to_conditions(self, chosen: Filter | None) -> list[models.Condition]:
        """The conditions of a filter, as the client takes them; numbers that it bounds get an index, in time."""
        conditions = to_conditions(chosen)
        if keys := keys_to_index(conditions):
            self._index_numbers(keys)
        return [_to_condition(condition) for condition in conditions]

    def _index_numbers(self, keys: Sequence[str]) -> None:
        """Let the server index keys, up to `MAX_OPEN_INDEXES`: this question does not wait for it."""
        try:
            if self._indexed is None:
                present = self.link.run(lambda client: client.get_collection(self.name)).payload_schema
                self._indexed = {key.replace('"', "") for key in present if key.startswith(OPEN_KEYS)}
            number = models.FloatIndexParams(type=models.FloatIndexType.FLOAT, enable_hnsw=False)
            for key in keys:
                if key.replace('"', "") in self._indexed or len(self._indexed) >= MAX_OPEN_INDEXES:
                    continue
                self._indexed.add(key.replace('"', ""))
                self.link.run(
                    lambda client, key=key: client.create_payload_index(self.name, key, number, wait=False)  # type: ignore[misc]
                )
        except IndexFailure as exc:  # without one it takes longer
            logger.warning("%s has no index of %s: %s", self.name, ", ".join(keys), exc)

    def upsert(self, points: Sequence[StoredPoint], *, is_unfinished: bool) -> None:
        """Store points, some at a time."""
        facts = {UNFINISHED: True} if is_unfinished else {}
        num_numbers = max((sum(v.size for v in point.vectors.values()) for point in points), default=1)
        at_once = max(1, REQUEST_NUMBERS // num_numbers)
        for first in range(0, len(points), at_once):
            batch = [_to_struct(point, facts) for point in points[first : first + at_once]]
            self.link.run(lambda client, batch=batch: client.upsert(self.name, batch, wait=True))  # type: ignore[misc]

    def query(
        self,
        *,
        prefetch: models.Prefetch,
        vector: NDArray[np.float32],
        using: str,
        limit: int,
        keys: Sequence[str],
    ) -> list[models.ScoredPoint]:
        """Rank the candidates of a prefetch by the vector named `using`, best first, and read some payload keys."""
        numbers = vector.ravel().tolist()
        answer = self.link.run(
            lambda client: client.query_points(
                self.name, prefetch=prefetch, query=numbers, using=using, limit=limit, with_payload=list(keys)
            )
        )
        return answer.points

    def retrieve(self, point_ids: Sequence[str], *, vectors: Sequence[str]) -> Iterable[models.Record]:
        """Points with payload and some of their vectors, some at a time: an answer stays small."""
        for first in range(0, len(point_ids), TRACKS_AT_ONCE):
            some = list(point_ids[first : first + TRACKS_AT_ONCE])
            yield from self.link.run(
                lambda client, some=some: client.retrieve(  # type: ignore[misc]
                    self.name, some, with_payload=True, with_vectors=list(vectors)
                )
            )

    def scroll(
        self, conditions: Sequence[models.Condition], *, keys: Sequence[str] | bool = True
    ) -> list[models.Record]:
        """All points that meet all conditions, by id, without vectors; `keys` of the payload are read."""
        found: list[models.Record] = []
        offset: models.ExtendedPointId | None = None
        while True:
            records, offset = self.scroll_page(conditions, keys=keys, limit=SCROLL_POINTS, offset=offset)
            found += records
            if offset is None:
                return found

    def scroll_page(
        self,
        conditions: Sequence[models.Condition],
        *,
        limit: int,
        offset: models.ExtendedPointId | None,
        keys: Sequence[str] | bool = True,
        among: models.MinShould | None = None,
    ) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        """One page of `scroll`, of points that meet enough conditions `among` others, and where the next begins."""
        chosen = models.Filter(must=list(conditions), min_should=among)
        payload = keys if isinstance(keys, bool) else list(keys)
        records, following = self.link.run(
            lambda client: client.scroll(
                self.name,
                scroll_filter=chosen,
                limit=limit,
                offset=offset,
                with_payload=payload,
                with_vectors=False,
            )
        )
        return records, following

    def count(
        self, conditions: Sequence[models.Condition], *, without: Sequence[models.Condition] = ()
    ) -> int:
        """How many points meet all conditions and none of those in `without`."""
        chosen = models.Filter(must=list(conditions), must_not=list(without))
        return self.link.run(lambda client: client.count(self.name, count_filter=chosen, exact=True)).count

    def set_payload(self, asset_id: str, facts: Mapping[str, Any]) -> None:
        """Set payload in every point of an asset, in one request."""
        asset = models.Filter(must=[is_value("asset_id", asset_id)])
        self.link.run(lambda client: client.set_payload(self.name, dict(facts), asset, wait=True))

    def set_each(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Set payload in points, by id, in one request."""
        changes = [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=dict(given), points=[point_id]))
            for point_id, given in facts.items()
        ]
        if changes:
            self.link.run(lambda client: client.batch_update_points(self.name, changes, wait=True))

    def take_marks(self, asset_id: str) -> None:
        """Remove the mark from every point of an asset, in one request."""
        asset = models.Filter(must=[is_value("asset_id", asset_id)])
        self.link.run(lambda client: client.delete_payload(self.name, [UNFINISHED], asset, wait=True))

    def delete(self, conditions: Sequence[models.Condition]) -> None:
        """Delete all points that meet all conditions, in one request."""
        selector = models.FilterSelector(filter=models.Filter(must=list(conditions)))
        self.link.run(lambda client: client.delete(self.name, selector, wait=True))


def read_vector(record: models.Record, name: str, *, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """A vector of a point, float32, or None if it has none of that name; raises `IndexFailure` for another size."""
    vectors: Mapping[str, Any] = record.vector if isinstance(record.vector, dict) else {}
    if name not in vectors:
        return None
    numbers = np.asarray(vectors[name], dtype=np.float32)
    if numbers.size != np.prod(shape):
        raise IndexFailure(f"{name} of point {record.id} has {numbers.size} numbers, expected {shape}")
    return numbers.reshape(shape)


def _to_condition(condition: Condition) -> models.Condition:
    if isinstance(condition, AnyOf):
        return is_any(condition.key, condition.words)
    bounds = models.Range(gte=condition.at_least, lte=condition.at_most, lt=condition.below)
    either = [models.FieldCondition(key=key, range=bounds) for key in condition.keys]
    return either[0] if len(either) == 1 else models.Filter(should=[*either])


def is_any(key: str, words: Iterable[str]) -> models.FieldCondition:
    """The condition that a key has one of some words."""
    return models.FieldCondition(key=key, match=models.MatchAny(any=sorted(words)))


def is_value(key: str, value: str | int | bool) -> models.FieldCondition:
    """The condition that a key has one value."""
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _to_struct(point: StoredPoint, facts: Mapping[str, Any]) -> models.PointStruct:
    """A point as the client takes it; tracks rounded to the float16 in which they are stored."""
    vectors = {
        name: (vector.astype(np.float16) if name.endswith(TRACK_SUFFIX) else vector).tolist()
        for name, vector in point.vectors.items()
    }
    return models.PointStruct(id=point.point_id, vector=vectors, payload={**point.payload, **facts})
