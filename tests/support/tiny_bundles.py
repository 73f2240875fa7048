"""Bundles of other kinds than the starter, made in milliseconds: sound alone, dot products, two spaces.

    bundle = make_tiny(folder, tracks={"audio": (1, 24)})
    bundle = make_tiny(folder, tracks={"audio": (1, 24), "video": (1, 24)}, similarity="dot")
    bundle = make_tiny(folder, tracks={"audio": (1, 24), "video": (4, 20)}, shares_space=False)

Sound is filtered, its strength in each band averaged; pictures are made small and projected. So embeddings differ where
the media do, and sound has nothing to do with its picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.bundle.bundle import GOLDEN, GRAPHS, MANIFEST, Bundle, Manifest, describe_file, load_bundle
from models.inference import onnxruntime
from models.media.clip import ClipSpec

FRAME_SIZE, GRID = 32, 4
FILTER, STRIDE = 64, 32


def make_tiny(
    folder: Path, *, tracks: Mapping[str, tuple[int, int]], name: str = "tiny", seed: int = 0, **fields: Any
) -> Bundle:
    """Make a bundle that embeds some modalities, each in tracks (T, D); further fields are those of `Manifest`.

    Sound has one moment; a picture has T frames, one a moment.
    """
    folder.mkdir(parents=True)
    is_unit = fields.get("similarity", "cosine") == "cosine"
    num_frames = tracks["video"][0] if "video" in tracks else 1
    spec = ClipSpec(num_moments=num_frames, frame_size=FRAME_SIZE, sample_rate_hz=8000)
    rng = np.random.default_rng(seed)
    golden: dict[str, NDArray[Any]] = {}
    if "audio" in tracks:
        assert tracks["audio"][0] == 1, "sound has one moment"
        samples = rng.uniform(-0.5, 0.5, spec.segment_samples).astype(np.float32)
        graph = _audio_graph(tracks["audio"][1], is_unit=is_unit, rng=rng)
        (folder / GRAPHS["audio"]).write_bytes(graph)
        ends = np.array([len(samples)])
        golden |= {"samples": samples, "num_heard": np.array(len(samples))}
        golden["audio_track"] = _run(graph, samples=samples[None], lengths=ends, heard=ends)
    if "video" in tracks:
        shape = (num_frames, FRAME_SIZE, FRAME_SIZE, 3)
        frames = rng.integers(0, 256, shape, np.uint8)
        graph = _video_graph(tracks["video"], is_unit=is_unit, rng=rng)
        (folder / GRAPHS["video"]).write_bytes(graph)
        golden |= {"frames": frames, "video_track": _run(graph, frames=frames[None])}
    np.savez(folder / GOLDEN.removesuffix(".npz"), **golden)
    files = [*(GRAPHS[modality] for modality in tracks), GOLDEN]
    facts: dict[str, Any] = {
        "name": name,
        "tracks": dict(tracks),
        "clip_spec": spec,
        "opset": 18,
        "network": {},
        "training": {},
        "agreement": {},
        "files": {file: describe_file(folder / file) for file in files},
        "family": "tiny",
    }
    (folder / MANIFEST).write_text(Manifest(**{**facts, **fields}).to_json())
    return load_bundle(folder)


def _audio_graph(width: int, *, is_unit: bool, rng: np.random.Generator) -> bytes:
    filters = rng.standard_normal((width, 1, FILTER)).astype(np.float32)
    weights = {"filters": filters, "bias": rng.uniform(0.1, 0.2, width).astype(np.float32)}
    nodes = [
        helper.make_node("Unsqueeze", ["samples", "one"], ["line"]),
        helper.make_node("Conv", ["line", "filters"], ["bands"], strides=[STRIDE]),
        helper.make_node("Abs", ["bands"], ["strengths"]),
        helper.make_node("ReduceMean", ["strengths", "two"], ["means"], keepdims=0),
        helper.make_node("Add", ["means", "bias"], ["pooled"]),
        helper.make_node("Unsqueeze", ["pooled", "one"], ["long"]),
    ]
    inputs = [
        helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["B", "S"]),
        *(helper.make_tensor_value_info(name, TensorProto.INT64, ["B"]) for name in ("lengths", "heard")),
    ]
    return _model(nodes, inputs, weights, width=width, is_unit=is_unit)


def _video_graph(shape: tuple[int, int], *, is_unit: bool, rng: np.random.Generator) -> bytes:
    num_moments, width = shape
    weights = {
        "matrix": rng.standard_normal((3 * GRID * GRID, width)).astype(np.float32) / 255,
        "bias": rng.uniform(0.1, 0.2, width).astype(np.float32),
        "flat": np.array([-1, FRAME_SIZE, FRAME_SIZE, 3]),
        "moments": np.array([-1, num_moments, width]),
    }
    kernel = [FRAME_SIZE // GRID] * 2
    nodes = [
        helper.make_node("Cast", ["frames"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "flat"], ["pictures"]),
        helper.make_node("Transpose", ["pictures"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["small"], kernel_shape=kernel, strides=kernel),
        helper.make_node("Flatten", ["small"], ["features"]),
        helper.make_node("MatMul", ["features", "matrix"], ["projected"]),
        helper.make_node("Add", ["projected", "bias"], ["rows"]),
        helper.make_node("Reshape", ["rows", "moments"], ["long"]),
    ]
    frames = helper.make_tensor_value_info(
        "frames", TensorProto.UINT8, ["B", num_moments, FRAME_SIZE, FRAME_SIZE, 3]
    )
    return _model(nodes, [frames], weights, width=width, is_unit=is_unit)


def _model(
    nodes: list[Any], inputs: Sequence[Any], weights: dict[str, NDArray[Any]], *, width: int, is_unit: bool
) -> bytes:
    """A model whose rows `long` become tracks, of unit length if they compare by cosine."""
    weights |= {"one": np.array([1]), "two": np.array([2])}
    if is_unit:
        nodes += [helper.make_node("ReduceL2", ["long", "two"], ["lengths_of_rows"], keepdims=1)]
        nodes += [helper.make_node("Div", ["long", "lengths_of_rows"], ["tracks"])]
    else:
        nodes += [helper.make_node("Identity", ["long"], ["tracks"])]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    tracks = helper.make_tensor_value_info("tracks", TensorProto.FLOAT, ["B", "T", width])
    graph = helper.make_graph(nodes, "tiny", list(inputs), [tracks], initializer=tensors)
    opsets = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def _run(graph: bytes, **inputs: NDArray[Any]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    tracks: NDArray[np.float32] = session.run(None, inputs)[0][0]
    return tracks
