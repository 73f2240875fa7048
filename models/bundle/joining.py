"""Learned heads become ONNX files and parts of a bundle's graphs: any bundle works, and no checkpoint is needed.

    write_head(head, Path("audio.head.onnx"))
    join_head(Path("parent/audio.onnx"), Path("audio.head.onnx"), Path("child/audio.onnx"))

A head reads rows of any length and gives unit rows: y = unit(x + U·gelu(V·(x·√D) + b₁) + b₂) with x = unit(row), or
y = unit(P·x) for a projection. The same file adapts stored tracks: what is stored and what is embedded cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROWS, ADAPTED = "rows", "adapted"
OPSET = 20
PREFIX = "head_"

Arrays = Mapping[str, NDArray[np.float32]]


def write_head(arrays: Arrays, target: Path, *, repeats: int = 1) -> None:
    """Write a head as an ONNX file, rows (…, D) float32 → adapted (…, D').

    Args:
        arrays: `down.weight` (H, D), `down.bias` (H,), `up.weight` (D, H), `up.bias` (D,) of a residual head, or
            `linear.weight` (D', D) of a projection.
        target: File to write.
        repeats: How often the moments are repeated: 16 lets a track of one moment compare with tracks of 16.

    Raises:
        ValueError: If the arrays are those of neither.
    """
    if set(arrays) == {"linear.weight"}:
        width = arrays["linear.weight"].shape[1]
        nodes, weights = _unit(ROWS, "x"), {}
        nodes.append(helper.make_node("MatMul", ["x", "linear"], ["sum"]))
        weights["linear"] = arrays["linear.weight"].T
    elif set(arrays) == {"down.weight", "down.bias", "up.weight", "up.bias"}:
        width = arrays["down.weight"].shape[1]
        nodes, weights = _residual(arrays, width)
    else:
        raise ValueError(f"a head has the arrays of a residual head or of a projection, not {sorted(arrays)}")
    nodes += _unit("sum", "unit")
    nodes.append(helper.make_node("Tile", ["unit", "repeats"], [ADAPTED]))
    out_width = len(arrays["linear.weight"]) if "linear.weight" in arrays else width
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, ["batch", "moments", width])],
        [helper.make_tensor_value_info(ADAPTED, TensorProto.FLOAT, ["batch", "adapted_moments", out_width])],
        [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in {**weights, **_constants(repeats)}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    for number, node in enumerate(model.graph.node):
        node.name = f"head_{number}"
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _residual(arrays: Arrays, width: int) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.float32]]]:
    nodes = [
        *_unit(ROWS, "x"),
        helper.make_node("MatMul", ["x", "down"], ["down_product"]),
        helper.make_node("Add", ["down_product", "down_bias"], ["hidden"]),
        helper.make_node("Gelu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "up"], ["up_product"]),
        helper.make_node("Add", ["up_product", "up_bias"], ["change"]),
        helper.make_node("Add", ["x", "change"], ["sum"]),
    ]
    weights = {
        "down": arrays["down.weight"].T * np.float32(math.sqrt(width)),  # x·√D
        "down_bias": arrays["down.bias"],
        "up": arrays["up.weight"].T,
        "up_bias": arrays["up.bias"],
    }
    return nodes, weights


def _unit(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceL2", [source, "last"], [f"{target}_length"], keepdims=1),
        helper.make_node("Max", [f"{target}_length", "tiny"], [f"{target}_divisor"]),
        helper.make_node("Div", [source, f"{target}_divisor"], [target]),
    ]


def _constants(repeats: int) -> dict[str, NDArray[Any]]:
    return {
        "tiny": np.array([1e-12], np.float32),
        "last": np.array([-1]),
        "repeats": np.array([1, repeats, 1]),
    }


def join_head(
    source: Path, head: Path, target: Path, *, output: str = "tracks", adapted: str | None = None
) -> None:
    """Write a graph whose output has gone through a head.

    Args:
        source: A bundle's graph.
        head: As `write_head` wrote it.
        target: File to write.
        output: Which output of the source; the others stay as they are.
        adapted: Name of a further output for what the head gives; None lets it take the place of `output`. The rows of
            vectors (B, D), as words have them, are then a track of one moment each, and vectors again.
    """
    model, adapter = onnx.load(source), onnx.load(head)
    opset = max(entry.version for entry in model.opset_import if entry.domain == "")
    if opset < OPSET:  # Gelu, and ReduceL2 with axes as an input, are younger than some published exports
        model = onnx.version_converter.convert_version(model, OPSET)
    prefix = f"{PREFIX}{adapted or output}_"
    adapter = onnx.compose.add_prefix(adapter, prefix)
    rows, found = prefix + ROWS, prefix + ADAPTED
    nodes = list(adapter.graph.node)
    if adapted is None:
        inner, outer = f"{output}_of_parent", output
        for node in model.graph.node:
            node.output[:] = [inner if name == output else name for name in node.output]
            node.input[:] = [inner if name == output else name for name in node.input]
    else:  # (B, D) → (B, 1, D) → (B, repeats, D') → (B, D')
        inner, outer = f"{prefix}track", f"{prefix}moments"
        axis, first = f"{prefix}axis", f"{prefix}first"
        nodes.insert(0, helper.make_node("Unsqueeze", [output, axis], [inner], name=f"{prefix}in"))
        nodes.append(helper.make_node("Gather", [outer, first], [adapted], name=f"{prefix}out", axis=1))
        model.graph.initializer.extend(
            [numpy_helper.from_array(np.array([1]), axis), numpy_helper.from_array(np.array(0), first)]
        )
    for node in nodes:
        node.input[:] = [inner if name == rows else name for name in node.input]
        node.output[:] = [outer if name == found else name for name in node.output]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(adapter.graph.initializer)
    width = adapter.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if adapted is None:
        value = next(value for value in model.graph.output if value.name == output)
        repeats = numpy_helper.to_array(
            next(t for t in adapter.graph.initializer if t.name == f"{prefix}repeats")
        )[1]
        dims = value.type.tensor_type.shape.dim
        dims[-1].dim_value = width
        if dims[1].dim_value:
            dims[1].dim_value *= int(repeats)
    else:
        model.graph.output.append(helper.make_tensor_value_info(adapted, TensorProto.FLOAT, ["batch", width]))
    del model.graph.value_info[:]  # of the shapes before
    onnx.checker.check_model(model)
    onnx.save(model, target)
