"""Sound that ends before its segment: what a graph of two lengths gives, and where those of one get the second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.bundle.bundle import load_bundle, starter_path
from models.bundle.lengths import split_lengths
from models.inference import onnxruntime
from models.network.frontend import LogMel
from tests.support.bundles import copy_starter, join_lengths


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter as a bundle of format 1."""
    return join_lengths(copy_starter(tmp_path_factory.mktemp("old") / "bundle"))


def test_a_graph_of_one_length_becomes_the_shipped_one(old: Path, tmp_path: Path) -> None:
    assert [given.name for given in onnx.load(old / "audio.onnx").graph.input] == ["samples", "lengths"]
    split_lengths(old / "audio.onnx", tmp_path / "audio.onnx")
    assert onnx.load(tmp_path / "audio.onnx") == onnx.load(starter_path() / "audio.onnx")
    with pytest.raises(ValueError, match="reads two lengths already"):
        split_lengths(tmp_path / "audio.onnx", tmp_path / "again.onnx")


def test_silence_after_the_sound_is_padding_after_the_logarithm(tmp_path: Path) -> None:
    """What follows the log-mel of the shipped graph, run on the log-mel of the sound alone, padded plainly."""
    bundle = load_bundle(starter_path())
    samples = np.zeros((1, 160_000), np.float32)
    samples[0, :70_000] = bundle.golden().samples[:70_000]
    log_mel = np.full((1, 1024, 128), 5.081 / 4.4849, np.float32)
    heard_frames = (70_000 - 400) // 160 + 1
    alone = LogMel()(torch.from_numpy(samples[:, :70_000]), torch.tensor([70_000]))
    log_mel[:, :heard_frames] = alone[:, :heard_frames].numpy()
    graph = onnx.load(bundle.audio_graph).graph
    spread = next(
        node.output[0] for node in graph.node if "Div" in node.op_type and node.input[1] == "val_95"
    )
    onnx.utils.extract_model(bundle.audio_graph, tmp_path / "rest.onnx", [spread, "lengths"], ["tracks"])
    length = {"lengths": np.array([160_000])}
    expected = open_graph(tmp_path / "rest.onnx").run(None, {spread: log_mel, **length})[0]
    found = open_graph(bundle.audio_graph)
    inputs = {"samples": samples, **length}
    assert np.abs(found.run(None, inputs | {"heard": np.array([70_000])})[0] - expected).max() < 1e-4
    assert np.abs(found.run(None, inputs | {"heard": np.array([160_000])})[0] - expected).max() > 0.05


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
