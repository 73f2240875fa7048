"""`foley-train import` with real files: released weights to a bundle, held to the released forward pass.

That is `published_reference.embed`, which gives the recorded embeddings of all eleven blocks (test_published.py); the
bundles here have two, and eleven would cost the exporter a minute.

The recorded inputs are normalised log-mel windows and pixels, and the graphs of a bundle start at samples and bytes. So
each graph of the bundle is cut open where its patches begin, and what follows, the same nodes and weights, runs on the
recorded inputs in ONNX Runtime. The part before the cut is compared with torch on clips when the bundle is made, and
with the recorded log-mel in tests/models/network/test_frontend.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from models.bundle.bundle import Bundle, load_bundle, starter_path
from models.inference import onnxruntime
from models.media.clip import Clip, ClipSpec, decode_clip
from models.network.export import graph_tracks, open_graphs
from models.network.frontend import distinct_windows, window_starts
from models.network.geometry import PublishedKind, TgdpConfig
from models.network.graph_weights import is_unused, recover_network
from models.network.initialisation import initialise
from models.network.published_names import Counts, published_names
from models.network.tgdp import Tgdp
from tests.support.families import golden_imported, shallow_weights
from tests.support.paths import GOLDEN
from tests.support.published_reference import embed
from training.adapting.bundles import write_adapted
from training.adapting.heads import TrackHead
from training.cli import app
from training.commands import export as export_command
from training.commands.imports import make_clips
from training.corpus.scene import sample_scene
from training.corpus.synthesis import write_scene

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter warns about its own internals

TINY = TgdpConfig(
    width=16, num_heads=2, depth=1, mlp_ratio=2, decoder_width=8, decoder_heads=2, decoder_depth=1
)


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["import", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@dataclass
class Imported:
    source: Path
    bundle: Bundle
    recorded: dict[str, Tensor]
    weights: dict[str, Tensor]


@pytest.fixture(scope="module", params=["tgdp", "cavmae"])
def imported(request, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """TG-DP out of a pickle with the prefix of parallel training, CAV-MAE out of safetensors."""
    source, bundle = golden_imported(tmp_path_factory, request.param)
    recorded = load_file(GOLDEN / f"{request.param}_small_expected.safetensors")
    return Imported(
        source, bundle, {n: t.float() for n, t in recorded.items()}, shallow_weights(request.param)
    )


def test_an_imported_bundle_gives_its_weights_back(imported: Imported) -> None:
    """Its graphs hold all that embeds; golden tracks are compared inside."""
    recovered = recover_network(imported.bundle).state_dict()
    again = Tgdp(TgdpConfig(**imported.bundle.manifest.network))
    done = initialise(again, imported.bundle.path)
    assert done.origin == "bundle"
    assert all(is_unused(name) for name in done.fresh)
    state = again.state_dict()
    assert all(torch.equal(state[name], recovered[name]) for name in done.taken)


def test_an_imported_bundle_can_be_adapted(imported: Imported, tmp_path: Path) -> None:
    """The graphs joined with heads give the heads of its tracks: `write_adapted` compares them on the golden clip."""
    width = imported.bundle.manifest.embedding_width
    heads = {name: TrackHead(width, 8) for name in ("audio", "video")}
    for parameter in (one for head in heads.values() for one in head.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    adapted = write_adapted(imported.bundle, heads, tmp_path / "adapted", name="adapted", training={})
    assert max(adapted.manifest.agreement.values()) < 1e-5


def run_from_patches(graph: Path, pictures: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    """Run what follows the pictures (N, C, H, W) in a graph of a bundle: its patch embedding to its tracks."""
    model = onnx.load(graph)
    dims = {weights.name: list(weights.dims) for weights in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    (patches,) = (n for n in convolutions if dims[n.input[1]][1:] == [pictures.shape[1], 16, 16])
    inputs = [
        patches.input[0],
        *(given.name for given in model.graph.input),
    ]  # the batch size comes from the others
    onnx.utils.extract_model(graph, folder / "rest.onnx", inputs, ["tracks"])
    session = onnxruntime.InferenceSession(folder / "rest.onnx", providers=["CPUExecutionProvider"])
    of_one_clip = {
        "samples": np.zeros((1, 160_000), np.float32),
        "lengths": np.array([160_000]),
        "heard": np.array([160_000]),
        "frames": np.zeros((1, 16, 224, 224, 3), np.uint8),
    }
    feed = {given.name: of_one_clip.get(given.name, pictures) for given in session.get_inputs()}
    tracks: NDArray[np.float32] = session.run(None, feed)[0]
    return tracks


def unit(rows: Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(rows, dim=1).numpy()


def test_recorded_sound_through_the_bundle(imported: Imported, tmp_path: Path) -> None:
    """Every moment must be the recorded embedding of the window it was given: 11 windows, or 1 for all."""
    window_frames = imported.bundle.manifest.network["window_frames"]
    distinct, window_of_moment = distinct_windows(window_starts(window_frames=window_frames))
    assert len(distinct) == {416: 11, 1024: 1}[window_frames]
    recorded = imported.recorded["audio_windows"]
    chosen = [number % len(recorded) for number in range(len(distinct))]
    pictures = recorded[chosen].transpose(1, 2).unsqueeze(1)
    track = run_from_patches(imported.bundle.audio_graph, pictures.numpy(), tmp_path)[0]
    expected = unit(embed(imported.weights, pictures, "audio", heads=4))[window_of_moment]
    assert track.shape == expected.shape == (16, 48)
    assert np.abs(track - expected).max() < 1e-4
    assert np.abs(track - np.roll(expected, 1, axis=1)).max() > 0.1  # the control


def test_sound_that_ends_early_through_the_bundle(imported: Imported) -> None:
    """6.5 s of sound in 10 s: the recorded log-mel, padded after the logarithm, embedded in plain torch."""
    recorded, weights = load_file(GOLDEN / "frontend_expected.safetensors"), imported.weights
    pcm = recorded["pig_pcm16"].numpy().astype(np.float32) / 32768
    samples = np.pad(pcm, (0, 160_000 - len(pcm)))[None]
    width = imported.bundle.manifest.network["window_frames"]
    log_mel = (recorded["pig_log_mel"] + 5.081) / 4.4849
    windows = torch.stack([log_mel[first : first + width].T for first in window_starts(window_frames=width)])
    expected = unit(embed(weights, windows.unsqueeze(1), "audio", heads=4))
    session, _ = open_graphs(imported.bundle.path)
    inputs = {"samples": samples, "lengths": np.array([160_000])}
    track = session.run(None, inputs | {"heard": np.array([len(pcm)])})[0][0]
    assert np.abs(track - expected).max() < 1e-4
    assert np.abs(session.run(None, inputs | {"heard": np.array([160_000])})[0][0] - expected).max() > 0.1


def test_recorded_pictures_through_the_bundle(imported: Imported, tmp_path: Path) -> None:
    recorded = imported.recorded["video_frames"]
    pictures = recorded[[number % len(recorded) for number in range(16)]]
    track = run_from_patches(imported.bundle.video_graph, pictures.numpy(), tmp_path)[0]
    expected = unit(embed(imported.weights, pictures, "video", heads=4))
    assert track.shape == expected.shape == (16, 48)
    assert np.abs(track - expected).max() < 1e-4


def test_the_bundle_holds_its_golden_clip_and_where_it_comes_from(imported: Imported) -> None:
    manifest, golden = imported.bundle.manifest, imported.bundle.golden()
    assert max(manifest.agreement.values()) < 1e-5
    (clip,) = make_clips(Tgdp(TINY), 1)
    assert np.array_equal(golden.samples, clip.samples)
    assert np.array_equal(golden.frames, clip.frames)
    found = graph_tracks(*open_graphs(imported.bundle.path), clip)
    assert np.abs(found.audio - golden.audio_track).max() < 1e-5
    assert np.abs(found.video - golden.video_track).max() < 1e-5
    assert manifest.training["golden_clip"] == "synthetic"
    assert manifest.training["imported"] == {
        "file": imported.source.name,
        "bytes": imported.source.stat().st_size,
        "sha256": hashlib.sha256(imported.source.read_bytes()).hexdigest(),
        "kind": manifest.name,
        "license": "BSD-2-Clause",
        "decoder": "imported",
        "contrastive_heads": "none",
    }
    assert Tgdp(TgdpConfig(**manifest.network)).config.num_heads == 4


def tiny_weights(*, head_depth: int = 0) -> dict[str, Tensor]:
    """A TG-DP of one block under its released names."""
    torch.manual_seed(0)
    config = TgdpConfig(**{**TINY.to_json(), "head_depth": head_depth})
    state = Tgdp(config).state_dict()
    counts = Counts(depth=1, head_depth=head_depth, decoder_depth=1, has_cls=True, has_registers=True)
    weights = {theirs: state[ours].clone() for ours, theirs in published_names(counts).items()}
    weights["register_tokens"] = torch.cat([state["registers.audio"][0], state["registers.video"][0]])
    return {name: t.unsqueeze(0) if "pos_embed" in name else t for name, t in weights.items()}


@dataclass
class Exported:
    network: Tgdp
    output: Path
    name: str
    clips: list[Clip]
    training: dict[str, Any]


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Exported]:
    """What would have been exported: the graphs of the tests above are real, these would only take time."""
    exported: list[Exported] = []

    def record(
        network: Tgdp, output: Path, *, name: str, clips: list[Clip], training: dict[str, Any], on_step: Any
    ) -> Bundle:
        exported.append(Exported(network, output, name, clips, training))
        return load_bundle(starter_path())

    monkeypatch.setattr(export_command, "export_bundle", record)
    return exported


def test_real_clips_and_parts_left_out_by_name(exports: list[Exported], tmp_path: Path) -> None:
    write_scene(tmp_path, sample_scene(3, "demo", 0), separate_fraction=0)
    (tmp_path / "broken.mp4").write_text("not media")
    encoder = {
        name: t for name, t in tiny_weights(head_depth=2).items() if not name.startswith(("decoder_", "mask"))
    }
    save_file(encoder, tmp_path / "weights.safetensors")
    run(
        tmp_path / "weights.safetensors", "--kind", "cavmae-sync", "--output", tmp_path / "bundle", "--heads", "2",
        "--without-decoder", "--without-contrastive-heads", "--name", "mine", "--media", tmp_path,
    )  # fmt: skip
    (exported,) = exports
    assert (exported.output, exported.name) == (tmp_path / "bundle", "mine")
    assert (exported.network.config.head_depth, exported.network.config.decoder_depth) == (0, 0)
    (clip,) = exported.clips
    assert np.array_equal(clip.frames, decode_clip(tmp_path / "0000.mp4", ClipSpec()).frames)
    assert exported.training["golden_clip"] == "the first of the given media"
    imported = exported.training["imported"]
    assert (imported["decoder"], imported["contrastive_heads"]) == ("left out", "left out")


def test_names_with_brackets_are_shown_as_they_are(exports: list[Exported], tmp_path: Path) -> None:
    """Square brackets are markup of the terminal: `[bold]` would be left out, and `[/]` end the command."""
    folder = tmp_path / "ä [bold]" / "["
    folder.mkdir(parents=True)
    save_file(tiny_weights(), tmp_path / "模型 [bold].safetensors")
    said = run(
        tmp_path / "模型 [bold].safetensors", "--kind", "tgdp", "--heads", "2", "--decoder-heads", "2",
        "--output", folder / "]",
    )  # fmt: skip
    assert f" in {folder / ']'}, " in said
    assert exports[0].training["imported"]["file"] == "模型 [bold].safetensors"
    assert said.count("\n") == 2  # one line each, however narrow the terminal


def test_contrastive_heads_are_embedded_through_unless_left_out(
    exports: list[Exported], tmp_path: Path
) -> None:
    save_file(tiny_weights(head_depth=2), tmp_path / "weights.safetensors")
    options = ["--kind", "tgdp", "--heads", "2", "--decoder-heads", "2"]
    run(tmp_path / "weights.safetensors", *options, "--output", tmp_path / "bundle")
    (exported,) = exports
    assert exported.network.config == dataclasses.replace(TINY, head_depth=2)
    assert exported.training["imported"]["contrastive_heads"] == "part of the embedding"
    assert len(exported.clips) == 4


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_what_cannot_be_imported_is_said_and_code_2(tmp_path: Path) -> None:
    weights = tiny_weights()
    torch.save(weights | {"extra": Malicious(tmp_path / "victim")}, tmp_path / "malicious.pth")
    torch.save(
        {n: t for n, t in weights.items() if n != "norm_a.bias"} | {"x": torch.ones(1)},
        tmp_path / "wrong.pth",
    )
    for name, message in (
        ("malicious.pth", "is refused: it asks for posix.mkdir, and only tensors are read"),
        ("wrong.pth", "missing (1): norm_a.bias\nunexpected (1): x"),
        ("wrong.pth", "give it at width 16 (--heads) and in a decoder of width 8 (--decoder-heads)"),
        ("nothing.pth", "cannot be read as a file of torch.save"),
    ):
        assert message in run(tmp_path / name, "--kind", "tgdp", "--output", tmp_path / "bundle", code=2)
    assert not (tmp_path / "victim").exists()
    assert not (tmp_path / "bundle").exists()
    save_file(weights, tmp_path / "right.safetensors")
    options = ["--kind", "tgdp", "--heads", "2", "--decoder-heads", "2", "--output", tmp_path]
    assert "a bundle never changes, choose another folder" in run(
        tmp_path / "right.safetensors", *options, code=2
    )
    assert get_args(PublishedKind) == ("tgdp", "cavmae-sync", "cavmae")
    assert "'vit' is not one of" in run(tmp_path / "wrong.pth", "--kind", "vit", "--output", tmp_path, code=2)
