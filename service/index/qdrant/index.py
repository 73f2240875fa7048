"""The index on a Qdrant server: many replicas of the service share one library.

    with ServerIndex.open(config, name="foley-starter-0123456789ab", layout=layout) as index:
        index.write_asset(segments, is_last=True)
        matches = index.search(VectorQuery(track=track, target="audio", limit=10))

The client is the blocking one: callers of an `Index` are threads that wait anyway, and each reads its own answer. An
event loop would read all answers one after another (a track is 12,288 numbers), and cost two changes of thread a call.

An asset exists when its first segment, the head (index 0), is stored: it goes in last, as one point in one request.
Points before it are marked as unfinished, and marked points count only if their head is there (`search.py`). So nothing
has to be revealed in a second step, no replica needs to know what another one is writing, and a crash leaves marked
points that `sweep` removes. What `embedded` does with one log, a server does with requests that wait until a write is
applied (`wait=True`) on `ServerConfig.write_consistency` replicas.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

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
from service.index.failure import IndexFailure, InvalidCursor
from service.index.filling import WordFiller
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.payload import describe_files, describe_labels, describe_metadata, store_path, to_asset
from service.index.points import check_query, is_point_id, to_segment
from service.index.qdrant.collection import open_collection
from service.index.qdrant.link import Link, ServerConfig, open_client
from service.index.qdrant.points import (
    SCROLL_POINTS,
    UNFINISHED,
    Points,
    is_any,
    is_value,
    read_vector,
)
from service.index.qdrant.search import search_assets, search_segments, without_head
from service.index.qdrant.wording import add_words, search_words
from service.index.qdrant.writer import SWEEP_AFTER_SECONDS, Writer, read_head
from service.index.words import describe_words
from service.system.modality import Modality, Track
from service.system.storage import Storage

POLL_SECONDS = 1.0
WORDS_AT_ONCE = 200
DELETED_AT_ONCE = 256


class ServerIndex:
    """The `Index` contract on a collection of a Qdrant server. Make one with `open`."""

    is_shared: ClassVar[bool] = True

    def __init__(self, points: Points, *, layout: VectorLayout) -> None:
        self._points = points
        self._layout = layout
        self._writer = Writer(points, layout=layout)
        self._words = WordFiller(lambda: add_words(points, WORDS_AT_ONCE))

    @property
    def storage(self) -> Storage:
        """float16."""
        return "float16"

    @property
    def layout(self) -> VectorLayout:
        """See `Index.layout`."""
        return self._layout

    @classmethod
    def open(
        cls,
        config: ServerConfig,
        *,
        name: str,
        layout: VectorLayout,
        client: QdrantClient | None = None,
    ) -> Self:
        """Open a collection, or create it; the caller closes the index. Without a `client` it makes one."""
        link = Link(config, client or open_client(config))
        try:
            link.check_version()
            open_collection(link, config, name, layout=layout)
            index = cls(Points(link, name), layout=layout)
            index.sweep()
        except BaseException:
            link.close()
            raise
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self._points.name

    @property
    def link(self) -> Link:
        """The connection to the server."""
        return self._points.link

    def write_asset(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        """Store an asset, in one call or in several; see `Index.write_asset`."""
        self._writer.write(segments, is_last=is_last)

    def search(self, query: VectorQuery) -> list[SegmentMatch]:
        """Find the best segments; see `Index.search`."""
        return search_segments(self._points, check_query(query, layout=self._layout), self._layout)

    def search_assets(self, query: VectorQuery) -> list[SegmentMatch]:
        """Find the best segment of each of the best assets; see `Index.search_assets`."""
        return search_assets(self._points, check_query(query, layout=self._layout), self._layout)

    def search_words(self, query: WordQuery) -> list[WordMatch]:
        """Find assets by words of their names and metadata; see `Index.search_words`."""
        self._words.wait()
        return search_words(self._points, query)

    def get_asset(self, asset_id: str) -> Asset | None:
        """The asset, or None if no complete asset of this id is stored."""
        head = read_head(self._points, asset_id)
        return to_asset(head) if head else None

    def get_assets(self, asset_ids: Sequence[str]) -> dict[str, Asset]:
        """Those of some assets that are stored, by id; see `Index.get_assets`."""
        found: dict[str, Asset] = {}
        for first in range(0, len(asset_ids), SCROLL_POINTS):
            some = is_any("asset_id", asset_ids[first : first + SCROLL_POINTS])
            heads = self._points.scroll([is_value("index", 0), some])
            found |= {head.payload["asset_id"]: to_asset(head.payload) for head in heads if head.payload}
        return found

    def find_path(self, path: str) -> Asset | None:
        """The asset with this path, the one written last if a file was replaced and both are stored."""
        heads = self._points.scroll([is_value("index", 0), is_any("paths", [store_path(path)])])
        payloads = [head.payload or {} for head in heads]
        return (
            to_asset(max(payloads, key=lambda head: float(head["written_at_seconds"]))) if payloads else None
        )

    def set_paths(self, asset_id: str, *, paths: Sequence[str], media: Mapping[str, Any]) -> bool:
        """Replace durably the asset's paths and facts; False if no such asset is stored."""
        return self._change(asset_id, describe_files(paths, media))

    def set_metadata(self, asset_id: str, metadata: Mapping[str, Any]) -> bool:
        """Replace durably what people said about the asset; False if no such asset is stored."""
        return self._change(asset_id, describe_metadata(metadata))

    def _change(self, asset_id: str, facts: Mapping[str, Any]) -> bool:
        head = read_head(self._points, asset_id)
        if head is None:
            return False
        changed = {**head, **facts}
        self._points.set_payload(asset_id, {**facts, **describe_labels(changed), **describe_words(changed)})
        return True

    def get_track(self, asset_id: str, *, index: int, modality: Modality) -> Track | None:
        """The track of a segment as it is stored; see `Index.get_track`."""
        check_modality(modality)
        shape = self._layout.tracks.get(modality)
        name = modality + TRACK_SUFFIX
        if shape is None:
            return None
        return self._read_vectors([asset_id], index, name, shape=shape).get(asset_id)

    def read_pooled(self, asset_ids: Sequence[str], *, index: int, modality: Modality) -> PooledVectors:
        """Pooled vectors of many assets; see `Index.read_pooled`."""
        check_modality(modality)
        shape = self._layout.tracks.get(modality)
        return {} if shape is None else self._read_vectors(asset_ids, index, modality, shape=shape[1:])

    def _read_vectors(
        self, asset_ids: Sequence[str], index: int, name: str, *, shape: tuple[int, ...]
    ) -> dict[str, NDArray[np.float32]]:
        some = is_any("asset_id", asset_ids)
        places = {}
        for place in {0, index}:  # an asset without a head is being written
            records = self._points.scroll([some, is_value("index", place)], keys=["asset_id"])
            places[place] = {(record.payload or {})["asset_id"]: str(record.id) for record in records}
        ids = [point_id for asset_id, point_id in places[index].items() if asset_id in places[0]]
        found = {}
        for record in self._points.retrieve(ids, vectors=[name]):
            vector = read_vector(record, name, shape=shape)
            if vector is not None:
                found[(record.payload or {})["asset_id"]] = vector
        return found

    def read_segments(self, asset_id: str, *, first_index: int = 0, limit: int) -> list[Segment]:
        """Read segments of a complete asset with their tracks; see `Index.read_segments`."""
        check_limit(limit)
        if read_head(self._points, asset_id) is None:
            return []
        from_first = models.FieldCondition(key="index", range=models.Range(gte=first_index))
        places = self._points.scroll([is_value("asset_id", asset_id), from_first], keys=["index"])
        places.sort(key=lambda record: (record.payload or {})["index"])
        records = self._points.retrieve(
            [str(place.id) for place in places[:limit]], vectors=self._layout.track_names
        )
        return sorted(map(self._to_segment, records), key=lambda segment: segment.index)

    def _to_segment(self, record: models.Record) -> Segment:
        read = {
            modality + TRACK_SUFFIX: read_vector(record, modality + TRACK_SUFFIX, shape=shape)
            for modality, shape in self._layout.tracks.items()
        }
        tracks = {name: track for name, track in read.items() if track is not None}
        return to_segment(record.payload or {}, tracks, layout=self._layout)

    def list_assets(
        self, *, limit: int, cursor: str | None = None, filter: Filter | None = None
    ) -> AssetPage:
        """List complete assets, page by page; see `Index.list_assets`."""
        check_limit(limit)
        if cursor is not None and not is_point_id(cursor):
            raise InvalidCursor(f"cursor must be next_cursor of a page, got {cursor!r}")
        conditions = [is_value("index", 0), *self._points.to_conditions(filter)]
        heads, following = self._points.scroll_page(conditions, limit=limit, offset=cursor)
        return AssetPage(
            assets=tuple(to_asset(head.payload or {}) for head in heads),
            next_cursor=None if following is None else str(following),
        )

    def delete_asset(self, asset_id: str) -> int:
        """Remove every segment of the asset durably and return how many there were."""
        self._writer.forget(asset_id)
        asset = is_value("asset_id", asset_id)
        num_segments = self._points.count([asset])
        if num_segments:
            self._points.delete([asset])
        return num_segments

    def delete_assets(self, asset_ids: Sequence[str]) -> int:
        """Remove every segment of several assets durably; see `Index.delete_assets`."""
        num_segments = 0
        for first in range(0, len(asset_ids), DELETED_AT_ONCE):
            some = asset_ids[first : first + DELETED_AT_ONCE]
            for asset_id in some:
                self._writer.forget(asset_id)
            of_any = models.FieldCondition(key="asset_id", match=models.MatchAny(any=[*some]))
            if num_found := self._points.count([of_any]):
                self._points.delete([of_any])
                num_segments += num_found
        return num_segments

    def count_assets(self, *, filter: Filter | None = None) -> int:
        """How many complete assets there are; see `Index.count_assets`."""
        return self._points.count([is_value("index", 0), *self._points.to_conditions(filter)])

    def count_segments(self, *, modality: Modality | None = None) -> int:
        """How many segments of complete assets are stored, or how many of them have the modality."""
        if modality is not None:
            check_modality(modality)
            if modality not in self._layout.tracks:
                return 0
        has_vector: list[models.Condition] = (
            [models.HasVectorCondition(has_vector=modality)] if modality else []
        )
        is_marked = is_value(UNFINISHED, True)
        num_finished = self._points.count(has_vector, without=[is_marked])
        marked = self._points.scroll([*has_vector, is_marked], keys=["asset_id"])
        asset_ids = [(record.payload or {})["asset_id"] for record in marked]
        headless = without_head(self._points, set(asset_ids))
        return num_finished + sum(asset_id not in headless for asset_id in asset_ids)

    def check(self) -> None:
        """Raise `IndexDamaged` if stored data was lost, which a server looks after itself."""

    def info(self) -> IndexInfo:
        """Counts of the server; it does not say how many bytes a collection takes."""
        info = self.link.run(lambda client: client.get_collection(self.collection))
        return IndexInfo(
            num_segments=info.points_count or 0,
            num_assets=self._points.count([is_value("index", 0)]),
            num_indexed_vectors=info.indexed_vectors_count or 0,
            num_bytes=None,
        )

    def optimize(self) -> None:
        """Wait until the server, which builds graphs by itself, is done."""
        while True:
            info = self.link.run(lambda client: client.get_collection(self.collection))
            if info.status == models.CollectionStatus.RED:
                raise IndexFailure(
                    f"collection {self.collection} on {self.link.url} failed: {info.optimizer_status}"
                )
            if info.status == models.CollectionStatus.GREEN:
                return
            time.sleep(POLL_SECONDS)

    def sweep(self, *, older_than_seconds: float = SWEEP_AFTER_SECONDS) -> None:
        """Tidy up after writers that died; see `Writer.sweep`."""
        self._writer.sweep(older_than_seconds=older_than_seconds)

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._words.stop()
        self.link.close()
