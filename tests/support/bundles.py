"""Bundles for tests: another encoder pair of the starter's shape, made in a second and without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from models.bundle.bundle import (
    AUDIO_GRAPH,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    TEXT_GRAPH,
    TOKENIZER,
    VIDEO_GRAPH,
    Bundle,
    describe_file,
    load_bundle,
    sound_inputs,
    starter_path,
)
from models.bundle.manifest import Manifest
from models.inference import onnxruntime
from models.media.clip import ClipSpec

Change = Callable[[onnx.ModelProto], None]
WORDS = ("dog", "barking", "rain", "door", "night", "wood", "squeak", "in", "the", "but", "at")
HEADS = {"audio": "audio_words", "video": "video_words"}
MAX_TOKENS = 8
LAST_MLP = "val_275"
"""Weights of the last block's second layer, in both graphs of the starter: (512, 128)."""


def described_bundle(
    *,
    tracks: Mapping[str, tuple[int, int]] = MappingProxyType({"audio": (16, 8), "video": (16, 8)}),
    bundle_id: str = "any",
    **fields: Any,
) -> Bundle:
    """A bundle that is its manifest alone: for tests in which nothing is embedded."""
    text = fields.get("text")
    names = [GRAPHS[modality] for modality in tracks] + ([TEXT_GRAPH, TOKENIZER] if text else []) + [GOLDEN]
    facts: dict[str, Any] = {
        "name": "any",
        "clip_spec": ClipSpec(),
        "opset": 18,
        "network": {},
        "training": {},
        "agreement": {},
        "files": {name: {} for name in names},
    }
    manifest = Manifest(**{**facts, **fields, "tracks": dict(tracks)})
    return Bundle(path=Path("/nowhere"), bundle_id=bundle_id, manifest=manifest)


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


def scale_weights(factor: float | np.ndarray[Any, Any], *, initialiser: str = LAST_MLP) -> Change:
    """A change that multiplies one initialiser, by one number or each weight by its own."""

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


def make_untrained(target: Path, *, name: str) -> Bundle:
    """An encoder pair that knows nothing: half of the numbers that the sound is embedded in have the wrong sign."""
    copy_starter(target, name=name)
    signs = np.random.default_rng(0).choice([-1, 1], 128)
    for part in ("weight", "bias"):
        change_graph(target, AUDIO_GRAPH, scale_weights(signs, initialiser=f"network.norms.audio.{part}"))
    record_golden(target)
    rehash(target)
    return load_bundle(target)


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


def make_worded(target: Path, *, name: str = "worded", heads: tuple[str, ...] = ("audio", "video")) -> Bundle:
    """Make the starter with words: an embedding table, the mean of its rows, and a head for each modality.

    Args:
        target: A folder that does not exist.
        name: Of the bundle.
        heads: The modalities that words compare with.

    Returns:
        The bundle, which knows `WORDS` and takes `MAX_TOKENS` of them.
    """
    copy_starter(target, name=name)
    manifest = Manifest.from_json((target / MANIFEST).read_text())
    write_tokenizer(target / TOKENIZER)
    outputs = {to: HEADS[to] for to in heads}
    model = make_text_graph({HEADS[to]: manifest.tracks[to][1] for to in heads})
    (target / TEXT_GRAPH).write_bytes(model.SerializeToString())
    texts = ["dog barking in the rain", "door"]
    ids = [np.array([[1 + WORDS.index(word) for word in text.split()]]) for text in texts]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    vectors = {
        f"text_{to}": np.concatenate(
            [session.run([output], {"input_ids": one, "attention_mask": np.ones_like(one)})[0] for one in ids]
        )
        for to, output in outputs.items()
    }
    with np.load(target / GOLDEN) as arrays:
        np.savez(target / GOLDEN.removesuffix(".npz"), **arrays, texts=np.array(texts), **vectors)
    fields = json.loads(manifest.to_json()) | {
        "format": 3,
        "text": {"outputs": outputs, "max_tokens": MAX_TOKENS, "prefix": ""},
        "files": {
            file: describe_file(target / file)
            for file in (AUDIO_GRAPH, VIDEO_GRAPH, TEXT_GRAPH, TOKENIZER, GOLDEN)
        },
    }
    (target / MANIFEST).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    return load_bundle(target)


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer of whole words, in lower case."""
    vocabulary = {"[UNK]": 0} | {word: number for number, word in enumerate(WORDS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(4)  # as published ones have it; a service must not cut texts
    tokenizer.save(str(path))


def make_text_graph(heads: dict[str, int]) -> onnx.ModelProto:
    """Make a text graph with heads of some width: table, mean of the rows that the mask keeps, head, unit length."""
    rng = np.random.default_rng(7)
    arrays = {"table": rng.standard_normal((len(WORDS) + 1, 32)).astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["mask"]),
        helper.make_node("Mul", ["rows", "mask"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "second"], ["mean"], keepdims=0),
    ]
    arrays |= {"last": np.array([-1]), "second": np.array([1])}
    for output, width in heads.items():
        arrays[f"{output}_weight"] = rng.standard_normal((32, width)).astype(np.float32)
        nodes += [
            helper.make_node("Gemm", ["mean", f"{output}_weight"], [f"{output}_long"]),
            helper.make_node("LpNormalization", [f"{output}_long"], [output], axis=-1, p=2),
        ]
    graph = helper.make_graph(
        nodes,
        "words",
        [
            helper.make_tensor_value_info(given, TensorProto.INT64, ["B", "L"])
            for given in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", width])
            for output, width in heads.items()
        ],
        [numpy_helper.from_array(array, given) for given, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
