"""What the service and the shard process say to each other besides plain calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.index.failure import IndexUnavailable
from service.index.points import StoredPoint


class ShardFrozen(IndexUnavailable):
    """Another shard process takes over, and changes are made there."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """What a shard process needs to open an index.

    Attributes:
        folder: The index's folder; created if it is missing.
        width: D, width of an embedding.
        num_moments: T, embeddings in a track.
        min_free_bytes: Writes are refused below this much free space; None for max(2 GiB, 5 % of the disk).
        exact_below: Up to this many points a search compares with all of them, and no graph is built.
        unfinished: Assets that are being written in several calls, which opening must not sweep.
        shard: Name of a shard that is built aside; None for the current one.
        is_background: Whether the process runs at the lowest priority.
    """

    folder: Path
    width: int
    num_moments: int
    min_free_bytes: int | None = None
    exact_below: int = 10_000  # 1 ms at 10,000 × 768
    unfinished: frozenset[str] = frozenset()
    shard: str | None = None
    is_background: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of a track: (T, D)."""
        return self.num_moments, self.width


@dataclass(frozen=True, kw_only=True)
class Write:
    """Part of an asset on its way in.

    Attributes:
        bodies: Points of segments other than the first.
        head: The point of the first segment, which makes the asset exist; only in the last part.
        body_ids: Points of all bodies of the asset, those of earlier parts included; only in the last part.
        outdated_ids: Bodies of earlier parts whose payload lacks some modalities of the asset.
    """

    asset_id: str
    bodies: Sequence[StoredPoint]
    head: StoredPoint | None = None
    body_ids: Collection[str] = ()
    outdated_ids: Collection[str] = ()
