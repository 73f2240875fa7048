"""OpenVINO on the processor: bfloat16 if the processor multiplies it, or float32. It reads the same ONNX files.

Of a graph of sound that takes a logarithm, what comes before the last convolution stays in float32: of TG-DP that is
the log-mel spectrum, which in bfloat16 would turn the embeddings six times further than all of the network does. So the
graph is cut there, and its two halves are compiled apart.

Sines, of which a codec of sound is full, become polynomials: OpenVINO takes one number at a time for its own sine. It
makes one loop of a polynomial only where shapes are fixed, so such a graph reads sound padded to whole segments.

Needs the extra: `pip install 'foley-av[openvino]'`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
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
CUT = "cut."
# The sine of d, |d| <= pi / 2, is d times this polynomial in d², with an error of at most 2e-7 in float32.
SINE = (1.0, -0.16666647791862488, 0.00833289697766304, -0.0001980072120204568, 2.590131771285087e-06)
PI_HIGH, PI_LOW = 3.140625, 9.676535897932795e-4  # a whole number below 2**15 times the first is exact
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
            is_padded = replace_sines(audio) and "heard" in self._names  # else what is added would be heard
            front_end, network = cut_front_end(audio)
            self._front_end = None if front_end is None else self._open(core, front_end, "fp32")
            self._audio: _Network | _PaddedSound = (
                _PaddedSound(
                    lambda size: self._open_fixed(core, graphs, size, precision), options.segment_samples
                )
                if is_padded and front_end is None
                else self._open(core, network, precision)
            )
            self._network_inputs = [given.get_any_name() for given in network.inputs]
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

    def _open_fixed(self, core: openvino.Core, graphs: Graphs, num_samples: int, precision: str) -> _Network:
        """Compile the graph of sound for one row of this length; read anew, for weights would stay beside it."""
        assert graphs.audio is not None, "asked only with a graph of sound"
        audio = _read(core, graphs.audio)
        replace_sines(audio)
        audio.reshape({name: [1, num_samples] if name == "samples" else [1] for name in self._names})
        return self._open(core, audio, precision)

    def run_audio(self, samples: Floats, lengths: Ints, heard: Ints | None = None) -> Floats:
        """Embed sound; see `Engine.run_audio`."""
        if self._front_end is None:
            return self._audio.run(sound_inputs(self._names, samples, lengths, heard))[0]
        return self.run_network(self.run_front_end(samples, lengths, heard), samples, lengths, heard)

    def run_front_end(self, samples: Floats, lengths: Ints, heard: Ints | None = None) -> list[NDArray[Any]]:
        """Turn sound (B, S) into what the network reads of the float32 part before it."""
        assert self._front_end is not None, "asked only of a graph that was cut"
        return self._front_end.run(sound_inputs(self._names, samples, lengths, heard))

    def run_network(
        self, cut: Sequence[NDArray[Any]], samples: Floats, lengths: Ints, heard: Ints | None = None
    ) -> Floats:
        """Embed what `run_front_end` gave for the same B rows."""
        own = [name for name in self._network_inputs if not name.startswith(CUT)]
        given = {f"{CUT}{number}": values for number, values in enumerate(cut)}
        return self._audio.run(given | sound_inputs(own, samples, lengths, heard))[0]

    def run_video(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures; see `Engine.run_video`."""
        return self._video.run({"frames": frames})[0]


class _Network:
    """A compiled graph and as many requests as may run at a time; a request belongs to one thread while it runs."""

    def __init__(self, compiled: openvino.CompiledModel, num_runs: int) -> None:
        self._free: queue.LifoQueue[openvino.InferRequest] = queue.LifoQueue()
        for _ in range(num_runs):
            self._free.put(compiled.create_infer_request())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        request = self._free.get()
        try:
            outputs = request.infer(dict(inputs))
            # Copies: the request writes its next answer to the same place.
            found = [np.array(outputs[number]) for number in range(len(outputs))]
            if any(output.size == 0 for output in found):  # that is how it says so
                raise EncoderFailure("OpenVINO gave no numbers: it has too little memory")
            return found
        except RuntimeError as exc:  # all that OpenVINO raises
            raise EncoderFailure(f"OpenVINO failed: {exc}") from exc
        finally:
            self._free.put(request)


class _PaddedSound:
    """A graph of sound for rows of whole segments, compiled apart for each number of these."""

    def __init__(self, open_network: Callable[[int], _Network], segment_samples: int) -> None:
        self._open_network = open_network
        self._segment_samples = segment_samples
        self._networks: dict[int, _Network] = {}
        self._lock = threading.Lock()
        self._of(segment_samples)

    def _of(self, num_samples: int) -> _Network:
        with self._lock:
            if num_samples not in self._networks:
                self._networks[num_samples] = self._open_network(num_samples)
            return self._networks[num_samples]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run each row of a batch with zeros after it, which the graph does not read."""
        samples = inputs["samples"]
        num_added = -samples.shape[1] % self._segment_samples
        padded = {**inputs, "samples": np.pad(samples, ((0, 0), (0, num_added)))}
        network = self._of(samples.shape[1] + num_added)
        rows = [
            network.run({name: values[row : row + 1] for name, values in padded.items()})[0]
            for row in range(len(samples))
        ]
        return [np.concatenate(rows)]


def _read(core: openvino.Core, graph: Path) -> openvino.Model:
    try:
        return core.read_model(str(graph))
    except RuntimeError as exc:  # all that OpenVINO raises
        raise EncoderFailure(f"{graph} cannot be loaded: {exc}") from exc


def replace_sines(model: openvino.Model) -> bool:
    """Write each sine of float32 in a graph, which is changed, as products and sums; returns whether there was one."""
    op = import_openvino().opset13
    found = False

    def number(value: float) -> Any:
        return op.constant(np.float32(value))

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Sin" or node.get_output_element_type(0).get_type_name() != "f32":
            continue
        found = True
        angle = node.input_value(0)
        turns = op.round(op.multiply(angle, number(1 / np.pi)), "half_to_even")
        rest = op.subtract(
            op.subtract(angle, op.multiply(turns, number(PI_HIGH))), op.multiply(turns, number(PI_LOW))
        )
        square = op.multiply(rest, rest)
        value = number(SINE[-1])
        for factor in SINE[-2::-1]:
            value = op.add(op.multiply(value, square), number(factor))
        half = op.multiply(turns, number(0.5))
        sign = op.subtract(number(1), op.multiply(op.subtract(half, op.floor(half)), number(4)))
        node.output(0).replace(op.multiply(op.multiply(value, rest), sign).output(0))
    return found


def cut_front_end(model: openvino.Model) -> tuple[openvino.Model | None, openvino.Model]:
    """Cut a graph of sound, which is changed, before its last convolution.

    Returns the part from the inputs to what that convolution and all after it read, None if it takes no logarithm,
    and the part to the tracks, whose further inputs are named `cut.0`, `cut.1` … in the order of those.
    """
    openvino = import_openvino()
    nodes = model.get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    if not convolutions:
        return None, model
    before = _depending(nodes, convolutions[-1].input(0).get_source_output().get_node())
    if not any(n.get_name() in before and n.get_type_name() == "Log" for n in nodes):
        return None, model
    crossing: dict[tuple[str, int], Any] = {}
    entries: dict[tuple[str, int], Any] = {}
    after = [
        n for n in nodes if n.get_name() not in before and n.get_type_name() not in ("Parameter", "Constant")
    ]
    for entry in (entry for node in after for entry in node.inputs()):
        source = entry.get_source_output()
        key = source.get_node().get_name(), source.get_index()
        if key[0] not in before:
            continue
        if key not in crossing:
            parameter = openvino.opset13.parameter(source.get_partial_shape(), source.get_element_type())
            parameter.output(0).set_names({f"{CUT}{len(crossing)}"})
            crossing[key], entries[key] = source, parameter
        entry.replace_source_output(entries[key].output(0))
    read = {
        name
        for node in after
        for name in (e.get_source_output().get_node().get_name() for e in node.inputs())
    }
    parameters = [parameter for parameter in model.get_parameters() if parameter.get_name() in read]
    outputs, given = model.outputs, model.get_parameters()
    front_end = openvino.Model(list(crossing.values()), given, "front_end")
    return front_end, openvino.Model(outputs, [*entries.values(), *parameters], "network")


def _depending(nodes: Sequence[Any], last: Any) -> frozenset[str]:
    """Names of the operations that a value is made by, of those that depend on an input of the graph."""
    depends: set[str] = set()
    for node in nodes:  # each comes after what it reads
        sources = [entry.get_source_output().get_node() for entry in node.inputs()]
        if any(s.get_type_name() == "Parameter" or s.get_name() in depends for s in sources):
            depends.add(node.get_name())
    found, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node.get_name() in depends and node.get_name() not in found:
            found.add(node.get_name())
            waiting += [entry.get_source_output().get_node() for entry in node.inputs()]
    return frozenset(found)


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
