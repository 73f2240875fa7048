"""A machine whose driver is there and whose CUDA libraries are not, as after the base install."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from models.bundle import load_bundle
from service import encoder as encoder_module
from service.encoder import CPU, CUDA, DeviceMissing, Encoder


@pytest.fixture
def broken_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a driver, and let loading the libraries say that they are missing, as it does."""
    if encoder_module._has_cuda_driver():
        pytest.skip("CUDA may work here")
    monkeypatch.setattr(encoder_module, "_has_cuda_driver", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))  # noqa: T201


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
    with pytest.raises(DeviceMissing, match="asked for CUDAExecutionProvider"):
        Encoder(load_bundle(bundle_path), device="cuda")
