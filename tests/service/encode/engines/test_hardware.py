"""What the machine says of itself: the processor's instructions and name, and the GPU's, if there is one."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from models.bundle.bundle import Agreement, load_bundle, starter_path
from service.encode import agreement
from service.encode.agreement import AgreementKey, AgreementStore
from service.encode.engines import hardware
from service.encode.engines.candidates import Candidate
from service.encode.engines.hardware import gpu_name, has_cuda_driver

NO_DEVICE = 100


class Driver:
    """CUDA's driver; each call answers with a code, 0 for success."""

    def __init__(self, *, start: int = 0, device: int = 0, name: int = 0) -> None:
        self.cuInit = lambda flags: start
        self.cuDeviceGet = lambda handle, number: device
        self._name = name

    def cuDeviceGetName(self, text: Any, size: int, device: Any) -> int:  # noqa: N802 - the driver's name
        text.value = b"Some GPU 200"
        return self._name


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (Driver(), "Some GPU 200"),
        (Driver(name=1), "unnamed GPU"),
        (Driver(device=NO_DEVICE), None),
        (Driver(start=NO_DEVICE), None),
    ],
)
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, driver: Driver, expected: str | None) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert gpu_name() == expected
    assert has_cuda_driver() == (expected is not None)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert gpu_name() is None
    assert not has_cuda_driver()


def test_agreement_on_a_gpu_holds_for_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "gpu_name", lambda: "Some GPU 200")
    bundle = load_bundle(starter_path())
    on_gpu = AgreementKey.of(bundle, Candidate(engine="onnxruntime-cuda", precision="fp16"))
    on_processor = AgreementKey.of(bundle, Candidate(engine="onnxruntime", precision="int8"))
    assert on_gpu.processor == "Some GPU 200"
    assert on_processor.processor != on_gpu.processor
    assert on_gpu.instructions == ""


def test_agreement_on_a_processor_holds_for_its_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual machine hides some of them, and keeps the name of the processor."""
    bundle, int8 = load_bundle(starter_path()), Candidate(engine="onnxruntime", precision="int8")
    store = AgreementStore(folder=tmp_path)
    figures = Agreement(
        cosine_mean=1,
        cosine_min=1,
        neighbours=1,
        stressed_mean=1,
        stressed_min=1,
        num_embeddings=256,
        clips="",
    )
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(CPU_INFO.format(flags="avx2 avx512f avx512_vnni"))
    store.save(bundle, int8, figures)
    assert store.load(bundle, int8) == figures
    for flags in ("avx2 avx512f", "avx2", "avx2 avx_vnni"):
        (tmp_path / "cpuinfo").write_text(CPU_INFO.format(flags=flags))
        assert AgreementKey.of(bundle, int8).instructions == flags
        assert store.load(bundle, int8) is None


CPU_INFO = """processor\t: 0
model name\t: A processor
cpu family\t: 6
model\t\t: 143
stepping\t: 8
flags\t\t: fpu {flags}

processor\t: 1
flags\t\t: fpu
"""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx512f avx512_fp16", False)],
)
def test_bfloat16_is_read_from_the_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(CPU_INFO.format(flags=flags))
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    assert hardware.has_bf16() is expected
    assert hardware.processor_name() == "A processor (6/143/8)"
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "missing")
    assert not hardware.has_bf16()
    assert hardware.processor_name() == "unknown processor (?/?/?)"
