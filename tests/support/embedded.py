"""The embedded index for tests: a small one, and what must hold of it after any kill."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from service.index.contract import VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.embedded.messages import ShardConfig
from service.index.failure import IndexInUse
from service.index.layout import VectorLayout
from tests.support.index_contract import NUM_MOMENTS, WIDTH, all_assets, make_tracks
from tests.support.waiting import wait_until

NUM_KILLS = int(os.environ.get("FOLEY_KILLS", "5"))


def open_index(folder: Path, **changes: Any) -> EmbeddedIndex:
    facts: dict[str, Any] = {"layout": VectorLayout.of_both(NUM_MOMENTS, WIDTH), "min_free_bytes": 0}
    return EmbeddedIndex(ShardConfig(folder=folder, **{**facts, **changes}))


def open_when_free(folder: Path, **changes: Any) -> EmbeddedIndex:
    """Open the index of a service that was killed: its shard processes end a moment later."""

    def look() -> EmbeddedIndex | None:
        with contextlib.suppress(IndexInUse):
            return open_index(folder, **changes)
        return None

    return wait_until(look)


def check_whole(index: EmbeddedIndex, acknowledged: dict[str, int]) -> None:
    """Every acknowledged asset is there, whole, and no other one is there in part."""
    stored = {}
    for asset_id in all_assets(index):
        asset = index.get_asset(asset_id)
        assert asset is not None
        stored[asset_id] = asset.num_segments
    missing = {asset_id: n for asset_id, n in acknowledged.items() if stored.get(asset_id) != n}
    assert missing == {}, f"{len(missing)} acknowledged assets are missing or cut"
    assert index.count_segments() == sum(stored.values()), (
        "segments without an asset, or an asset with too few"
    )
    assert index.info().num_segments == sum(stored.values()), "segments that nobody sees are left over"
    query = make_tracks(1, seed=0)[0]
    found = index.search(VectorQuery(track=query, target="audio", limit=10_000))
    assert len(found) == sum(stored.values()), "a stored segment is not found"
