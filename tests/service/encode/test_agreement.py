"""Agreement measured where a bundle is served: the clips, the figures, and the records of them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import (
    AUDIO_GRAPH,
    VARIANT,
    VIDEO_GRAPH,
    Agreement,
    Bundle,
    describe_file,
    load_bundle,
)
from service.encode import agreement as agreement_module
from service.encode.agreement import AgreementStore, ProbeClips, golden_views, measure_agreement
from service.encode.engines.candidates import Candidate
from service.encode.engines.contract import EngineOptions, Graphs

BF16 = Candidate(engine="openvino", precision="bf16")
INT8 = Candidate(engine="onnxruntime", precision="int8")
FIGURES = Agreement(
    cosine_mean=0.99999,
    cosine_min=0.9999,
    neighbours=1.0,
    stressed_mean=0.9999,
    stressed_min=0.999,
    num_embeddings=256,
    clips="8 clips",
)


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(bundle_path, tmp_path / "mine")))


def test_a_record_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    store = AgreementStore(folder=tmp_path / "agreement")
    assert store.load(bundle, BF16) is None
    store.save(bundle, BF16, FIGURES)
    assert store.load(bundle, BF16) == FIGURES
    assert store.load(bundle, INT8) is None
    files = [path.name for path in (tmp_path / "agreement" / bundle.bundle_id).iterdir()]
    assert files == ["openvino-bf16.json"]  # nothing half written is left beside it


@pytest.mark.parametrize("changed", ["version", "processor", "instructions", "bundle_id", "measure"])
def test_a_record_of_something_else_does_not_count(bundle: Bundle, tmp_path: Path, changed: str) -> None:
    store = AgreementStore(folder=tmp_path)
    store.save(bundle, BF16, FIGURES)
    file = tmp_path / bundle.bundle_id / "openvino-bf16.json"
    record = json.loads(file.read_text())
    record["key"][changed] = "another"
    file.write_text(json.dumps(record))
    assert store.load(bundle, BF16) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 1', "\x00", "[" * 200_000])
def test_a_damaged_record_does_not_count(
    bundle: Bundle, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = AgreementStore(folder=tmp_path)
    store.save(bundle, BF16, FIGURES)
    (tmp_path / bundle.bundle_id / "openvino-bf16.json").write_text(content)
    assert store.load(bundle, BF16) is None
    assert "is measured again" in caplog.text


@pytest.mark.parametrize("figure", [None, "0.9999", [1.0]])
def test_a_record_with_a_figure_that_is_no_number_does_not_count(
    bundle: Bundle, tmp_path: Path, figure: object, caplog: pytest.LogCaptureFixture
) -> None:
    store = AgreementStore(folder=tmp_path)
    store.save(bundle, BF16, FIGURES)
    file = tmp_path / bundle.bundle_id / "openvino-bf16.json"
    record = json.loads(file.read_text())
    record["agreement"]["cosine_mean"] = figure
    file.write_text(json.dumps(record))
    assert store.load(bundle, BF16) is None
    assert "cosine_mean must be a number" in caplog.text


def test_nothing_is_left_of_a_record_that_could_not_be_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def find_the_disk_full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", find_the_disk_full)
    AgreementStore(folder=tmp_path / "agreement").save(bundle, BF16, FIGURES)
    assert "cannot be written: [Errno 28]" in caplog.text
    assert list((tmp_path / "agreement" / bundle.bundle_id).iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_warning(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    AgreementStore(folder=tmp_path / "file").save(bundle, BF16, FIGURES)
    assert "cannot be written" in caplog.text
    AgreementStore(folder=None).save(bundle, BF16, FIGURES)
    assert AgreementStore(folder=None).load(bundle, BF16) is None


def test_views_are_eight_different_clips(bundle: Bundle) -> None:
    golden, views = bundle.golden(), golden_views(bundle)
    assert len(views.samples) == len(views.frames) == 8
    np.testing.assert_array_equal(views.samples[0], golden.samples)
    np.testing.assert_array_equal(views.frames[0], golden.frames)
    for samples, frames in zip(views.samples, views.frames, strict=True):
        assert (samples.shape, samples.dtype) == (golden.samples.shape, np.float32)
        assert (frames.shape, frames.dtype) == (golden.frames.shape, np.uint8)
    for one in range(8):
        for other in range(one):
            assert np.abs(views.samples[one] - views.samples[other]).max() > 1e-3
            assert np.mean(views.frames[one] != views.frames[other]) > 0.05


class BlurredEngine:
    """float32 of the bundle with noise on its embeddings, more of it where the graph has outliers."""

    max_batch = 1
    provider = "blurred"
    opened: list[Path]

    def __init__(self, graphs: Graphs, bundle: Bundle) -> None:
        self.noise = 0.001 if graphs.audio.parent == bundle.path else 0.1
        self.rng = np.random.default_rng(0)
        self.tracks = bundle.golden()

    def _blur(self, track: NDArray[np.float32]) -> NDArray[np.float32]:
        return (track + self.noise * self.rng.standard_normal(track.shape)).astype(np.float32)[None]

    def run_audio(
        self, samples: NDArray[np.float32], lengths: NDArray[np.int64], heard: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        return self._blur(np.roll(self.tracks.audio_track, int(1e4 * np.abs(samples).mean()), axis=1))

    def run_video(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._blur(np.roll(self.tracks.video_track, int(frames[:, ::7].mean() * 10), axis=1))


def test_plain_and_stressed_graphs_are_told_apart(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Candidate, Path]] = []

    def open_blurred(candidate: Candidate, graphs: Graphs, _: EngineOptions) -> BlurredEngine:
        assert graphs.audio.is_file()
        assert graphs.video.is_file()
        opened.append((candidate, graphs.audio.parent))
        engine = BlurredEngine(graphs, bundle)
        engine.noise *= candidate == BF16
        return engine

    monkeypatch.setattr(agreement_module, "open_candidate", open_blurred)
    figures = measure_agreement(bundle, BF16, EngineOptions(num_threads=1))
    assert [str(candidate) for candidate, _ in opened] == [
        "onnxruntime fp32",
        "openvino bf16",
        "openvino bf16",
    ]
    assert [folder == bundle.path for _, folder in opened] == [True, True, False]
    assert not opened[2][1].exists()
    assert 0.9995 < figures.cosine_min < 1
    assert figures.stressed_mean < 0.9
    assert (figures.num_embeddings, figures.clips) == (256, "8 views of the golden clip")


def test_float32_agrees_with_itself_under_stress(bundle: Bundle) -> None:
    golden = bundle.golden()
    clips = ProbeClips(
        samples=[golden.samples[:40_000], golden.samples[40_000:90_000]],
        frames=[golden.frames, 255 - golden.frames],
        description="two clips",
    )
    candidate = Candidate(engine="onnxruntime", precision="fp32")
    figures = measure_agreement(bundle, candidate, EngineOptions(num_threads=1), clips=clips)
    assert figures.stressed_min > 1 - 1e-6
    assert (figures.neighbours, figures.clips) == (1.0, "two clips")


def test_a_variant_brings_the_stress_of_its_making(bundle: Bundle) -> None:
    folder = Path(shutil.copytree(bundle.path, bundle.path.with_name("mine.int8")))
    fields = {
        "bundle_id": bundle.bundle_id,
        "precision": "int8",
        "agreement": vars(replace(FIGURES, stressed_min=0.9987, stressed_mean=0.9996)),
        "files": {name: describe_file(folder / name) for name in (AUDIO_GRAPH, VIDEO_GRAPH)},
    }
    (folder / VARIANT).write_text(json.dumps(fields))
    figures = measure_agreement(bundle, INT8, EngineOptions(num_threads=1))
    assert (figures.stressed_mean, figures.stressed_min) == (0.9996, 0.9987)
    assert figures.cosine_min > 1 - 1e-9  # this variant holds float32 after all
