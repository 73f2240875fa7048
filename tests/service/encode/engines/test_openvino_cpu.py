"""OpenVINO against the tracks that torch recorded in the bundle."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from models.bundle.bundle import Golden, load_bundle, starter_path
from service.encode.engines.contract import EngineMissing, EngineOptions, Graphs
from service.encode.engines.hardware import has_bf16
from service.encode.engines.onnx_cpu import OnnxCpuEngine
from service.encode.engines.openvino_cpu import (
    OpenVinoEngine,
    cut_front_end,
    import_openvino,
    open_core,
    replace_sines,
)
from tests.support.bundles import copy_starter, join_lengths

openvino = pytest.importorskip("openvino", reason="needs the extra [openvino]")
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="the processor has neither avx512_bf16 nor amx_bf16")


@pytest.fixture(scope="module")
def graphs(bundle_path: Path) -> Graphs:
    return Graphs(audio=bundle_path / "audio.onnx", video=bundle_path / "video.onnx")


@pytest.fixture(scope="module")
def golden(bundle_path: Path) -> Golden:
    return load_bundle(bundle_path).golden()


@pytest.fixture(scope="module")
def engine(graphs: Graphs) -> OpenVinoEngine:
    return OpenVinoEngine(graphs, EngineOptions(num_threads=1), precision="fp32")


def turned(track: np.ndarray, golden_track: np.ndarray) -> float:
    """Largest 1 - cosine."""
    a, b = track.astype(float), golden_track.astype(float)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(1 - cosine.min())


def test_float32_is_that_of_torch(engine: OpenVinoEngine, golden: Golden) -> None:
    assert engine.provider == "OpenVINO fp32"
    lengths = np.array([len(golden.samples)])
    assert np.abs(engine.run_audio(golden.samples[None], lengths)[0] - golden.audio_track).max() < 1e-5
    assert np.abs(engine.run_video(golden.frames[None])[0] - golden.video_track).max() < 1e-5


def test_rows_of_other_lengths_do_not_matter(engine: OpenVinoEngine, golden: Golden) -> None:
    rows = np.stack([golden.samples, golden.samples[::-1], golden.samples])
    tracks = engine.run_audio(rows, np.array([len(golden.samples), 5_000, 80_000]))
    assert tracks.shape == (3, 16, 128)
    assert np.abs(tracks[0] - golden.audio_track).max() < 1e-5
    alone = engine.run_audio(golden.samples[None, :80_000], np.array([80_000]))
    np.testing.assert_allclose(tracks[2], alone[0], atol=1e-5)


def test_sound_that_ends_early_is_that_of_onnx_runtime(
    engine: OpenVinoEngine, graphs: Graphs, golden: Golden, tmp_path: Path
) -> None:
    lengths, heard = np.array([len(golden.samples)] * 2), np.array([len(golden.samples), 70_000])
    rows = np.stack([golden.samples] * 2)
    tracks = engine.run_audio(rows, lengths, heard)
    expected = OnnxCpuEngine(graphs, EngineOptions(num_threads=1)).run_audio(rows, lengths, heard)
    np.testing.assert_allclose(tracks, expected, atol=1e-5)
    assert turned(tracks[1], tracks[0]) > 0.01

    old = join_lengths(copy_starter(tmp_path / "old"))  # of format 1: its graph knows no end of the sound
    engine = OpenVinoEngine(
        Graphs(audio=old / "audio.onnx", video=graphs.video), EngineOptions(num_threads=1), precision="fp32"
    )
    np.testing.assert_allclose(engine.run_audio(rows, lengths, heard), tracks[:1].repeat(2, 0), atol=1e-5)


def test_an_answer_is_not_overwritten_by_the_next(engine: OpenVinoEngine, golden: Golden) -> None:
    first = engine.run_video(golden.frames[None])
    engine.run_video(255 - golden.frames[None])
    assert np.abs(first[0] - golden.video_track).max() < 1e-5


def test_the_front_end_gives_the_windows(engine: OpenVinoEngine, golden: Golden) -> None:
    lengths = np.array([len(golden.samples)])
    cut = engine.run_front_end(golden.samples[None], lengths)
    assert (11, 1, 128, 416) in [part.shape for part in cut]  # 11 distinct windows of 16
    tracks = engine.run_network(cut, golden.samples[None], lengths)
    assert np.abs(tracks[0] - golden.audio_track).max() < 1e-5


@needs_bf16
def test_bfloat16_turns_less_where_the_front_end_stays_in_float32(
    graphs: Graphs, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.array([len(golden.samples)])
    cut = OpenVinoEngine(graphs, EngineOptions(num_threads=1), precision="bf16")
    assert cut.provider == "OpenVINO bf16"
    assert turned(cut.run_video(golden.frames[None])[0], golden.video_track) < 4e-5
    kept = turned(cut.run_audio(golden.samples[None], lengths)[0], golden.audio_track)
    assert kept < 4e-5

    monkeypatch.setattr("service.encode.engines.openvino_cpu.cut_front_end", lambda model: (None, model))
    whole = OpenVinoEngine(graphs, EngineOptions(num_threads=1), precision="bf16")
    assert not whole.has_front_end
    assert turned(whole.run_audio(golden.samples[None], lengths)[0], golden.audio_track) > 2 * kept


def test_a_graph_without_front_end_is_left_whole(graphs: Graphs) -> None:
    model = openvino.Core().read_model(str(graphs.video))
    front_end, network = cut_front_end(model)
    assert front_end is None
    assert network is model


def test_sines_are_one_loop_with_all_around_them() -> None:
    """What is left of sin² and its sum is right for angles up to thousands, and no step of its own."""
    core = open_core()
    op = import_openvino().opset13
    given = op.parameter([2, -1], np.float32)
    sine = op.sin(op.multiply(given, np.float32(1.5)))
    model = import_openvino().Model([op.add(given, op.multiply(sine, sine)), sine], [given], "snake")
    assert replace_sines(model)
    assert not replace_sines(model)
    model.reshape([2, 10_001])
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    values = np.stack([np.linspace(-5, 5, 10_001), np.linspace(-5000, 5000, 10_001)]).astype(np.float32)
    found = compiled(values)
    angles = (values * np.float32(1.5)).astype(np.float64)
    assert np.abs(found[1] - np.sin(angles)).max() < 1e-6
    assert np.abs(found[0][0] - values[0] - np.sin(angles[0]) ** 2).max() < 2e-6
    kinds = [node.get_rt_info()["execType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    assert not [kind for kind in kinds if kind.startswith("ref")]


def test_a_graph_with_sines_reads_sound_of_any_length(tmp_path: Path) -> None:
    """It is compiled for whole segments; what is added to a row, or to a batch, is not heard."""
    graph = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18]>
        squares (float[B, S] samples, int64[B] heard) => (float[B, 1, 1] tracks)
        <float three = {3}, float zero = {0}, int64 start = {0}, int64 one = {1}, int64 axis = {1}, int64[1] axes = {1},
         int64[3] shape = {-1, 1, 1}> {
            size = Shape <start = 1, end = 2> (samples)
            stop = Squeeze (size)
            places = Range (start, stop, one)
            ends = Unsqueeze (heard, axes)
            is_heard = Less (places, ends)
            angle = Mul (samples, three)
            sine = Sin (angle)
            square = Mul (sine, sine)
            cut = Where (is_heard, square, zero)
            sums = ReduceSum (cut, axes)
            tracks = Reshape (sums, shape)
        }
    """)
    onnx.save(graph, tmp_path / "audio.onnx")
    options = EngineOptions(num_threads=1, segment_samples=100)
    engine = OpenVinoEngine(Graphs(audio=tmp_path / "audio.onnx"), options, precision="fp32")
    rng = np.random.default_rng(0)
    for num_rows, num_samples in ((1, 100), (1, 30), (3, 100), (2, 250), (1, 201)):
        samples = rng.uniform(-2, 2, (num_rows, num_samples)).astype(np.float32)
        heard = rng.integers(1, num_samples + 1, num_rows)
        expected = [
            np.sum(np.sin(3 * row[:end].astype(float)) ** 2) for row, end in zip(samples, heard, strict=True)
        ]
        lengths = np.full(num_rows, num_samples)
        assert np.allclose(engine.run_audio(samples, lengths, heard)[:, 0, 0], expected, rtol=1e-5)


def test_a_package_that_is_missing_is_named(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineMissing, match=r"not installed: pip install 'foley-av\[openvino\]'"):
        OpenVinoEngine(graphs, EngineOptions(num_threads=1), precision="fp32")


AFTER_CLOSING = """
import gc, os, signal, sys, threading
from pathlib import Path

from models.bundle.bundle import load_bundle
from service.encode.encoder import Encoder

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
if sys.argv[2] == "own core":
    from service.encode.engines import openvino_cpu

    openvino_cpu.open_core = lambda: openvino_cpu.import_openvino().Core()
held = [Encoder(load_bundle(Path(sys.argv[1])), device="cpu", precision="fp32", num_threads=1)]
assert "OpenVINO" in held[0].provider
thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def _close_and_signal(core: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AFTER_CLOSING, str(starter_path()), core]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_signal_after_another_thread_closed_an_encoder() -> None:
    done = _close_and_signal("one core")
    assert done.returncode == 0, done.stderr
    assert "handled" in done.stdout


def test_a_core_for_each_engine_would_be_seen() -> None:
    """The control: the stack of the first thread's signal handlers went with the engine."""
    done = _close_and_signal("own core")
    if done.returncode == 0:
        pytest.skip("OpenVINO gives no thread another stack on this kernel")
    assert done.returncode == -signal.SIGSEGV, done.stderr
