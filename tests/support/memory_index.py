"""An index in plain NumPy, without a process: for tests whose promise is about what is done with an index.

    with MemoryIndex.open(folder, layout=layout) as index: ...      # in place of EmbeddedIndex.open

    with memory_indexes():                                     # every index that `open_foley` and others open
        with open_foley(settings) as foley: ...

It passes the contract suite. What was written to a folder is there when the folder is opened again, in this process
and as long as its `index.json` exists. A folder that is open already is refused, as that of the embedded index is.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from service.index import opening
from service.index.contract import (
    Asset,
    AssetPage,
    Filter,
    IndexInfo,
    PooledVectors,
    Segment,
    SegmentMatch,
    VectorQuery,
    WordMatch,
    WordQuery,
    check_limit,
    check_modality,
)
from service.index.draft import Draft, follow
from service.index.failure import IndexFailure, IndexInUse, InvalidCursor
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.payload import (
    AnyOf,
    Condition,
    describe_files,
    describe_labels,
    describe_metadata,
    store_path,
    to_asset,
    to_conditions,
    to_head_conditions,
    to_match,
    to_word_match,
)
from service.index.points import (
    StoredPoint,
    check_query,
    is_point_id,
    to_points,
    to_segment,
)
from service.index.words import describe_words, rank_by_words
from service.system.modality import Modality, Track
from service.system.storage import Storage


@dataclass
class _Store:
    """What is written to one folder: the points of complete assets, the head first, and of those being written."""

    complete: dict[str, list[StoredPoint]] = field(default_factory=dict)
    unfinished: dict[str, tuple[Draft, list[StoredPoint]]] = field(default_factory=dict)
    is_open: bool = False


_STORES: dict[Path, _Store] = {}


class MemoryIndex:
    """The `Index` contract in plain NumPy. Make one with `open`."""

    is_shared: ClassVar[bool] = False

    def __init__(self, store: _Store, *, layout: VectorLayout) -> None:
        self._store = store
        self._layout = layout
        self._lock = threading.RLock()
        self._is_closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        layout: VectorLayout,
        min_free_bytes: int | None = None,
        optimize_share: float | None = None,
        call_seconds: float = 30.0,
        storage: Storage = "float16",
    ) -> Self:
        """Open the index of a folder, or create it; the last four arguments change nothing."""
        marker = path.absolute() / "index.json"
        if not marker.exists():
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text("{}")
            _STORES[marker] = _Store()
        store = _STORES[marker]
        if store.is_open:
            raise IndexInUse(f"the index in {path} is open in another process (number {os.getpid()})")
        store.is_open = True
        return cls(store, layout=layout)

    @property
    def storage(self) -> Storage:
        """float16."""
        return "float16"

    @property
    def layout(self) -> VectorLayout:
        """See `Index.layout`."""
        return self._layout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _opened(self) -> Iterator[_Store]:
        with self._lock:
            if self._is_closed:
                raise IndexFailure("the index is closed")
            yield self._store

    def write_asset(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        """See `Index.write_asset`."""
        points = to_points(segments, layout=self._layout)
        asset_id = segments[0].asset_id
        with self._opened() as store:
            kept, earlier = store.unfinished.get(asset_id, (None, []))
            if segments[0].index == 0:
                earlier = []
            draft = follow(kept, segments[0], points[0]).extend(points)
            store.unfinished[asset_id] = draft, [*earlier, *points]
            if is_last:
                _, written = store.unfinished.pop(asset_id)
                store.complete[asset_id] = [draft.finish(), *map(draft.label, written[1:])]

    def search(self, query: VectorQuery) -> list[SegmentMatch]:
        """See `Index.search`."""
        with self._opened():
            checked = check_query(query, layout=self._layout)
            return self._rank(checked, hidden=(), num_candidates=query.num_candidates)[: query.limit]

    def search_assets(self, query: VectorQuery) -> list[SegmentMatch]:
        """See `Index.search_assets`."""
        best: dict[str, SegmentMatch] = {}
        num_candidates = query.num_candidates
        with self._opened():
            checked = check_query(query, layout=self._layout)
            while True:
                ranked = self._rank(checked, hidden=best.keys(), num_candidates=num_candidates)
                for match in ranked:
                    if len(best) < query.limit:
                        best.setdefault(match.asset_id, match)
                if len(best) == query.limit or len(ranked) < num_candidates:
                    return sorted(best.values(), key=_order)
                num_candidates *= 2

    def _rank(
        self, query: VectorQuery, *, hidden: Collection[str], num_candidates: int
    ) -> list[SegmentMatch]:
        conditions = to_conditions(query.filter)
        points = [
            point
            for asset_id, asset in self._store.complete.items()
            if asset_id not in hidden and _passes(asset[0].payload, conditions)
            for point in asset
            if query.target in point.vectors
        ]
        if not points:
            return []
        pooled = np.stack([point.vectors[query.target] for point in points])  # (N, D)
        nearest = np.argsort(-pooled @ self._layout.pool(query.track), kind="stable")[:num_candidates]
        candidates = [points[number] for number in nearest.tolist()]
        shape = self._layout.shape(query.target)
        tracks = np.stack([p.vectors[query.target + TRACK_SUFFIX].reshape(shape) for p in candidates])
        moments, weights = self._layout.compare(query.track, tracks, target=query.target)
        payloads = [point.payload for point in candidates]
        return sorted(map(to_match, payloads, moments.tolist(), weights.tolist()), key=_order)

    def search_words(self, query: WordQuery) -> list[WordMatch]:
        """See `Index.search_words`."""
        conditions = to_head_conditions(query)
        with self._opened() as store:
            heads = {asset_id: points[0].payload for asset_id, points in store.complete.items()}
        passing = [head for head in heads.values() if _passes(head, conditions)]

        def find(least: int, limit: int) -> list[Mapping[str, Any]]:
            return [head for head in passing if _count_begun(query.words, head["words"]) >= least][:limit]

        return [to_word_match(heads[i]) for i in rank_by_words(query.words, query.limit, find)]

    def get_asset(self, asset_id: str) -> Asset | None:
        """See `Index.get_asset`."""
        with self._opened() as store:
            points = store.complete.get(asset_id)
            return to_asset(points[0].payload) if points else None

    def get_assets(self, asset_ids: Sequence[str]) -> dict[str, Asset]:
        """See `Index.get_assets`."""
        found = {asset_id: self.get_asset(asset_id) for asset_id in asset_ids}
        return {asset_id: asset for asset_id, asset in found.items() if asset is not None}

    def find_path(self, path: str) -> Asset | None:
        """See `Index.find_path`."""
        with self._opened() as store:
            heads = [points[0].payload for points in store.complete.values()]
        found = [head for head in heads if store_path(path) in head["paths"]]
        return to_asset(max(found, key=lambda head: float(head["written_at_seconds"]))) if found else None

    def set_paths(self, asset_id: str, *, paths: Sequence[str], media: Mapping[str, Any]) -> bool:
        """See `Index.set_paths`."""
        return self._change(asset_id, describe_files(paths, media))

    def set_metadata(self, asset_id: str, metadata: Mapping[str, Any]) -> bool:
        """See `Index.set_metadata`."""
        return self._change(asset_id, describe_metadata(metadata))

    def _change(self, asset_id: str, facts: Mapping[str, Any]) -> bool:
        with self._opened() as store:
            if asset_id not in store.complete:
                return False
            changed = {**store.complete[asset_id][0].payload, **facts}
            facts = {**facts, **describe_labels(changed), **describe_words(changed)}
            store.complete[asset_id] = [
                replace(point, payload={**point.payload, **facts}) for point in store.complete[asset_id]
            ]
            return True

    def get_track(self, asset_id: str, *, index: int, modality: Modality) -> Track | None:
        """See `Index.get_track`."""
        check_modality(modality)
        vector = self._vector(asset_id, index, modality + TRACK_SUFFIX)
        return None if vector is None else vector.reshape(self._layout.shape(modality))

    def read_pooled(self, asset_ids: Sequence[str], *, index: int, modality: Modality) -> PooledVectors:
        """See `Index.read_pooled`."""
        check_modality(modality)
        found = {asset_id: self._vector(asset_id, index, modality) for asset_id in asset_ids}
        return {asset_id: vector for asset_id, vector in found.items() if vector is not None}

    def _vector(self, asset_id: str, index: int, name: str) -> NDArray[np.float32] | None:
        with self._opened() as store:
            points = [p for p in store.complete.get(asset_id, ()) if p.payload["index"] == index]
        return points[0].vectors.get(name) if points else None

    def read_segments(self, asset_id: str, *, first_index: int = 0, limit: int) -> list[Segment]:
        """See `Index.read_segments`."""
        check_limit(limit)
        with self._opened() as store:
            points = [p for p in store.complete.get(asset_id, ()) if p.payload["index"] >= first_index]
        return [to_segment(p.payload, p.vectors, layout=self._layout) for p in points[:limit]]

    def list_assets(
        self, *, limit: int, cursor: str | None = None, filter: Filter | None = None
    ) -> AssetPage:
        """See `Index.list_assets`: in the order of the heads' ids."""
        check_limit(limit)
        if cursor is not None and not is_point_id(cursor):
            raise InvalidCursor(f"cursor must be next_cursor of a page, got {cursor!r}")
        conditions = to_conditions(filter)
        with self._opened() as store:
            heads = sorted((points[0] for points in store.complete.values()), key=lambda p: p.point_id)
        found = [h for h in heads if h.point_id >= (cursor or "") and _passes(h.payload, conditions)]
        return AssetPage(
            assets=tuple(to_asset(head.payload) for head in found[:limit]),
            next_cursor=found[limit].point_id if len(found) > limit else None,
        )

    def delete_asset(self, asset_id: str) -> int:
        """See `Index.delete_asset`."""
        with self._opened() as store:
            _, unfinished = store.unfinished.pop(asset_id, (None, []))
            return len(store.complete.pop(asset_id, unfinished))

    def delete_assets(self, asset_ids: Sequence[str]) -> int:
        """See `Index.delete_assets`."""
        return sum(map(self.delete_asset, asset_ids))

    def count_assets(self, *, filter: Filter | None = None) -> int:
        """See `Index.count_assets`."""
        conditions = to_conditions(filter)
        with self._opened() as store:
            return sum(_passes(points[0].payload, conditions) for points in store.complete.values())

    def count_segments(self, *, modality: Modality | None = None) -> int:
        """See `Index.count_segments`."""
        if modality is not None:
            check_modality(modality)
        with self._opened() as store:
            points = [point for asset in store.complete.values() for point in asset]
        return sum(modality is None or modality in point.vectors for point in points)

    def check(self) -> None:
        """Raise `IndexDamaged` if stored data was lost: never."""

    def info(self) -> IndexInfo:
        """See `Index.info`; the bytes are those of the vectors."""
        with self._opened() as store:
            points = [point for asset in store.complete.values() for point in asset]
            points += [point for _, written in store.unfinished.values() for point in written]
            return IndexInfo(
                num_segments=len(points),
                num_assets=len(store.complete),
                num_indexed_vectors=0,
                num_bytes=sum(vector.nbytes for point in points for vector in point.vectors.values()),
            )

    def optimize(self) -> None:
        """There is no graph to build."""
        with self._opened():
            pass

    def close(self) -> None:
        """Give the folder free, and forget what was never completed. Safe to call twice."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._store.is_open = False
                self._store.unfinished.clear()


def _count_begun(words: Sequence[str], stored: Sequence[str]) -> int:
    return sum(any(one.startswith(word) for one in stored) for word in words)


def _passes(payload: Mapping[str, Any], conditions: Sequence[Condition]) -> bool:
    return all(_holds(payload, condition) for condition in conditions)


def _values_at(payload: Mapping[str, Any], key: str) -> list[Any]:
    value: Any = payload
    for quoted, plain in re.findall(r'"([^"]*)"|([^."]+)', key):
        value = value.get(quoted or plain) if isinstance(value, Mapping) else None
    return value if isinstance(value, list) else [value]


def _holds(payload: Mapping[str, Any], condition: Condition) -> bool:
    if isinstance(condition, AnyOf):
        return bool(set(_values_at(payload, condition.key)) & set(condition.words))
    values = [value for key in condition.keys for value in _values_at(payload, key)]
    numbers = [value for value in values if type(value) in (int, float)]
    return any(
        (condition.at_least is None or number >= condition.at_least)
        and (condition.at_most is None or number <= condition.at_most)
        and (condition.below is None or number < condition.below)
        for number in numbers
    )


def _order(match: SegmentMatch) -> tuple[float, str, float]:
    return -match.score, match.asset_id, match.start_seconds


@contextmanager
def memory_indexes() -> Iterator[None]:
    """Open a memory index wherever the service would open an embedded one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "EmbeddedIndex", MemoryIndex)
        yield
