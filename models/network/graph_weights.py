"""The weights of a TG-DP bundle out of its ONNX graphs, and back into them: training may go on without its checkpoint.

    network = recover_network(load_bundle(Path("models/starter")))
    write_graph_weights(bundle.audio_graph, Path("audio.onnx"), network.state_dict())

The exporter keeps the names of tensors that it stores as they are. A matrix that it stores transposed is known by the
named bias that is added after it, a bias that it cuts by the named matrix before it; where it cuts both, queries apart
from keys and values, by the norm that they read. What the graphs never use (the
decoder, the norms of sound and picture together) is not in them and stays as it starts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from models.bundle.bundle import GRAPHS, MANIFEST, Bundle
from models.inference import onnxruntime
from models.network.geometry import TgdpConfig
from models.network.published_names import DECODER
from models.network.tgdp import Tgdp
from models.network.weights import WrongStateDict

logger = logging.getLogger(__name__)

PREFIX = "network."
MAX_DIFFERENCE = 1e-4
FAMILY = "tgdp"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a graph keeps a tensor, or some rows of it."""

    name: str
    initializer: Any
    is_transposed: bool = False
    first_row: int = 0
    end_row: int | None = None


def is_bundle(path: Path) -> bool:
    """Whether a path is the folder of a bundle, by its manifest."""
    return (path / MANIFEST).is_file()


def recover_network(bundle: Bundle) -> Tgdp:
    """Build the network of a bundle from its graphs.

    Args:
        bundle: A verified bundle of TG-DP's family that embeds sound and picture, trained here or imported.

    Returns:
        The network in evaluation mode, without learned heads if the bundle has some; its decoder and the norms of both
        modalities together are at their start.

    Raises:
        WrongStateDict: If the bundle is of another family, or its graphs do not hold all weights.
    """
    manifest = bundle.manifest
    advice = "start from the `checkpoint` in the folder of the run that made it, or from the file it was imported from"
    if manifest.family != FAMILY or set(manifest.tracks) != set(GRAPHS):
        raise WrongStateDict(
            f"{bundle.bundle_id} is of the family {manifest.family}, not a TG-DP network: {advice}"
        )
    network = Tgdp(TgdpConfig(**manifest.network))
    state = network.state_dict()
    found = read_graph_weights(bundle)
    lacking = [name for name in state if name not in found and not is_unused(name)]
    if lacking:
        raise WrongStateDict(
            f"the graphs of {bundle.bundle_id} do not name {', '.join(lacking[:5])}: {advice}"
        )
    network.load_state_dict(state | {name: tensor for name, tensor in found.items() if name in state})
    network.eval()
    _compare(network, bundle, advice)
    return network


def read_graph_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The tensors that the graphs of a bundle hold, by our names."""
    found: dict[str, Tensor] = {}
    for file in GRAPHS.values():
        pieces: dict[str, dict[int, NDArray[Any]]] = {}
        for place in _find_places(onnx.load(bundle.path / file)):
            array = numpy_helper.to_array(place.initializer)
            piece = array.T if place.is_transposed else array
            pieces.setdefault(place.name, {})[place.first_row] = piece
        for name, parts in pieces.items():
            whole = np.concatenate([parts[start] for start in sorted(parts)]) if len(parts) > 1 else parts[0]
            found[name] = torch.from_numpy(whole.astype(np.float32))
    return found


def write_graph_weights(source: Path, target: Path, tensors: dict[str, Tensor]) -> None:
    """Copy a graph with other weights.

    Args:
        source: ONNX graph of a TG-DP bundle.
        target: New file.
        tensors: By our names, of the shapes that the graph has; others are ignored.
    """
    model = onnx.load(source)
    for place in _find_places(model):
        if place.name in tensors:
            array = tensors[place.name].detach().cpu().numpy()[place.first_row : place.end_row]
            array = np.ascontiguousarray(array.T if place.is_transposed else array, np.float32)
            place.initializer.CopyFrom(numpy_helper.from_array(array, place.initializer.name))
    onnx.save(model, target)


def _find_places(model: onnx.ModelProto) -> Iterator[_Place]:
    """Where the tensors of the network lie."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    named = {name for name in initializers if name.startswith(PREFIX)}
    for name in named:
        yield _Place(name=name.removeprefix(PREFIX), initializer=initializers[name])
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for product, bias in (node.input, reversed(node.input)):
            maker = makers.get(product)
            if maker is None or maker.op_type != "MatMul" or bias not in initializers:
                continue
            matrix, rows = _trace(maker.input[1], makers, initializers)
            if bias in named and matrix in initializers and matrix not in named:
                weight = bias.removeprefix(PREFIX).removesuffix("bias") + "weight"
                yield _Place(name=weight, initializer=initializers[matrix], is_transposed=True)
            elif bias not in named and matrix in named:
                whole = matrix.removeprefix(PREFIX).removesuffix("weight") + "bias"
                yield _Place(name=whole, initializer=initializers[bias], first_row=rows[0], end_row=rows[1])
            elif matrix in initializers and (qkv := _find_qkv(maker.input[0], makers)):
                width, part = initializers[matrix].dims
                cut: dict[str, Any] = {"first_row": 0 if part == width else width}
                cut["end_row"] = cut["first_row"] + part
                yield _Place(
                    name=f"{qkv}.weight", initializer=initializers[matrix], is_transposed=True, **cut
                )
                yield _Place(name=f"{qkv}.bias", initializer=initializers[bias], **cut)


def _find_qkv(name: str, makers: dict[str, Any]) -> str | None:
    """The layer of attention that reads a norm's output, or a part of it, by the name of that norm."""
    while name in makers and makers[name].op_type == "Slice":
        name = makers[name].input[0]
    if name not in makers or makers[name].op_type != "LayerNormalization":
        return None
    block, is_first, _ = makers[name].input[1].removeprefix(PREFIX).partition(".attention_norms.")
    return f"{block}.attention.qkv" if is_first else None


def _trace(
    name: str, makers: dict[str, Any], initializers: dict[str, Any]
) -> tuple[str, tuple[int, int | None]]:
    """The tensor that a matrix comes from, and which of its rows: through Transpose and Slice."""
    rows: tuple[int, int | None] = (0, None)
    while name not in initializers and name in makers and makers[name].op_type in ("Transpose", "Slice"):
        node = makers[name]
        if node.op_type == "Slice":
            start, end = (int(numpy_helper.to_array(initializers[given]).item()) for given in node.input[1:3])
            rows = start, end
        name = node.input[0]
    return name, rows


def is_unused(name: str) -> bool:
    """Whether no embedding needs a tensor: the decoder, and what sees sound and picture together."""
    return bool(DECODER.fullmatch(name)) or ".joint." in name


@torch.no_grad()
def _compare(network: Tgdp, bundle: Bundle, advice: str) -> None:
    golden = bundle.golden()
    length, heard = torch.tensor([len(golden.samples)]), torch.tensor([golden.num_heard])
    audio = network.audio_track(torch.from_numpy(golden.samples)[None], length, heard)
    video = network.video_track(torch.from_numpy(golden.frames)[None])
    derivation = bundle.manifest.derived_from
    heads = {} if derivation is None else derivation.heads
    if heads:
        text = "%s is learned heads on %s: the network below them is taken, the heads are left"
        logger.info(text, bundle.bundle_id, derivation and derivation.bundle_id)
    for name, made in (("audio", audio), ("video", video)):
        track, expected = made.numpy(), golden.tracks[name]
        if name in heads:
            session = onnxruntime.InferenceSession(
                str(bundle.path / heads[name]), providers=["CPUExecutionProvider"]
            )
            track = session.run(None, {"rows": track})[0]
        difference = float(np.abs(track[0] - expected).max())
        if not difference <= MAX_DIFFERENCE:
            raise WrongStateDict(
                f"the weights of {bundle.bundle_id} give golden tracks that differ by {difference:.1e}: {advice}"
            )
