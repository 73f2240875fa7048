"""Zero-shot retrieval between sound and picture: the published protocol, its other three readings, and how sure it is.

A clip is 16 unit embeddings of its sound and 16 of its picture. With c_mn = cosine(audio moment m, video moment n):

    diagonal_mean  mean over m of c_mm      the published one: one dot product of the concatenated tracks over T
    diagonal_max   max over m of c_mm
    mean           mean over m and n of c_mn
    max            max over m and n of c_mn

Every clip is a query once, every clip's other modality is the gallery, and a tie counts against us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.network.tgdp import Tgdp
from training.data.segments import Segments
from training.evaluation.embedder import NetworkEmbedder
from training.evaluation.embedding import embed_prepared

Combination = Literal["diagonal_mean", "diagonal_max", "mean", "max"]
Scores = NDArray[np.float32]

DIRECTIONS = {"audio_to_video": "sound → picture", "video_to_audio": "picture → sound"}
"""The name of each direction for people, by field of `Retrieval`."""
NUM_RESAMPLES = 2000
"""Bootstrap samples of the queries behind an interval."""


class BadTracks(ValueError):
    """Tracks do not have the shapes that belong together."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How often the true item is among the first k, in percent, and its median rank (1 is best).

    Attributes:
        at_1: R@1.
        at_5: R@5.
        at_10: R@10.
        median_rank: Median rank of the true item.
        at_1_interval: 95 % bootstrap interval of R@1 over the queries: low, high.
    """

    at_1: float
    at_5: float
    at_10: float
    median_rank: float
    at_1_interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall in both directions over a gallery of `num_segments`."""

    num_segments: int
    audio_to_video: Recall
    video_to_audio: Recall

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def unit_tracks(tracks: NDArray[Any]) -> Scores:
    """Scale every embedding to length 1.

    Args:
        tracks: Any norm but zero, shape (N, T, D).

    Returns:
        float32, shape (N, T, D).

    Raises:
        BadTracks: If the shape is another or an embedding has no direction.
    """
    if tracks.ndim != 3:
        raise BadTracks(f"tracks must be (N, T, D), got {tracks.shape}")
    norms = np.linalg.norm(tracks, axis=2, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise BadTracks("every embedding must be finite and not zero")
    return np.asarray(tracks / norms, np.float32)


def _diagonal_mean(queries: Scores, items: Scores) -> Scores:
    scores = queries.reshape(len(queries), -1) @ items.reshape(len(items), -1).T
    return np.asarray(scores / queries.shape[1], np.float32)


def _diagonal_max(queries: Scores, items: Scores) -> Scores:
    best = queries[:, 0] @ items[:, 0].T
    for moment in range(1, queries.shape[1]):
        np.maximum(best, queries[:, moment] @ items[:, moment].T, out=best)
    return best


def _mean(queries: Scores, items: Scores) -> Scores:
    return np.asarray(
        queries.mean(axis=1) @ items.mean(axis=1).T, np.float32
    )  # the mean of all pairs is bilinear


def _max(queries: Scores, items: Scores) -> Scores:
    best = queries[:, 0] @ items[:, 0].T
    scores = np.empty_like(best)
    for moment in range(queries.shape[1]):
        for other in range(items.shape[1]):
            np.matmul(queries[:, moment], items[:, other].T, out=scores)
            np.maximum(best, scores, out=best)
    return best


COMBINATIONS: dict[Combination, Callable[[Scores, Scores], Scores]] = {
    "diagonal_mean": _diagonal_mean,
    "diagonal_max": _diagonal_max,
    "mean": _mean,
    "max": _max,
}
"""Each way of combining moments, on unit tracks."""


def similarity(
    queries: NDArray[Any], items: NDArray[Any], *, combine: Combination = "diagonal_mean"
) -> Scores:
    """Score every item for every query.

    Args:
        queries: Tracks, any norm but zero, shape (Q, T, D).
        items: Tracks, any norm but zero, shape (N, T, D).
        combine: How the cosines of the moments become one score.

    Returns:
        Scores in [-1, 1], float32, shape (Q, N).

    Raises:
        BadTracks: If the moments or the width of the two differ.
    """
    if queries.shape[1:] != items.shape[1:]:
        raise BadTracks(f"queries are (Q, T, D) {queries.shape} and items {items.shape}: T and D must agree")
    return COMBINATIONS[combine](unit_tracks(queries), unit_tracks(items))


def true_ranks(scores: Scores) -> NDArray[np.int64]:
    """Rank the true item of every query, the one at its own position; equal scores rank before it.

    Args:
        scores: Shape (N, N), row i is query i.

    Returns:
        Ranks from 1, shape (N,). A score that is not a number ranks last.
    """
    true = np.diagonal(scores)[:, None]
    return np.asarray((~(scores < true)).sum(axis=1), np.int64)


def recall(scores: Scores) -> Recall:
    """Measure how early the true items come.

    Args:
        scores: Shape (N, N), row i is query i.

    Returns:
        Recall at 1, 5 and 10 in percent, the median rank, and the interval of R@1.
    """
    return recall_of_ranks(true_ranks(scores))


def recall_of_ranks(ranks: NDArray[np.int64]) -> Recall:
    """Measure how early the true items come.

    Args:
        ranks: Of the true item of each query, from 1, shape (N,).

    Returns:
        Recall at 1, 5 and 10 in percent, the median rank, and the interval of R@1.
    """
    at = {k: round(float((ranks <= k).mean()) * 100, 4) for k in (1, 5, 10)}
    return Recall(
        at_1=at[1],
        at_5=at[5],
        at_10=at[10],
        median_rank=float(np.median(ranks)),
        at_1_interval=bootstrap_interval(ranks <= 1),
    )


def bootstrap_interval(is_hit: NDArray[np.bool_], *, seed: int = 0) -> tuple[float, float]:
    """Return the confidence interval of a share of hits for this number of queries.

    Args:
        is_hit: One answer per query, shape (N,).
        seed: Of the resampling.

    Returns:
        2.5th and 97.5th percentile of the share over resampled queries, in percent.
    """
    # Drawing N queries with replacement and counting the hits is one binomial draw.
    hits = np.random.default_rng(seed).binomial(len(is_hit), is_hit.mean(), NUM_RESAMPLES)
    low, high = np.percentile(hits / len(is_hit) * 100, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def retrieval(
    audio: NDArray[Any], video: NDArray[Any], *, combine: Combination = "diagonal_mean"
) -> Retrieval:
    """Evaluate both directions over tracks of the same clips in the same order.

    Args:
        audio: Tracks, shape (N, T, D).
        video: Tracks, shape (N, T, D).
        combine: How the cosines of the moments become one score.

    Returns:
        Recall from sound to picture and from picture to sound.
    """
    scores = similarity(audio, video, combine=combine)
    return Retrieval(num_segments=len(audio), audio_to_video=recall(scores), video_to_audio=recall(scores.T))


def embed_segments(network: Tgdp, segments: Segments, *, limit: int | None = None) -> tuple[Scores, Scores]:
    """Embed prepared segments with the torch network, all moments.

    Args:
        network: In evaluation mode, on any device.
        segments: What to embed.
        limit: Only the first so many; None for all.

    Returns:
        Audio tracks and video tracks, float32, shape (N, T, D) each.
    """
    media = embed_prepared(NetworkEmbedder("network", network), segments, limit=limit)
    return media.audio, media.video
