"""How well a release tells a file's own sound from the sound of other files: the AUC of own against foreign pairs.

    separation = measure_separation(index, choose_queries(index, num_queries=500, seed=0))
    separation.can_tell, str(separation)    # True, "AUC 0.97, 95 % interval 0.95 to 0.98, 94 files"

The AUC is the share of own pairs that score above a foreign pair: 0.5 is chance, 1 is perfect. Its interval is DeLong's
(DeLong et al., 1988). One file is in several pairs, so deviations are added up by file before they are squared
(Obuchowski, 1997); a foreign pair belongs to both of its files (Fafchamps and Gubert, 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, with_config

from service.index.contract import Asset, Index

MIN_FOREIGN, NUM_PAIRS = 4, 4000
"""Each picture is compared with the sound of so many other files, of more if that many pairs are not reached."""
Z = NormalDist().inv_cdf(0.975)


@with_config(ConfigDict(use_attribute_docstrings=True, defer_build=True))
@dataclass(frozen=True, kw_only=True)
class Separation:
    """How often a file's own sound and picture score above those of two files, with the 95 % interval."""

    auc: float
    """In [0, 1]; 0.5 is chance."""
    low: float
    high: float
    num_files: int
    """Files that were compared."""

    @property
    def can_tell(self) -> bool:
        """Whether scores say more than chance."""
        return self.low > 0.5

    def __str__(self) -> str:
        return (
            f"AUC {self.auc:.2f}, 95 % interval {self.low:.2f} to {self.high:.2f}, {self.num_files} files; "
            "0.5 is chance"
        )


def draw_foreign(num_files: int) -> NDArray[np.intp]:
    """Different pairs of two files, shape (M, 2): whose picture, and whose sound; each file has both equally often."""
    steps = (
        1 + np.random.default_rng(0).permutation(num_files - 1)[: max(MIN_FOREIGN, NUM_PAIRS // num_files)]
    )
    pictures = np.repeat(np.arange(num_files), len(steps))
    return np.stack([pictures, (pictures + np.tile(steps, num_files)) % num_files], axis=1)


def separate(own: NDArray[np.float64], foreign: NDArray[np.float64], pairs: NDArray[np.intp]) -> Separation:
    """Compare the scores of N own pairs with those of M foreign `pairs` of these files, shape (M, 2)."""
    above_own, above_foreign = _share_below(own, foreign), 1.0 - _share_below(foreign, own)
    auc = float(above_own.mean())
    of_pairs = (above_foreign - auc) / len(foreign)
    of_files = (above_own - auc) / len(own)
    for side in pairs.T:
        np.add.at(of_files, side, of_pairs)
    # A foreign pair was squared with each of its files: once too often.
    variance = max(float(np.square(of_files).sum() - np.square(of_pairs).sum()), 0.0)
    reach = Z * (variance * len(own) / (len(own) - 1)) ** 0.5
    return Separation(
        auc=round(auc, 4),
        low=round(max(auc - reach, 0.0), 4),
        high=round(min(auc + reach, 1.0), 4),
        num_files=len(own),
    )


def _share_below(scores: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each score the share of others below it; equal ones count half."""
    ranked = np.sort(others)
    below, up_to = (np.searchsorted(ranked, scores, side=side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2.0 * len(others)))


def measure_separation(index: Index, queries: Sequence[tuple[Asset, int]]) -> Separation | None:
    """Compare the sound and picture of stored segments; None if fewer than two have both."""
    found = []
    for asset, number in queries:
        sound = index.get_track(asset.asset_id, index=number, modality="audio")
        picture = index.get_track(asset.asset_id, index=number, modality="video")
        if sound is not None and picture is not None:
            found.append((sound.ravel(), picture.ravel()))
    if len(found) < 2:
        return None
    sounds, pictures = (np.stack(tracks).astype(np.float64) for tracks in zip(*found, strict=True))
    pairs = draw_foreign(len(found))
    foreign = (pictures[pairs[:, 0]] * sounds[pairs[:, 1]]).sum(axis=1)
    return separate((pictures * sounds).sum(axis=1), foreign, pairs)
