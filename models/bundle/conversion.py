"""A bundle's graphs in another precision: float16 for a GPU, 8-bit integers for a CPU.

    foley-train convert my-bundle --precision fp16 --media ~/Videos

writes `my-bundle.fp16` beside `my-bundle`, or refuses with the figures. Only the network in the middle changes: the
log-mel spectrum spans more than float16 holds, and the last norm and the unit length cost nothing in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.inference import onnxruntime

# isort: split
from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: TID251 - after its seam

from models.bundle.agreement import Agreement, compare_tracks
from models.bundle.bundle import (
    GRAPHS,
    VARIANT,
    Bundle,
    Variant,
    describe_file,
    sound_inputs,
    variant_path,
)
from models.bundle.files import save_graph
from models.bundle.manifest import DATA_SUFFIX
from models.bundle.norms import add_outliers, level_channels
from models.cores import num_cores
from models.media.clip import Clip

MIN_CLIPS = 8
"""Fewer clips say too little about neighbours."""


class PrecisionDisagrees(ValueError):
    """A precision is too far from float32 to be served."""


def convert_bundle(bundle: Bundle, precision: str, clips: Sequence[Clip]) -> Variant:
    """Write the variant of a bundle beside it, once its tracks have been compared with those of float32.

    Args:
        bundle: Verified bundle.
        precision: `fp16` or `int8`.
        clips: Real clips with all that the bundle embeds, at least 8.

    Returns:
        The variant.

    Raises:
        FileExistsError: If there is one already.
        PrecisionDisagrees: If it is too far from float32.
        ValueError: If there are too few clips, or the precision is not one that has graphs of its own.
    """
    if precision not in CONVERTERS:
        raise ValueError(f"precision must be {' or '.join(CONVERTERS)}, got {precision!r}")
    output = variant_path(bundle.path, precision)
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it to convert again")
    embedded = bundle.manifest.tracks
    pairs = [
        clip
        for clip in clips
        if (clip.frames is not None or "video" not in embedded)
        and (clip.samples is not None or "audio" not in embedded)
    ]
    if len(pairs) < MIN_CLIPS:
        what = " and ".join(
            {"audio": "sound", "video": "picture"}[modality] for modality in sorted(embedded)[::-1]
        )
        raise ValueError(f"agreement needs at least {MIN_CLIPS} clips with {what}, got {len(pairs)}")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        folder = Path(scratch)
        agreement = _convert_and_compare(bundle, precision, pairs, folder)
        if shortfalls := agreement.shortfalls():
            raise PrecisionDisagrees(
                f"{precision} is too far from float32: {', '.join(shortfalls)}; {agreement}"
            )
        finished = folder / "finished"
        variant = Variant(
            path=output,
            bundle_id=bundle.bundle_id,
            precision=precision,
            agreement=agreement,
            files={file.name: describe_file(file) for file in sorted(finished.iterdir())},
        )
        (finished / VARIANT).write_text(variant.to_json())
        finished.rename(output)
    return variant


def _convert_and_compare(bundle: Bundle, precision: str, clips: Sequence[Clip], folder: Path) -> Agreement:
    convert = CONVERTERS[precision]
    finished = folder / "finished"
    finished.mkdir()
    reference, found, stressed = {}, {}, {}
    for modality in bundle.manifest.tracks:
        name = GRAPHS[modality]
        source = bundle.path / name
        reference[modality] = encode(source, modality, clips)
        convert(source, finished / name)
        found[modality] = encode(finished / name, modality, clips)
        for step in ("outliers", "stressed"):
            (folder / step).mkdir(exist_ok=True)
        add_outliers(source, folder / "outliers" / name)
        convert(folder / "outliers" / name, folder / "stressed" / name)
        stressed[modality] = encode(folder / "stressed" / name, modality, clips)
    return compare_tracks(reference, found, stressed, clips=f"{len(clips)} clips, when it was made")


def encode(graph: Path, modality: str, clips: Sequence[Clip]) -> NDArray[np.float32]:
    """Embed clips one by one with an exported graph on the CPU.

    Args:
        graph: ONNX file.
        modality: Which of the clips' streams it reads.
        clips: With that stream.

    Returns:
        Tracks, float32, shape (N, T, D).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    tracks = []
    for clip in clips:
        inputs: dict[str, NDArray[np.generic]]
        if modality == "audio":
            assert clip.samples is not None, "clips without sound were left out"
            lengths, heard = np.array([len(clip.samples)]), np.array([clip.num_heard])
            inputs = sound_inputs(names, clip.samples[None], lengths, heard)
        else:
            assert clip.frames is not None, "clips without picture were left out"
            inputs = {"frames": clip.frames[None]}
        tracks.append(session.run(["tracks"], inputs)[0])
    return np.concatenate(tracks)


def to_int8(source: Path, target: Path) -> None:
    """Write a graph whose matrix products with fixed weights multiply 8-bit integers.

    The scale of the weights is fixed, one for each output channel; the scale of what they are multiplied with is one
    for the whole tensor, found anew in each run. Channels are made equally large first, or one outlier would take the
    range of all others. Weights use 7 of their 8 bits: a processor without VNNI adds two products in a 16-bit sum,
    which 8 bits overflow (2 * 255 * 127) and 7 do not (2 * 255 * 64), so a graph gives the same on every processor.

    Args:
        source: ONNX file, float32.
        target: File to write.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        levelled = Path(folder) / source.name
        level_channels(source, levelled)
        quantize_dynamic(
            levelled,
            target,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            extra_options={"MatMulConstBOnly": True},
            use_external_data_format=source.with_name(source.name + DATA_SUFFIX).exists(),
        )


def to_half(source: Path, target: Path) -> None:
    """Write a graph whose network, from the patch embedding to the last norm, computes in float16.

    Args:
        source: ONNX file, float32.
        target: File to write.
    """
    model = onnx.load(source, load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in inferred}
    onnx.load_external_data_for_model(model, str(source.parent))
    graph = model.graph
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    inside = _network_of(graph)
    cut = _Cut(
        is_float=frozenset(name for name, kind in types.items() if kind == TensorProto.FLOAT),
        weights={tensor.name: tensor for tensor in graph.initializer},
        made_inside=frozenset(name for node in graph.node if node.name in inside for name in node.output),
    )
    nodes, halves = cut.rewrite(graph.node, inside)
    read = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in read] + halves
    rewritten = helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), weights)
    save_graph(
        helper.make_model(rewritten, opset_imports=list(model.opset_import), ir_version=model.ir_version),
        target,
    )


SUMS = frozenset({"Pow", "ReduceMean", "ReduceSum", "ReduceL2"})
"""Operations whose results may be far larger than what they read."""
CONVERTERS: Mapping[str, Callable[[Path, Path], None]] = {"fp16": to_half, "int8": to_int8}


def _network_of(graph: onnx.GraphProto) -> set[str]:
    """Names of the operations from the patch embedding, a convolution, to the last LayerNorm.

    What comes before the last convolution of a graph of sound is its front end; that of a picture has none. Sums of
    squares and what is made of them alone, as in an RMSNorm, leave the range of float16 and stay out.
    """
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    first = convolutions[-1 if any(given.name == "samples" for given in graph.input) else 0]
    last = [node for node in graph.node if node.op_type == "LayerNormalization"][-1]
    inside = upstream(graph, last.input[0]) - upstream(graph, first.input[0])
    fixed = {tensor.name for tensor in graph.initializer}
    wide: set[str] = set()
    for node in graph.node:  # each comes after what it reads
        made = [name for name in node.input if name not in fixed]
        if node.op_type in SUMS or (made and wide.issuperset(made)):
            wide.update(node.output)
            inside.discard(node.name)
    return inside


def upstream(graph: onnx.GraphProto, name: str) -> set[str]:
    """Name the operations that a value of a graph depends on.

    Args:
        graph: Whose nodes have names.
        name: Of the value.

    Returns:
        Names of nodes.
    """
    makers = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """The places at which float32 and float16 meet in a graph.

    Attributes:
        is_float: Names of everything that is float32.
        weights: Fixed arrays by name.
        made_inside: What the part in float16 writes.
    """

    is_float: frozenset[str]
    weights: Mapping[str, TensorProto]
    made_inside: frozenset[str]

    def rewrite(
        self, nodes: Iterable[onnx.NodeProto], inside: set[str]
    ) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        """Let the nodes inside read float16, and the others float32, with a cast where the two meet."""
        written: list[onnx.NodeProto] = []
        halves: dict[str, TensorProto] = {}
        casts: set[str] = set()
        for original in nodes:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            is_inside = node.name in inside
            for at, name in enumerate(node.input):
                if name not in self.is_float or (name in self.made_inside) == is_inside:
                    continue
                if name in self.weights and not is_inside:
                    continue
                node.input[at] = renamed = f"{name}.half" if is_inside else f"{name}.float"
                if name in self.weights:
                    values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
                    halves[renamed] = numpy_helper.from_array(values, renamed)
                elif renamed not in casts:
                    casts.add(renamed)
                    kind = TensorProto.FLOAT16 if is_inside else TensorProto.FLOAT
                    written.append(helper.make_node("Cast", [name], [renamed], name=renamed, to=kind))
            if is_inside and node.op_type == "Cast" and node.output[0] in self.is_float:
                node.attribute[0].i = TensorProto.FLOAT16
            written.append(node)
        return written, list(halves.values())
