"""Candidates by setting, and what stands in the way of each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.bundle.bundle import load_bundle
from models.inference import onnxruntime
from service.encode.engines import candidates as choice
from service.encode.engines.candidates import (
    RANKING,
    Candidate,
    candidates,
    check_hardware,
    find_variant,
    open_candidate,
)
from service.encode.engines.contract import DeviceMissing, EngineMissing, EngineOptions, Graphs
from service.encode.engines.onnx_cpu import OnnxCpuEngine


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"device": "auto", "precision": "auto"},
            [
                "onnxruntime-cuda fp16",
                "onnxruntime-cuda tf32",
                "onnxruntime-cuda fp32",
                "openvino bf16",
                "openvino fp32",
                "onnxruntime fp32",
            ],
        ),
        ({"device": "cpu", "precision": "auto"}, ["openvino bf16", "openvino fp32", "onnxruntime fp32"]),
        ({"device": "cpu", "precision": "int8"}, ["onnxruntime int8"]),
        ({"device": "auto", "precision": "bf16"}, ["openvino bf16"]),
        ({"device": "auto", "precision": "fp16"}, ["onnxruntime-cuda fp16"]),
        ({"device": "cuda", "precision": "fp32"}, ["onnxruntime-cuda fp32"]),
        ({"device": "auto", "precision": "auto", "tensorrt": True}, ["tensorrt fp16", "tensorrt tf32"]),
    ],
)
def test_settings_allow(settings: dict[str, object], expected: list[str]) -> None:
    assert [str(candidate) for candidate in candidates(**settings)] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "cuda", "precision": "bf16"}, "no engine has device cuda, precision bf16; there are"),
        ({"device": "cpu", "precision": "fp16"}, "no engine has device cpu, precision fp16"),
        (
            {"device": "cpu", "precision": "auto", "tensorrt": True},
            "no engine has device cpu, precision auto, TensorRT",
        ),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], said: str) -> None:
    with pytest.raises(EngineMissing, match=said):
        candidates(**settings)  # type: ignore[arg-type]


def obstacle(text: str) -> str:
    candidate = next(candidate for candidate in RANKING if str(candidate) == text)
    with pytest.raises(EngineMissing) as caught:
        check_hardware(candidate)
    return str(caught.value)


def test_what_the_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "has_cuda_driver", lambda: False)
    monkeypatch.setattr(choice, "has_bf16", lambda: False)
    assert obstacle("onnxruntime-cuda fp16") == obstacle("tensorrt tf32") == "no CUDA device was found"
    assert obstacle("openvino bf16") == "the processor has neither avx512_bf16 nor amx_bf16"
    monkeypatch.setattr(choice, "has_bf16", lambda: True)
    monkeypatch.setattr(choice, "installed_version", lambda _: None)
    assert obstacle("openvino bf16") == "OpenVINO is not installed: pip install 'foley-av[openvino]'"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceMissing, match="no CUDA: pip install onnxruntime-gpu"):
        check_hardware(Candidate(engine="onnxruntime-cuda", precision="tf32"))
    check_hardware(Candidate(engine="onnxruntime", precision="fp32"))


def test_a_precision_without_graphs_says_how_to_make_them(bundle_path: Path, tmp_path: Path) -> None:
    bundle = load_bundle(Path(shutil.copytree(bundle_path, tmp_path / "mine")))
    with pytest.raises(EngineMissing, match=r"no int8 graphs .*foley-train convert .*mine --precision int8"):
        find_variant(Candidate(engine="onnxruntime", precision="int8"), bundle)
    assert find_variant(Candidate(engine="openvino", precision="bf16"), bundle) is None


def test_the_engine_is_the_one_of_the_candidate(bundle_path: Path) -> None:
    graphs = Graphs(audio=bundle_path / "audio.onnx", video=bundle_path / "video.onnx")
    candidate = Candidate(engine="onnxruntime", precision="fp32")
    assert isinstance(open_candidate(candidate, graphs, EngineOptions(num_threads=1)), OnnxCpuEngine)
    assert candidate.version == onnxruntime.__version__
