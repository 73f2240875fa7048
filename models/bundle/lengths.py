"""Audio graphs of before, which read one length, made to read two: the segment's, and where its sound ends.

    split_lengths(Path("old/audio.onnx"), Path("new/audio.onnx"))

The operations and weights stay; the part up to the log-mel reads `heard` where it read `lengths`.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from models.bundle.conversion import upstream


def split_lengths(source: Path, target: Path) -> None:
    """Write an audio graph with the input `heard`.

    Args:
        source: Audio graph of a bundle of format 1, whose first convolution makes the spectrum.
        target: File to write.

    Raises:
        ValueError: If the graph has that input already.
    """
    model = onnx.load(source)
    graph = model.graph
    if any(given.name == "heard" for given in graph.input):
        raise ValueError(f"{source} reads two lengths already")
    spectrum = next(node for node in graph.node if node.op_type == "Conv")
    front_end = upstream(graph, spectrum.input[0])
    for node in graph.node:
        if node.name in front_end:
            node.input[:] = ["heard" if name == "lengths" else name for name in node.input]
    heard = graph.input.add()
    heard.CopyFrom(next(given for given in graph.input if given.name == "lengths"))
    heard.name = "heard"
    onnx.save(model, target)
