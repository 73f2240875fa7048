"""Writes to a Qdrant server, so that an asset exists whole or not at all, and tidies up after writers that died."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from service.index.contract import Segment
from service.index.draft import Draft, follow
from service.index.failure import IndexFailure
from service.index.layout import VectorLayout
from service.index.points import to_points
from service.index.qdrant.points import UNFINISHED, Points, is_value

logger = logging.getLogger(__name__)

SWEEP_AFTER_SECONDS = 3600.0


class Writer:
    """Writes assets into one collection. Thread-safe."""

    def __init__(self, points: Points, *, layout: VectorLayout) -> None:
        self._points = points
        self._layout = layout
        self._drafts: dict[str, Draft] = {}
        self._lock = threading.Lock()  # guards the drafts

    def write(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        """Store an asset, in one call or in several; see `Index.write_asset`."""
        points = to_points(segments, layout=self._layout)
        asset_id = segments[0].asset_id
        with self._lock:
            kept = self._drafts.get(asset_id)  # a call that fails leaves it, and can be repeated
        draft = follow(kept, segments[0], points[0]).extend(points)
        self._points.upsert([draft.label(p) for p in points if p is not draft.head], is_unfinished=True)
        if is_last:
            self._finish(asset_id, draft)
        with self._lock:
            if is_last:
                self._drafts.pop(asset_id, None)
            else:
                self._drafts[asset_id] = draft

    def forget(self, asset_id: str) -> None:
        """Forget the draft of an asset."""
        with self._lock:
            self._drafts.pop(asset_id, None)

    def _finish(self, asset_id: str, draft: Draft) -> None:
        """Write the head, then tidy up: what another version left, modalities of earlier calls, marks."""
        head = draft.finish()
        stored = {
            str(record.id) for record in self._points.scroll([is_value("asset_id", asset_id)], keys=False)
        }
        missing = set(draft.body_ids) - stored
        if missing:
            self.forget(asset_id)
            raise IndexFailure(
                f"{len(missing)} segments of asset {asset_id} are gone: write it from the start"
            )
        stale = stored - {head.point_id, *draft.body_ids}
        needs_tidying = bool(stale or draft.body_ids)
        self._points.upsert([head], is_unfinished=needs_tidying)  # `sweep` looks for the mark
        if stale:
            self._points.delete([models.HasIdCondition(has_id=sorted(stale))])
        if draft.outdated_ids:
            self._points.set_payload(asset_id, {"modalities": head.payload["modalities"]})
        if needs_tidying:
            self._points.take_marks(asset_id)

    def sweep(self, *, older_than_seconds: float = SWEEP_AFTER_SECONDS) -> None:
        """Finish marked assets with a head, remove others; leave recent ones, which another replica may be writing."""
        newest: dict[str, float] = {}
        for record in self._points.scroll(
            [is_value(UNFINISHED, True)], keys=["asset_id", "written_at_seconds"]
        ):
            payload = record.payload or {}
            asset_id = payload["asset_id"]
            newest[asset_id] = max(newest.get(asset_id, 0.0), payload["written_at_seconds"])
        for asset_id, written_at in newest.items():
            if time.time() - written_at >= older_than_seconds:
                self._repair(asset_id)

    def _repair(self, asset_id: str) -> None:
        """Delete segments beyond the asset's last; if too few remain, delete all."""
        asset = is_value("asset_id", asset_id)
        head = read_head(self._points, asset_id)
        if head is None:
            num_stored = self._points.count([asset])
            logger.warning("asset %s was left unfinished: removing %d segments", asset_id, num_stored)
            self._points.delete([asset])
            return
        beyond = models.FieldCondition(key="index", range=models.Range(gt=head["last_index"]))
        self._points.delete([asset, beyond])
        num_stored = self._points.count([asset])
        if num_stored < head["num_segments"]:
            logger.error(
                "asset %s has %d of %d segments: removing it", asset_id, num_stored, head["num_segments"]
            )
            self._points.delete([asset])
        else:
            self._points.set_payload(asset_id, {"modalities": head["modalities"]})
            self._points.take_marks(asset_id)


def read_head(points: Points, asset_id: str) -> Mapping[str, Any] | None:
    """The payload of an asset's first segment, or None if no asset of this id exists."""
    conditions = [is_value("asset_id", asset_id), is_value("index", 0)]
    heads, _ = points.scroll_page(conditions, limit=1, offset=None)
    return (heads[0].payload or {}) if heads else None
