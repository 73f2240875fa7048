"""Which moments of a segment's sound belong to its picture: the network of a bundle that weighs them, in NumPy.

    weights = moments.weights(audio, video)     # (B, T), mean 1
    stored = moments.fold(audio, video)         # rows of sound scaled by them: a search stays one dot product

Only rows of sound are scaled. Those of pictures keep their length: weights made of both streams give a pair away if the
picture carries them (docs/adapting.md has the figures). A weight depends on the pair, the direction of a row never.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.05
"""No moment counts for nothing: a weight is σ + this."""
SHAPES: Mapping[str, int] = {"first.weight": 2, "first.bias": 1, "second.weight": 2, "second.bias": 1}
"""Arrays of the file and how many dimensions they have."""
AT_ONCE = 256

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MomentWeights:
    """The arrays of `training.adapting.agreement.MomentAgreement`, by name: float32, for tracks of width D."""

    arrays: Mapping[str, Floats]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if set(self.arrays) != set(SHAPES):
            raise ValueError(f"moments are weighed with {', '.join(SHAPES)}, got {', '.join(self.arrays)}")
        for name, dimensions in SHAPES.items():
            array = self.arrays[name]
            if array.dtype != np.float32 or array.ndim != dimensions or not np.isfinite(array).all():
                raise ValueError(
                    f"{name} must be finite float32 of {dimensions} dimensions, got {array.dtype} {array.shape}"
                )
        hidden, features = self.arrays["first.weight"].shape
        found = [self.arrays[name].shape for name in SHAPES]
        if features % 2 == 0 or found != [(hidden, features), (hidden,), (1, hidden), (1,)]:
            raise ValueError(f"the arrays that weigh moments do not fit together: {found}")

    @property
    def width(self) -> int:
        """Width D of the tracks."""
        return int(self.arrays["first.weight"].shape[1] - 3) // 2

    def logits(self, audio: Floats, video: Floats) -> Floats:
        """Unit rows (B, T, D) of both modalities → (B, T); above 0 a moment's sound belongs to its picture."""
        parts = [
            self._logits(audio[first : first + AT_ONCE], video[first : first + AT_ONCE])
            for first in range(0, len(audio), AT_ONCE)
        ]
        return np.concatenate([np.zeros((0, audio.shape[1]), np.float32), *parts])

    def _logits(self, audio: Floats, video: Floats) -> Floats:
        cosine = (audio * video).sum(axis=-1)
        edged = np.pad(cosine, ((0, 0), (1, 1)), mode="edge")
        around = (edged[:, :-2] + edged[:, 1:-1] + edged[:, 2:]) / 3
        whole = np.broadcast_to(cosine.mean(axis=1, keepdims=True), cosine.shape)
        features = np.concatenate(
            [
                audio * video * np.float32(self.width),
                np.abs(audio - video) * np.float32(math.sqrt(self.width)),
                np.stack([cosine, around, whole], axis=-1),
            ],
            axis=-1,
        )
        hidden = features @ self.arrays["first.weight"].T + self.arrays["first.bias"]
        found = np.maximum(hidden, 0) @ self.arrays["second.weight"][0] + self.arrays["second.bias"]
        return np.asarray(found, np.float32)

    def weights(self, audio: Floats, video: Floats) -> Floats:
        """Weights of the moments of unit rows (B, T, D), shape (B, T); see `moment_weights`."""
        return moment_weights(self.logits(audio, video))

    def fold(self, audio: Floats, video: Floats) -> Floats:
        """The rows of sound, of any length, scaled to their weights: what is stored."""
        heard, seen = unit_rows(audio), unit_rows(video)
        return np.asarray(heard * self.weights(heard, seen)[..., None], np.float32)


def moment_weights(logits: Floats) -> Floats:
    """Weights with a mean of 1 in each segment, (B, T): T ω_t / Σ ω with ω = σ(logit) + .05."""
    raw = 1 / (1 + np.exp(-logits.clip(-60, 60))) + FLOOR
    return np.asarray(raw / raw.mean(axis=1, keepdims=True), np.float32)


def unit_rows(tracks: Floats) -> Floats:
    """Scale rows (…, D) to unit length; rows of zeros stay."""
    return np.asarray(tracks / np.linalg.norm(tracks, axis=-1, keepdims=True).clip(1e-12), np.float32)


def write_moments(arrays: Mapping[str, Floats], target: Path) -> None:
    """Write the arrays that weigh moments.

    Args:
        arrays: See `MomentWeights`.
        target: File to write, `.npz`.

    Raises:
        ValueError: If they do not belong together.
    """  # noqa: DOC502 - raised where they are checked
    np.savez(target, allow_pickle=False, **MomentWeights(arrays=arrays).arrays)


def read_moments(source: Path, *, width: int) -> MomentWeights:
    """Read what `write_moments` wrote.

    Args:
        source: The file.
        width: Width D of the tracks.

    Returns:
        The network.

    Raises:
        ValueError: If the file is something else, or for tracks of another width.
        OSError: If it cannot be read.
    """  # noqa: DOC503 - the other is raised where it is read
    with np.load(source, allow_pickle=False) as arrays:
        found = MomentWeights(arrays={name: arrays[name] for name in arrays.files})
    if found.width != width:
        raise ValueError(
            f"{source.name} weighs tracks of width {found.width}, those of the bundle have {width}"
        )
    return found
