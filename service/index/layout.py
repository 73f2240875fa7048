"""Which vectors an index holds: those that its bundle makes, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import Manifest, Similarity, unit_rows
from service.system.modality import MODALITIES, Modality, NotEmbedded, Track

TRACK_SUFFIX = "_track"
TRACK_NAMES = tuple(modality + TRACK_SUFFIX for modality in MODALITIES)


@dataclass(frozen=True, kw_only=True)
class VectorLayout:
    """Shape (T, D) of a segment's track for each modality that is stored, and how tracks compare.

    With `cosine` stored rows have unit length and scores lie in [-1, 1]. With `dot` rows keep their length, and scores
    have no bounds. If it `weighs_moments`, rows of sound have the length of their weights, with a mean of 1 in each
    track: a dot product is then the weighted mean of cosines.
    """

    tracks: Mapping[Modality, tuple[int, int]]
    similarity: Similarity = "cosine"
    weighs_moments: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The layout for what a bundle embeds."""
        tracks = cast("Mapping[Modality, tuple[int, int]]", manifest.tracks)
        return cls(
            tracks={name: tracks[name] for name in MODALITIES if name in tracks},
            similarity=manifest.similarity,
            weighs_moments=manifest.weighs_moments,
        )

    @classmethod
    def of_both(cls, num_moments: int, width: int) -> Self:
        """Sound and picture of one shape, compared by cosine."""
        return cls(tracks=dict.fromkeys(MODALITIES, (num_moments, width)))

    @property
    def is_plain(self) -> bool:
        """Whether sound and picture have one shape and unit rows, as in every index of before."""
        return self == VectorLayout.of_both(*next(iter(self.tracks.values())))

    @property
    def track_names(self) -> tuple[str, ...]:
        """Names of the vectors that are tracks."""
        return tuple(modality + TRACK_SUFFIX for modality in self.tracks)

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers in each vector of a point, by its name: D if it is pooled, T·D if it is a track."""
        pooled: dict[str, int] = {modality: width for modality, (_, width) in self.tracks.items()}
        tracks = {
            modality + TRACK_SUFFIX: moments * width for modality, (moments, width) in self.tracks.items()
        }
        return {**pooled, **tracks}

    def shape(self, modality: Modality) -> tuple[int, int]:
        """Shape (T, D) of a track; raises `NotEmbedded` for a modality that is not stored."""
        if modality not in self.tracks:
            raise NotEmbedded(f"the index holds {' and '.join(self.tracks)}, no {modality}")
        return self.tracks[modality]

    def pool(self, track: Track) -> NDArray[np.float32]:
        """The mean of the moments, float32, shape (D,); with `cosine` of unit length."""
        mean = track.mean(axis=0, dtype=np.float64)
        return np.asarray(
            mean / np.linalg.norm(mean) if self.similarity == "cosine" else mean, dtype=np.float32
        )

    def is_weighed(self, modality: Modality) -> bool:
        """Whether rows of this modality are stored with the lengths of their weights."""
        return self.weighs_moments and modality == "audio"

    def to_query(self, track: Track, modality: Modality) -> Track:
        """A stored track as a query, in which every moment counts alike."""
        return unit_rows(track) if self.is_weighed(modality) else track

    def compare(
        self, query: Track, tracks: NDArray[np.float32], *, target: Modality
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Similarity of each moment with the same one, and its weight: (T, D) and (..., T, D) → (..., T) each.

        The weights are 1 but for rows that are weighed.
        """
        found: NDArray[np.float32] = np.einsum("td,...td->...t", query, tracks)
        weights = np.ones_like(found)
        if self.is_weighed(target):
            weights = np.linalg.norm(tracks, axis=-1)
            found = found / weights.clip(1e-12)
        return np.clip(found, -1.0, 1.0) if self.similarity == "cosine" else found, weights
