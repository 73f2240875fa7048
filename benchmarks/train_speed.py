"""Samples a second of one training step, the time of its parts, and the memory a sample takes.

    python -m benchmarks.train_speed [--run starter] [--batch 32] [--rounds 3] [--compile]

Ours is `training.pretraining.pretrain.take_step` on prepared segments. The baseline is the same step written in the
simplest way (`benchmarks.plain_training`): it decodes the clip again for each sample, computes 16 log-mels of it, and
runs in float32 without fusion. Both take turns in one process on the same samples, and their losses must agree before
anything is timed. Core-seconds count all threads. Memory is the growth of the peak from one batch size to another,
each in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_training import NUM_MOMENTS, Clock, PlainTraining, one_thread
from models.media.clip import ClipSpec, decode_clip
from training.corpus.synthesis import write_corpus
from training.data.batches import MomentBatches
from training.data.listing import list_items
from training.data.segments import PairedSegments, compute_log_mel, prepare
from training.pretraining import pretrain
from training.pretraining.config import RUNS, PretrainConfig
from training.pretraining.parallel import alone
from training.pretraining.pretrain import Run, compute_losses, take_step

PARTS = ("decode", "read", "front end", "forward", "backward", "optimiser")
MAX_LOSS_DIFFERENCE = 0.02
"""Relative; stored log-mels are float16, frames differ by a grey level, and the guided choice may swap two patches."""


def make_batches(segments: PairedSegments, config: PretrainConfig) -> MomentBatches:
    """Return the batches of the run over all segments."""
    return MomentBatches(segments, config.network, batch_size=config.batch_size, seed=config.seed)


def compare_losses(config: PretrainConfig, batches: MomentBatches) -> float:
    """Return the largest relative difference of the losses of step 0, ours in float32."""
    exact = Run.start(dataclasses.replace(config, bf16=False, compile=False), alone())
    plain = PlainTraining(config, exact.processes.device)
    rows, moments = batches.draw(0)
    files = [Path(batches.segments.paths[row]) for row in rows]
    ours = compute_losses(exact, 0, batches.at(0))
    theirs = plain.step(0, *plain.load_batch(files, moments.tolist()), Clock(plain.device))
    difference = max(
        abs(float(ours[name].detach()) / theirs[name] - 1) for name in theirs if theirs[name] > 1e-3
    )
    assert difference < MAX_LOSS_DIFFERENCE, f"losses differ by {difference:.1%}: {ours} and {theirs}"
    return difference


@contextlib.contextmanager
def timed(clock: Clock, owner: Any, name: str, part: str) -> Iterator[None]:
    """Add the time of every call of a function to a part."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def measured(*arguments: Any, **named: Any) -> Any:
        with clock.measure(part):
            return function(*arguments, **named)

    had_its_own = name in vars(owner)
    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, function) if had_its_own else delattr(owner, name)


def split_our_step(run: Run, step: int, batches: MomentBatches) -> dict[str, float]:
    """Return core-seconds of one step of ours by part."""
    clock = Clock(run.processes.device)
    with contextlib.ExitStack() as stack:
        for owner, name, part in (
            (run.student.pixels, "forward", "front end"),
            (pretrain, "augment", "front end"),
            (pretrain, "compute_losses", "losses"),
            (torch.Tensor, "backward", "backward"),
        ):
            stack.enter_context(timed(clock, owner, name, part))
        with clock.measure("read"):
            batch = batches.at(step)
        with clock.measure("step"):
            take_step(run, step, [batch])
    spent = clock.processor
    return {
        "read": spent["read"],
        "front end": spent["front end"],
        "forward": spent["losses"] - spent["front end"],
        "backward": spent["backward"],
        "optimiser": spent["step"] - spent["losses"] - spent["backward"],
    }


def split_plain_step(plain: PlainTraining, step: int, batches: MomentBatches) -> dict[str, float]:
    """Return core-seconds of one plain step by part; the samples are loaded one by one."""
    clock = Clock(plain.device)
    rows, moments = batches.draw(step)
    with one_thread():
        loaded = [
            plain.load(Path(batches.segments.paths[row]), moment, clock)
            for row, moment in zip(rows, moments.tolist(), strict=True)
        ]
    windows, frames = (torch.stack(parts) for parts in zip(*loaded, strict=True))
    plain.step(step, windows, frames, clock)
    return clock.processor


def time_preparation(files: list[Path]) -> float:
    """Return core-seconds to decode a segment and compute its log-mel, which is done once for the whole run."""
    processor = time.process_time()
    for file in files:
        clip = decode_clip(file, ClipSpec())
        assert clip.samples is not None
        compute_log_mel(clip.samples, len(clip.samples))
    return (time.process_time() - processor) / len(files)


def measure(calls: dict[str, Callable[[int], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return median core-seconds and wall seconds of each call; the calls take turns."""
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for step in range(rounds + 1):
        for name, call in calls.items():
            processor, wall = time.process_time(), time.perf_counter()
            call(step)
            costs[name].append((time.process_time() - processor, time.perf_counter() - wall))
    return {
        name: (statistics.median(c for c, _ in cost[1:]), statistics.median(w for _, w in cost[1:]))
        for name, cost in costs.items()  # the first one warmed up
    }


def random_batch(config: PretrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of noise in the right shapes."""
    network = config.network
    windows = torch.randn(config.batch_size, network.window_frames, network.num_mel_bins)
    side = network.frame_size
    return windows, torch.randint(0, 256, (config.batch_size, side, side, 3)).to(torch.uint8)


def print_peak(config: PretrainConfig, which: str) -> None:
    """Take two steps on noise and print the peak memory in bytes; for a process of its own."""
    processes, batch = alone(), random_batch(config)
    if which == "ours":
        run = Run.start(config, processes)
        for step in range(2):
            take_step(run, step, [batch])
    else:
        plain = PlainTraining(config, processes.device)
        for step in range(2):
            plain.step(step, *batch, Clock(processes.device))
    if processes.device.type == "cuda":
        print(torch.cuda.max_memory_allocated())
        return
    status = Path("/proc/self/status").read_text()  # ru_maxrss would start at the parent's peak
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    print(int(kilobytes) * 1024)


def bytes_a_sample(options: argparse.Namespace, which: str) -> float:
    """Return the growth of the peak memory between two batch sizes, in bytes a sample."""
    peaks = []
    for batch in (options.batch, 2 * options.batch):
        command = [sys.executable, "-m", "benchmarks.train_speed", "--run", options.run]
        command += ["--batch", str(batch), "--peak", which] + ["--compile"] * options.compile
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return (peaks[1] - peaks[0]) / options.batch


def count_flops(config: PretrainConfig) -> int:
    """Return the floating-point operations of one step's matrix products, teacher included."""
    run = Run.start(dataclasses.replace(config, compile=False), alone())
    with FlopCounterMode(display=False) as counter:
        take_step(run, 0, [random_batch(config)])
    return counter.get_total_flops()


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best FLOP/s of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        clock = Clock(device)
        with clock.measure("product"):
            a @ b
        seconds.append(clock.wall["product"])
    return 2 * size**3 / min(seconds)


def describe(parts: dict[str, float], batch_size: int) -> str:
    """Return the parts of a step in core-milliseconds a sample as text."""
    return " · ".join(f"{part} {parts[part] / batch_size * 1e3:.2f}" for part in PARTS if part in parts)


def report(config: PretrainConfig, options: argparse.Namespace, segments: PairedSegments) -> None:
    """Measure and print all figures that need segments."""
    batches = make_batches(segments, config)
    difference = compare_losses(config, batches)
    run = Run.start(config, alone())
    device = run.processes.device
    plain = PlainTraining(config, device)

    def step_plainly(step: int) -> None:
        rows, moments = batches.draw(step)
        files = [Path(segments.paths[row]) for row in rows]
        plain.step(step, *plain.load_batch(files, moments.tolist()), Clock(device))

    costs = measure(
        {"ours": lambda step: take_step(run, step, [batches.at(step)]), "plainly": step_plainly},
        options.rounds,
    )
    (ours, our_wall), (theirs, their_wall) = costs["ours"], costs["plainly"]
    batch, how = config.batch_size, "compiled" if config.compile else "not compiled"
    print(
        f"{config.name}, batch {batch}, {device}, {torch.get_num_threads()} threads, {how}, {options.rounds} rounds"
    )
    print(f"both losses agree within {difference:.1e}")
    for name, cost, wall in (("ours", ours, our_wall), ("plainly", theirs, their_wall)):
        print(f"{name:8} {batch / wall:.2f} samples/s, {cost / batch * 1e3:.1f} core-ms a sample")
    print(
        f"ratio    {theirs / ours:.1f} x less processor time, {their_wall / our_wall:.1f} x more samples a second"
    )
    once = time_preparation([Path(path) for path in segments.paths[:8]])
    split = split_plain_step(plain, 1, batches)
    with_one = theirs - split["front end"] * (1 - 1 / NUM_MOMENTS)
    print(f"         {with_one / ours:.1f} x if the plain step computes one log-mel a sample")
    print(f"ours     core-ms a sample: {describe(split_our_step(run, 1, batches), batch)}")
    print(
        f"         plus once for each segment, for any number of epochs: decode and log-mel {once * 1e3:.1f}"
    )
    print(f"plainly  core-ms a sample: {describe(split, batch)}")
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    reached, peak = count_flops(config) / our_wall, matrix_peak(device, dtype)
    place = torch.cuda.get_device_name() if device.type == "cuda" else "this CPU; there is no GPU here"
    print(
        f"products {reached / 1e12:.3f} TFLOP/s in a step, {reached / peak:.1%} of {peak / 1e12:.2f} TFLOP/s, "
        f"the peak of one large {str(dtype).removeprefix('torch.')} product on {place}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="starter", choices=RUNS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--compile", action="store_true", help="as in `foley-train pretrain --compile`; takes minutes"
    )
    parser.add_argument("--peak", choices=("ours", "plainly"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = dataclasses.replace(RUNS[options.run](), batch_size=options.batch, compile=options.compile)
    if options.peak:
        print_peak(config, options.peak)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "corpus", num_scenes=options.batch, seed=0, split="demo", num_workers=2)
        segments = prepare(list_items([folder / "corpus"]), folder / "prepared", ClipSpec())
        report(config, options, segments)
    ours, theirs = (bytes_a_sample(options, which) / 1e6 for which in ("ours", "plainly"))
    print(f"memory   {ours:.1f} MB a sample, plainly {theirs:.1f} MB, without network and optimiser")


if __name__ == "__main__":
    main()
