"""What adapting brings, over several seeds: the rows of docs/adapting.md, each with a paired 95 % t-interval.

    FOLEY_DATA=… python -m benchmarks.adapting --labels corpus/labels.csv     # clips of `foley-train synthesize`
    python -m benchmarks.adapting --size 100000 --width 768                   # minutes and memory instead

A seed holds back a fifth of the clips, draws which labels are known and which are wrong, and starts the heads. Every
held-back clip is a query, the gallery is the other modality of all clips. Labels of the library are six bands of pitch.
`vectors` are made: 12 classes, 800 clips, sound and picture of a clip share its class and something of its own.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from models.bundle.joining import write_head
from service.encode.engines.onnx_cpu import CPU, open_session, session_options
from training.adapting.fitting import MODALITIES, Clips, FitConfig, apply_head, fit_heads
from training.commands.adapt import read_library
from training.evaluation.classes import average_precisions

Floats = NDArray[np.float32]
Tracks = dict[str, Floats]
Result = TypeVar("Result")
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""97.5 % quantile of Student's t by number of seeds."""
NUM_BANDS = 6


def main() -> None:
    """Print the table, or what a large library costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=Path, help="labels.csv of the synthetic library of FOLEY_DATA")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--size", type=int, help="segments of a made library: time and memory, no table")
    parser.add_argument("--width", type=int, default=768)
    given = parser.parse_args()
    if given.size:
        measure_size(given.size, given.width)
        return
    print(f"{given.seeds} seeds; mAP and R@1 are means of both directions, in percent")
    print("| row | baseline mAP / R@1 | method mAP / R@1 | Δ mAP | Δ R@1 |\n|---|---|---|---|---|")
    if given.labels:
        with tempfile.TemporaryDirectory() as folder:
            stored, _ = read_library(Path(folder), Console(quiet=True))
            chosen = stored.pairs()
            tracks = {name: stored.read(name, chosen) for name in MODALITIES}
            names = [stored.assets[file].paths[0] for file in stored.asset_of_segments()[chosen]]
        truth = read_bands(given.labels, names)
        report("starter, pair against frozen", tracks, truth, given.seeds, None, "pair", 0, 0)
        compare("starter", tracks, truth, given.seeds)
    tracks, truth = make_vectors(0)
    compare("vectors", tracks, truth, given.seeds)


def compare(name: str, tracks: Tracks, truth: NDArray[np.bool_], num_seeds: int) -> None:
    """The rows of distillation against plain triplets, both with the terms that need no label."""
    report(f"{name}, 20 % clean: distill", tracks, truth, num_seeds, "triplet", "distill", 0.2, 0)
    report(f"{name}, 20 % clean: distill --noisy", tracks, truth, num_seeds, "triplet", "noisy", 0.2, 0)
    report(f"{name}, all, 40 % wrong: distill", tracks, truth, num_seeds, "triplet", "distill", 1, 0.4)
    report(f"{name}, all, 40 % wrong: distill --noisy", tracks, truth, num_seeds, "triplet", "noisy", 1, 0.4)


def read_bands(file: Path, names: list[str]) -> NDArray[np.bool_]:
    """The band of pitch of the first object of each clip, as one of six classes, (N, 6)."""
    with file.open(newline="") as opened:
        pitch = {row["file"]: float(row["pitch_hz_1"]) for row in csv.DictReader(opened)}
    heights = np.log([pitch[PurePath(name).name] for name in names])
    edges = np.quantile(heights, np.arange(1, NUM_BANDS) / NUM_BANDS)
    return np.asarray(np.eye(NUM_BANDS, dtype=bool)[np.searchsorted(edges, heights)])


def make_vectors(seed: int) -> tuple[Tracks, NDArray[np.bool_]]:
    """800 clips of 12 classes: one moment each, D 64, with noise of each modality in a subspace of its own."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 12, 800)
    shared = 1.2 * rng.standard_normal((12, 16))[classes] + rng.standard_normal((800, 16))
    mix = rng.standard_normal((16, 64))
    tracks = {}
    for name in MODALITIES:
        noise = rng.standard_normal((800, 24)) @ rng.standard_normal((24, 64))
        rows = shared @ mix + 0.5 * noise
        tracks[name] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)[:, None]
    return tracks, np.eye(12, dtype=bool)[classes]


_MEASURED: dict[tuple[object, ...], tuple[float, float]] = {}


def report(
    name: str,
    tracks: Tracks,
    truth: NDArray[np.bool_],
    num_seeds: int,
    baseline: str | None,
    method: str,
    share: float,
    wrong: float,
) -> None:
    """Print a row: a method against a baseline (None: frozen tracks) at the same seeds."""
    both = []
    for kind in (baseline, method):
        found = []
        for seed in range(num_seeds):
            key = (name.split(",")[0], kind, share, wrong, seed)
            if key not in _MEASURED:
                _MEASURED[key] = run(tracks, truth, kind, share, wrong, seed)
            found.append(_MEASURED[key])
        both.append(np.array(found))
    before, after = both
    gains = [interval(after[:, column] - before[:, column]) for column in (0, 1)]
    means = [" / ".join(f"{value:.1f}" for value in rows.mean(axis=0)) for rows in both]
    print(f"| {name} | {means[0]} | {means[1]} | {gains[0]} | {gains[1]} |", flush=True)


def interval(differences: NDArray[np.float64]) -> str:
    """Mean and 95 % interval of paired differences."""
    half = T_975[len(differences)] * differences.std(ddof=1) / len(differences) ** 0.5
    mean = differences.mean()
    return f"{mean:+.1f} ({mean - half:.1f}…{mean + half:.1f})"


def run(
    tracks: Tracks, truth: NDArray[np.bool_], method: str | None, share: float, wrong: float, seed: int
) -> tuple[float, float]:
    """Fit with one seed and measure on what was held back: mAP and R@1, means of both directions, in percent."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(truth))
    held, taught = order[: len(order) // 5], np.sort(order[len(order) // 5 :])
    known = truth[taught].copy()
    classes = known.argmax(axis=1)
    shift = rng.integers(1, truth.shape[1], len(taught)) * (rng.random(len(taught)) < wrong)
    known = np.eye(truth.shape[1], dtype=bool)[(classes + shift) % truth.shape[1]]
    known[rng.random(len(taught)) >= share] = False
    adapted = dict(tracks)
    if method is not None:
        clips = Clips(
            read=lambda name, chosen: tracks[name][taught[chosen]],
            num_clips=len(taught),
            shapes={name: rows.shape[1:] for name, rows in tracks.items()},
            truth=None if method == "pair" else known,
        )
        config = FitConfig(
            method="distill" if method == "noisy" else method,  # type: ignore[arg-type]
            is_noisy=method == "noisy",
            seed=seed,
        )
        heads = fit_heads(clips, config).heads
        adapted = {name: apply_head(heads[name], rows) for name, rows in tracks.items()}
    return measure(adapted, truth, held)


def measure(tracks: Tracks, truth: NDArray[np.bool_], held: NDArray[np.int64]) -> tuple[float, float]:
    """MAP by clip vectors and R@1 by diagonal mean; queries are the held-back clips, the gallery is all."""
    flat = {name: rows.reshape(len(rows), -1) / rows.shape[1] for name, rows in tracks.items()}
    pooled = {name: rows.mean(axis=1) for name, rows in tracks.items()}
    pooled = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in pooled.items()}
    precisions, firsts = [], []
    shared = truth[held].astype(np.float32) @ truth.astype(np.float32).T > 0
    for one, other in (MODALITIES, MODALITIES[::-1]):
        precisions.append(average_precisions(pooled[one][held] @ pooled[other].T, shared).mean())
        scores = flat[one][held] @ flat[other].T
        own = scores[np.arange(len(held)), held]
        firsts.append((scores >= own[:, None]).sum(axis=1) == 1)
    return float(np.mean(precisions) * 100), float(np.mean(firsts) * 100)


class Peak:
    """Largest memory of this process that is no file: mapped tracks are the system's cache."""

    def __init__(self) -> None:
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.1):
            memory = process.memory_info()
            self.bytes = max(self.bytes, memory.rss - memory.shared)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure_size(num_segments: int, width: int) -> None:
    """Print what fitting and deriving cost for a made library on disk."""
    with tempfile.TemporaryDirectory() as name:
        stored = {}
        rng = np.random.default_rng(0)
        mix = rng.standard_normal((64, width), np.float32)
        for modality in MODALITIES:
            file = Path(name) / modality
            rows = np.memmap(file, np.float16, "w+", shape=(num_segments, 16, width))
            for first in range(0, num_segments, 2000):
                count = min(2000, num_segments - first)
                latent = np.random.default_rng(first).standard_normal((count, 1, 64), np.float32)
                moments = latent @ mix + 6 * rng.standard_normal((count, 16, width), np.float32)
                rows[first : first + count] = moments / np.linalg.norm(moments, axis=-1, keepdims=True)
            rows.flush()
            stored[modality] = np.memmap(file, np.float16, "r", shape=rows.shape)
            del rows

        def read(modality: str, chosen: NDArray[np.int64]) -> Floats:
            tracks = stored[modality][chosen].astype(np.float32)
            return np.asarray(tracks / np.linalg.norm(tracks, axis=-1, keepdims=True), np.float32)

        clips = Clips(read=read, num_clips=num_segments, shapes=dict.fromkeys(MODALITIES, (16, width)))
        with Peak() as peak:
            fitted, seconds, cpu = timed(lambda: fit_heads(clips, FitConfig()))
        print(
            f"adapt --method pair of {num_segments} segments of D {width}: {seconds / 60:.1f} minutes, "
            f"{cpu / 60:.1f} core-minutes, {peak.bytes / 1e9:.2f} GB besides mapped tracks"
        )
        derive(fitted.heads, read, Path(name), min(num_segments, 4000))


def derive(
    heads: Mapping[str, nn.Module], read: Callable[[str, NDArray[np.int64]], Floats], folder: Path, count: int
) -> None:
    """Print how many segments of both modalities the head graphs adapt in a second of one core."""
    sessions = {}
    for modality, head in heads.items():
        arrays = {key: array.detach().numpy() for key, array in head.state_dict().items()}
        write_head(arrays, folder / f"{modality}.onnx", repeats=1)
        sessions[modality] = open_session(folder / f"{modality}.onnx", session_options(1), [CPU])

    def work() -> None:
        for first in range(0, count, 64):
            chosen = np.arange(first, min(count, first + 64))
            for modality, session in sessions.items():
                session.run(None, {"rows": read(modality, chosen)})

    _, seconds, cpu = timed(work)
    print(
        f"deriving, without the index: {count / seconds:.0f} segments/s, "
        f"{1e6 * cpu / count / 60:.0f} core-minutes a million"
    )


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """What `work` returns, its seconds and its seconds of CPU."""
    start, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
