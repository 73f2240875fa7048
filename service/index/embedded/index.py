"""The index on Qdrant Edge: a folder on this machine, no server to run.

    with EmbeddedIndex.open(folder, layout=layout) as index:
        index.write_asset(segments, is_last=True)
        matches = index.search(VectorQuery(track=track, target="audio", limit=10))

Edge runs in a process of its own (`service.index.embedded.shard_process` says why). If that dies, the call that waited
is repeated once on a new one; nothing acknowledged is lost. A folder is open in one process at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

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
from service.index.embedded.aside import OptimizerWatch
from service.index.embedded.forms import TrackForm, read_storage
from service.index.embedded.generation import current_shard, read_seal
from service.index.embedded.messages import ShardConfig, Write
from service.index.embedded.supervision import ShardSupervisor
from service.index.failure import InvalidCursor
from service.index.filling import WordFiller
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.payload import describe_files, describe_metadata, to_conditions
from service.index.points import StoredPoint, check_query, is_point_id, to_segment
from service.system.modality import Modality, Track
from service.system.storage import Storage
from service.system.timing import timed

CALL_SECONDS = 30.0
WORDS_AT_ONCE = 200
READ_AT_ONCE = 256  # other calls wait meanwhile
DELETED_AT_ONCE = 256  # a search waits for as many entries of Edge's log, .1 ms each


class EmbeddedIndex:
    """The `Index` contract on Qdrant Edge. Make one with `open`.

    A call fails after `call_seconds`, and a shard process that answers nothing for that long is killed.
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, config: ShardConfig, *, call_seconds: float = CALL_SECONDS) -> None:
        self._config = config
        self._drafts: dict[str, Draft] = {}
        self._unfinished: set[str] = set()  # assets with a draft or a running call: a new process keeps them
        self._lock = threading.Lock()  # guards the drafts
        self._shard = ShardSupervisor(config, call_seconds=call_seconds, unfinished=self._list_unfinished)
        self._watch = OptimizerWatch(self.is_optimizing_due, self.optimize_aside)
        self._form = self._read_form()
        self._words = WordFiller(lambda: cast(int, self._shard.call("add_words", WORDS_AT_ONCE)))

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        layout: VectorLayout,
        min_free_bytes: int | None = None,
        optimize_share: float | None = None,
        call_seconds: float = CALL_SECONDS,
        storage: Storage = "float16",
    ) -> Self:
        """Open the index in a folder, or create it; the caller closes it. `ShardConfig` explains most arguments.

        It optimizes itself aside after more than `optimize_share` of its segments came or went; None for never.
        """
        config = ShardConfig(
            folder=path.absolute(), layout=layout, min_free_bytes=min_free_bytes, storage=storage
        )
        index = cls(config, call_seconds=call_seconds)
        if optimize_share is not None:
            index._watch.start(optimize_share)
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def layout(self) -> VectorLayout:
        """See `Index.layout`."""
        return self._config.layout

    @property
    def storage(self) -> Storage:
        """How tracks are stored."""
        return self._form.storage

    @property
    def shard_pid(self) -> int:
        """Id of the shard process."""
        return self._shard.pid

    def write_asset(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        """Store an asset, in one call or in several; see `Index.write_asset`."""
        points = self._form.of_segments(segments)
        asset_id = segments[0].asset_id
        with self._lock:
            kept = self._drafts.get(asset_id)  # so that a call that failed can be repeated
        draft = follow(kept, segments[0], points[0]).extend(points)
        write = Write(
            asset_id=asset_id,
            bodies=[draft.label(point) for point in points if point is not draft.head],
            head=draft.finish() if is_last else None,
            body_ids=draft.body_ids if is_last else (),
            outdated_ids=draft.outdated_ids if is_last else (),
        )
        with self._lock:
            self._unfinished.add(asset_id)
        try:
            self._shard.call("write", write)
            kept = None if is_last else draft
        finally:
            self._keep(asset_id, kept)

    def _list_unfinished(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._unfinished)

    def _keep(self, asset_id: str, draft: Draft | None) -> None:
        with self._lock:
            self._drafts.pop(asset_id, None)
            self._unfinished.discard(asset_id)
            if draft:
                self._drafts[asset_id] = draft
                self._unfinished.add(asset_id)

    def search(self, query: VectorQuery) -> list[SegmentMatch]:
        """Find the best segments; see `Index.search`."""
        return self._search("search", query)

    def search_assets(self, query: VectorQuery) -> list[SegmentMatch]:
        """Find the best segment of each of the best assets; see `Index.search_assets`."""
        return self._search("search_assets", query)

    def _search(self, method: str, query: VectorQuery) -> list[SegmentMatch]:
        checked = check_query(query, layout=self._config.layout)
        with timed("search"):
            return cast("list[SegmentMatch]", self._shard.call(method, checked))

    def search_words(self, query: WordQuery) -> list[WordMatch]:
        """Find assets by words of their names and metadata; see `Index.search_words`."""
        self._words.wait()
        with timed("search"):
            return cast("list[WordMatch]", self._shard.call("search_words", query))

    def get_asset(self, asset_id: str) -> Asset | None:
        """The asset, or None if no complete asset of this id is stored."""
        return self.get_assets([asset_id]).get(asset_id)

    def get_assets(self, asset_ids: Sequence[str]) -> dict[str, Asset]:
        """Those of some assets that are stored, by id; see `Index.get_assets`."""
        parts = (asset_ids[n : n + READ_AT_ONCE] for n in range(0, len(asset_ids), READ_AT_ONCE))
        found = (asset for part in parts for asset in self._shard.call("get_assets", part))
        return {asset.asset_id: asset for asset in found}

    def find_path(self, path: str) -> Asset | None:
        """The asset at this path, the one written last if a file was replaced and both are stored."""
        return cast("Asset | None", self._shard.call("find_path", path))

    def set_paths(self, asset_id: str, *, paths: Sequence[str], media: Mapping[str, Any]) -> bool:
        """Replace durably the asset's paths and facts; False if no such asset is stored."""
        return cast(bool, self._shard.call("set_facts", asset_id, describe_files(paths, media)))

    def set_metadata(self, asset_id: str, metadata: Mapping[str, Any]) -> bool:
        """Replace durably what people said about the asset; False if no such asset is stored."""
        return cast(bool, self._shard.call("set_facts", asset_id, describe_metadata(metadata)))

    def get_track(self, asset_id: str, *, index: int, modality: Modality) -> Track | None:
        """The track of a segment, float32, shape (T, D), or None if the asset has none there."""
        check_modality(modality)
        name = modality + TRACK_SUFFIX
        if modality not in self._config.layout.tracks:
            return None
        points: list[StoredPoint] = self._shard.call("read_places", [asset_id], index, name)
        return self._form.read(points[0].vectors[name], modality) if points else None

    def read_pooled(self, asset_ids: Sequence[str], *, index: int, modality: Modality) -> PooledVectors:
        """Pooled vectors of many assets; see `Index.read_pooled`."""
        check_modality(modality)
        if modality not in self._config.layout.tracks:
            return {}
        found: list[StoredPoint] = self._shard.call("read_places", list(asset_ids), index, modality)
        return {point.payload["asset_id"]: point.vectors[modality] for point in found}

    def read_segments(self, asset_id: str, *, first_index: int = 0, limit: int) -> list[Segment]:
        """Read segments with their tracks, in order; see `Index.read_segments`."""
        check_limit(limit)
        points: list[StoredPoint] = self._shard.call(
            "read_segments", asset_id, first_index, limit, self._config.layout.track_names
        )
        return [
            to_segment(point.payload, self._form.to_tracks(point.vectors), layout=self._config.layout)
            for point in points
        ]

    def list_assets(
        self, *, limit: int, cursor: str | None = None, filter: Filter | None = None
    ) -> AssetPage:
        """List complete assets, page by page; see `Index.list_assets`."""
        check_limit(limit)
        if cursor is not None and not is_point_id(cursor):  # Edge reads other ways to write an id, too
            raise InvalidCursor(f"cursor must be next_cursor of a page, got {cursor!r}")
        return cast(AssetPage, self._shard.call("list_assets", limit, cursor, to_conditions(filter)))

    def delete_asset(self, asset_id: str) -> int:
        """Remove every segment of the asset durably and return how many there were."""
        self._keep(asset_id, None)
        return cast(int, self._shard.call("delete_asset", asset_id))

    def delete_assets(self, asset_ids: Sequence[str]) -> int:
        """Remove every segment of several assets durably; see `Index.delete_assets`."""
        for asset_id in asset_ids:
            self._keep(asset_id, None)
        parts = [asset_ids[n : n + DELETED_AT_ONCE] for n in range(0, len(asset_ids), DELETED_AT_ONCE)]
        num_deleted = sum(sum(cast("list[int]", self._shard.call("drop_assets", part))) for part in parts)
        if num_deleted:
            self._shard.call("flush")
        return num_deleted

    def count_assets(self, *, filter: Filter | None = None) -> int:
        """How many complete assets there are; see `Index.count_assets`."""
        return cast(int, self._shard.call("count_assets", to_conditions(filter)))

    def count_segments(self, *, modality: Modality | None = None) -> int:
        """How many segments of complete assets are stored, or how many of them have the modality."""
        if modality is not None:
            check_modality(modality)
            if modality not in self._config.layout.tracks:
                return 0
        return cast(int, self._shard.call("count_segments", modality))

    def check(self) -> None:
        """Raise `IndexDamaged` if stored data was lost."""
        self._shard.call("check")

    def info(self) -> IndexInfo:
        """How large the index is."""
        return cast(IndexInfo, self._shard.call("info"))

    def optimize(self) -> None:
        """Build the HNSW graphs, however long it takes. Other calls fail with `IndexUnavailable` then."""
        self._shard.optimize()

    def _read_form(self) -> TrackForm:
        folder = self._config.folder
        return TrackForm(self._config.layout, read_storage(folder / current_shard(folder)))

    def optimize_aside(self) -> None:
        """Build the HNSW graphs while this index answers; see `ShardSupervisor.optimize_aside`."""
        self._shard.optimize_aside(self.storage)

    def store_as(
        self, storage: Storage, *, on_copied: Callable[[int, int], None] = lambda _done, _all: None
    ) -> None:
        """Store tracks in another way, in a new shard beside the present one; see `ShardSupervisor.optimize_aside`.

        If it is cut off, the next call goes on with the copy, unless the index has changed. float16 stays where rows
        would not be smaller.
        """
        self._shard.optimize_aside(storage, on_copied=on_copied)
        self._form = self._read_form()

    def is_optimizing_due(self, share: float) -> bool:
        """Whether more than a share of the segments changed since the last build; never below `exact_below` points."""
        seal = read_seal(self._config.folder / current_shard(self._config.folder))
        num_points = self.info().num_segments
        num_changed = abs(num_points - (seal.num_points if seal else 0))
        if num_points <= self._config.exact_below:
            return False
        return num_changed > share * num_points or self._shard.call("stale_share") > share

    def close(self) -> None:
        """Flush and stop the shard process. Safe to call twice."""
        self._shard.retire()
        self._words.stop()
        self._watch.stop()
        self._shard.close()
