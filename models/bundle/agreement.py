"""Distance of a lower precision's tracks from float32, and whether it is small enough to serve.

Three questions, asked of the same clips: how much does an embedding turn (cosine), does its nearest neighbour stay the
same, and does it still hold where a few channels are thirty times larger than the rest, as in trained networks they
often are (see `models.bundle.norms.add_outliers`)?
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

MIN_COSINE_MEAN = 0.9995
"""Least mean cosine between an embedding and the one of float32."""
MIN_COSINE = 0.998
"""Least cosine of any embedding."""
MIN_NEIGHBOURS = 0.98
"""Least share of embeddings whose nearest neighbour is of the same clip as in float32."""
NEAR_TIE = 5e-4
"""Neighbours whose float32 similarities differ by less are equally near: answers show three decimals."""

Tracks = Mapping[str, NDArray[np.float32]]
"""Embeddings by modality, float32, shape (N, T, D) each."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Figures of a precision compared with float32.

    Attributes:
        cosine_mean: Mean cosine of an embedding and its float32 counterpart.
        cosine_min: Least of them.
        neighbours: Share of embeddings whose nearest neighbour among the other clips is of the same clip, or of one
            that in float32 is as near but for `NEAR_TIE`.
        stressed_mean: Mean cosine with outlier channels.
        stressed_min: Least of them.
        num_embeddings: Embeddings compared.
        clips: What they were made of, for people.
    """

    cosine_mean: float
    cosine_min: float
    neighbours: float
    stressed_mean: float
    stressed_min: float
    num_embeddings: int
    clips: str

    def __post_init__(self) -> None:
        """Refuse figures that are no numbers: they come out of files that anything may have written."""
        for name, value in asdict(self).items():
            if not isinstance(value, str if name == "clips" else int | float):
                raise ValueError(f"{name} must be a {'text' if name == 'clips' else 'number'}, got {value!r}")

    def shortfalls(self) -> list[str]:
        """Return a description of every figure below its limit.

        Returns:
            One text for each figure that is too low, with the figure and the limit; empty when all are well.
        """
        limits = {
            "cosine_mean": MIN_COSINE_MEAN,
            "cosine_min": MIN_COSINE,
            "neighbours": MIN_NEIGHBOURS,
            "stressed_mean": MIN_COSINE_MEAN,
            "stressed_min": MIN_COSINE,
        }
        # `not >=` rather than `<`: a figure that is not a number is no agreement
        return [
            f"{name} {getattr(self, name):.6f} < {limit}"
            for name, limit in limits.items()
            if not getattr(self, name) >= limit
        ]

    def to_json(self) -> str:
        """Return the figures as a JSON object."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    def __str__(self) -> str:
        """The figures in one line."""
        return (
            f"1 - cosine {1 - self.cosine_mean:.1e} mean, {1 - self.cosine_min:.1e} maximum; "
            f"neighbours {self.neighbours:.1%}; "
            f"with outliers {1 - self.stressed_mean:.1e} mean, {1 - self.stressed_min:.1e} maximum "
            f"({self.num_embeddings} embeddings of {self.clips})"
        )


def compare_tracks(reference: Tracks, found: Tracks, stressed: Tracks, *, clips: str) -> Agreement:
    """Compare a precision with float32 on the same clips.

    Args:
        reference: Tracks of float32; at least two clips.
        found: Tracks of the precision.
        stressed: Tracks of the precision where the graph has outlier channels.
        clips: What the clips are, for people.

    Returns:
        The figures.

    Raises:
        ValueError: If there is one clip only: it has no neighbour.
    """
    if min(len(tracks) for tracks in reference.values()) < 2:
        raise ValueError("agreement needs at least 2 clips")
    plain, with_outliers = cosines(reference, found), cosines(reference, stressed)
    same = np.concatenate([keeps_neighbour(reference[name], found[name]) for name in sorted(reference)])
    return Agreement(
        cosine_mean=float(plain.mean()),
        cosine_min=float(plain.min()),
        neighbours=float(same.mean()),
        stressed_mean=float(with_outliers.mean()),
        stressed_min=float(with_outliers.min()),
        num_embeddings=len(plain),
        clips=clips,
    )


def cosines(reference: Tracks, found: Tracks) -> NDArray[np.float64]:
    """Cosine of every embedding with its counterpart.

    Args:
        reference: Tracks by modality.
        found: Tracks of the same clips.

    Returns:
        float64, shape (embeddings,).
    """
    # In float64: 1 - cosine may be 1e-8, a tenth of what float32 tells apart near 1.
    return np.concatenate(
        [
            _rows_cosine(reference[name].astype(np.float64), found[name].astype(np.float64)).ravel()
            for name in sorted(reference)
        ]
    )


def _rows_cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine: NDArray[np.float64] = (a * b).sum(axis=-1) / norms
    return cosine


def keeps_neighbour(reference: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the clip that is nearest to each embedding is one that is nearest in float32 too.

    Args:
        reference: Tracks of float32, shape (N, T, D).
        found: Tracks of the same clips in another precision.

    Returns:
        bool, shape (N * T,).
    """
    similarity = clip_similarity(reference)
    nearest = clip_similarity(found).argmax(axis=1)
    kept: NDArray[np.bool_] = (
        similarity[np.arange(len(nearest)), nearest] >= similarity.max(axis=1) - NEAR_TIE
    )
    return kept


def clip_similarity(tracks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Similarity of each embedding to the most similar one of every other clip.

    Args:
        tracks: Embeddings of N clips, float32, shape (N, T, D).

    Returns:
        Cosines, float64, shape (N * T, N); minus infinity for the own clip.
    """
    num_clips, num_moments, width = tracks.shape
    rows = tracks.reshape(-1, width).astype(np.float64)
    rows /= np.linalg.norm(
        rows, axis=1, keepdims=True
    )  # those of a bundle that compares by dot products are longer
    similarity: NDArray[np.float64] = (rows @ rows.T).reshape(len(rows), num_clips, num_moments).max(axis=2)
    own = np.repeat(np.arange(num_clips), num_moments)
    similarity[np.arange(len(rows)), own] = -np.inf
    return similarity
