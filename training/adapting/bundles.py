"""A bundle with learned heads: the parent's graphs with the heads joined on, and the heads as files of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from models.bundle.bundle import (
    FORMAT,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    MOMENTS,
    TEXT_GRAPH,
    TOKENIZER,
    Bundle,
    Derivation,
    Golden,
    Manifest,
    TextSpec,
    check_name,
    describe_file,
    load_bundle,
    sound_inputs,
)
from models.bundle.joining import join_head, write_head
from models.bundle.manifest import DATA_SUFFIX, HEADS
from models.bundle.moments import unit_rows, write_moments
from models.inference import onnxruntime
from models.network.graph_weights import write_graph_weights
from models.network.tgdp import Tgdp
from training.adapting.sentences import VECTORS, Sentences

MAX_DIFFERENCE = 1e-4
GOLDEN_TEXTS = (
    "a dog barks in the rain",
    "waves on a beach",
    "Tür, Holz, quietscht",
    "footsteps on gravel",
    "a car passes from left to right",
    "applause",
    "wind in the trees at night",
    "la cloche d'une église",
)

Floats = NDArray[np.float32]


class HeadsDisagree(ValueError):
    """A joined graph does not give what the head gives for the parent's tracks."""


def write_adapted(
    parent: Bundle, heads: Mapping[str, nn.Module], output: Path, *, name: str, training: Mapping[str, Any]
) -> Bundle:
    """Write a bundle whose tracks are heads of its parent's; the parent may not have heads itself.

    Args:
        parent: Verified bundle that embeds sound and picture.
        heads: By modality.
        output: Folder of the new bundle; must not exist.
        name: Its name.
        training: JSON values that say how the heads were learned.

    Returns:
        The bundle as it will be loaded.

    Raises:
        FileExistsError: If there is something at `output`.
        HeadsDisagree: If a joined graph and its head differ by more than 1e-4 on the golden clip.
    """  # noqa: DOC502 - raised where they are compared
    with _new_folder(name, output) as folder:
        shapes = _write_graphs(parent, heads, folder)
        golden = _adapted_golden(parent, folder, shapes)
        agreement = _compare(golden, folder)
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **_golden_arrays(golden))
        text = parent.manifest.text
        manifest = replace(
            parent.manifest,
            name=name,
            tracks=shapes,
            similarity="cosine",
            shares_space=True,
            text=text and replace(text, outputs={to: _words(to) for to in text.outputs}),
            training=dict(training),
            agreement=agreement,
            derived_from=Derivation(
                bundle_id=parent.bundle_id, heads={modality: HEADS[modality] for modality in heads}
            ),
            files=_describe_files(folder),
            weighs_moments=False,
        )
        _seal(folder, manifest)
    return load_bundle(output)


def write_finetuned(
    parent: Bundle, network: Tgdp, output: Path, *, name: str, training: Mapping[str, Any]
) -> Bundle:
    """Write a bundle with the graphs of another and the weights of a network that was trained on from it.

    Args:
        parent: Verified bundle that the network was recovered from.
        network: On the CPU, in evaluation mode.
        output: Folder of the new bundle; must not exist.
        name: Its name.
        training: JSON values that say how the weights were learned.

    Returns:
        The bundle as it will be loaded. It embeds no words: those of the parent would not fit any more.

    Raises:
        FileExistsError: If there is something at `output`.
        HeadsDisagree: If a graph and the network differ by more than 1e-4 on the golden clip.
    """  # noqa: DOC502 - raised where they are compared
    with _new_folder(name, output) as folder:
        for graph in GRAPHS.values():
            write_graph_weights(parent.path / graph, folder / graph, network.state_dict())
        golden = parent.golden()
        with torch.no_grad():
            audio = network.audio_track(
                torch.from_numpy(golden.samples)[None],
                torch.tensor([len(golden.samples)]),
                torch.tensor([golden.num_heard]),
            )
            video = network.video_track(torch.from_numpy(golden.frames)[None])
        golden = replace(
            golden, tracks={"audio": audio[0].numpy(), "video": video[0].numpy()}, texts=(), text_vectors={}
        )
        agreement = _compare(golden, folder)
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **_golden_arrays(golden))
        manifest = replace(
            parent.manifest,
            name=name,
            text=None,
            training=dict(training),
            agreement=agreement,
            files=_describe_files(folder),
        )
        _seal(folder, manifest)
    return load_bundle(output)


def write_weighed(
    parent: Bundle, moments: Mapping[str, Floats], output: Path, *, name: str, training: Mapping[str, Any]
) -> Bundle:
    """Write a bundle that weighs moments; everything else of it is the parent's, heads included.

    Args:
        parent: Verified bundle that compares sound and picture by cosine, moment by moment.
        moments: Arrays of `MomentAgreement`; see `models.bundle.moments`.
        output: Folder of the new bundle; must not exist.
        name: Its name.
        training: JSON values that say how the arrays were learned.

    Returns:
        The bundle as it will be loaded.

    Raises:
        FileExistsError: If there is something at `output`.
        BrokenBundle: If moments of this parent cannot be weighed.
    """  # noqa: DOC502 - raised where the folder and the manifest are made
    with _new_folder(name, output) as folder:
        for file in parent.manifest.files:
            shutil.copyfile(parent.path / file, folder / file)
        write_moments(moments, folder / MOMENTS)
        manifest = replace(
            parent.manifest,
            name=name,
            training=dict(training),
            derived_from=_derivation(parent),
            weighs_moments=True,
            files=_describe_files(folder),
        )
        _seal(folder, manifest)
    return load_bundle(output)


def write_worded(
    parent: Bundle,
    sentences: Sentences,
    projections: Mapping[str, Floats],
    output: Path,
    *,
    name: str,
    training: Mapping[str, Any],
) -> Bundle:
    """Write a bundle with words: a frozen sentence encoder, and a projection of its vectors for each modality.

    Args:
        parent: Verified bundle that compares by cosine and has no words, or learned ones, which are replaced.
        sentences: The encoder.
        projections: P (D, F) by modality.
        output: Folder of the new bundle; must not exist.
        name: Its name.
        training: JSON values that say how the projections were learned.

    Returns:
        The bundle as it will be loaded. Whoever serves it needs no package of the encoder.

    Raises:
        FileExistsError: If there is something at `output`.
        HeadsDisagree: If the graph and the projections differ by more than 1e-4 on the golden texts.
    """  # noqa: DOC502 - raised where the folder is made and words are compared
    outputs = {to: _words(to) for to in projections}
    features = sentences.embed(GOLDEN_TEXTS)
    with _new_folder(name, output) as folder:
        for file in parent.manifest.files:
            if file not in (TOKENIZER, TEXT_GRAPH, TEXT_GRAPH + DATA_SUFFIX):
                shutil.copyfile(parent.path / file, folder / file)
        source, head = sentences.graph, folder / "words.head.onnx"
        for to, named in outputs.items():
            write_head({"linear.weight": projections[to]}, head)
            join_head(source, head, folder / TEXT_GRAPH, output=VECTORS, adapted=named)
            source = folder / TEXT_GRAPH
        head.unlink()
        _move_weights_out(folder / TEXT_GRAPH)
        (folder / TOKENIZER).write_text(sentences.tokenizer, "utf-8")
        vectors = {to: unit_rows(features @ projections[to].T) for to in outputs}
        difference = _compare_words(folder / TEXT_GRAPH, sentences, outputs, vectors)
        golden = replace(parent.golden(), texts=GOLDEN_TEXTS, text_vectors=vectors)
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **_golden_arrays(golden))
        manifest = replace(
            parent.manifest,
            name=name,
            text=TextSpec(outputs=outputs, max_tokens=sentences.max_tokens, encoder=dict(sentences.facts)),
            training=dict(training),
            agreement={**parent.manifest.agreement, "text": difference},
            attribution=tuple(dict.fromkeys((*parent.manifest.attribution, sentences.attribution))),
            derived_from=_derivation(parent),
            files=_describe_files(folder),
        )
        _seal(folder, manifest)
    return load_bundle(output)


def _move_weights_out(graph: Path) -> None:
    """Put the weights of a graph into a file beside it, which is mapped: loading it then takes 100 MB less."""
    model = onnx.load(graph)
    data = graph.with_name(graph.name + DATA_SUFFIX)
    graph.unlink()
    onnx.save_model(model, graph, save_as_external_data=True, location=data.name)
    data.chmod(graph.stat().st_mode)


def _compare_words(
    graph: Path, sentences: Sentences, outputs: Mapping[str, str], expected: Mapping[str, Floats]
) -> float:
    found = 0.0
    for to, named in outputs.items():
        rows = replace(sentences, graph=graph, output=named).embed(GOLDEN_TEXTS)
        found = max(found, float(np.abs(rows - expected[to]).max()))
    if not found <= MAX_DIFFERENCE:
        raise HeadsDisagree(f"the graph of words and its projection differ by {found:.2e}")
    return found


def _derivation(parent: Bundle) -> Derivation:
    """What a bundle whose tracks are those of `parent` is derived from: the parent of a bundle that has heads."""
    return parent.manifest.derived_from or Derivation(bundle_id=parent.bundle_id, heads={})


@contextmanager
def _new_folder(name: str, output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its place if what is written there is a bundle."""
    check_name(name)
    if output.exists():
        raise FileExistsError(f"{output} exists; a bundle never changes, choose another folder")
    folder = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        load_bundle(folder).moments()
        folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.name: describe_file(file) for file in sorted(folder.iterdir())}


def _seal(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(replace(manifest, format=FORMAT).to_json())


def _write_graphs(parent: Bundle, heads: Mapping[str, nn.Module], folder: Path) -> dict[str, tuple[int, int]]:
    most = max(num_moments for num_moments, _ in parent.manifest.tracks.values())
    shapes: dict[str, tuple[int, int]] = {}
    for modality, head in heads.items():
        num_moments, _ = parent.manifest.tracks[modality]
        if num_moments not in (1, most):
            raise ValueError(f"tracks of {num_moments} and of {most} moments cannot be brought together")
        arrays = {key: array.detach().numpy() for key, array in head.state_dict().items()}
        width = len(arrays["linear.weight"] if "linear.weight" in arrays else arrays["up.bias"])
        shapes[modality] = most, width
        write_head(arrays, folder / HEADS[modality], repeats=most // num_moments)
        join_head(parent.path / GRAPHS[modality], folder / HEADS[modality], folder / GRAPHS[modality])
    if parent.manifest.text is not None:
        shutil.copyfile(parent.path / TOKENIZER, folder / TOKENIZER)
        source = parent.path / TEXT_GRAPH
        for to, named in parent.manifest.text.outputs.items():
            join_head(source, folder / HEADS[to], folder / TEXT_GRAPH, output=named, adapted=_words(to))
            source = folder / TEXT_GRAPH
    return shapes


def _words(modality: str) -> str:
    return f"{modality}_words"


def _run(graph: Path, outputs: list[str] | None, inputs: Mapping[str, NDArray[Any]]) -> Floats:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    found: Floats = session.run(outputs, dict(inputs))[0]
    return found


def _adapted_golden(parent: Bundle, folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Golden:
    """The parent's golden clip with the heads of its tracks."""
    golden = parent.golden()
    tracks = {
        modality: _run(folder / HEADS[modality], None, {"rows": golden.tracks[modality][None]})[0]
        for modality in shapes
    }
    vectors = {
        to: _run(folder / HEADS[to], None, {"rows": rows[:, None]})[:, 0]
        for to, rows in golden.text_vectors.items()
    }
    return replace(golden, tracks=tracks, text_vectors=vectors)


def _compare(golden: Golden, folder: Path) -> dict[str, float]:
    """Largest difference of each joined graph of media from its head; words are compared when the bundle is tried."""
    found: dict[str, float] = {}
    for modality, expected in golden.tracks.items():
        graph = folder / GRAPHS[modality]
        if modality == "audio":
            session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
            names = [given.name for given in session.get_inputs()]
            length, heard = np.array([len(golden.samples)]), np.array([golden.num_heard])
            inputs = sound_inputs(names, golden.samples[None], length, heard)
        else:
            inputs = {"frames": golden.frames[None]}
        found[modality] = float(np.abs(_run(graph, ["tracks"], inputs)[0] - expected).max())
        if not found[modality] <= MAX_DIFFERENCE:
            raise HeadsDisagree(f"the {modality} graph and its head differ by {found[modality]:.2e}")
    return found


def _golden_arrays(golden: Golden) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        f"{modality}_track": track for modality, track in golden.tracks.items()
    }
    if "audio" in golden.tracks:
        arrays |= {"samples": golden.samples, "num_heard": np.array(golden.num_heard)}
    if "video" in golden.tracks:
        arrays["frames"] = golden.frames
    if golden.texts:
        arrays["texts"] = np.array(golden.texts)
        arrays |= {f"text_{to}": rows for to, rows in golden.text_vectors.items()}
    return arrays
