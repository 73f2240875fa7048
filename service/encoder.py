"""The encoder pair of a bundle on ONNX Runtime: samples and frames in, tracks out.

The provider is a setting. `cuda` where there is none is an error; `auto` falls back to the CPU and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.bundle import Bundle

logger = logging.getLogger(__name__)

Device = Literal["auto", "cuda", "cpu"]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
MAX_BATCH = {CPU: 1, CUDA: 16}
"""Segments in one run of a graph. One already holds 16 pictures: more makes a CPU no faster and costs memory."""
GOLDEN_TOLERANCE = {CPU: 1e-4, CUDA: 2e-3}
"""Largest difference to the golden tracks; CUDA multiplies matrices in TF32."""


class EncoderFailure(Exception):
    """The encoder could not be started or gave something that is not an embedding."""


class DeviceMissing(EncoderFailure):
    """A device was asked for that this machine or this build of ONNX Runtime does not have."""


class GoldenMismatch(EncoderFailure):
    """The encoder does not reproduce the tracks that were recorded when its bundle was exported."""


class Encoder:
    """Both encoders of one bundle. Every method may be called from any thread.

    Args:
        bundle: Verified bundle.
        device: Where to run.
        num_threads: Threads of one run on the CPU; None for all cores this process may use.

    `DeviceMissing` is raised if `cuda` is asked for and not there.
    """

    def __init__(self, bundle: Bundle, *, device: Device = "auto", num_threads: int | None = None) -> None:
        self.bundle = bundle
        self.width = bundle.manifest.embedding_width
        self.num_moments = bundle.manifest.clip_spec.num_moments
        self.provider = choose_provider(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # cores are shared with decoding
        try:
            self._open_both(options)
        except EncoderFailure as exc:
            self._fall_back(device, exc)
            self._open_both(options)

    def _fall_back(self, device: Device, exc: EncoderFailure) -> None:
        """Take the CPU where CUDA was tried and not asked for: a driver may be there and CUDA's libraries not."""
        if device != "auto" or self.provider == CPU:
            raise exc
        logger.warning("%s does not work here, the encoder runs on %s: %s", self.provider, CPU, exc)
        self.provider = CPU

    def _open_both(self, options: onnxruntime.SessionOptions) -> None:
        self._audio = self._open(str(self.bundle.audio_graph), options)
        self._video = self._open(str(self.bundle.video_graph), options)

    def _open(self, graph: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        providers = [CUDA, CPU] if self.provider == CUDA else [CPU]
        try:
            with _keep_off_stdout():
                session = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated types for a graph it cannot load
            raise EncoderFailure(f"{graph} cannot be loaded: {exc}") from exc
        if session.get_providers()[0] != self.provider:
            raise DeviceMissing(f"asked for {self.provider}, ONNX Runtime gave {session.get_providers()[0]}")
        return session

    def encode_audio(self, samples: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embed the sound of segments.

        Args:
            samples: Mono sound at 16 kHz of B segments, float32, shape (S,) each, any lengths of at least 1.

        Returns:
            Unit embeddings, float32, shape (B, T, D).

        Raises:
            EncoderFailure: If ONNX Runtime fails or a number is not finite.
        """  # noqa: DOC502 - raised where a graph runs
        tracks = []
        for batch in self._batches(samples):
            lengths = np.array([len(row) for row in batch], np.int64)
            padded = np.zeros((len(batch), int(lengths.max())), np.float32)
            for row, values in zip(padded, batch, strict=True):
                row[: len(values)] = values
            tracks.append(self._run(self._audio, {"samples": padded, "lengths": lengths}))
        return self._joined(tracks)

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed the picture of segments.

        Args:
            frames: RGB frames of B segments, uint8, shape (T, H, W, 3) each.

        Returns:
            Unit embeddings, float32, shape (B, T, D).

        Raises:
            EncoderFailure: If ONNX Runtime fails or a number is not finite.
        """  # noqa: DOC502 - raised where a graph runs
        return self._joined(
            [self._run(self._video, {"frames": np.stack(batch)}) for batch in self._batches(frames)]
        )

    def check_golden(self) -> float:
        """Embed the golden clip of the bundle and compare with the tracks recorded at its export.

        Returns:
            Largest absolute difference of any number.

        Raises:
            GoldenMismatch: If it is above the tolerance of the provider.
        """
        golden = self.bundle.golden()
        audio = self.encode_audio([golden.samples])[0]
        video = self.encode_video([golden.frames])[0]
        difference = max(
            float(np.abs(audio - golden.audio_track).max()), float(np.abs(video - golden.video_track).max())
        )
        allowed = GOLDEN_TOLERANCE[self.provider]
        if not difference <= allowed:
            raise GoldenMismatch(
                f"golden tracks of {self.bundle.bundle_id} differ by {difference:.2e}, allowed {allowed:.0e}"
            )
        return difference

    def _run(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, NDArray[np.generic]]
    ) -> NDArray[np.float32]:
        try:
            tracks: NDArray[np.float32] = session.run(["tracks"], inputs)[0]
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated types for an input it cannot run
            raise EncoderFailure(f"ONNX Runtime failed: {exc}") from exc
        if not np.isfinite(tracks).all():
            raise EncoderFailure("the encoder gave a number that is not finite")
        return tracks

    def _batches(self, rows: Sequence[NDArray[np.generic]]) -> list[Sequence[NDArray[np.generic]]]:
        size = MAX_BATCH[self.provider]
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    def _joined(self, tracks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([np.empty((0, self.num_moments, self.width), np.float32), *tracks])


def choose_provider(device: Device) -> str:
    """Turn the device setting into an ONNX Runtime provider.

    Args:
        device: What was asked for.

    Returns:
        Name of the provider.

    Raises:
        DeviceMissing: If `cuda` is asked for and there is no driver, or the build of ONNX Runtime has no CUDA.
    """
    if device == "cpu":
        return CPU
    if CUDA in onnxruntime.get_available_providers() and _has_cuda_driver():
        with _keep_off_stdout():
            onnxruntime.preload_dlls()
        return CUDA
    if device == "cuda":
        raise DeviceMissing("device is set to cuda and no CUDA device was found")
    logger.info("no CUDA device was found: the encoder runs on the CPU")
    return CPU


@contextlib.contextmanager
def _keep_off_stdout() -> Iterator[None]:
    """Log what ONNX Runtime prints about a device that does not work: stdout belongs to the commands' answers."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    if text := printed.getvalue().strip():
        logger.info("ONNX Runtime: %s", text)


def _has_cuda_driver() -> bool:
    """Ask the driver itself: a build for CUDA lists its provider on machines that have no GPU too."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
