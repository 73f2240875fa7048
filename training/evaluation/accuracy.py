"""Quality of class scores: average precision if a clip may have several classes, top-1 if it has one.

    AP of a class = Σ over its clips of the precision at that clip's rank / number of its clips
                  = Σ_n (recall_n − recall_{n−1}) · precision_n over the distinct scores, highest first

Clips with equal scores stand at one rank, the last of theirs (the definition of scikit-learn). mAP is the mean over
the classes that have a clip at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 500
"""Bootstrap samples of the clips behind an interval of mAP."""

Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class RankedClips:
    """Clips in the order of each class's scores.

    Attributes:
        scores: Any finite scale, higher is likelier, shape (N, C).
        is_true: Which classes are true of which clip, shape (N, C).
    """

    scores: NDArray[Any]
    is_true: Truth

    def __post_init__(self) -> None:
        """Check the shapes and numbers."""
        if self.scores.ndim != 2 or self.scores.shape != self.is_true.shape:
            raise ValueError(
                f"scores and truth must both be (N, C), got {self.scores.shape} and {self.is_true.shape}"
            )
        if not np.isfinite(self.scores).all():
            raise ValueError("scores must be finite")

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Clips of each class, best score first, shape (N, C)."""
        return np.argsort(-self.scores, axis=0, kind="stable")

    @cached_property
    def last_of_equals(self) -> NDArray[np.int64]:
        """For each rank the last rank with the same score, shape (N, C)."""
        ordered = np.take_along_axis(self.scores, self.order, axis=0)
        num_clips = len(ordered)
        ranks = np.broadcast_to(np.arange(num_clips)[:, None], ordered.shape).copy()
        ranks[:-1][ordered[:-1] == ordered[1:]] = num_clips  # not the last one
        return np.minimum.accumulate(ranks[::-1], axis=0)[::-1]

    def average_precisions(self, counts: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Compute the average precision of every class.

        Args:
            counts: How often each clip counts, shape (N,); None for once.

        Returns:
            In [0, 1], not a number for a class without a clip, shape (C,).
        """
        weights = np.ones(len(self.scores)) if counts is None else counts.astype(np.float64)
        found = weights[self.order]  # (N, C)
        true = np.where(np.take_along_axis(self.is_true, self.order, axis=0), found, 0.0)
        num_true, num_found = true.cumsum(axis=0), found.cumsum(axis=0)
        precision = num_true / np.maximum(num_found, 1e-12)
        at_its_rank = np.take_along_axis(precision, self.last_of_equals, axis=0)
        with np.errstate(invalid="ignore"):
            return np.asarray((true * at_its_rank).sum(axis=0) / num_true[-1])


def mean_average_precision(scores: NDArray[Any], is_true: Truth) -> float:
    """Compute mAP.

    Args:
        scores: Higher is likelier, shape (N, C).
        is_true: Which classes are true of which clip, shape (N, C).

    Returns:
        Mean of the average precisions of the classes that have a clip, in percent.

    Raises:
        ValueError: If the shapes differ or a score is not finite.
    """  # noqa: DOC502 - raised by RankedClips
    return float(np.nanmean(RankedClips(scores, is_true).average_precisions()) * 100)


def map_interval(scores: NDArray[Any], is_true: Truth, *, seed: int = 0) -> tuple[float, float]:
    """Return the confidence interval of mAP for this number of clips.

    Args:
        scores: Higher is likelier, shape (N, C).
        is_true: Which classes are true of which clip, shape (N, C).
        seed: Of the resampling.

    Returns:
        2.5th and 97.5th percentile of mAP over resampled clips, in percent.
    """
    ranked, rng, num_clips = RankedClips(scores, is_true), np.random.default_rng(seed), len(scores)
    found = []
    for _ in range(NUM_RESAMPLES):
        counts = np.bincount(rng.integers(0, num_clips, num_clips), minlength=num_clips)
        precisions = ranked.average_precisions(counts)
        if not np.isnan(precisions).all():  # a handful of clips can be drawn without a single class
            found.append(np.nanmean(precisions) * 100)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def chance_average_precisions(is_true: Truth) -> NDArray[np.float64]:
    """Compute the average precision that random scores have in expectation.

    With P of N clips true: a true clip stands at each rank r equally likely, and each of the r − 1 before it is true
    with probability (P − 1) / (N − 1):  Σ_r (1 + (r − 1)(P − 1) / (N − 1)) / (r · N).

    Args:
        is_true: Which classes are true of which clip, shape (N, C).

    Returns:
        In [0, 1], not a number for a class without a clip, shape (C,).
    """
    num_clips, num_true = len(is_true), is_true.sum(axis=0)
    harmonic = (1 / np.arange(1, num_clips + 1)).sum()
    share = (num_true - 1) / max(1, num_clips - 1)
    return np.where(num_true > 0, (harmonic + share * (num_clips - harmonic)) / num_clips, np.nan)


def is_top_1(scores: NDArray[Any], is_true: Truth) -> NDArray[np.bool_]:
    """Ask of each clip whether its class has the highest score; a tie counts against us.

    Args:
        scores: Higher is likelier, shape (N, C).
        is_true: One true class for each clip, shape (N, C).

    Returns:
        Shape (N,).
    """
    true = np.where(is_true, scores, -np.inf).max(axis=1)
    best_other = np.where(is_true, -np.inf, scores).max(axis=1)
    return np.asarray(true > best_other)
