"""Peak resident memory of a process that loads an engine and encodes clips, for every engine that runs here.

    python -m benchmarks.encode_memory [--bundle FOLDER] [--clips 20]

Each engine runs in a process of its own, without torch, as in the service. The slope is that of resident memory over
the last half of the clips.
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path

import numpy as np

from models.bundle.bundle import load_bundle, starter_path
from models.cores import num_cores
from service.encode.agreement import ProbeClips, encode_clips
from service.encode.choice import load_graphs
from service.encode.engines.candidates import RANKING, Candidate, check_hardware, find_variant, open_candidate
from service.encode.engines.contract import EngineMissing, EngineOptions


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=starter_path())
    parser.add_argument("--clips", type=int, default=20)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    context = multiprocessing.get_context("spawn")
    print(f"{bundle.bundle_id}, {num_cores()} threads, {options.clips} clips, MiB")
    for candidate in RANKING:
        try:
            check_hardware(candidate)
            find_variant(candidate, bundle)
        except EngineMissing:
            continue
        with context.Pool(1) as pool:
            facts = pool.apply(measure, (options.bundle, candidate, options.clips))
        print(f"{candidate!s:24} {facts}", flush=True)


def measure(path: Path, candidate: Candidate, num_clips: int) -> str:
    """Load an engine, encode clips, and return the memory this took as text."""
    bundle = load_bundle(path)
    golden = bundle.golden()
    clip = ProbeClips(samples=[golden.samples], frames=[golden.frames], description="the golden clip")
    began = resident("VmRSS")
    engine = open_candidate(candidate, load_graphs(bundle, candidate), EngineOptions(num_threads=num_cores()))
    loaded, loading = resident("VmRSS"), resident("VmHWM")
    held = []
    for _ in range(num_clips):
        encode_clips(engine, clip)
        held.append(resident("VmRSS"))
    half = held[len(held) // 2 :]
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    return (
        f"before {began:5.0f}, loaded {loaded:5.0f}, peak while loading {loading:5.0f}, "
        f"peak {resident('VmHWM'):5.0f}, slope {slope:+.2f} a clip"
    )


def resident(name: str) -> float:
    """Return a line of /proc/self/status in MiB: `VmRSS` is the present memory, `VmHWM` the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
