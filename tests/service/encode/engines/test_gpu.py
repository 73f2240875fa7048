"""A GPU itself, where there is one: every precision agrees, in every batch size, with launches replayed or not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.bundle.bundle import Bundle, Golden, cosines, load_bundle
from models.bundle.conversion import convert_bundle
from models.inference import onnxruntime
from models.media.clip import decode_clip
from service.encode.choice import load_graphs
from service.encode.encoder import Encoder
from service.encode.engines.candidates import Candidate, open_candidate
from service.encode.engines.contract import EncoderFailure, EngineOptions
from service.encode.engines.hardware import has_cuda_driver
from service.encode.engines.onnx_cuda import BUCKETS, CUDA, OnnxCudaEngine
from training.corpus.synthesis import write_corpus

TURNED = {"fp32": 1e-6, "tf32": 1e-4, "fp16": 1e-4}
"""Most of 1 - cosine to the recorded tracks."""

pytestmark = [pytest.mark.needs_gpu, pytest.mark.usefixtures("cuda")]


@pytest.fixture(scope="module")
def cuda() -> None:
    """Skip without a CUDA device, fail where REQUIRE_GPU=1."""
    has_cuda = CUDA in onnxruntime.get_available_providers() and has_cuda_driver()
    if not has_cuda and os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail("REQUIRE_GPU=1 and no CUDA device was found")
    if not has_cuda:
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module")
def bundle(cuda: None, bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The starter with its float16 variant beside it."""
    folder = tmp_path_factory.mktemp("variants")
    shutil.copytree(bundle_path, folder / "starter")
    found = load_bundle(folder / "starter")
    write_corpus(folder / "media", num_scenes=8, seed=3, split="demo", separate_fraction=0)
    clips = [decode_clip(path, found.manifest.clip_spec) for path in sorted((folder / "media").glob("*.mp4"))]
    convert_bundle(found, "fp16", clips)
    return found


@pytest.fixture(scope="module")
def golden(bundle: Bundle) -> Golden:
    return bundle.golden()


def open_engine(bundle: Bundle, precision: str, options: EngineOptions | None = None) -> OnnxCudaEngine:
    candidate = Candidate(engine="onnxruntime-cuda", precision=precision)  # type: ignore[arg-type]
    options = options or EngineOptions(num_threads=1)
    engine = open_candidate(candidate, load_graphs(bundle, candidate), options)
    assert isinstance(engine, OnnxCudaEngine)
    return engine


def furthest(engine: OnnxCudaEngine, golden: Golden, num_rows: int) -> float:
    """Most of 1 - cosine to the recorded tracks, in a batch of the golden clip alone."""
    lengths = np.full(num_rows, len(golden.samples), np.int64)
    found = {
        "audio": engine.run_audio(np.repeat(golden.samples[None], num_rows, axis=0), lengths),
        "video": engine.run_video(np.repeat(golden.frames[None], num_rows, axis=0)),
    }
    expected = {
        "audio": np.repeat(golden.audio_track[None], num_rows, axis=0),
        "video": np.repeat(golden.video_track[None], num_rows, axis=0),
    }
    return float((1 - cosines(expected, found)).max())


def test_auto_takes_the_fastest_that_agrees_and_reproduces_the_golden_tracks(bundle: Bundle) -> None:
    encoder = Encoder(bundle, device="auto", precision="auto")
    assert encoder.provider == CUDA
    assert str(encoder.choice.candidate) == "onnxruntime-cuda fp16"
    encoder.check_golden()


@pytest.mark.parametrize("precision", TURNED)
def test_a_precision_agrees_in_every_batch_size(bundle: Bundle, golden: Golden, precision: str) -> None:
    engine = open_engine(bundle, precision)
    for num_rows in (*BUCKETS, 3, BUCKETS[-1] + 1):
        assert furthest(engine, golden, num_rows) < TURNED[precision]


@pytest.mark.parametrize("precision", TURNED)
def test_replayed_launches_give_the_same(bundle: Bundle, golden: Golden, precision: str) -> None:
    engine = open_engine(bundle, precision, EngineOptions(num_threads=1, cuda_graphs=True))
    for num_rows in (1, 2, 1, 2, 3):  # captured, captured, replayed, replayed, another size
        assert furthest(engine, golden, num_rows) < TURNED[precision]


def test_a_batch_that_does_not_fit_is_halved(bundle: Bundle, golden: Golden) -> None:
    """The limit holds one segment and at most twice that, so sixteen cannot fit."""
    for megabytes in (2**power for power in range(6, 14)):
        options = EngineOptions(num_threads=1, gpu_memory_bytes=megabytes << 20)
        try:
            engine = open_engine(bundle, "fp32", options)
            furthest(engine, golden, 1)
        except EncoderFailure:  # too little for the weights or for one segment: the next is twice as much
            continue
        assert furthest(engine, golden, BUCKETS[-1]) < TURNED["fp32"]
        assert engine._video.max_rows < BUCKETS[-1]
        return
    pytest.fail("8 GiB do not hold one segment of the starter")
