"""Segments a second of every engine in batches of 1 to 16, its share of the device's matrix peak, and its agreement.

    foley-train convert /tmp/base --precision fp16 --media ~/Videos   float16 needs graphs of its own
    python -m benchmarks.batch_speed --published /tmp/base            on the GPU; random weights, made if missing
    python -m benchmarks.batch_speed --device cpu                     the same on the processor, with the starter

All engines, batch sizes and the baseline take turns. Figures are medians of wall seconds, because a GPU's work is not
processor time. The baseline is the plain way on the same device: torch eager in float32, 16 windows and 16 frames one
after another, the log-mel computed for each window. The peak is the fastest product of two large matrices by torch in
bfloat16 during the run. 1 - cosine compares with the tracks that torch recorded in the bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from benchmarks.clip_speed import encode_plainly, plain_network
from benchmarks.encode_speed import bundle_parser, clip_gflop, golden_clip, open_bundle, runnable
from models.bundle.bundle import Bundle, Golden, cosines
from models.cores import num_cores
from models.network.geometry import TgdpConfig
from service.encode.choice import load_graphs
from service.encode.engines.candidates import GPU, open_candidate
from service.encode.engines.contract import Engine, EngineOptions
from service.encode.engines.hardware import gpu_name, processor_name

SIDES = {"cuda": 8192, "cpu": 2048}
"""Rows of the two matrices whose product is the peak: large enough to fill the device."""
Call = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = bundle_parser(__doc__)
    parser.add_argument("--device", choices=sorted(SIDES), default="cuda")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16], metavar="SEGMENTS")
    parser.add_argument("--cuda-graphs", action="store_true", help="replay launches on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bundle = open_bundle(options)
    engines = open_engines(bundle, options.device, uses_cuda_graphs=options.cuda_graphs)
    if not engines:
        parser.error(f"no engine runs on {options.device} here; `foley doctor` says what is missing")
    golden = bundle.golden()
    product, gflop = matrix_product(options.device)
    calls: dict[str, Call] = {"plain": plain_call(bundle, golden, options.device), "peak": product}
    for name, engine in engines.items():
        for size in options.batches:
            calls[f"{name} {size}"] = batch_call(engine, golden, size)
    seconds = take_turns(calls, options.rounds)
    peak = gflop / min(seconds["peak"])
    print(f"{bundle.bundle_id} on {describe(options.device)}, {options.rounds} rounds")
    print(
        f"bfloat16 products: {peak / 1e3:.2f} TFLOP/s; the plain way: {1 / median(seconds['plain']):.2f} segments/s"
    )
    print(f"{'':24} batch  segments/s  speed-up  share of peak  1 - cosine mean / maximum")
    work = clip_gflop(TgdpConfig(**bundle.manifest.network))
    for name, engine in engines.items():
        turned = turned_by(engine, golden)
        for size in options.batches:
            rate = size / median(seconds[f"{name} {size}"])
            print(
                f"{name:24} {size:5} {rate:11.2f} {rate * median(seconds['plain']):9.2f} {rate * work / peak:14.1%}"
                f"  {turned.mean():.1e} / {turned.max():.1e}"
            )


def open_engines(bundle: Bundle, device: str, *, uses_cuda_graphs: bool) -> dict[str, Engine]:
    """Open every engine that runs on a device, slowest first, without checking its agreement."""
    options = EngineOptions(num_threads=num_cores(), cuda_graphs=uses_cuda_graphs)
    return {
        str(candidate): open_candidate(candidate, load_graphs(bundle, candidate), options)
        for candidate in runnable(bundle)
        if (candidate.engine in GPU) == (device == "cuda")
    }


def matrix_product(device: str) -> tuple[Call, float]:
    """Return a call that multiplies two large bfloat16 matrices and waits for the result, and its GFLOP."""
    side = SIDES[device]
    matrix = torch.randn(side, side, dtype=torch.bfloat16, device=device)

    def multiply() -> None:
        matrix @ matrix
        wait(device)

    return multiply, 2 * side**3 / 1e9


def plain_call(bundle: Bundle, golden: Golden, device: str) -> Call:
    """Return a call that encodes the golden clip the plain way on the device."""
    network = plain_network(bundle).to(device)
    clip = golden_clip(golden)

    def encode() -> None:
        encode_plainly(network, clip)
        wait(device)

    return encode


def batch_call(engine: Engine, golden: Golden, size: int) -> Call:
    """Return a call that encodes sound and picture of `size` segments in one batch."""
    samples = np.repeat(golden.samples[None], size, axis=0)
    lengths = np.full(size, len(golden.samples), np.int64)
    frames = np.repeat(golden.frames[None], size, axis=0)

    def encode() -> None:
        engine.run_audio(samples, lengths)
        engine.run_video(frames)

    return encode


def turned_by(engine: Engine, golden: Golden) -> np.ndarray:
    """Return 1 - cosine of every embedding of the golden clip to the recorded one; the batch has two segments."""
    found = {
        "audio": engine.run_audio(
            np.stack([golden.samples] * 2), np.array([len(golden.samples)] * 2, np.int64)
        ),
        "video": engine.run_video(np.stack([golden.frames] * 2)),
    }
    expected = {"audio": np.stack([golden.audio_track] * 2), "video": np.stack([golden.video_track] * 2)}
    return np.asarray(1 - cosines(expected, found))


def take_turns(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Return wall seconds of each call by round; one call of each warms up before."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def describe(device: str) -> str:
    """Return the name of the device."""
    return gpu_name() or "?" if device == "cuda" else f"{processor_name()}, {num_cores()} cores"


if __name__ == "__main__":
    main()
