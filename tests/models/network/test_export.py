from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.bundle.bundle import BrokenBundle, Bundle
from models.inference import onnxruntime
from models.media.clip import Clip, ClipSpec, decode_clip
from models.network import export
from models.network.export import GraphsDisagree, export_bundle
from models.network.geometry import MODALITIES, TgdpConfig
from models.network.published import load_tgdp
from models.network.tgdp import Tgdp
from tests.support.families import golden_imported, shallow_weights
from tests.support.paths import REPOSITORY
from training.corpus.synthesis import write_corpus

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter warns about its own internals


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, num_scenes=2, seed=5, split="demo")
    return [decode_clip(path, ClipSpec()) for path in sorted(folder.glob("*.mp4"))]


@pytest.fixture
def network() -> Tgdp:
    config = TgdpConfig(
        width=48, num_heads=4, depth=2, mlp_ratio=2, decoder_width=32, decoder_depth=2, decoder_heads=4
    )
    return load_tgdp(shallow_weights("tgdp"), config)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of the same weights, as `foley-train import` exports them."""
    return golden_imported(tmp_path_factory, "tgdp")[1]


@pytest.mark.long  # the first makes it
def test_a_bundle_agrees_with_torch(bundle: Bundle) -> None:
    assert max(bundle.manifest.agreement.values()) < 1e-5
    np.testing.assert_allclose(np.linalg.norm(bundle.golden().audio_track, axis=1), 1, atol=1e-5)
    assert sorted(p.name for p in bundle.path.iterdir()) == [
        "audio.onnx",
        "golden.npz",
        "manifest.json",
        "video.onnx",
    ]


def test_a_network_that_embeds_nothing_is_no_bundle(network: Tgdp, clips: list[Clip], tmp_path: Path) -> None:
    for parameter in network.parameters():
        parameter.data.zero_()
    with pytest.raises(ValueError, match="embeddings of length 0, not 1"):
        export_bundle(network, tmp_path / "bundle", name="empty", clips=clips, training={})
    assert list(tmp_path.iterdir()) == []


def test_graphs_take_any_batch_and_any_length(network: Tgdp, bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(bundle.audio_graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch, length in ((1, 100), (1, 160_000), (3, 400), (2, 200_000)):
        samples = rng.normal(size=(batch, length)).astype(np.float32) * 0.1
        lengths = np.linspace(max(1, length // 2), length, batch).astype(np.int64)
        heard = lengths * np.arange(batch, 0, -1) // batch
        tracks = session.run(None, {"samples": samples, "lengths": lengths, "heard": heard})[0]
        with torch.no_grad():
            expected = network.audio_track(*map(torch.from_numpy, (samples, lengths, heard))).numpy()
        assert np.abs(tracks - expected).max() < 1e-4
    session = onnxruntime.InferenceSession(bundle.video_graph, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        frames = rng.integers(0, 256, (batch, 16, 224, 224, 3), np.uint8)
        tracks = session.run(None, {"frames": frames})[0]
        with torch.no_grad():
            expected = network.video_track(torch.from_numpy(frames)).numpy()
        assert np.abs(tracks - expected).max() < 1e-4


def test_graphs_hold_no_trace_of_the_machine_that_made_them(bundle: Bundle) -> None:
    for graph in (bundle.audio_graph, bundle.video_graph):
        content = graph.read_bytes()
        assert str(REPOSITORY).encode() not in content
        assert b"site-packages" not in content
        assert onnx.load(graph).opset_import[0].version == export.OPSET


@pytest.mark.parametrize("modality", MODALITIES)
def test_graphs_that_disagree_are_refused_and_leave_nothing(
    modality: str,
    network: Tgdp,
    bundle: Bundle,
    clips: list[Clip],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Graphs of other weights than those that are compared: a fault of the exporter must not become a bundle."""
    for one in MODALITIES:
        graph: Path = getattr(bundle, f"{one}_graph")
        monkeypatch.setattr(
            export, f"write_{one}_graph", lambda _, path, graph=graph: shutil.copy(graph, path)
        )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if modality in name:
                parameter += 0.1 * torch.randn(parameter.shape)
    with pytest.raises(GraphsDisagree, match=f"{modality} graph differs from torch by"):
        export_bundle(network, tmp_path / "bundle", name="tiny", clips=clips[:1], training={})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_never_written_over(network: Tgdp, bundle: Bundle, clips: list[Clip]) -> None:
    with pytest.raises(FileExistsError, match="a bundle never changes"):
        export_bundle(network, bundle.path, name="tiny", clips=clips, training={})


def test_a_name_that_no_bundle_can_have_is_refused_before_the_work(
    network: Tgdp, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(export, "torch_tracks")
    with pytest.raises(BrokenBundle, match=r"bundle name must be 1 to 64 of A-Z .+, got 'my model'"):
        export_bundle(network, tmp_path / "bundle", name="my model", clips=clips, training={})


def test_a_clip_with_both_modalities_is_needed(network: Tgdp, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one real clip"):
        export_bundle(network, tmp_path / "bundle", name="tiny", clips=[], training={})
