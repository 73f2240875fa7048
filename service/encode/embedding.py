"""Clips into embedded segments: the tracks of each modality that a clip has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import MomentWeights
from models.media.clip import Clip
from service.encode.batching import SegmentEncoder
from service.system.modality import MODALITIES, Modality, Track


@dataclass(frozen=True, kw_only=True)
class EmbeddedSegment:
    """One segment of a file: tracks are float32, shape (T, D), unit rows, of the modalities that it has."""

    start_seconds: float
    end_seconds: float
    tracks: Mapping[Modality, Track]


def embed_clips(
    clips: Iterable[Clip], *, encoder: SegmentEncoder, modalities: Sequence[Modality]
) -> list[EmbeddedSegment]:
    """Embed these modalities of clips, in order; clips with none of them are left out."""
    clips = list(clips)
    tracks: list[dict[Modality, Track]] = [{} for _ in clips]
    for modality in modalities:
        present = [i for i, clip in enumerate(clips) if _has(clip, modality)]
        encoded = _encode([clips[i] for i in present], modality, encoder) if present else ()
        for i, track in zip(present, encoded, strict=True):
            tracks[i][modality] = track
    return [
        EmbeddedSegment(start_seconds=clip.start_seconds, end_seconds=clip.end_seconds, tracks=found)
        for clip, found in zip(clips, tracks, strict=True)
        if found
    ]


def weigh_moments(
    segments: Sequence[EmbeddedSegment], moments: MomentWeights | None
) -> list[EmbeddedSegment]:
    """Scale the sound of segments that have both streams, for an index that weighs moments (None: as they are)."""
    found = list(segments)
    both = [place for place, one in enumerate(found) if len(one.tracks) == 2]
    if moments is None or not both:
        return found
    audio, video = (np.stack([found[place].tracks[name] for place in both]) for name in MODALITIES)
    for place, track in zip(both, moments.fold(audio, video), strict=True):
        found[place] = replace(found[place], tracks={**found[place].tracks, "audio": track})
    return found


def _has(clip: Clip, modality: Modality) -> bool:
    return (clip.samples if modality == "audio" else clip.frames) is not None


def _encode(clips: Sequence[Clip], modality: Modality, encoder: SegmentEncoder) -> NDArray[np.float32]:
    if modality == "audio":
        return encoder.encode_audio(
            [clip.samples for clip in clips if clip.samples is not None], [clip.num_heard for clip in clips]
        )
    return encoder.encode_video([clip.frames for clip in clips if clip.frames is not None])
