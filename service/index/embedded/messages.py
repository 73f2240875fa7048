"""What the service and the shard process say to each other besides plain calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.index.failure import IndexUnavailable
from service.index.layout import VectorLayout
from service.index.points import StoredPoint
from service.system.storage import Storage


class ShardFrozen(IndexUnavailable):
    """Another shard process takes over, and changes are made there."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """What a shard process needs to open an index in `folder`, which is created if it is missing.

    Writes are refused below `min_free_bytes` of free space,
    None for max(2 GiB, 5 % of the disk). Up to `exact_below` points a search compares with all of them, and no graph
    is built. `unfinished` assets are being written in several calls: opening must not sweep them. `shard` names one
    that is built aside, None the current one. A process in the background gives way to others.
    A new shard stores tracks in the form of `storage`; one that exists keeps its own.
    """

    folder: Path
    layout: VectorLayout
    min_free_bytes: int | None = None
    exact_below: int = 10_000  # 1 ms at 10,000 × 768
    unfinished: frozenset[str] = frozenset()
    shard: str | None = None
    is_background: bool = False
    storage: Storage = "float16"


@dataclass(frozen=True, kw_only=True)
class Write:
    """Part of an asset on its way in: `bodies` are points of segments other than the first.

    Only the last part has a `head`, the point of the first segment, which makes the asset exist, the `body_ids` of all
    parts, and as `outdated_ids` the bodies of earlier parts whose payload lacks some modalities of the asset.
    """

    asset_id: str
    bodies: Sequence[StoredPoint]
    head: StoredPoint | None = None
    body_ids: Collection[str] = ()
    outdated_ids: Collection[str] = ()
