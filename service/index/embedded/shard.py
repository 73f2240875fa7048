"""The shard of the embedded index: every operation on Qdrant Edge.

Runs in the shard process only (`service.index.embedded.shard_process`): Edge holds Python's lock while it works.

An asset exists when its first segment, the head (index 0), is stored: the head goes in last and says how many
segments there are. So after a crash an asset without a head was never finished, and opening sweeps it away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from service.index.contract import (
    Asset,
    AssetPage,
    IndexInfo,
    SegmentMatch,
    VectorQuery,
    WordMatch,
    WordQuery,
)
from service.index.embedded.changes import (
    Change,
    ChangeLog,
    DeleteAsset,
    DeletePoints,
    SetAsset,
    SetPoints,
    Upsert,
    apply_change,
    delete_points,
    of_asset,
    replay,
)
from service.index.embedded.closed import note_closed
from service.index.embedded.counts import Counts
from service.index.embedded.folder import Folder, count_bytes
from service.index.embedded.generation import Seal, SealedFile, SealReading, seal_files
from service.index.embedded.messages import ShardConfig, ShardFrozen, Write
from service.index.embedded.partial import CopyNote, Partial
from service.index.embedded.ranking import Searcher, open_tracks, select, to_edge
from service.index.embedded.reading import (
    SCROLL_POINTS,
    in_engine,
    iter_heads,
    read_heads,
    read_ids,
    read_places,
    read_segments,
)
from service.index.embedded.schema import create_field_indexes, index_number, load_or_create, migrate_shard
from service.index.embedded.sweeping import sweep
from service.index.embedded.wording import find_wordless, search_words
from service.index.failure import REPAIR, IndexDamaged, IndexFailure
from service.index.payload import Condition, describe_labels, store_path, to_asset
from service.index.points import StoredPoint
from service.index.words import WORDS_KEY, describe_words
from service.system.modality import Modality
from service.system.storage import Storage

logger = logging.getLogger(__name__)

Payload = Mapping[str, Any]


class Shard:
    """One open shard. Not thread-safe: the loop of the shard process calls it."""

    def __init__(self, config: ShardConfig) -> None:
        self._folder = Folder(config)
        self._unfinished: set[str] = set()  # assets with segments but no head
        self._log: ChangeLog | None = None
        self._is_frozen = False
        self._sealed: Mapping[str, SealedFile] = {}
        self._edge = load_or_create(self._folder, config)
        self._layout = config.layout
        self._tracks, ranking = open_tracks(self._edge, self._folder.shard, config)
        self._searcher = Searcher(self._edge, ranking)
        self._counts = Counts(self._folder.shard)
        self._reading = SealReading(self._folder.shard)
        self._is_current = config.shard is None
        self._note = CopyNote(self._folder.path, self._folder.shard.name) if self._is_current else None
        if self._is_current:
            try:
                self._counts.compare(self._edge.info().points_count, len(self._tracks))
            except IndexDamaged:
                self._edge.close()
                raise
            self._migrate()
            if self._edge.info().points_count:
                heads, unfinished = iter_heads(self._edge), config.unfinished
                self._unfinished = sweep(self._edge, heads, being_written=unfinished, delete=self._delete)
                self.flush()

    def check(self) -> None:
        """Raise `IndexDamaged` if something was lost or is damaged; the first call begins to read the large files."""
        self._counts.check()
        self._reading.check()
        if self._tracks.num_damaged:
            lost = f"{self._tracks.num_damaged} tracks of the index are damaged or lost"
            raise IndexDamaged(f"{lost}; {REPAIR}")

    def flush(self) -> None:
        """Bring everything to the disk, and note how much it is."""
        self._edge.flush()
        self._tracks.reuse()
        self._note_counts(self._edge.info().points_count)

    def _note_counts(self, num_points: int, *, is_durable: bool = False) -> None:
        """Note what there is at least; 0 points before some are deleted."""
        if self._is_current and not self._is_frozen:
            self._counts.write(num_points, self._tracks.num_synced, is_durable=is_durable)

    def _migrate(self) -> None:
        if self._folder.must_migrate:
            self._folder.check_space()
            logger.info("bringing the index in %s to the present format", self._folder.path)
            migrate_shard(self._edge)
            self._folder.seal_version()
        elif WORDS_KEY not in self._edge.info().payload_schema:
            create_field_indexes(self._edge)

    def write(self, writes: Sequence[Write]) -> list[IndexFailure | None]:
        """Store parts of several assets, with one flush for all assets that this completes; None, or why not, for each.

        Only heads need the flush: an asset without one is swept away after a crash anyway, and so is one whose
        head reached the disk in a power cut while some bodies did not, since the head says how many there are.
        """
        self._folder.check_space()
        for write in writes:
            if write.bodies and write.asset_id not in self._unfinished and not self._head(write.asset_id):
                self._unfinished.add(write.asset_id)
        self._apply(Upsert(points=[point for write in writes for point in write.bodies]))
        refusals = [self._refuse(write) for write in writes]
        finished = [(w, w.head) for w, why in zip(writes, refusals, strict=True) if w.head and not why]
        self._apply(Upsert(points=[head for _, head in finished]))
        for write, head in finished:
            self._delete_others(write.asset_id, {*write.body_ids, head.point_id})
            if write.outdated_ids:
                facts = {"modalities": head.payload["modalities"]}
                self._apply(SetPoints(ids=list(write.outdated_ids), facts=facts))
        if finished:
            self.flush()
        self._unfinished -= {write.asset_id for write, _ in finished}
        return refusals

    def _refuse(self, write: Write) -> IndexFailure | None:
        """Why a head must not be written: bodies were deleted while the asset was being written."""
        missing = set(write.body_ids) - read_ids(self._edge, write.asset_id) if write.body_ids else set()
        if not missing:
            return None
        return IndexFailure(
            f"{len(missing)} segments of asset {write.asset_id} are gone: write it from the start"
        )

    def _delete_others(self, asset_id: str, kept: set[str]) -> None:
        """Delete points of an asset that an earlier version of it left."""
        stale = read_ids(self._edge, asset_id) - kept
        if stale:
            self._apply(DeletePoints(ids=list(stale)))

    def _apply(self, change: Change) -> None:
        """Apply a change, and note it if a copy is being built."""
        if self._is_frozen:
            raise ShardFrozen("the index is being switched to a new shard")
        if self._note:
            self._note.forget()
        if isinstance(change, DeletePoints | DeleteAsset):
            self._note_counts(0, is_durable=True)
        try:
            apply_change(self._edge, self._tracks, change)
            if self._log:
                self._log.add(change)
        except BaseException:
            self._drop_log()  # the copy would miss this change
            raise

    def search(self, query: VectorQuery) -> list[SegmentMatch]:
        """Find the best segments of complete assets; see `service.index.embedded.ranking`."""
        return self._searcher.search(query, hidden=frozenset(self._unfinished))

    def search_assets(self, query: VectorQuery) -> list[SegmentMatch]:
        """Find the best segment of each of the best assets; see `service.index.embedded.ranking`."""
        return self._searcher.search_assets(query, hidden=frozenset(self._unfinished))

    def search_words(self, query: WordQuery) -> list[WordMatch]:
        """Find assets by words of their names and metadata; see `service.index.embedded.wording`."""
        return search_words(self._edge, query)

    def add_words(self, limit: int) -> int:
        """Give up to `limit` assets the words that they were stored without; return how many these were."""
        changes = find_wordless(self._edge, limit)
        if changes:
            self._folder.check_space()
            for change in changes:
                self._apply(change)
            self._edge.flush()
        return len(changes)

    def _head(self, asset_id: str) -> Payload | None:
        return next(iter(self._heads([_is("asset_id", asset_id)], limit=1)[0]), None)

    def _heads(
        self, conditions: Sequence[edge.ConditionType], *, limit: int, offset: edge.PointId | None = None
    ) -> tuple[list[Payload], edge.PointId | None]:
        return read_heads(self._edge, conditions, limit=limit, offset=offset)

    def get_assets(self, asset_ids: Sequence[str]) -> list[Asset]:
        """Those of some assets that are complete."""
        wanted = edge.FieldCondition("asset_id", match=edge.MatchAny(list(asset_ids)))
        return [to_asset(head) for head in self._heads([wanted], limit=max(1, len(asset_ids)))[0]]

    def find_path(self, path: str) -> Asset | None:
        """The asset with this path, the one written last if there are several."""
        heads = self._heads([_is("paths", store_path(path))], limit=SCROLL_POINTS)[0]
        return to_asset(max(heads, key=lambda head: float(head["written_at_seconds"]))) if heads else None

    def list_assets(self, limit: int, cursor: str | None, conditions: Sequence[Condition]) -> AssetPage:
        """A page of assets in the order of their heads' ids."""
        heads, following = self._heads(to_edge(conditions), limit=limit, offset=cursor)
        return AssetPage(
            assets=tuple(to_asset(head) for head in heads),
            next_cursor=None if following is None else str(following),
        )

    def index_number(self, key: str) -> None:
        """Give a key of numbers an index; see `service.index.embedded.schema`."""
        index_number(self._edge, key)

    def set_facts(self, asset_id: str, facts: Payload) -> bool:
        """Replace values in the payload of every segment of an asset, in one entry of Edge's log."""
        head = self._head(asset_id)
        if not head:
            return False
        self._folder.check_space()
        changed = {**head, **facts}
        found_by = {**describe_labels(changed), **describe_words(changed)}
        self._apply(SetAsset(asset_id=asset_id, facts={**facts, **found_by}))
        self._edge.flush()
        return True

    def read_segments(
        self, asset_id: str, first_index: int, limit: int, names: Sequence[str]
    ) -> list[StoredPoint]:
        """Points of a complete asset in order, with the named vectors."""
        if not self._head(asset_id):
            return []
        return read_segments(self._edge, self._tracks, asset_id, first_index, limit, names)

    def read_places(self, asset_ids: Sequence[str], index: int, name: str) -> list[StoredPoint]:
        """The points at `index` of those complete assets that have the named vector there."""
        complete = [one for one in asset_ids if one not in self._unfinished]
        return read_places(self._edge, self._tracks, complete, index, name)

    def delete_assets(self, asset_ids: Sequence[str]) -> list[int]:
        """Delete every segment of each asset with one flush; count them."""
        counts = self.drop_assets(asset_ids)
        if any(counts):
            self.flush()
        return counts

    def drop_assets(self, asset_ids: Sequence[str]) -> list[int]:
        """Delete every segment of each asset, each in one entry of Edge's log; `flush` makes that durable."""
        counts = []
        for asset_id in asset_ids:
            counts.append(self._count(of_asset(asset_id)))
            if counts[-1]:
                self._apply(DeleteAsset(asset_id=asset_id))
        self._unfinished -= set(asset_ids)
        return counts

    def count_assets(self, conditions: Sequence[Condition]) -> int:
        """How many complete assets meet the conditions."""
        return self._count(edge.Filter(must=[_is("index", 0), *to_edge(conditions)]))

    def count_segments(self, modality: Modality | None) -> int:
        """Count segments of complete assets, or those of them that have the modality."""
        has_vector: list[edge.ConditionType] = [edge.HasVectorCondition(modality)] if modality else []
        finished = select((), hidden=self._unfinished)
        return self._count(edge.Filter(must=has_vector, must_not=finished.must_not if finished else None))

    def optimize(self) -> None:
        """Merge Edge's segments and build the graphs, if the disk has room for a second copy."""
        self._folder.check_space(extra_bytes=count_bytes(self._folder.shard / "segments"))
        self._edge.optimize()
        self._edge.flush()
        files = seal_files(self._folder.shard)
        self._folder.seal(Seal(num_points=self._edge.info().points_count, files=files))

    def info(self) -> IndexInfo:
        """Counts of the shard, and the bytes that the index takes."""
        info = self._edge.info()
        return IndexInfo(
            num_segments=info.points_count,
            num_assets=self.count_assets([]),
            num_indexed_vectors=info.indexed_vectors_count,
            num_bytes=count_bytes(self._folder.path),
        )

    def stale_share(self) -> float:
        """Rows of tracks whose points are gone and that are not free, as a share of the others."""
        num_rows = sum(
            self._count(edge.Filter(must=[edge.HasVectorCondition(modality)]))
            * self._tracks.count_rows(modality)
            for modality in self._layout.tracks
        )
        return max(0, len(self._tracks) - self._tracks.num_free - num_rows) / max(1, num_rows)

    def begin_copy(self, extra_bytes: int, storage: Storage) -> tuple[int, Partial | None]:
        """Note every change from now on; return the number of points, and the copy of this kind that can be resumed."""
        self._folder.check_space(extra_bytes=extra_bytes)
        self._drop_log()
        self._log = ChangeLog(self._folder.new_building())
        return self._edge.info().points_count, self._note.begin(storage) if self._note else None

    def note_copy(self, partial: Partial) -> None:
        """Note how far a copy is whose points are flushed; see `CopyNote.write`."""
        if self._note:
            self._note.write(partial)

    def copy_page(self, offset: str | None, limit: int) -> str | None:
        """Note a page of points among the changes; return the offset of the next page, None after the last."""
        names = list(self._layout.sizes)
        vectors = in_engine(self._tracks, names)
        request = edge.ScrollRequest(offset=offset, limit=limit, with_payload=True, with_vector=vectors)
        records, following = self._edge.scroll(request)
        if self._log:
            self._log.add(Upsert(points=self._tracks.to_points(records, names)))
        return None if following is None else str(following)

    def roll_copy(self) -> Path | None:
        """The file with what was noted since the last call, None if nothing was."""
        if self._log is None:
            raise IndexFailure("a change could not be noted: the copy is none")
        return self._log.roll()

    def freeze(self) -> tuple[Path | None, frozenset[str]]:
        """Refuse changes from now on; return the file of the last ones, and the assets that are being written."""
        changes = self.roll_copy()
        self._is_frozen = True
        return changes, frozenset(self._unfinished)

    def end_copy(self) -> None:
        """Forget the copy, and take changes again."""
        self._drop_log()
        self._is_frozen = False

    def _drop_log(self) -> None:
        if self._log is not None:
            self._log.roll()
            self._log = None

    def replay(self, changes: Path) -> int:
        """Apply the changes of a file to this shard, which is built aside; return their number."""
        self._folder.check_space()
        return replay(self._edge, self._tracks, changes)

    def prepare_switch(self) -> None:
        """Do the slow part of `switch`: bring this shard, built aside, to the disk, and hash its large files."""
        self._edge.flush()
        self._folder.sync_shard()
        self._sealed = seal_files(self._folder.shard)

    def switch(self, unfinished: frozenset[str]) -> None:
        """Make this shard the current one."""
        self._edge.flush()
        self._unfinished = set(unfinished)
        self._folder.switch_to(Seal(num_points=self._edge.info().points_count, files=self._sealed))
        self._is_current = True
        self._note = CopyNote(self._folder.path, self._folder.shard.name)
        self._note_counts(self._edge.info().points_count)

    def close(self) -> None:
        """Flush and close, and note what the small files are then."""
        self._drop_log()
        self.flush()
        self._edge.close()
        self._tracks.close()
        if self._is_current and not self._is_frozen:
            with suppress(OSError):  # a full disk: then the next opening compares less
                note_closed(self._folder.shard, opened_ns=self._folder.opened_ns)

    def _count(self, condition: edge.Filter) -> int:
        return self._edge.count(edge.CountRequest(exact=True, filter=condition))

    def _delete(self, condition: edge.Filter) -> None:
        self._note_counts(0, is_durable=True)
        if self._note:
            self._note.forget()
        delete_points(self._edge, self._tracks, condition)


def _is(key: str, value: str | int) -> edge.FieldCondition:
    return edge.FieldCondition(key, match=edge.MatchValue(value))
