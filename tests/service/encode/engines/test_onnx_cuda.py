"""The GPU engine without a GPU: its batch sizes, binding and halving, on the CPU provider and on failing sessions."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle.bundle import Golden, load_bundle
from models.inference import onnxruntime
from service.encode.engines import onnx_cuda
from service.encode.engines.contract import DeviceOutOfMemory, EncoderFailure, EngineOptions, Graphs
from service.encode.engines.onnx_cpu import CPU, open_session, session_options
from service.encode.engines.onnx_cuda import (
    BUCKETS,
    CUDA,
    TENSORRT,
    BoundGraph,
    OnnxCudaEngine,
    bucket_of,
    cuda_options,
    is_out_of_memory,
    tensorrt_options,
)

OUT_OF_MEMORY = RuntimeError(
    "Error: [ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9"
)


@pytest.fixture(scope="module")
def golden(bundle_path: Path) -> Golden:
    return load_bundle(bundle_path).golden()


@pytest.fixture(scope="module")
def session(bundle_path: Path) -> onnxruntime.InferenceSession:
    return open_session(bundle_path / "video.onnx", session_options(1), [CPU])


class FailingSession:
    """A session in which more than `fits` rows are too many."""

    def __init__(
        self, session: onnxruntime.InferenceSession, *, fits: int, error: Exception = OUT_OF_MEMORY
    ) -> None:
        self._session = session
        self.fits = fits
        self.error = error
        self.sizes: list[int] = []
        self.graph_ids: list[str] = []
        self.threads: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        size = binding.get_outputs()[0].shape()[0]
        self.sizes.append(size)
        self.threads.append(threading.current_thread().name)
        with contextlib.suppress(RuntimeError):  # it has none
            self.graph_ids.append(options.get_run_config_entry("gpu_graph_id"))
        if size > self.fits:
            raise self.error
        self._session.run_with_iobinding(binding, options)


def numbered(golden: Golden, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Different pictures for each row."""
    return np.stack([np.roll(golden.frames, 7 * number, axis=1) for number in range(count)])


@pytest.mark.parametrize(("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (16, 16)])
def test_a_batch_takes_the_next_size(num_rows: int, bucket: int) -> None:
    assert bucket_of(num_rows) == bucket


def test_padding_and_binding_change_nothing(session: onnxruntime.InferenceSession, golden: Golden) -> None:
    frames = numbered(golden, 3)
    expected = np.concatenate([session.run(["tracks"], {"frames": row[None]})[0] for row in frames])
    counting = FailingSession(session, fits=16)
    graph = BoundGraph(counting, device="cpu")  # type: ignore[arg-type]
    np.testing.assert_allclose(graph.run({"frames": frames}), expected, atol=1e-6)
    np.testing.assert_allclose(graph.run({"frames": frames[:1]}), expected[:1], atol=1e-6)
    np.testing.assert_allclose(
        graph.run({"frames": frames[::-1]}), expected[::-1], atol=1e-6
    )  # the same buffers
    assert counting.sizes == [4, 1, 4]
    assert len(graph._buffers) == 2


def test_buffers_of_many_shapes_do_not_pile_up(
    session: onnxruntime.InferenceSession, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_cuda, "MAX_SHAPES", 2)
    graph = BoundGraph(session, device="cpu")
    frames = numbered(golden, 4)
    expected = graph.run({"frames": frames})
    for count in (1, 2, 3, 4, 1):
        np.testing.assert_allclose(graph.run({"frames": frames[:count]}), expected[:count], atol=1e-6)
        assert len(graph._buffers) <= 2


def test_what_is_returned_is_not_overwritten(session: onnxruntime.InferenceSession, golden: Golden) -> None:
    graph = BoundGraph(session, device="cpu")
    first = graph.run({"frames": golden.frames[None]})
    kept = first.copy()
    graph.run({"frames": 255 - golden.frames[None]})
    np.testing.assert_array_equal(first, kept)


def test_more_than_the_largest_size_is_several_runs(
    session: onnxruntime.InferenceSession, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_cuda, "BUCKETS", (1, 2))
    counting = FailingSession(session, fits=2)
    tracks = BoundGraph(counting, device="cpu").run({"frames": numbered(golden, 5)})  # type: ignore[arg-type]
    assert tracks.shape == (5, 16, 128)
    assert counting.sizes == [2, 2, 1]


def test_a_batch_that_does_not_fit_is_halved_and_that_is_remembered(
    session: onnxruntime.InferenceSession, golden: Golden, caplog: pytest.LogCaptureFixture
) -> None:
    frames = numbered(golden, 5)
    expected = np.concatenate([session.run(["tracks"], {"frames": row[None]})[0] for row in frames])
    failing = FailingSession(session, fits=2)
    graph = BoundGraph(failing, device="cpu")  # type: ignore[arg-type]
    np.testing.assert_allclose(graph.run({"frames": frames}), expected, atol=1e-6)
    assert failing.sizes == [8, 4, 2, 2, 1]
    failing.sizes.clear()
    np.testing.assert_allclose(graph.run({"frames": frames}), expected, atol=1e-6)
    assert failing.sizes == [2, 2, 1]
    assert [record.message for record in caplog.records] == [
        "5 segments do not fit into the memory of the device, going on with 4 at a time",
        "4 segments do not fit into the memory of the device, going on with 2 at a time",
    ]


def test_one_segment_that_does_not_fit_is_an_error(
    session: onnxruntime.InferenceSession, golden: Golden
) -> None:
    graph = BoundGraph(FailingSession(session, fits=0), device="cpu")  # type: ignore[arg-type]
    with pytest.raises(DeviceOutOfMemory, match="one segment does not fit"):
        graph.run({"frames": golden.frames[None]})


def test_another_failure_is_not_tried_again(session: onnxruntime.InferenceSession, golden: Golden) -> None:
    failing = FailingSession(
        session, fits=0, error=RuntimeError("CUDA failure 700: an illegal memory access")
    )
    with pytest.raises(EncoderFailure, match="ONNX Runtime failed: CUDA failure 700"):
        BoundGraph(failing, device="cpu").run({"frames": numbered(golden, 4)})  # type: ignore[arg-type]
    assert failing.sizes == [4]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "Available memory of 1024 is smaller than requested bytes of 4096",
        "BFCArena: Failed to allocate memory for requested buffer of size 4096",
    ],
)
def test_signs_of_no_memory(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("Got invalid dimensions for input: frames"))


def test_an_id_of_a_captured_graph_is_never_given_twice(
    session: onnxruntime.InferenceSession, golden: Golden
) -> None:
    """After out-of-memory the buffers are others: an id of before would replay a graph over memory that was freed."""
    opened = [FailingSession(session, fits=2)]

    def reopen() -> Any:
        opened.append(FailingSession(session, fits=2))
        return opened[-1]

    graph = BoundGraph(opened[0], device="cpu", reopen=reopen)  # type: ignore[arg-type]
    frames = numbered(golden, 4)
    graph.run({"frames": frames[:2]})
    graph.run({"frames": frames[:1]})
    graph.run({"frames": frames[:2]})
    assert opened[0].graph_ids == ["1", "2", "1"], "buffers that stay keep their graph"
    graph.run({"frames": frames})
    assert (opened[0].sizes, opened[0].graph_ids) == ([2, 1, 2, 4], ["1", "2", "1", "3"])
    assert (opened[1].sizes, opened[1].graph_ids) == ([2, 2], ["4", "4"]), (
        "the old graphs went with their session"
    )
    opened[1].fits = 0
    with pytest.raises(DeviceOutOfMemory):
        graph.run({"frames": frames[:1]})
    graph.run({"frames": frames[:1]})
    given = [number for one in opened for number in dict.fromkeys(one.graph_ids)]
    assert (len(opened), given) == (3, ["1", "2", "3", "4", "5", "6"])


def test_a_session_that_cannot_be_opened_again_is_tried_at_the_next_run(
    session: onnxruntime.InferenceSession, golden: Golden
) -> None:
    failing, refusals = FailingSession(session, fits=0), [OUT_OF_MEMORY]

    def reopen() -> Any:
        if refusals:
            raise refusals.pop()
        return session

    graph = BoundGraph(failing, device="cpu", reopen=reopen)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(DeviceOutOfMemory):
            graph.run({"frames": golden.frames[None]})
    np.testing.assert_allclose(graph.run({"frames": golden.frames[None]})[0], golden.video_track, atol=1e-4)


class OnCpu(OnnxCudaEngine):
    """The engine with both graphs on the CPU provider."""

    def _bind(self, graph: Path, *_: object) -> BoundGraph:
        session = FailingSession(open_session(graph, session_options(1), [CPU]), fits=16)
        return BoundGraph(session, device="cpu", reopen=(lambda: session) if self._captures else None)  # type: ignore[arg-type, return-value]


def test_one_thread_works_on_the_device_if_launches_are_captured(bundle_path: Path, golden: Golden) -> None:
    graphs = Graphs(video=bundle_path / "video.onnx")
    for captures in (True, False):
        options = EngineOptions(num_threads=1, cuda_graphs=captures)
        engine = OnCpu(graphs, options, precision="fp32")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(engine.run_video, [golden.frames[None]] * 2))
        threads = set(engine._video._session.threads)  # type: ignore[union-attr]
        assert (threads == {"cuda-graphs_0"}) == captures
    tensorrt = OnCpu(
        graphs, EngineOptions(num_threads=1, cuda_graphs=True), precision="fp32", uses_tensorrt=True
    )
    assert not tensorrt._captures, "its provider has one graph for all batch sizes"


def test_sound_is_padded_to_whole_segments(bundle_path: Path, golden: Golden) -> None:
    engine = OnCpu(
        Graphs(audio=bundle_path / "audio.onnx", video=bundle_path / "video.onnx"),
        EngineOptions(num_threads=1),
        precision="fp32",
    )
    short, long = golden.samples[:50_000], np.resize(golden.samples, 170_000)
    for samples in (golden.samples, short, long):
        row, lengths = samples[None], np.array([len(samples)])
        plain = open_session(bundle_path / "audio.onnx", session_options(1), [CPU])
        expected = plain.run(["tracks"], {"samples": row, "lengths": lengths, "heard": lengths})[0]
        np.testing.assert_allclose(engine.run_audio(row, lengths), expected, atol=1e-6)
    assert sorted(shapes[0][1] for shapes in engine._audio._buffers) == [160_000, 320_000]
    np.testing.assert_allclose(engine.run_video(golden.frames[None])[0], golden.video_track, atol=1e-4)


def test_options_are_those_of_onnx_runtime() -> None:
    options = EngineOptions(num_threads=1, gpu_memory_bytes=2**31, cuda_graphs=True, cache=Path("/cache"))
    cuda = cuda_options(options, uses_tf32=False, captures=True)
    assert (cuda["gpu_mem_limit"], cuda["use_tf32"], cuda["enable_cuda_graph"]) == ("2147483648", "0", "1")
    assert cuda_options(EngineOptions(num_threads=1), uses_tf32=True, captures=False)["use_tf32"] == "1"
    tensorrt = tensorrt_options(options, uses_fp16=True)
    assert (tensorrt["trt_fp16_enable"], tensorrt["trt_engine_cache_path"]) == ("1", "/cache")
    assert "trt_engine_cache_path" not in tensorrt_options(EngineOptions(num_threads=1), uses_fp16=False)
    # A name that ONNX Runtime does not know would be refused only where there is a GPU: look into its libraries.
    libraries = Path(onnxruntime.__file__).parent / "capi"
    for provider, names in ((CUDA, cuda), (TENSORRT, tensorrt)):
        library = libraries / f"libonnxruntime_providers_{'cuda' if provider == CUDA else 'tensorrt'}.so"
        if not library.exists():
            pytest.skip("this build of ONNX Runtime has no CUDA")
        content = library.read_bytes()
        assert [name for name in names if name.encode() not in content] == []


def test_sizes_double() -> None:
    assert BUCKETS == (1, 2, 4, 8, 16)
