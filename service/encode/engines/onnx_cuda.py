"""ONNX Runtime on an NVIDIA GPU, by its CUDA provider or by TensorRT.

Batches are padded to one of a few sizes (`BUCKETS`). Each size has buffers on the device that stay where they are,
bound to the session, so that its launches may be replayed as a CUDA graph. If a batch does not fit into memory, it is
halved, and later ones are no larger.

What ONNX Runtime's sources say of CUDA graphs, and what follows here. A graph is captured under the id of the run
(`gpu_graph_id`), and is kept as long as the session: an id is never given twice, and after out-of-memory the session is
opened anew, which is the only way its graphs go (cuda_graph.cc). Each thread captures graphs of its own, and while one
captures no thread of the process may allocate or copy on the device (`cudaStreamCaptureModeGlobal`): so one thread
does all that. TensorRT's provider keeps one graph for a session, whatever the id: it would replay one batch size for
all, and is not asked to.

Written without a GPU at hand: sizes, padding, halving and binding are tested on the CPU provider; speed, TensorRT and
CUDA graphs were not tried (`REQUIRE_GPU=1 pytest -m needs_gpu`, `python -m benchmarks.batch_speed`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import sound_inputs
from models.inference import onnxruntime
from service.encode.engines.contract import (
    DeviceMissing,
    DeviceOutOfMemory,
    EncoderFailure,
    EngineOptions,
    Floats,
    Graphs,
    Ints,
    Precision,
)
from service.encode.engines.onnx_cpu import CPU, input_names, open_session, session_options

logger = logging.getLogger(__name__)

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
BUCKETS = (1, 2, 4, 8, 16)
"""Segments of one run. One holds 16 pictures: 16 of them fill any GPU."""
MAX_SHAPES = 16
"""Shapes with buffers at a time: segments of which every frame is taken have hundreds."""
OUT_OF_MEMORY = ("failed to allocate", "out of memory", "alloc_failed", "smaller than requested bytes")
"""What ONNX Runtime, CUDA, cuBLAS and cuDNN say, in lower case."""

INSTALL = {
    CUDA: "pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA's libraries",
    TENSORRT: "pip install 'tensorrt-cu13<11' brings libnvinfer.so.10; its folder must be in LD_LIBRARY_PATH",
}

CAPTURING = ThreadPoolExecutor(1, thread_name_prefix="cuda-graphs")
"""The one thread of the process that works on the device if launches are captured."""

Result = TypeVar("Result")
Arrays = Mapping[str, NDArray[np.generic]]
Providers = list[str | tuple[str, dict[str, str]]]


class OnnxCudaEngine:
    """The graphs on a GPU, by CUDA or by TensorRT; raises `DeviceMissing` if ONNX Runtime takes another provider.

    `precision` is `fp16` if the graphs are in float16, else `tf32` or `fp32` for how float32 is multiplied.
    """

    max_batch = BUCKETS[-1]

    def __init__(
        self, graphs: Graphs, options: EngineOptions, *, precision: Precision, uses_tensorrt: bool = False
    ) -> None:
        self.provider = TENSORRT if uses_tensorrt else CUDA
        self._captures = options.cuda_graphs and not uses_tensorrt
        self._segment_samples = options.segment_samples
        with keep_off_stdout():
            onnxruntime.preload_dlls()
        cuda = cuda_options(options, uses_tf32=precision != "fp32", captures=self._captures)
        tensorrt = tensorrt_options(options, uses_fp16=precision == "fp16") if uses_tensorrt else None
        if graphs.audio is not None:
            self._audio = self._bind(graphs.audio, cuda, tensorrt, options)
        if graphs.video is not None:
            self._video = self._bind(graphs.video, cuda, tensorrt, options)

    def _bind(
        self, graph: Path, cuda: dict[str, str], tensorrt: dict[str, str] | None, options: EngineOptions
    ) -> BoundGraph:
        def reopen() -> onnxruntime.InferenceSession:
            return self._open(graph, cuda, tensorrt, options)

        session = self._in_turn(reopen)
        return BoundGraph(session, device="cuda", reopen=reopen if self._captures else None)

    def _in_turn(self, work: Callable[[], Result]) -> Result:
        """Do work on the device in the one thread that captures; at once if none does."""
        return CAPTURING.submit(work).result() if self._captures else work()

    def _open(
        self, graph: Path, cuda: dict[str, str], tensorrt: dict[str, str] | None, options: EngineOptions
    ) -> onnxruntime.InferenceSession:
        providers: Providers = [(CUDA, cuda), CPU]
        if tensorrt is not None:
            providers.insert(0, (TENSORRT, tensorrt))
        with keep_off_stdout():
            session = open_session(graph, session_options(options.num_threads), providers)
        if (got := session.get_providers()[0]) != self.provider:
            raise DeviceMissing(
                f"asked for {self.provider}, ONNX Runtime gave {got}: {INSTALL[self.provider]}"
            )
        return session

    def run_audio(self, samples: Floats, lengths: Ints, heard: Ints | None = None) -> Floats:
        """Embed sound; see `Engine.run_audio`. Padding to whole segments changes no number and keeps the shapes few."""
        num_segments = -(-samples.shape[1] // self._segment_samples)
        padded = np.zeros((len(samples), num_segments * self._segment_samples), np.float32)
        padded[:, : samples.shape[1]] = samples
        inputs = sound_inputs(self._audio.inputs, padded, lengths, heard)
        return self._in_turn(lambda: self._audio.run(inputs))

    def run_video(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures; see `Engine.run_video`."""
        return self._in_turn(lambda: self._video.run({"frames": frames}))


class BoundGraph:
    """One graph with buffers on its device (`cuda`; `cpu` in tests) for each batch size, one run at a time.

    With `reopen`, which opens the session again, launches are replayed as CUDA graphs.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        *,
        device: str,
        reopen: Callable[[], onnxruntime.InferenceSession] | None = None,
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._device = device
        self._reopen = reopen
        self._graph_ids = itertools.count(1)
        self.inputs = input_names(session)
        self._row_shape = session.get_outputs()[0].shape[1:]
        self._buffers: dict[tuple[tuple[int, ...], ...], _Buffers] = {}
        self._lock = threading.Lock()
        self.max_rows = BUCKETS[-1]

    def run(self, inputs: Arrays) -> NDArray[np.float32]:
        """Run a batch of any size: arrays by name, each with B rows, to float32, shape (B, T, D).

        Raises `DeviceOutOfMemory` if one row does not fit, `EncoderFailure` if ONNX Runtime fails.
        """
        num_rows = len(next(iter(inputs.values())))
        parts, first = [], 0
        with self._lock:
            while first < num_rows:
                rows = {name: array[first : first + self.max_rows] for name, array in inputs.items()}
                parts.append(self._run_halving(rows))
                first += len(parts[-1])
        return np.concatenate(parts)

    def _run_halving(self, rows: Arrays) -> NDArray[np.float32]:
        """Run rows, or as many of the first ones as fit."""
        while True:
            num_rows = len(next(iter(rows.values())))
            try:
                return self._run_bucket(rows, bucket_of(num_rows))
            except Exception as exc:  # ONNX Runtime raises a dozen unrelated types
                if not is_out_of_memory(exc):
                    raise EncoderFailure(f"ONNX Runtime failed: {exc}") from exc
                self._drop_buffers()
                if num_rows == 1:
                    raise DeviceOutOfMemory(
                        f"one segment does not fit into the memory of the device: {exc}"
                    ) from exc
                self.max_rows = bucket_of(num_rows) // 2
                logger.warning(
                    "%d segments do not fit into the memory of the device, going on with %d at a time",
                    num_rows,
                    self.max_rows,
                )
                rows = {name: array[: self.max_rows] for name, array in rows.items()}

    def _drop_buffers(self) -> None:
        """Free the buffers, and with them the graphs that were captured over them: these go with their session."""
        self._buffers.clear()
        if self._reopen is not None:
            self._session = None

    def _run_bucket(self, rows: Arrays, bucket: int) -> NDArray[np.float32]:
        num_rows = len(next(iter(rows.values())))
        shapes = tuple((bucket, *array.shape[1:]) for array in rows.values())
        if shapes not in self._buffers and len(self._buffers) >= MAX_SHAPES:
            self._drop_buffers()
        if self._session is None:
            assert self._reopen is not None, "only a session that captures is dropped"
            self._session = self._reopen()
        buffers = self._buffers.get(shapes)
        if buffers is None:
            buffers = _Buffers(
                self._session, self._device, rows, bucket, (bucket, *self._row_shape), next(self._graph_ids)
            )
            self._buffers[shapes] = buffers
        options = onnxruntime.RunOptions()
        if self._reopen is not None:
            options.add_run_config_entry("gpu_graph_id", str(buffers.graph_id))
        return buffers.run(self._session, rows, options)[:num_rows]


class _Buffers:
    """Inputs and output of one batch size, on the device and bound; `graph_id` is that of the graph over them."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        device: str,
        rows: Arrays,
        bucket: int,
        output_shape: tuple[int, ...],
        graph_id: int,
    ) -> None:
        self.graph_id = graph_id
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._binding = session.io_binding()
        self._host = {name: np.zeros((bucket, *array.shape[1:]), array.dtype) for name, array in rows.items()}
        self._inputs = {name: make(array.shape, array.dtype, device, 0) for name, array in self._host.items()}
        self._output = make(output_shape, np.float32, device, 0)
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output("tracks", self._output)

    def run(
        self, session: onnxruntime.InferenceSession, rows: Arrays, options: onnxruntime.RunOptions
    ) -> NDArray[np.float32]:
        for name, array in rows.items():
            host = self._host[name]
            host[: len(array)] = array
            host[len(array) :] = 0  # rows of an earlier batch would cost nothing, but hide a mistake
            self._inputs[name].update_inplace(host)
        session.run_with_iobinding(self._binding, options)
        return np.array(self._output.numpy())  # a copy: on a CPU it is the buffer itself


def bucket_of(num_rows: int) -> int:
    """The smallest batch size that holds these rows."""
    return next(bucket for bucket in BUCKETS if bucket >= num_rows)


def is_out_of_memory(exc: Exception) -> bool:
    """Whether an error of ONNX Runtime says that memory ran out; it has no type for that."""
    message = str(exc).lower()
    return any(sign in message for sign in OUT_OF_MEMORY)


def cuda_options(options: EngineOptions, *, uses_tf32: bool, captures: bool) -> dict[str, str]:
    """Options of the CUDA provider; `captures` replays launches as CUDA graphs."""
    found = {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",  # doubling would reserve memory that is never used
        "cudnn_conv_algo_search": "HEURISTIC",  # trying every algorithm costs seconds for each new shape
        "use_tf32": str(int(uses_tf32)),  # float32 with 10 bits of mantissa: several times faster
        "enable_cuda_graph": str(int(captures)),
    }
    if options.gpu_memory_bytes is not None:
        found["gpu_mem_limit"] = str(options.gpu_memory_bytes)
    return found


def tensorrt_options(options: EngineOptions, *, uses_fp16: bool) -> dict[str, str]:
    """Options of the TensorRT provider."""
    found = {
        "device_id": "0",
        "trt_fp16_enable": str(int(uses_fp16)),
        "trt_layer_norm_fp32_fallback": "1",
    }
    if options.gpu_memory_bytes is not None:
        found["trt_max_workspace_size"] = str(options.gpu_memory_bytes)
    if options.cache is not None:  # compiling takes minutes
        found |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(options.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(options.cache),
        }
    return found


@contextlib.contextmanager
def keep_off_stdout() -> Iterator[None]:
    """Log what ONNX Runtime prints about a device that does not work: stdout belongs to the commands' answers."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    if text := printed.getvalue().strip():
        logger.info("ONNX Runtime: %s", text)
