"""Encoders of any family to a bundle: torch modules become graphs, are compared with torch, and recorded.

    encoders = Encoders(family="mine", clip_spec=ClipSpec(), audio=Ears(), video=Eyes())
    export_encoders(encoders, Path("my-bundle"), name="mine", clips=clips, training={})

docs/encoders.md has a whole example.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim

from models.bundle.bundle import (
    GOLDEN,
    GRAPHS,
    MANIFEST,
    TEXT_GRAPH,
    TOKENIZER,
    Bundle,
    Manifest,
    Similarity,
    TextSpec,
    check_name,
    describe_file,
    load_bundle,
)
from models.bundle.files import save_graph
from models.bundle.manifest import DATA_SUFFIX
from models.cores import num_cores
from models.inference import onnxruntime
from models.media.clip import Clip, ClipSpec

OPSET = 20
MAX_DIFFERENCE = 1e-4
"""Largest difference of any number of an output between ONNX Runtime and torch; of vectors longer than 1, of their
length."""
GOLDEN_TEXTS = ("a dog barks in the rain", "waves on a beach", "Tür")
ROWS = "batch"

OnStep = Callable[[str], None]
Arrays = Mapping[str, NDArray[Any]]


class GraphsDisagree(ValueError):
    """ONNX Runtime and torch give different numbers for one clip or text."""


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """What a bundle is made of. Modules are in evaluation mode on the CPU, and compute in float32.

    Attributes:
        family: Whose networks these are, for people.
        clip_spec: How media are decoded for them.
        audio: `forward` takes `samples` (B, S) float32 and what it needs of `lengths` and `heard` (B,) int64, and
            gives tracks (B, T, D); None if sound is not embedded.
        video: `forward` takes `frames` (B, F, H, W, 3) uint8 and gives tracks (B, T, D), or None.
        text: `forward` takes `input_ids` and `attention_mask` (B, L) int64 and gives one (B, D) for each output in
            the order of `text_outputs`, or None.
        text_outputs: Names of the outputs of `text`.
        text_spec: How words are embedded.
        tokenizer: Text of tokenizer.json.
        similarity: `cosine` if rows have unit length, else `dot`.
        shares_space: Whether sound and picture can be compared with each other.
        network: Facts about the networks, JSON values.
        attribution: Whose work they are, and under which licence.
    """

    family: str
    clip_spec: ClipSpec
    audio: nn.Module | None = None
    video: nn.Module | None = None
    text: nn.Module | None = None
    text_outputs: tuple[str, ...] = ()
    text_spec: TextSpec | None = None
    tokenizer: str = ""
    similarity: Similarity = "cosine"
    shares_space: bool = True
    network: Mapping[str, Any] = field(default_factory=dict)
    attribution: tuple[str, ...] = ()

    @property
    def media(self) -> dict[str, nn.Module]:
        """Networks of sound and picture, by modality."""
        both = {"audio": self.audio, "video": self.video}
        return {modality: module for modality, module in both.items() if module is not None}


def export_encoders(
    encoders: Encoders,
    output: Path,
    *,
    name: str,
    clips: Sequence[Clip],
    training: Mapping[str, Any],
    texts: Sequence[str] = GOLDEN_TEXTS,
    on_step: OnStep = lambda _: None,
) -> Bundle:
    """Write a bundle beside its place, check it there, and move it into place in one step.

    Args:
        encoders: What it is made of.
        output: Folder of the bundle; must not exist.
        name: Name of the bundle.
        clips: Clips with all that is embedded; the first becomes the golden clip.
        training: JSON values that say how the networks were made.
        texts: Texts to compare on, if words are embedded.
        on_step: Called with what is done next, for people.

    Returns:
        The bundle as it will be loaded.

    Raises:
        FileExistsError: If there is something at `output`.
        ValueError: If no clip has all modalities, or a vector is zero or not a number.
    """
    check_name(name)  # the manifest would, but after minutes
    if output.exists():
        raise FileExistsError(f"{output} exists; a bundle never changes, choose another folder")
    clips = [
        clip for clip in clips if all(_embedded(clip, modality) is not None for modality in encoders.media)
    ]
    if not clips:
        raise ValueError(f"export needs at least one clip with {' and '.join(encoders.media)}")
    folder = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        golden, agreement = _write_graphs(encoders, folder, clips, texts, on_step)
        on_step("writing the bundle")
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)
        manifest = Manifest(
            name=name,
            family=encoders.family,
            tracks={
                m: (golden[f"{m}_track"].shape[0], golden[f"{m}_track"].shape[1]) for m in encoders.media
            },
            clip_spec=encoders.clip_spec,
            text=encoders.text_spec if encoders.text is not None else None,
            similarity=encoders.similarity,
            shares_space=encoders.shares_space,
            attribution=encoders.attribution,
            opset=OPSET,
            network=dict(encoders.network),
            training=dict(training),
            agreement=agreement,
            files={file.name: describe_file(file) for file in sorted(folder.iterdir())},
        )
        (folder / MANIFEST).write_text(manifest.to_json())
        load_bundle(folder)
        folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return load_bundle(output)


def _write_graphs(
    encoders: Encoders, folder: Path, clips: Sequence[Clip], texts: Sequence[str], on_step: OnStep
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Export and compare one network after the other; returns the golden arrays and the largest differences."""
    golden: dict[str, NDArray[Any]] = {}
    agreement: dict[str, float] = {}
    for modality, module in encoders.media.items():
        on_step(f"torch embeds {len(clips)} clips: {modality}")
        inputs = [media_inputs(module, clip) for clip in clips]
        expected = [torch_outputs(module, arrays)[0] for arrays in inputs]
        _check_vectors(np.concatenate([track[0] for track in expected]), encoders.similarity)
        on_step(f"exporting the graph: {modality}")
        write_graph(module, folder / GRAPHS[modality], encoders.clip_spec)
        on_step(f"ONNX Runtime embeds {len(clips)} clips: {modality}")
        agreement[modality] = _compare(folder / GRAPHS[modality], inputs, [[track] for track in expected])
        golden["samples" if modality == "audio" else "frames"] = _given(_embedded(clips[0], modality))
        golden[f"{modality}_track"] = expected[0][0]
    if "audio" in encoders.media:
        golden["num_heard"] = np.array(clips[0].num_heard)
    if encoders.text is not None:
        on_step("exporting the graph: text")
        golden |= _write_text(encoders, encoders.text, folder, texts, agreement)
    return golden, agreement


def _write_text(
    encoders: Encoders, module: nn.Module, folder: Path, texts: Sequence[str], agreement: dict[str, float]
) -> dict[str, NDArray[Any]]:
    if encoders.text_spec is None:
        raise ValueError("a network of words needs a text_spec")
    tokenizer = Tokenizer.from_str(encoders.tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    inputs = []
    for text in texts:
        ids = np.array([tokenizer.encode(encoders.text_spec.prefix + text).ids], np.int64)
        inputs.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    expected = [torch_outputs(module, arrays) for arrays in inputs]
    for vectors in expected:
        _check_vectors(np.concatenate(vectors), encoders.similarity)
    write_text_graph(module, folder / TEXT_GRAPH, encoders.text_outputs, encoders.text_spec.max_tokens)
    (folder / TOKENIZER).write_text(encoders.tokenizer)
    agreement["text"] = _compare(folder / TEXT_GRAPH, inputs, expected)
    by_name = {
        name: np.concatenate([vectors[at] for vectors in expected])
        for at, name in enumerate(encoders.text_outputs)
    }
    return {"texts": np.array(texts)} | {
        f"text_{to}": by_name[name] for to, name in encoders.text_spec.outputs.items()
    }


def media_inputs(module: nn.Module, clip: Clip) -> dict[str, NDArray[Any]]:
    """Arrange a clip as a network reads it.

    Args:
        module: A network of sound or picture.
        clip: With that modality.

    Returns:
        Arrays by argument of its `forward`, one row each.
    """
    samples = np.zeros(0, np.float32) if clip.samples is None else clip.samples
    arrays = {
        "samples": samples[None],
        "lengths": np.array([len(samples)]),
        "heard": np.array([clip.num_heard]),
        "frames": None if clip.frames is None else clip.frames[None],
    }
    return {name: _given(arrays[name]) for name in arguments_of(module)}


def arguments_of(module: nn.Module) -> list[str]:
    """Name what a network reads, in order.

    Args:
        module: The network.

    Returns:
        Names of the arguments of its `forward`.
    """
    return list(inspect.signature(module.forward).parameters)


@torch.no_grad()
def torch_outputs(module: nn.Module, arrays: Arrays) -> list[NDArray[np.float32]]:
    """Run a network.

    Args:
        module: In evaluation mode, on the CPU.
        arrays: By argument.

    Returns:
        Its outputs, float32.
    """
    found = module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    outputs = (found,) if isinstance(found, Tensor) else tuple(found)
    return [output.numpy() for output in outputs]


def write_graph(module: nn.Module, path: Path, spec: ClipSpec) -> None:
    """Export a network of sound or picture with dynamic batch, and length or number of frames where they vary.

    Args:
        module: In evaluation mode, on the CPU.
        path: File to write.
        spec: What it reads.
    """
    batch = Dim(ROWS, min=1, max=4096)
    names = arguments_of(module)
    shapes: dict[str, Any]
    if names == ["frames"]:
        varies = spec.frame_times == "all"
        count = 4 if varies else spec.frames_per_segment
        example = [torch.zeros(2, count, spec.frame_size, spec.frame_size, 3, dtype=torch.uint8)]
        shapes = {"frames": {0: batch} | ({1: Dim("frames", min=1, max=1 << 16)} if varies else {})}
    else:
        length = Dim("length", min=1, max=10_000_000)
        num_samples = min(spec.segment_samples, spec.sample_rate_hz // 3)
        numbers = torch.tensor([num_samples, num_samples // 2])
        example = [torch.zeros(2, num_samples) if name == "samples" else numbers for name in names]
        shapes = {name: {0: batch, 1: length} if name == "samples" else {0: batch} for name in names}
    _export(module, tuple(example), path, names, ["tracks"], shapes)


def write_text_graph(module: nn.Module, path: Path, outputs: Sequence[str], max_tokens: int) -> None:
    """Export a network of words with dynamic batch and length.

    Args:
        module: In evaluation mode, on the CPU.
        path: File to write.
        outputs: Names of what it gives.
        max_tokens: Longest text.
    """
    names = arguments_of(module)
    shape = {0: Dim(ROWS, min=1, max=4096), 1: Dim("tokens", min=1, max=max_tokens)}
    ids = torch.zeros(2, min(7, max_tokens), dtype=torch.int64)
    example = tuple(torch.ones_like(ids) if name == "attention_mask" else ids for name in names)
    _export(module, example, path, names, list(outputs), dict.fromkeys(names, shape))


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    dynamic_shapes: Any,
) -> None:
    torch.onnx.export(
        module.eval().requires_grad_(False),  # a tenth less work for the exporter
        example,
        path,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=dynamic_shapes,
        opset_version=OPSET,
        dynamo=True,
        external_data=True,
        verbose=False,
    )
    data = path.with_name(path.name + DATA_SUFFIX)
    model = onnx.load(path)
    path.unlink()
    data.unlink(missing_ok=True)
    save_graph(without_metadata(model), path)


def without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter notes about the source code: stack traces with paths, module names.

    Args:
        model: Changed in place.

    Returns:
        The model.
    """
    graph = model.graph
    del graph.value_info[:]  # of weights that the exporter transposed it has the old shape
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    return model


def _compare(
    path: Path, inputs: Sequence[Arrays], expected: Sequence[Sequence[NDArray[np.float32]]]
) -> float:
    """Run a graph on inputs and return the largest difference from torch; refuse more than 1e-4."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for arrays, wanted in zip(inputs, expected, strict=True):
        for found, right in zip(session.run(None, dict(arrays)), wanted, strict=True):
            difference = float(
                np.abs(found - right).max() / max(1.0, float(np.linalg.norm(right, axis=-1).max()))
            )
            if not difference <= MAX_DIFFERENCE:
                raise GraphsDisagree(
                    f"{path.stem} graph differs from torch by {difference:.2e}, allowed {MAX_DIFFERENCE:.0e}"
                )
            worst = max(worst, difference)
    return worst


def _check_vectors(rows: NDArray[np.float32], similarity: Similarity) -> None:
    """Refuse a network that embeds nothing, as weights that are zero do, or not as its similarity says."""
    lengths = np.linalg.norm(rows, axis=1)
    is_right = np.allclose(lengths, 1, atol=1e-3) if similarity == "cosine" else (lengths > 1e-6).all()
    if not (is_right and np.isfinite(lengths).all()):
        wanted = "1" if similarity == "cosine" else "above 0"
        raise ValueError(
            f"the network gives embeddings of length {lengths.min():.3g}, not {wanted}; is it trained?"
        )


def _embedded(clip: Clip, modality: str) -> NDArray[Any] | None:
    return clip.samples if modality == "audio" else clip.frames


def _given(values: NDArray[Any] | None) -> NDArray[Any]:
    assert values is not None, "clips with a missing modality were left out above"
    return values
