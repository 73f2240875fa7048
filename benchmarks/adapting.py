"""What adapting brings, over several seeds: the rows of docs/adapting.md, each with a paired 95 % t-interval.

    FOLEY_DATA=… python -m benchmarks.adapting --labels corpus/labels.csv     # clips of `foley-train synthesize`

A seed holds back a fifth of the clips, draws which labels are known and which are wrong, and starts the heads. Every
held-back clip is a query, the gallery is the other modality of all clips. Labels of the library are six bands of pitch.
`vectors` are made: 12 classes, 800 clips, sound and picture of a clip share its class and something of its own.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from training.adapting.fitting import MODALITIES, Clips, FitConfig, apply_head, fit_heads
from training.commands.stored_library import read_library
from training.evaluation.classes import average_precisions

Floats = NDArray[np.float32]
Tracks = dict[str, Floats]
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
    given = parser.parse_args()
    print(f"{given.seeds} seeds; mAP and R@1 are means of both directions, in percent")
    print("| row | baseline mAP / R@1 | method mAP / R@1 | Δ mAP | Δ R@1 |\n|---|---|---|---|---|")
    if given.labels:
        with tempfile.TemporaryDirectory() as folder:
            stored = read_library(Path(folder) / "tracks", Console(quiet=True)).tracks
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
            read=lambda name, chosen, moments: tracks[name][taught[chosen][:, None], moments],
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


if __name__ == "__main__":
    main()
