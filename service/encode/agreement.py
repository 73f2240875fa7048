"""Whether a precision may serve here: measured once on this machine, against float32, and kept.

    FOLEY_DATA/agreement/<bundle id>/openvino-bf16.json

How far a precision is from float32 depends on the weights, the engine and its version, and the processor; the figures
are measured again if one of them changes. The clips are eight views of the bundle's golden clip, the one real clip that
every bundle has; `foley doctor --measure FILE...` takes real files instead, up to 32 segments of them.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import (
    GRAPHS,
    Agreement,
    Bundle,
    Tracks,
    add_outliers,
    compare_tracks,
)
from service.encode.engines.candidates import EXACT, GPU, Candidate, find_variant, open_candidate
from service.encode.engines.contract import Engine, EngineOptions, Graphs
from service.encode.engines.hardware import gpu_name, instruction_set, processor_name
from service.system.files import replace_file

logger = logging.getLogger(__name__)

MEASURE = 2  # raise it when clips, figures or what an engine computes change: others are measured again
REFERENCE = Candidate(engine="onnxruntime", precision=EXACT)


@dataclass(frozen=True, kw_only=True)
class ProbeClips:
    """Clips that precisions are compared on: sound (S,) float32, its end, and pictures (T, H, W, 3) uint8 of each."""

    samples: Sequence[NDArray[np.float32]]
    frames: Sequence[NDArray[np.uint8]]
    description: str
    num_heard: Sequence[int] | None = None  # None: every sound fills its segment


@dataclass(frozen=True, kw_only=True)
class AgreementKey:
    """What a record holds for: weights, engine, precision, version, processor and its instructions or GPU, figures."""

    bundle_id: str
    candidate: str
    version: str
    processor: str
    instructions: str
    measure: int = MEASURE

    @classmethod
    def of(cls, bundle: Bundle, candidate: Candidate) -> AgreementKey:
        """The key of a candidate on this machine."""
        gpu = gpu_name() if candidate.engine in GPU else None
        return cls(
            bundle_id=bundle.bundle_id,
            candidate=str(candidate),
            version=candidate.version,
            processor=gpu or processor_name(),
            instructions="" if gpu else instruction_set(),
        )


@dataclass(frozen=True, kw_only=True)
class AgreementStore:
    """Records on disk, in a folder (None keeps nothing); one that is unreadable or of another key counts as none."""

    folder: Path | None

    def load(self, bundle: Bundle, candidate: Candidate) -> Agreement | None:
        """Read a record; None if the figures have to be measured."""
        if (file := self._file(bundle, candidate)) is None:
            return None
        try:
            record = json.loads(file.read_text())
            if record["key"] != asdict(AgreementKey.of(bundle, candidate)):
                return None
            return Agreement(**record["agreement"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
            logger.warning("%s cannot be read and is measured again: %s", file, exc)
            return None

    def save(self, bundle: Bundle, candidate: Candidate, agreement: Agreement) -> None:
        """Write a record, whole or not at all. If the folder cannot be written, the next start measures again."""
        if (file := self._file(bundle, candidate)) is None:
            return
        record = {"key": asdict(AgreementKey.of(bundle, candidate)), "agreement": asdict(agreement)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, json.dumps(record, indent=2, sort_keys=True) + "\n")
        except OSError as exc:
            logger.warning("%s cannot be written: %s", file, exc)

    def _file(self, bundle: Bundle, candidate: Candidate) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / bundle.bundle_id / f"{candidate.engine}-{candidate.precision}.json"


def measure_agreement(
    bundle: Bundle, candidate: Candidate, options: EngineOptions, *, clips: ProbeClips | None = None
) -> Agreement:
    """Compare a candidate with float32 of ONNX Runtime on the processor, by default on views of the golden clip.

    One engine is loaded at a time. The stress with outlier channels is a float graph made for the occasion. 8-bit
    graphs cannot be changed that way: for a variant the figures of its making count, where the outliers were there
    before its numbers were rounded.
    """
    clips = clips or golden_views(bundle)
    own = Graphs.of(bundle.manifest, bundle.path)
    reference = encode_clips(open_candidate(REFERENCE, own, options), clips)
    variant = find_variant(candidate, bundle)
    if variant is not None:
        graphs = Graphs.of(bundle.manifest, variant.path)
        found = encode_clips(open_candidate(candidate, graphs, options), clips)
        figures = compare_tracks(reference, found, found, clips=clips.description)
        made = variant.agreement
        return replace(figures, stressed_mean=made.stressed_mean, stressed_min=made.stressed_min)
    found = encode_clips(open_candidate(candidate, own, options), clips)
    with tempfile.TemporaryDirectory() as folder:
        outliers = Graphs.of(bundle.manifest, Path(folder))
        for modality in bundle.manifest.tracks:
            add_outliers(bundle.path / GRAPHS[modality], Path(folder) / GRAPHS[modality])
        stressed = encode_clips(open_candidate(candidate, outliers, options), clips)
    return compare_tracks(reference, found, stressed, clips=clips.description)


def encode_clips(engine: Engine, clips: ProbeClips) -> Tracks:
    """Embed clips one by one; returns tracks by modality, float32, shape (N, T, D) each."""
    sounds = zip(clips.samples, clips.num_heard or map(len, clips.samples), strict=True)
    audio = [engine.run_audio(row[None], np.array([len(row)]), np.array([end])) for row, end in sounds]
    video = [engine.run_video(frames[None]) for frames in clips.frames]
    return {name: np.concatenate(rows) for name, rows in (("audio", audio), ("video", video)) if rows}


def golden_views(bundle: Bundle) -> ProbeClips:
    """The golden clip of a bundle, and seven more made from it, as different as simple means make them."""
    golden = bundle.golden()
    return ProbeClips(
        samples=[np.ascontiguousarray(row, np.float32) for row in _sound_views(golden.samples)]
        if "audio" in golden.tracks
        else [],
        frames=[np.ascontiguousarray(frames) for frames in _picture_views(golden.frames)]
        if "video" in golden.tracks
        else [],
        description="8 views of the golden clip",
    )


def _picture_views(frames: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    half = frames.shape[1] // 2
    upper_left, lower_right = frames[:, :half, :half], frames[:, -half:, -half:]
    return [
        frames,
        frames[:, :, ::-1],
        _twice(upper_left),
        _twice(lower_right),
        frames[:, ::-1],
        np.roll(frames, 1, axis=3),
        255 - frames,
        frames.transpose(0, 2, 1, 3),
    ]


def _twice(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    enlarged: NDArray[np.uint8] = frames.repeat(2, axis=1).repeat(2, axis=2)
    return enlarged


def _sound_views(samples: NDArray[np.float32]) -> list[NDArray[Any]]:
    time = np.arange(len(samples))
    return [
        samples,
        samples[::-1],
        np.tile(samples[::2], 2)[: len(samples)],
        samples[: (len(samples) + 1) // 2].repeat(2)[: len(samples)],
        np.convolve(samples, np.full(16, 1 / 16), mode="same"),
        np.diff(samples, prepend=samples[:1]),
        samples * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time / 16_000)),
        np.roll(samples, len(samples) // 3) * 0.25,
    ]
