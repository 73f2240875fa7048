"""Which candidate serves: tried in order, measured once, refused with its figures, passed over with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.bundle.bundle import Agreement, Bundle, load_bundle
from service.encode import choice as precision
from service.encode.agreement import AgreementStore
from service.encode.choice import open_fastest
from service.encode.encoder import Encoder
from service.encode.engines.candidates import Candidate
from service.encode.engines.contract import (
    DeviceMissing,
    EncoderFailure,
    EngineMissing,
    EngineOptions,
    Graphs,
    PrecisionRefused,
)

OPTIONS = EngineOptions(num_threads=1)
FP16 = Candidate(engine="onnxruntime-cuda", precision="fp16")
TF32 = Candidate(engine="onnxruntime-cuda", precision="tf32")
BF16 = Candidate(engine="openvino", precision="bf16")
FP32 = Candidate(engine="onnxruntime", precision="fp32")
GOOD = Agreement(
    cosine_mean=0.99999,
    cosine_min=0.9999,
    neighbours=1.0,
    stressed_mean=0.9999,
    stressed_min=0.999,
    num_embeddings=256,
    clips="8 clips",
)
BAD = Agreement(**{**vars(GOOD), "stressed_min": 0.5})


class FakeEngine:
    """An engine by name only."""

    max_batch = 1

    def __init__(self, candidate: Candidate) -> None:
        self.provider = f"fake {candidate}"


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> Machine:
    return Machine(monkeypatch, bundle)


class Machine:
    """A machine on which every candidate opens and agrees, but for what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
        self.lacks: dict[Candidate, EncoderFailure] = {}
        self.breaks: dict[Candidate, EncoderFailure] = {}
        self.agreement: dict[Candidate, Agreement] = {}
        self.measured: list[Candidate] = []
        self.opened: list[Candidate] = []
        graphs = Graphs(audio=bundle.audio_graph, video=bundle.video_graph)
        monkeypatch.setattr(precision, "load_graphs", lambda *_: graphs)
        monkeypatch.setattr(precision, "check_hardware", self._check)
        monkeypatch.setattr(precision, "open_candidate", self._open)
        monkeypatch.setattr(precision, "measure_agreement", self._measure)

    def _check(self, candidate: Candidate) -> None:
        if candidate in self.lacks:
            raise self.lacks[candidate]

    def _open(self, candidate: Candidate, *_: object) -> FakeEngine:
        self.opened.append(candidate)
        if candidate in self.breaks:
            raise self.breaks[candidate]
        return FakeEngine(candidate)

    def _measure(self, _: Bundle, candidate: Candidate, __: EngineOptions) -> Agreement:
        self.measured.append(candidate)
        return self.agreement.get(candidate, GOOD)


def test_the_first_that_agrees_serves(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    store = AgreementStore(folder=tmp_path)
    engine, choice = open_fastest(bundle, [BF16, FP32], OPTIONS, store)
    assert engine.provider == "fake openvino bf16"
    assert (choice.candidate, choice.agreement, choice.passed_over) == (BF16, GOOD, ())
    open_fastest(bundle, [BF16, FP32], OPTIONS, store)
    assert machine.measured == [BF16]  # once


def test_float32_is_not_compared_with_itself(machine: Machine, bundle: Bundle) -> None:
    _, choice = open_fastest(bundle, [FP32], OPTIONS, AgreementStore(folder=None))
    assert choice.agreement is None
    assert machine.measured == []


def test_what_is_too_far_off_is_passed_over_with_its_figures(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    machine.agreement[BF16] = BAD
    engine, choice = open_fastest(bundle, [BF16, FP32], OPTIONS, AgreementStore(folder=None))
    assert engine.provider == "fake onnxruntime fp32"
    assert "stressed_min 0.500000 < 0.998" in choice.passed_over[0].reason
    said = caplog.records[-1]
    assert said.levelname == "WARNING"
    assert "the encoder runs on fake onnxruntime fp32" in said.message
    assert (
        "not openvino bf16: openvino bf16 is too far from float32: stressed_min 0.500000 < 0.998"
        in said.message
    )


def test_what_was_asked_for_and_is_too_far_off_is_an_error(machine: Machine, bundle: Bundle) -> None:
    machine.agreement[BF16] = BAD
    with pytest.raises(PrecisionRefused, match=r"stressed_min 0\.500000 < 0\.998; 1 - cosine 1\.0e-05 mean"):
        open_fastest(bundle, [BF16], OPTIONS, AgreementStore(folder=None))


def test_what_is_not_there_is_passed_over_quietly(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    machine.lacks[BF16] = EngineMissing("not installed")
    with caplog.at_level("INFO"):
        _, choice = open_fastest(bundle, [BF16, FP32], OPTIONS, AgreementStore(folder=None))
    assert [(r.levelname, r.message) for r in caplog.records] == [
        (
            "INFO",
            "the encoder runs on fake onnxruntime fp32: onnxruntime fp32; not openvino bf16: not installed",
        )
    ]
    assert choice.to_json()["passed_over"] == [{"candidate": "openvino bf16", "reason": "not installed"}]


def test_what_is_there_and_breaks_is_a_warning(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    machine.breaks[BF16] = EncoderFailure("it broke")
    open_fastest(bundle, [BF16, FP32], OPTIONS, AgreementStore(folder=None))
    assert [(r.levelname, "not openvino bf16: it broke" in r.message) for r in caplog.records] == [
        ("WARNING", True)
    ]
    assert machine.measured == []  # minutes of measuring come after opening


def test_a_device_that_is_missing_is_tried_once(machine: Machine, bundle: Bundle) -> None:
    machine.breaks = dict.fromkeys((FP16, TF32), DeviceMissing("asked for CUDA, got the CPU"))
    _, choice = open_fastest(bundle, [FP16, TF32, FP32], OPTIONS, AgreementStore(folder=None))
    assert machine.opened == [FP16, FP32]
    assert [passed.candidate for passed in choice.passed_over] == [FP16]


def test_the_last_error_is_the_one_that_is_raised(machine: Machine, bundle: Bundle) -> None:
    machine.lacks = {FP16: EngineMissing("no fp16 graphs"), TF32: DeviceMissing("no CUDA device was found")}
    with pytest.raises(DeviceMissing, match="no CUDA device was found"):
        open_fastest(bundle, [FP16, TF32], OPTIONS, AgreementStore(folder=None))


def test_a_damaged_variant_is_passed_over(bundle_path: Path, tmp_path: Path) -> None:
    import shutil

    bundle = load_bundle(Path(shutil.copytree(bundle_path, tmp_path / "mine")))
    (tmp_path / "mine.int8").mkdir()
    int8 = Candidate(engine="onnxruntime", precision="int8")
    _, choice = open_fastest(bundle, [int8, FP32], OPTIONS, AgreementStore(folder=None))
    assert not choice.passed_over[0].was_expected
    assert "variant.json cannot be read" in choice.passed_over[0].reason


def test_auto_serves_on_this_machine(bundle: Bundle, tmp_path: Path) -> None:
    encoder = Encoder(bundle, device="cpu", precision="auto", agreement=tmp_path)
    assert np.isfinite(encoder.check_golden())
    if encoder.choice.agreement is not None:
        assert not encoder.choice.agreement.shortfalls()
        assert encoder.choice.agreement.num_embeddings == 2 * 8 * 16
        assert list(tmp_path.rglob("*.json"))
