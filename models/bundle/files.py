"""ONNX files on disk, those above the 2 GB of protobuf too: their numbers lie in `X.onnx.data` beside them."""

from __future__ import annotations

from pathlib import Path

import onnx

from models.bundle.manifest import DATA_SUFFIX

MAX_INLINE_BYTES = 1_900_000_000
"""A larger graph keeps its numbers in a file of their own."""


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, whose numbers are all in memory, as one file or as two.

    Args:
        model: Whose numbers may be moved out of it.
        path: File to write; `path` + `.data` is the second one.
    """
    num_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    outside = num_bytes > MAX_INLINE_BYTES
    onnx.save_model(
        model, path, save_as_external_data=outside, location=path.name + DATA_SUFFIX if outside else None
    )
