"""Speed of indexing: how long each stage worked, the slowest stage alone, and memory over many files.

    python -m benchmarks.pipeline_speed                  stages of one run, and decoder and encoder alone
    python -m benchmarks.pipeline_speed --memory 5000    resident memory over 5,000 files, and its slope

A stage is at work while at least one of its workers has something to do. The pipeline is as fast as possible if its
slowest stage never waits: the figure is the share of the run in which that stage was at work (target: 90 % or more).
Stages that share cores slow each other down, so each stage is also timed alone on the same files, with the whole
machine to itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import wave
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from models.bundle.bundle import starter_path
from models.media.clip import Clip, DecodedMedia
from service.foley import Foley, open_foley
from service.jobs.opening import Jobs, open_jobs
from service.jobs.records import JobRequest
from service.library.report import IndexReport, Progress
from service.system.settings import Settings

MIB = 1024 * 1024


@contextmanager
def open_library(folder: Path, *, bundle: Path, device: str, precision: str) -> Iterator[tuple[Foley, Jobs]]:
    """Open the service on an empty index, with its jobs."""
    settings = Settings(data=folder, bundle=bundle, device=device, precision=precision, min_free_bytes=0)  # type: ignore[arg-type]
    with open_foley(settings) as foley, open_jobs(foley) as jobs:
        yield foley, jobs


def run(jobs: Jobs, library: Path, on_progress: object = None) -> IndexReport:
    """Index a folder as a job with a ledger."""
    job = jobs.library.submit("index", JobRequest(paths=(str(library),))).job
    return jobs.library.run(job.job_id, on_progress=on_progress)  # type: ignore[arg-type]


def decode_alone(foley: Foley, files: list[Path]) -> tuple[float, list[Clip]]:
    """Return the seconds to decode all files with all workers and nothing else, and the clips."""
    spec = foley.snapshot().spec
    foley.decoder.submit(files[0], spec).result()  # the workers start
    started = time.perf_counter()
    waiting: list[Future[DecodedMedia]] = [foley.decoder.submit(path, spec) for path in files]
    clips = [clip for future in waiting for clip in future.result().clips]
    return time.perf_counter() - started, clips


def encode_alone(foley: Foley, clips: list[Clip]) -> float:
    """Return the seconds to encode the clips and nothing else."""
    encoder = foley.snapshot(priority="bulk").encoder
    started = time.perf_counter()
    for clip in clips:
        if clip.samples is not None:
            encoder.encode_audio([clip.samples], [clip.num_heard])
        if clip.frames is not None:
            encoder.encode_video([clip.frames])
    return time.perf_counter() - started


def measure_stages(options: argparse.Namespace) -> None:
    """Print the stage times of one run over a synthetic library, and the slowest stage alone."""
    from training.corpus.synthesis import write_corpus  # noqa: PLC0415 - slow to import, needed only here

    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        write_corpus(library, num_scenes=options.files, seed=11, split="heldout", separate_fraction=0.0)
        files = sorted(library.glob("*.mp4"))
        with open_library(
            Path(folder) / "data", bundle=options.bundle, device=options.device, precision=options.precision
        ) as (foley, jobs):
            encoder = foley.encoder
            print(
                f"{len(files)} clips of 10 s, {foley.decoder.num_workers} decode workers, {encoder.provider}"
            )
            decode_seconds, clips = decode_alone(foley, files)
            encode_seconds = encode_alone(foley, clips)
            cpu = time.process_time()
            report = run(jobs, library)
            cpu = time.process_time() - cpu
    stages = report.stages
    for name in ("decode", "encode", "write"):
        seconds = getattr(stages, f"{name}_seconds")
        print(f"  {name}: at work {seconds:.2f} s of {stages.elapsed_seconds:.2f} s")
    print(f"  alone: decode {decode_seconds:.2f} s, encode {encode_seconds:.2f} s")
    slowest_alone = max(decode_seconds, encode_seconds)
    shared = decode_seconds + encode_seconds
    print(
        f"  {len(clips) / stages.elapsed_seconds:.1f} clips/s, {cpu / len(clips) * 1e3:.0f} core-ms a clip here"
    )
    print(f"slowest stage ({stages.slowest}) at work: {stages.slowest_share:.1%} of the run")
    print(
        f"speed: {slowest_alone / stages.elapsed_seconds:.1%} of the slowest stage alone, with the machine to itself,"
    )
    print(f"       {shared / stages.elapsed_seconds:.1%} of both one after the other on the same cores")


def write_sound(path: Path, number: int, *, seconds: float) -> None:
    """Write a wav file of noise; each number gives another sound."""
    rng = np.random.default_rng(number)
    with wave.open(str(path), "wb") as file:
        count = round(16_000 * seconds)
        file.setparams((1, 2, 16_000, count, "NONE", ""))
        file.writeframes(rng.integers(-3000, 3000, count, dtype=np.int16).tobytes())


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process without mapped files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measure_memory(options: argparse.Namespace) -> None:
    """Print the memory of this process over a run, and its slope after the first fifth."""
    samples: list[tuple[int, int]] = []

    def on_progress(progress: Progress) -> None:
        if not samples or progress.num_done - samples[-1][0] >= max(1, options.memory // 100):
            samples.append((progress.num_done, resident_bytes()))

    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        library.mkdir()
        for number in range(options.memory):
            write_sound(library / f"{number:06}.wav", number, seconds=options.seconds)
        with open_library(
            Path(folder) / "data", bundle=options.bundle, device=options.device, precision=options.precision
        ) as (_, jobs):
            report = run(jobs, library, on_progress)
    settled = [(done, memory) for done, memory in samples if done >= options.memory / 5]
    slope = np.polyfit([done for done, _ in settled], [memory for _, memory in settled], 1)[0]
    first, last = settled[0][1] / MIB, settled[-1][1] / MIB
    rate = report.files.indexed / report.stages.elapsed_seconds
    print(f"memory over {report.files.indexed} files of {options.seconds:g} s, {rate:.0f} files/s")
    print(
        f"  after a fifth {first:.0f} MiB, at the end {last:.0f} MiB, peak {max(m for _, m in samples) / MIB:.0f}"
    )
    print(f"slope: {slope:.0f} bytes a file, {slope * 1000 / MIB:.2f} MiB for 1,000 files")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=80, help="clips of the run that is timed by stage")
    parser.add_argument(
        "--memory", type=int, default=600, help="files of the run whose memory is watched; 0 skips it"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="length of these files")
    parser.add_argument("--bundle", type=Path, default=starter_path())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.files:
        measure_stages(options)
    if options.memory:
        measure_memory(options)


if __name__ == "__main__":
    main()
