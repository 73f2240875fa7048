"""The index on Qdrant Edge: a folder on this machine, no server to run.

    with EmbeddedIndex.open(folder, width=768) as index:
        index.write_asset(segments, is_last=True)
        matches = index.search(track, target="audio", limit=10)

The engine runs in a process of its own (`service.index.engine` says why). When it dies, the call that waited
is repeated once on a new one; nothing acknowledged is lost. A folder is open in one process at a time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.index.contract import (
    Asset,
    AssetPage,
    Filter,
    IndexFailure,
    IndexInfo,
    IndexUnavailable,
    InvalidSegment,
    Modality,
    Segment,
    SegmentMatch,
    Track,
)
from service.index.messages import Search, ShardConfig, Write
from service.index.payload import MODALITIES, describe_files, describe_metadata, to_conditions
from service.index.points import TRACK_SUFFIX, StoredPoint, check_track, pool_track, to_points, to_segment
from service.index.process import EngineDied, EngineProcess
from service.timing import timed

CALL_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """An asset on its way in, up to some call: its first point waits here until the rest is stored."""

    head: StoredPoint
    points: tuple[tuple[str, int, float], ...] = ()  # id, index and start of every point so far
    modalities: frozenset[Modality] = frozenset()
    outdated_ids: tuple[str, ...] = ()  # stored while fewer modalities were known

    @property
    def body_ids(self) -> list[str]:
        return [point_id for point_id, _, _ in self.points[1:]]

    @property
    def found(self) -> list[Modality]:
        """The modalities so far, in order."""
        return [name for name in MODALITIES if name in self.modalities]

    def extend(self, points: Sequence[StoredPoint]) -> _Draft:
        """The draft with the points of one more call."""
        places = [(p.point_id, p.payload["index"], p.payload["start_seconds"]) for p in points]
        known = self.modalities | {name for name in MODALITIES for point in points if name in point.vectors}
        outdated = self.outdated_ids if known == self.modalities else tuple(self.body_ids)
        return replace(self, points=(*self.points, *places), modalities=known, outdated_ids=outdated)

    def label(self, point: StoredPoint) -> StoredPoint:
        """A point that tells the modalities of its asset, as far as they are known."""
        return replace(point, payload={**point.payload, "modalities": self.found})

    def finish(self) -> StoredPoint:
        """The first point with what it says about the whole asset."""
        facts = {
            "num_segments": len(self.points),
            "last_index": self.points[-1][1],
        }
        return self.label(replace(self.head, payload={**self.head.payload, **facts}))


class EmbeddedIndex:
    """The `Index` contract on Qdrant Edge. Make one with `open`.

    Args:
        config: What the engine opens.
        call_seconds: An engine that answers nothing for so long is killed; a call fails after it.
    """

    def __init__(self, config: ShardConfig, *, call_seconds: float = CALL_SECONDS) -> None:
        self._config = config
        self._call_seconds = call_seconds
        self._drafts: dict[str, _Draft] = {}
        self._unfinished: set[str] = set()  # assets with a draft or a call under way: a new engine keeps them
        self._lock = threading.Lock()  # guards the engine's replacement and the drafts
        self._is_closed = False
        self._is_optimizing = False
        self._engine = EngineProcess(config, send_seconds=call_seconds)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        width: int,
        num_moments: int = 16,
        min_free_bytes: int | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> Self:
        """Open the index in a folder, or create it.

        Args:
            path: The folder; made where it is missing.
            width: D, width of an embedding.
            num_moments: T, embeddings in a track.
            min_free_bytes: Writes are refused below this much free space; None for max(2 GiB, 5 % of the
                disk).
            call_seconds: How long a call may wait for the engine.

        Returns:
            The open index, which wants to be closed.
        """
        config = ShardConfig(
            folder=path.absolute(), width=width, num_moments=num_moments, min_free_bytes=min_free_bytes
        )
        return cls(config, call_seconds=call_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def engine_pid(self) -> int:
        """Id of the engine's process."""
        return self._engine.pid

    def write_asset(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        """Store an asset, in one call or in several; see `Index.write_asset`.

        Args:
            segments: Segments of one asset, from index 0 on or following those of the last call.
            is_last: Whether the asset ends here.
        """
        points = to_points(segments, num_moments=self._config.num_moments, width=self._config.width)
        asset_id = segments[0].asset_id
        draft = self._draft(segments[0], points[0]).extend(points)
        write = Write(
            asset_id=asset_id,
            bodies=[draft.label(point) for point in points if point is not draft.head],
            head=draft.finish() if is_last else None,
            body_ids=draft.body_ids if is_last else (),
            outdated_ids=draft.outdated_ids if is_last else (),
        )
        with self._lock:
            kept = self._drafts.get(asset_id)  # so that a call that failed can be repeated
            self._unfinished.add(asset_id)
        try:
            self._call("write", write)
            kept = None if is_last else draft
        finally:
            self._keep(asset_id, kept)

    def _keep(self, asset_id: str, draft: _Draft | None) -> None:
        with self._lock:
            self._drafts.pop(asset_id, None)
            self._unfinished.discard(asset_id)
            if draft:
                self._drafts[asset_id] = draft
                self._unfinished.add(asset_id)

    def _draft(self, first: Segment, point: StoredPoint) -> _Draft:
        if first.index == 0:
            return _Draft(head=point)
        with self._lock:
            draft = self._drafts.get(first.asset_id)
        if draft is None:
            raise InvalidSegment(
                f"asset {first.asset_id} must be written from segment 0 on, got {first.index} first"
            )
        _, index, start_seconds = draft.points[-1]
        if first.index <= index or round((first.start_seconds - start_seconds) * 1000) < 1:
            raise InvalidSegment(
                f"segments must rise in index and start: after {index} at {start_seconds} s of asset "
                f"{first.asset_id} came {first.index} at {first.start_seconds} s"
            )
        return draft

    def search(
        self,
        track: Track,
        *,
        target: Modality,
        limit: int,
        prefetch: int = 200,
        filter: Filter | None = None,
    ) -> list[SegmentMatch]:
        """Find the best segments; see `Index.search`."""
        return self._search("search", track, target, limit, prefetch, filter)

    def search_assets(
        self,
        track: Track,
        *,
        target: Modality,
        limit: int,
        prefetch: int = 200,
        filter: Filter | None = None,
    ) -> list[SegmentMatch]:
        """Find the best segment of each of the best assets; see `Index.search_assets`."""
        return self._search("search_assets", track, target, limit, prefetch, filter)

    def _search(
        self,
        method: str,
        track: Track,
        target: Modality,
        limit: int,
        prefetch: int,
        chosen: Filter | None,
    ) -> list[SegmentMatch]:
        rows = check_track(
            track, num_moments=self._config.num_moments, width=self._config.width, name="query"
        )
        _check_choice(target=target, limit=limit, prefetch=prefetch)
        request = Search(
            track=rows,
            pooled=pool_track(rows),
            target=target,
            limit=limit,
            prefetch=prefetch,
            conditions=to_conditions(chosen),
        )
        with timed("search"):
            matches: list[SegmentMatch] = self._call(method, request)
        return matches

    def get_asset(self, asset_id: str) -> Asset | None:
        """The asset, or None where no complete asset of this id is stored."""
        asset: Asset | None = self._call("get_asset", asset_id)
        return asset

    def find_path(self, path: str) -> Asset | None:
        """The asset at this path, the one written last where a file was replaced and both are stored."""
        asset: Asset | None = self._call("find_path", path)
        return asset

    def set_paths(self, asset_id: str, *, paths: Sequence[str], media: Mapping[str, Any]) -> bool:
        """Say durably where the asset's files are, and facts about it; False where no such asset is stored."""
        is_stored: bool = self._call("set_facts", asset_id, describe_files(paths, media))
        return is_stored

    def set_metadata(self, asset_id: str, metadata: Mapping[str, Any]) -> bool:
        """Replace durably what people said about the asset; False where no such asset is stored."""
        is_stored: bool = self._call("set_facts", asset_id, describe_metadata(metadata))
        return is_stored

    def get_track(self, asset_id: str, *, index: int, modality: Modality) -> Track | None:
        """The track of a segment, float32, shape (T, D), or None where the asset has none there."""
        _check_choice(target=modality)
        points = self._read(asset_id, first_index=index, limit=1, modalities=(modality,))
        if not points or points[0].payload["index"] != index:
            return None
        return self._tracks(points[0]).get(modality)

    def read_segments(self, asset_id: str, *, first_index: int = 0, limit: int) -> list[Segment]:
        """Read segments with their tracks, in order; see `Index.read_segments`."""
        _check_choice(target=None, limit=limit)
        points = self._read(asset_id, first_index=first_index, limit=limit, modalities=MODALITIES)
        return [to_segment(point.payload, self._tracks(point)) for point in points]

    def _read(
        self, asset_id: str, *, first_index: int, limit: int, modalities: Sequence[Modality]
    ) -> list[StoredPoint]:
        points: list[StoredPoint] = self._call("read_segments", asset_id, first_index, limit, modalities)
        return points

    def _tracks(self, point: StoredPoint) -> dict[Modality, Track]:
        shape = (self._config.num_moments, self._config.width)
        names = {modality: modality + TRACK_SUFFIX for modality in MODALITIES}
        return {m: point.vectors[name].reshape(shape) for m, name in names.items() if name in point.vectors}

    def list_assets(
        self, *, limit: int, cursor: str | None = None, filter: Filter | None = None
    ) -> AssetPage:
        """List complete assets, page by page; see `Index.list_assets`."""
        _check_choice(target=None, limit=limit)
        page: AssetPage = self._call("list_assets", limit, cursor, to_conditions(filter))
        return page

    def delete_asset(self, asset_id: str) -> int:
        """Remove every segment of the asset durably and return how many there were."""
        self._keep(asset_id, None)
        num_segments: int = self._call("delete_asset", asset_id)
        return num_segments

    def count_segments(self, *, modality: Modality | None = None) -> int:
        """How many segments of complete assets are stored, or how many of them have the modality."""
        _check_choice(target=modality)
        num_segments: int = self._call("count_segments", modality)
        return num_segments

    def info(self) -> IndexInfo:
        """How large the index is."""
        info: IndexInfo = self._call("info")
        return info

    def optimize(self) -> None:
        """Build the HNSW graphs, however long it takes. Other calls fail with `IndexUnavailable` then."""
        with self._lock:
            if self._is_optimizing:
                raise IndexUnavailable("the index is being optimized already")
            engine = self._living_engine()
            self._is_optimizing = True
        try:
            engine.submit("optimize").result()
        finally:
            self._is_optimizing = False

    def close(self) -> None:
        """Flush and stop the engine. Safe to call twice."""
        with self._lock:
            self._is_closed = True
            self._engine.close()

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the engine, and once more on a new one when it died: repeating any call does no harm."""
        with contextlib.suppress(EngineDied):
            return self._call_once(method, arguments)
        return self._call_once(method, arguments)

    def _call_once(self, method: str, arguments: tuple[Any, ...]) -> Any:
        with self._lock:
            if self._is_optimizing:
                raise IndexUnavailable("the index is being optimized: no other call until it is done")
            engine = self._living_engine()
        future = engine.submit(method, *arguments)
        return self._wait(engine, future)

    def _wait(self, engine: EngineProcess, future: Future[Any]) -> Any:
        try:
            return future.result(self._call_seconds)
        except TimeoutError as exc:
            silent_seconds = time.monotonic() - engine.answered_at
            if silent_seconds >= self._call_seconds and not self._is_optimizing:
                engine.kill()
            raise IndexUnavailable(f"the engine did not answer in {self._call_seconds} s") from exc

    def _living_engine(self) -> EngineProcess:
        """The engine, a new one in place of a dead one. The caller holds the lock."""
        if self._is_closed:
            raise IndexFailure(f"the index in {self._config.folder} is closed")
        if not self._engine.is_alive:
            self._engine.close()
            config = replace(self._config, unfinished=frozenset(self._unfinished))
            self._engine = EngineProcess(config, send_seconds=self._call_seconds)
        return self._engine


def _check_choice(*, target: str | None, limit: int = 1, prefetch: int = 1) -> None:
    """Check arguments that come from people.

    Args:
        target: A modality, or None for both.
        limit: How many to return.
        prefetch: How many candidates to take.

    Raises:
        ValueError: If one makes no sense.
    """
    if target not in (*MODALITIES, None):
        raise ValueError(f"a modality is audio or video, got {target!r}")
    if limit < 1 or prefetch < 1:
        raise ValueError(f"limit and prefetch must be 1 or more, got {limit} and {prefetch}")
