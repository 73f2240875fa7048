"""OpenVINO on the processor: bfloat16 if the processor multiplies it, or float32. It reads the same ONNX files.

The log-mel spectrum stays in float32: in bfloat16 it would turn the embeddings of sound six times further than all of
the network does. So the audio graph is cut where the pictures of the windows enter the patch embedding, and its two
halves are compiled apart. Needs the extra: `pip install 'foley-av[openvino]'`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import inference
from models.bundle.bundle import sound_inputs
from service.encode.engines.contract import EncoderFailure, EngineMissing, EngineOptions, Floats, Graphs, Ints

if TYPE_CHECKING:
    import openvino  # noqa: TID251 - for its types

OPENVINO_PRECISION = {"bf16": "bf16", "fp32": "f32"}
PICTURES = "pictures"
INSTALL = "pip install 'foley-av[openvino]'"


class OpenVinoEngine:
    """The graphs on OpenVINO's CPU device; each run has memory of its own.

    Raises `EngineMissing` without the package or the precision, `EncoderFailure` if a graph cannot be loaded.
    """

    max_batch = 1  # segments: one holds 16 pictures already, more is no faster and takes more memory

    def __init__(self, graphs: Graphs, options: EngineOptions, *, precision: Literal["bf16", "fp32"]) -> None:
        self.provider = f"OpenVINO {precision}"
        self._options = options
        core = open_core()
        self._names: list[str] = []
        self._front_end: _Network | None = None
        if graphs.audio is not None:
            audio = _read(core, graphs.audio)
            self._names = [given.get_any_name() for given in audio.inputs]
            front_end, network = cut_front_end(audio)
            self._front_end = None if front_end is None else self._open(core, front_end, "fp32")
            self._audio = self._open(core, network, precision)
        if graphs.video is not None:
            self._video = self._open(core, _read(core, graphs.video), precision)

    @property
    def has_front_end(self) -> bool:
        """Whether the front end of the sound runs apart from the network."""
        return self._front_end is not None

    def _open(self, core: openvino.Core, model: openvino.Model, precision: str) -> _Network:
        wanted = OPENVINO_PRECISION[precision]
        options = {
            "INFERENCE_PRECISION_HINT": wanted,
            "INFERENCE_NUM_THREADS": self._options.num_threads * self._options.num_runs,
            "NUM_STREAMS": self._options.num_runs,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with decoding
        }
        try:
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as exc:  # all that OpenVINO raises
            raise EncoderFailure(f"OpenVINO cannot compile the graph: {exc}") from exc
        got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if got != wanted:
            raise EngineMissing(f"asked OpenVINO for {wanted}, it computes in {got} on this processor")
        return _Network(compiled, self._options.num_runs)

    def run_audio(self, samples: Floats, lengths: Ints, heard: Ints | None = None) -> Floats:
        """Embed sound; see `Engine.run_audio`."""
        if self._front_end is None:
            return self._audio.run(sound_inputs(self._names, samples, lengths, heard))
        return self.run_windows(self.run_front_end(samples, lengths, heard), lengths)

    def run_front_end(self, samples: Floats, lengths: Ints, heard: Ints | None = None) -> Floats:
        """Turn sound (B, S) into float32 log-mel pictures, one for each distinct window of each row."""
        assert self._front_end is not None, "asked only of a graph that was cut"
        return self._front_end.run(sound_inputs(self._names, samples, lengths, heard))

    def run_windows(self, pictures: Floats, lengths: Ints) -> Floats:
        """Embed the log-mel pictures of windows, as `run_front_end` gives them for B rows."""
        return self._audio.run(
            {PICTURES: pictures} | sound_inputs(set(self._names) - {"samples"}, pictures, lengths)
        )

    def run_video(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures; see `Engine.run_video`."""
        return self._video.run({"frames": frames})


class _Network:
    """A compiled graph and as many requests as may run at a time; a request belongs to one thread while it runs."""

    def __init__(self, compiled: openvino.CompiledModel, num_runs: int) -> None:
        self._free: queue.LifoQueue[openvino.InferRequest] = queue.LifoQueue()
        for _ in range(num_runs):
            self._free.put(compiled.create_infer_request())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        request = self._free.get()
        try:
            output = request.infer(dict(inputs))[0]
            if output.size == 0:  # that is how it says so
                raise EncoderFailure("OpenVINO gave no numbers: it has too little memory")
            # A copy: the request writes its next answer to the same place.
            return np.array(output, np.float32)
        except RuntimeError as exc:  # all that OpenVINO raises
            raise EncoderFailure(f"OpenVINO failed: {exc}") from exc
        finally:
            self._free.put(request)


def _read(core: openvino.Core, graph: Path) -> openvino.Model:
    try:
        return core.read_model(str(graph))
    except RuntimeError as exc:  # all that OpenVINO raises
        raise EncoderFailure(f"{graph} cannot be loaded: {exc}") from exc


def cut_front_end(model: openvino.Model) -> tuple[openvino.Model | None, openvino.Model]:
    """Cut a graph of sound, which is changed, before its patch embedding, the last of several convolutions.

    Returns the part from the inputs to the pictures, None if there is nothing to cut off, and the part to the tracks.
    """
    openvino = import_openvino()
    convolutions = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    if len(convolutions) < 2:
        return None, model
    patch_embedding = convolutions[-1].input(0)
    pictures = patch_embedding.get_source_output()
    front_end = openvino.Model([pictures], model.get_parameters(), "front_end")
    entry = openvino.opset13.parameter(
        pictures.get_partial_shape(), pictures.get_element_type(), name=PICTURES
    )
    entry.output(0).set_names({PICTURES})
    patch_embedding.replace_source_output(entry.output(0))
    # The lengths go into both halves: the network takes the number of rows from their shape.
    lengths = [p for p in model.get_parameters() if "samples" not in p.output(0).get_names()]
    return front_end, openvino.Model(model.outputs, [entry, *lengths], "network")


_core: list[Any] = []
_core_lock = threading.Lock()


def open_core() -> openvino.Core:
    """The one core of this process, which lives as long as the process.

    A core's CPU plugin gives the thread that loads it another stack for signal handlers, and frees that stack when it
    is unloaded, in whatever thread that is. If each engine had a core of its own, then after the first one is closed
    the next SIGTERM would end the process with SIGSEGV.
    """
    with _core_lock:
        if not _core:
            _core.append(import_openvino().Core())
    return _core[0]


def import_openvino() -> Any:
    """Import the package, which is an extra; raises `EngineMissing` if it is not installed."""
    try:
        return inference.import_openvino()
    except ImportError as exc:
        raise EngineMissing(f"OpenVINO is not installed: {INSTALL}") from exc
