"""What an engine is: something that runs both graphs of a bundle in one precision on one device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import GRAPHS, Manifest
from service.system.failure import Failure

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
EngineName = Literal["tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime"]


class EncoderFailure(Failure):
    """The encoder could not be started or gave something that is not an embedding."""

    code = "encoder_failed"
    is_public = False


class EngineMissing(EncoderFailure):
    """An engine or a precision was asked for that is not here; the message says how to get it."""


class DeviceMissing(EngineMissing):
    """A device was asked for that this machine or this build of ONNX Runtime does not have."""


class GoldenMismatch(EncoderFailure):
    """The encoder does not reproduce the tracks that were recorded when its bundle was exported."""


class PrecisionRefused(EncoderFailure):
    """A precision is too far from float32 on this machine."""


class DeviceOutOfMemory(EncoderFailure):
    """Not even one segment fits into the memory of the device."""


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """The ONNX files that an engine runs; a bundle may have one of them only.

    `audio` turns samples (B, S) float32, lengths and heard (B,) int64 into tracks (B, T, D); `video` turns frames
    (B, F, H, W, 3) uint8 into tracks (B, T, D).
    """

    audio: Path | None = None
    video: Path | None = None

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> Graphs:
        """The graphs of a bundle in a folder: its own, or that of a variant."""
        return cls(**{modality: folder / GRAPHS[modality] for modality in manifest.tracks})


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine runs.

    `num_threads` is for one run, and `num_runs` run at the same time on a processor; further ones wait. Shorter sound
    is padded to `segment_samples` on a GPU. `cuda_graphs` replays the launches of a GPU as one graph. `cache` is the
    folder for what an engine builds from the graphs, None for nowhere.
    """

    num_threads: int
    num_runs: int = 1
    segment_samples: int = 160_000
    gpu_memory_bytes: int | None = None
    cuda_graphs: bool = False
    cache: Path | None = None


class Engine(Protocol):
    """The graphs of a bundle, loaded; one that it has not is never run. Every method may be called from any thread."""

    provider: str  # what it runs on, as `/readyz` and `foley doctor` name it
    max_batch: int  # segments that one run takes

    def run_audio(self, samples: Floats, lengths: Ints, heard: Ints | None = None) -> Floats:
        """Embed padded rows of sound, float32, shape (B, S), as float32 (B, T, D).

        `lengths` (B,) are those of the segments, `heard` (B,) those of the sound in them, None if it fills them.
        """

    def run_video(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures, uint8, shape (B, F, H, W, 3), as float32 (B, T, D)."""
