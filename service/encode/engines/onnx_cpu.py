"""ONNX Runtime on the processor: float32, and the 8-bit integers of a variant."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import sound_inputs
from models.inference import onnxruntime
from service.encode.engines.contract import EncoderFailure, EngineOptions, Floats, Graphs, Ints

CPU = "CPUExecutionProvider"


class OnnxCpuEngine:
    """The graphs on the CPU provider; each run has memory of its own."""

    provider = CPU
    max_batch = 1  # segments: one holds 16 pictures already, more is no faster and takes more memory

    def __init__(self, graphs: Graphs, options: EngineOptions) -> None:
        self._runs = threading.BoundedSemaphore(options.num_runs)
        if graphs.audio is not None:
            self._audio = open_session(graphs.audio, session_options(options.num_threads), [CPU])
        if graphs.video is not None:
            self._video = open_session(graphs.video, session_options(options.num_threads), [CPU])

    def run_audio(self, samples: Floats, lengths: Ints, heard: Ints | None = None) -> Floats:
        """Embed sound; see `Engine.run_audio`."""
        return self._run(self._audio, sound_inputs(input_names(self._audio), samples, lengths, heard))

    def run_video(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures; see `Engine.run_video`."""
        return self._run(self._video, {"frames": frames})

    def _run(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, NDArray[np.generic]]
    ) -> NDArray[np.float32]:
        try:
            with self._runs:
                tracks: NDArray[np.float32] = session.run(["tracks"], inputs)[0]
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated types for an input it cannot run
            raise EncoderFailure(f"ONNX Runtime failed: {exc}") from exc
        return tracks


def session_options(num_threads: int) -> onnxruntime.SessionOptions:
    """Options that both devices share, with processor threads of one run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    # The cores are shared with decoding: a thread that has nothing to do sleeps.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def input_names(session: onnxruntime.InferenceSession) -> list[str]:
    """Names of what a graph reads."""
    return [given.name for given in session.get_inputs()]


def open_session(
    graph: Path, options: onnxruntime.SessionOptions, providers: list[str | tuple[str, dict[str, str]]]
) -> onnxruntime.InferenceSession:
    """Load a graph on the first of the providers that ONNX Runtime takes; raises `EncoderFailure` if it cannot."""
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=providers)
    except Exception as exc:  # ONNX Runtime raises a dozen unrelated types for a graph it cannot load
        raise EncoderFailure(f"{graph} cannot be loaded: {exc}") from exc
