"""Bundles for tests: another encoder pair of the starter's shape, made in a second and without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from models.bundle.bundle import (
    AUDIO_GRAPH,
    GOLDEN,
    MANIFEST,
    VIDEO_GRAPH,
    Bundle,
    describe_file,
    load_bundle,
    sound_inputs,
    starter_path,
)
from models.inference import onnxruntime

Change = Callable[[onnx.ModelProto], None]
LAST_MLP = "val_275"
"""Weights of the last block's second layer, in both graphs of the starter: (512, 128)."""


def copy_starter(target: Path, *, name: str = "second") -> Path:
    """Copy the starter under another name."""
    shutil.copytree(starter_path(), target, ignore=shutil.ignore_patterns("__pycache__"))
    return rehash(target, name=name)


def rehash(folder: Path, **fields: Any) -> Path:
    """Let the manifest say what the files are now, and other things."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= {"files": {file: describe_file(folder / file) for file in manifest["files"]}} | fields
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return folder


def change_graph(folder: Path, graph: str, change: Change) -> None:
    """Change a graph in place; the manifest is not told."""
    model = onnx.load(str(folder / graph))
    change(model)
    (folder / graph).write_bytes(model.SerializeToString())


def scale_weights(factor: float, *, initialiser: str = LAST_MLP) -> Change:
    """A change that multiplies one initialiser."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == initialiser:
                scaled = (numpy_helper.to_array(tensor) * factor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(scaled, initialiser))
                return
        raise AssertionError(f"no initialiser {initialiser}")

    return change


def join_lengths(folder: Path) -> Path:
    """Let a bundle be one of format 1, whose audio graph reads one length."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["lengths" if name == "heard" else name for name in node.input]
        model.graph.input.remove(next(given for given in model.graph.input if given.name == "heard"))

    change_graph(folder, AUDIO_GRAPH, change)
    return rehash(folder, format=1)


def record_golden(folder: Path) -> None:
    """Run the graphs on the golden clip, and keep what they give."""
    with np.load(folder / GOLDEN) as arrays:
        samples, frames = arrays["samples"], arrays["frames"]
    sound = sound_inputs(["samples", "lengths", "heard"], samples[None], np.array([len(samples)]))
    audio = _run(folder / AUDIO_GRAPH, **sound)
    video = _run(folder / VIDEO_GRAPH, frames=frames[None])
    np.savez(
        folder / GOLDEN.removesuffix(".npz"),
        samples=samples,
        frames=frames,
        audio_track=audio,
        video_track=video,
    )


def _run(graph: Path, **inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    tracks: np.ndarray[Any, Any] = session.run(None, inputs)[0][0]
    return tracks


def make_second(target: Path, *, name: str = "second", factor: float = 0.5) -> Bundle:
    """Make an encoder pair that scores differently and retrieves about as well as the starter.

    Args:
        target: A folder that does not exist.
        name: Of the bundle.
        factor: What the last block's second layer is multiplied by, in both graphs.

    Returns:
        The bundle, whose golden tracks are its own.
    """
    copy_starter(target, name=name)
    for graph in (AUDIO_GRAPH, VIDEO_GRAPH):
        change_graph(target, graph, scale_weights(factor))
    record_golden(target)
    rehash(target)
    return load_bundle(target)
