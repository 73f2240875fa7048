"""The encoder pair of a bundle: samples and frames in, tracks out, on the fastest engine that agrees with float32.

    encoder = Encoder(bundle, precision="auto", agreement=settings.data / "agreement")
    encoder.encode_video([frames])    # (1, 16, D)
    encoder.choice                    # openvino bf16, its agreement, and why nothing faster

`service.encode.engines.candidates` has the candidates and their order. What is asked for and cannot run is an error;
under `auto` the next candidate takes over, and the log names both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import Bundle, cosines
from models.cores import num_cores
from service.encode.agreement import AgreementStore
from service.encode.choice import open_fastest
from service.encode.engines.candidates import EXACT, candidates
from service.encode.engines.contract import Device, EncoderFailure, EngineOptions, GoldenMismatch, Precision

Row = TypeVar("Row")

GOLDEN_TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-4, "tf32": 2e-3}
"""Maximum difference of any number from the golden tracks, where numbers can be compared one by one."""
GOLDEN_COSINE = 0.998
"""Minimum cosine of an embedding and the golden one, for every other precision."""


class Encoder:
    """The encoders of one verified bundle. Every method may be called from any thread.

    The `auto` precision is the fastest that agrees with float32 on this machine. On the CPU `num_runs` runs at the same
    time take `num_threads` each, or (None) share all cores of this process. The folder `agreement` keeps what was
    measured, `cache` what TensorRT compiled; None does it again each time. `gpu_memory_bytes` limits working
    data. Raises `EngineMissing` if what is asked for cannot run here, `PrecisionRefused` if it is too far from float32.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "auto",
        precision: Precision | Literal["auto"] = EXACT,
        num_threads: int | None = None,
        num_runs: int = 1,
        tensorrt: bool = False,
        cuda_graphs: bool = False,
        gpu_memory_bytes: int | None = None,
        agreement: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        self.bundle = bundle
        self.width = bundle.manifest.embedding_width
        spec = bundle.manifest.clip_spec
        self.options = EngineOptions(
            num_threads=num_threads or max(1, num_cores() // num_runs),
            num_runs=num_runs,
            segment_samples=round(spec.segment_seconds * spec.sample_rate_hz),
            gpu_memory_bytes=gpu_memory_bytes,
            cuda_graphs=cuda_graphs,
            cache=cache,
        )
        self.engine, self.choice = open_fastest(
            bundle,
            candidates(device=device, precision=precision, tensorrt=tensorrt),
            self.options,
            AgreementStore(folder=agreement),
        )
        self.provider = self.engine.provider

    def encode_audio(
        self, samples: Sequence[NDArray[np.float32]], num_heard: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Embed mono sound of B segments at the bundle's rate, float32, shape (S,) each, of any length from 1 on.

        `num_heard` says after how many samples the sound of each ends; None: it fills the segment. Returns unit
        embeddings, float32, shape (B, T, D). Raises `EncoderFailure` if the engine fails or a number is not finite.
        """
        tracks = []
        heard = list(map(len, samples)) if num_heard is None else num_heard
        for batch, ends in zip(self._batches(samples), self._batches(heard), strict=True):
            lengths = np.array([len(row) for row in batch], np.int64)
            padded = np.zeros((len(batch), int(lengths.max())), np.float32)
            for row, values in zip(padded, batch, strict=True):
                row[: len(values)] = values
            # Not left to the engine: OpenVINO's maximum turns what is not a number into one.
            if not np.isfinite(padded).all():
                raise EncoderFailure("the sound has a number that is not finite")
            tracks.append(self.engine.run_audio(padded, lengths, np.array(ends, np.int64)))
        return self._joined(tracks, "audio")

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed RGB frames of B segments, uint8, shape (F, H, W, 3) each; see `encode_audio`."""
        # Segments of which every frame is taken have different numbers of them.
        alike = [list(rows) for _, rows in groupby(frames, key=np.shape)]
        tracks = [self.engine.run_video(np.stack(batch)) for rows in alike for batch in self._batches(rows)]
        return self._joined(tracks, "video")

    def check_golden(self) -> float:
        """Embed the golden clip, and return the largest difference of any number from the tracks of its export.

        Of rows longer than 1 it is a share of their length. Raises `GoldenMismatch` if it is above the precision's
        tolerance, or without one, an embedding turned too far.
        """
        golden = self.bundle.golden()
        expected, found = golden.tracks, {}
        if "audio" in expected:
            found["audio"] = self.encode_audio([golden.samples], [golden.num_heard])[0]
        if "video" in expected:
            found["video"] = self.encode_video([golden.frames])[0]
        difference = max(
            float(
                np.abs(found[name] - expected[name]).max()
                / max(1.0, np.linalg.norm(expected[name], axis=1).max())
            )
            for name in expected
        )
        precision = self.choice.candidate.precision
        where = f"golden tracks of {self.bundle.bundle_id} on {self.choice.candidate}"
        if (allowed := GOLDEN_TOLERANCE.get(precision)) is not None:
            if not difference <= allowed:
                raise GoldenMismatch(f"{where} differ by {difference:.2e}, allowed {allowed:.0e}")
        elif not (least := float(cosines(expected, found).min())) >= GOLDEN_COSINE:
            raise GoldenMismatch(f"{where} have a cosine of {least:.6f}, allowed {GOLDEN_COSINE} and above")
        return difference

    def _batches(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        size = self.engine.max_batch
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    def _joined(self, tracks: list[NDArray[np.float32]], modality: str) -> NDArray[np.float32]:
        joined = np.concatenate([np.empty((0, *self.bundle.manifest.tracks[modality]), np.float32), *tracks])
        if not np.isfinite(joined).all():
            raise EncoderFailure("the encoder gave a number that is not finite")
        return joined
