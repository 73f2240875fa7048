"""A curve, an asset and a calibration that tests hold something against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.index.contract import Asset
from service.search.calibration import Calibration, Curve, Direction


def make_curve(scores: Sequence[float], probabilities: Sequence[float]) -> Curve:
    return Curve(
        scores=tuple(scores), probabilities=tuple(probabilities), error=0.0, num_pairs=9, num_held_out=3
    )


def make_asset(number: int, *, modalities: tuple[Any, ...] = ("audio", "video")) -> Asset:
    return Asset(
        asset_id=f"{number:064x}",
        path=f"/media/{number}.mp4",
        paths=(f"/media/{number}.mp4",),
        num_segments=2,
        modalities=modalities,
        media={},
    )


CURVE = make_curve([0.1, 0.5], [0.2, 0.9])
CALIBRATION = Calibration(
    directions={"audio": Direction(best=CURVE, further=CURVE, error=0.01, num_queries=40)}, num_assets=40
)
