"""Retrieval of alike clips: mean average precision of sound against picture, where alike means a shared label.

Every clip is a query once and the other modality of all clips is its gallery; scores are cosines of unit vectors.
AP = Σ precision at each relevant rank / number of relevant items; items of one score are one group, at its last place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]


def average_precisions(scores: Scores, is_relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision of each query.

    Args:
        scores: Shape (Q, N).
        is_relevant: Which items belong to each query, shape (Q, N).

    Returns:
        float64, shape (Q,); NaN for a query that nothing is relevant to.
    """
    found = np.full(len(scores), np.nan)
    for query, (row, relevant) in enumerate(zip(scores, is_relevant, strict=True)):
        if not relevant.any():
            continue
        order = np.argsort(-row, kind="stable")
        hits = np.cumsum(relevant[order])
        ranked = row[order]
        last = np.searchsorted(
            -ranked, -ranked, side="right"
        )  # ranks from 1 of the end of each group of equal scores
        precision = hits[last - 1] / last
        found[query] = precision[relevant[order]].mean()
    return found


def mean_average_precision(audio: Scores, video: Scores, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean average precision over labelled clips, in percent: sound → picture and picture → sound.

    Args:
        audio: Unit vectors of the sound, shape (N, D).
        video: Of the picture of the same clips, shape (N, D).
        truth: Labels, shape (N, C); clips without any are left out.

    Returns:
        Two numbers in [0, 100]; NaN where no clip has a label.
    """
    labelled = truth.any(axis=1)
    if not labelled.any():
        return float("nan"), float("nan")
    audio, video, truth = audio[labelled], video[labelled], truth[labelled]
    shared = truth.astype(np.float32) @ truth.astype(np.float32).T > 0
    scores = audio @ video.T
    return (
        float(np.nanmean(average_precisions(scores, shared)) * 100),
        float(np.nanmean(average_precisions(scores.T, shared)) * 100),
    )
