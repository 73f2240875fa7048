"""Heads as ONNX: what torch computes, alone and behind the starter's graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle.bundle import load_bundle, sound_inputs, starter_path
from models.bundle.conversion import to_half, to_int8
from models.bundle.joining import join_head, write_head
from models.inference import onnxruntime
from training.adapting.heads import Projection, TrackHead


def arrays_of(head: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: array.detach().numpy() for name, array in head.state_dict().items()}


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def trained_head() -> TrackHead:
    torch.manual_seed(0)
    head = TrackHead(128, 32)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


@pytest.mark.parametrize("head", [trained_head(), Projection(128, 48)], ids=["residual", "projection"])
def test_a_head_is_what_torch_computes(tmp_path: Path, head: torch.nn.Module) -> None:
    write_head(arrays_of(head), tmp_path / "head.onnx")
    rows = torch.nn.functional.normalize(torch.randn(3, 16, 128), dim=-1)
    for scale in (1.0, 7.5):  # rows of any length, as bundles with `dot` give them
        found = open_graph(tmp_path / "head.onnx").run(None, {"rows": (rows * scale).numpy()})[0]
        assert np.abs(found - head(rows).detach().numpy()).max() < 1e-5


def test_a_joined_graph_is_the_head_of_the_encoder(tmp_path: Path) -> None:
    bundle, head = load_bundle(starter_path()), trained_head()
    write_head(arrays_of(head), tmp_path / "head.onnx")
    join_head(bundle.audio_graph, tmp_path / "head.onnx", tmp_path / "audio.onnx")
    golden = bundle.golden()
    session = open_graph(tmp_path / "audio.onnx")
    inputs = sound_inputs(
        [given.name for given in session.get_inputs()], golden.samples[None], np.array([len(golden.samples)])
    )
    found = session.run(["tracks"], inputs)[0][0]
    expected = head(torch.from_numpy(golden.audio_track)).detach().numpy()
    assert np.abs(found - expected).max() < 1e-5
    half = golden.audio_track.astype(np.float16).astype(np.float32)
    stored = head(torch.from_numpy(half)).detach().numpy()
    assert (found * stored).sum(axis=1).min() > 0.999999


@pytest.mark.parametrize(("kind", "least"), [("fp16", 0.99999), ("int8", 0.98), ("openvino", 0.999)])
def test_a_joined_graph_in_other_precisions(tmp_path: Path, kind: str, least: float) -> None:
    """What the joined graph of the picture gives in float16, integers and on OpenVINO is what it gives in float32."""
    bundle, head = load_bundle(starter_path()), trained_head()
    write_head(arrays_of(head), tmp_path / "head.onnx")
    joined, other = tmp_path / "video.onnx", tmp_path / "other.onnx"
    join_head(bundle.video_graph, tmp_path / "head.onnx", joined)
    frames = bundle.golden().frames[None]
    expected = open_graph(joined).run(["tracks"], {"frames": frames})[0][0]
    if kind == "openvino":
        openvino = pytest.importorskip("openvino")
        found = openvino.Core().compile_model(str(joined), "CPU")({"frames": frames})["tracks"][0]
    else:
        (to_half if kind == "fp16" else to_int8)(joined, other)
        found = open_graph(other).run(["tracks"], {"frames": frames})[0][0]
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() > least


def test_arrays_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a head has the arrays of"):
        write_head({"surprise": np.zeros((2, 2), np.float32)}, tmp_path / "head.onnx")
