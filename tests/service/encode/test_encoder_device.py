"""What serves where: a GPU that is there, one that is missing, and one whose libraries are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.bundle.bundle import load_bundle
from models.inference import onnxruntime
from service.encode.encoder import Encoder
from service.encode.engines import candidates as choice
from service.encode.engines.candidates import Candidate
from service.encode.engines.contract import DeviceMissing, EngineMissing
from service.encode.engines.hardware import has_cuda_driver
from service.encode.engines.onnx_cpu import CPU
from service.encode.engines.onnx_cuda import CUDA

ON_CUDA = Candidate(engine="onnxruntime-cuda", precision="fp32")
ON_CPU = Candidate(engine="onnxruntime", precision="fp32")


@pytest.fixture(autouse=True)
def two_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "RANKING", (ON_CUDA, ON_CPU))


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "has_cuda_driver", lambda: False)


@pytest.fixture
def broken_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a driver, and let loading the libraries say that they are missing, as it does."""
    if has_cuda_driver():
        pytest.skip("CUDA may work here")
    monkeypatch.setattr(choice, "has_cuda_driver", lambda: True)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))  # noqa: T201


@pytest.mark.usefixtures("no_driver")
def test_auto_takes_the_cpu_where_there_is_no_gpu(
    bundle_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="service.encode.choice"):
        encoder = Encoder(load_bundle(bundle_path), device="auto")
    assert encoder.provider == CPU
    assert [(r.levelname, r.message) for r in caplog.records] == [
        (
            "INFO",
            f"the encoder runs on {CPU}: onnxruntime fp32; not onnxruntime-cuda fp32: no CUDA device was found",
        )
    ]


@pytest.mark.usefixtures("no_driver")
def test_cuda_that_is_missing_is_an_error(bundle_path: Path) -> None:
    with pytest.raises(DeviceMissing, match="no CUDA device was found"):
        Encoder(load_bundle(bundle_path), device="cuda")


@pytest.mark.usefixtures("broken_cuda")
def test_auto_takes_the_cpu_where_cuda_does_not_work(
    bundle_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder(load_bundle(bundle_path), device="auto")
    assert encoder.provider == CPU
    assert encoder.check_golden() <= 1e-4
    assert [(r.levelname, CUDA in r.message, CPU in r.message) for r in caplog.records] == [
        ("WARNING", True, True)
    ]
    assert capsys.readouterr().out == ""  # `--json` promises that nothing else is there


@pytest.mark.usefixtures("broken_cuda")
def test_cuda_that_does_not_work_is_an_error(bundle_path: Path) -> None:
    said = r"asked for CUDAExecutionProvider, ONNX Runtime gave CPUExecutionProvider: pip install .*\[cuda,cudnn\]"
    with pytest.raises(DeviceMissing, match=said):
        Encoder(load_bundle(bundle_path), device="cuda")


def test_a_build_without_cuda_is_an_error(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(DeviceMissing, match=r"no CUDA: pip install onnxruntime-gpu"):
        Encoder(load_bundle(bundle_path), device="cuda")


def test_tensorrt_is_for_a_gpu(bundle_path: Path) -> None:
    with pytest.raises(EngineMissing, match="no engine has device cpu, precision auto, TensorRT; there are"):
        Encoder(load_bundle(bundle_path), device="cpu", precision="auto", tensorrt=True)
