"""What a crash left in a shard: unfinished assets, and the old rest of assets rewritten with fewer segments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import qdrant_edge as edge

from service.index.embedded.changes import of_asset

logger = logging.getLogger(__name__)


def sweep(
    shard: edge.EdgeShard,
    heads: Iterable[Mapping[str, Any]],
    *,
    being_written: frozenset[str],
    delete: Callable[[edge.Filter], None],
) -> set[str]:
    """Delete it, given the payloads of all heads; returns the unfinished assets that are being written."""
    counts = _count_by_asset(shard)
    for head in heads:
        asset_id = head["asset_id"]
        if counts.pop(asset_id, 0) != head["num_segments"] and asset_id not in being_written:
            counts.update(_repair(shard, head, delete))
    for asset_id in set(counts) - being_written:
        logger.warning("asset %s was left unfinished: removing %d segments", asset_id, counts[asset_id])
        delete(of_asset(asset_id))
    return set(counts) & being_written


def _repair(
    shard: edge.EdgeShard, head: Mapping[str, Any], delete: Callable[[edge.Filter], None]
) -> dict[str, int]:
    """Delete segments beyond the asset's last; return their number by asset if too few remain."""
    asset_id, num_segments = head["asset_id"], head["num_segments"]
    beyond = edge.FieldCondition("index", range=edge.RangeFloat(gt=head["last_index"]))
    of_this = edge.FieldCondition("asset_id", match=edge.MatchValue(asset_id))
    delete(edge.Filter(must=[of_this, beyond]))
    num_stored: int = shard.count(edge.CountRequest(exact=True, filter=of_asset(asset_id)))
    if num_stored >= num_segments:
        return {}
    logger.error("asset %s has %d of its %d segments", asset_id, num_stored, num_segments)
    return {asset_id: num_stored}


def _count_by_asset(shard: edge.EdgeShard) -> dict[str, int]:
    """Count points of each asset from the payload index or, if its counts are off, one by one."""
    num_points = shard.info().points_count
    for is_exact in (False, True):
        facet = shard.facet(edge.FacetRequest("asset_id", limit=num_points, exact=is_exact))
        counts = {str(hit.value): hit.count for hit in facet.hits}
        if sum(counts.values()) == num_points:
            break
    return counts
