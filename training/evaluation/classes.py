"""Retrieval of alike clips: mean average precision of sound against picture, where alike means a shared label.

Every clip is a query once and the other modality of all clips is its gallery; scores are cosines of unit vectors.
AP = Σ precision at each relevant rank / number of relevant items; items of one score are one group, at its last place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.evaluation.evaluate import Recall, recall_of_ranks

Scores = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Alike:
    """How well alike clips are found in one direction.

    Attributes:
        mean_average_precision: In percent.
        chance: Mean share of the gallery that is relevant, in percent: R@1 of a random order.
        first: How early the first relevant item comes.
    """

    mean_average_precision: float
    chance: float
    first: Recall

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


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


def first_ranks(scores: Scores, is_relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank the best relevant item of each query; equal scores of others rank before it.

    Args:
        scores: Shape (Q, N).
        is_relevant: Which items belong to each query, at least one, shape (Q, N).

    Returns:
        Ranks from 1, shape (Q,).
    """
    best = np.where(is_relevant, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray((~(scores < best) & ~is_relevant).sum(axis=1) + 1, np.int64)


def measure_alike(
    audio: Scores, video: Scores, truth: NDArray[np.bool_]
) -> dict[Literal["audio_to_video", "video_to_audio"], Alike]:
    """Measure how well clips with a shared label are found; a clip's own other modality is one of them.

    Args:
        audio: Tracks of the sound, shape (N, T, D); a clip's vector is the unit mean of its moments.
        video: Of the picture of the same clips.
        truth: Labels, one or more a clip, shape (N, C).

    Returns:
        Figures by direction.
    """
    pooled = [tracks.mean(axis=1) for tracks in (audio, video)]
    heard, seen = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pooled)
    shared = truth.astype(np.float32) @ truth.astype(np.float32).T > 0
    scores = heard @ seen.T

    def measure(scores: Scores) -> Alike:
        return Alike(
            mean_average_precision=round(float(average_precisions(scores, shared).mean()) * 100, 4),
            chance=round(float(shared.mean()) * 100, 4),
            first=recall_of_ranks(first_ranks(scores, shared)),
        )

    return {"audio_to_video": measure(scores), "video_to_audio": measure(scores.T)}


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
