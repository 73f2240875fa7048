"""Time of one similarity matrix of all clips, for the four ways of combining moments, compared with plain loops.

    python -m benchmarks.retrieval_speed [--clips 1545] [--width 768] [--pairs 2000] [--rounds 3]

The baseline is the nested loop of the published evaluation scripts before they were vectorised: for each pair of clips
the cosines of its moments one by one (16, or all 256), then their mean or maximum. It runs on a sample of the pairs and
takes turns with ours in one process; its time is scaled to all pairs. Both must give the same numbers on the sample.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from numpy.typing import NDArray

from training.evaluation.evaluate import COMBINATIONS, Combination, similarity

NUM_MOMENTS = 16
TOLERANCE = 1e-5


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the cosine of two vectors, written as in the scripts."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def score_plainly(query: NDArray[np.float32], item: NDArray[np.float32], combine: Combination) -> float:
    """Return the score of one pair of clips."""
    if combine.startswith("diagonal"):
        cosines = [cosine(a, b) for a, b in zip(query, item, strict=True)]
    else:
        cosines = [cosine(a, b) for a in query for b in item]
    return float(np.mean(cosines) if combine.endswith("mean") else np.max(cosines))


def measure(
    audio: NDArray[np.float32],
    video: NDArray[np.float32],
    combine: Combination,
    *,
    num_pairs: int,
    rounds: int,
) -> tuple[float, float, float, float]:
    """Return median seconds of a matrix and of a plain pair, seconds of the slowest matrix, largest difference."""
    rng = np.random.default_rng(0)
    matrix_seconds, pair_seconds, difference = [], [], 0.0
    for _ in range(rounds):
        pairs = rng.integers(0, len(audio), (num_pairs, 2))
        started = time.perf_counter()
        scores = similarity(audio, video, combine=combine)
        between = time.perf_counter()
        plain = [score_plainly(audio[query], video[item], combine) for query, item in pairs]
        pair_seconds.append((time.perf_counter() - between) / num_pairs)
        matrix_seconds.append(between - started)
        difference = max(difference, float(np.abs(scores[pairs[:, 0], pairs[:, 1]] - plain).max()))
    assert difference < TOLERANCE, f"{combine} differs from the plain loop by {difference:.1e}"
    return statistics.median(matrix_seconds), statistics.median(pair_seconds), max(matrix_seconds), difference


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=1545, help="the default is the size of VGGSound's test set"
    )
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument(
        "--pairs", type=int, default=2000, help="pairs that the plain loop scores in each round"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (options.clips, NUM_MOMENTS, options.width)
    audio, video = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    similarity(audio[:64], video[:64])  # warm up
    print(
        f"{options.clips} x {options.clips} clips, {NUM_MOMENTS} moments, {options.width} wide, {options.rounds} rounds"
    )
    for combine in COMBINATIONS:
        is_diagonal = combine.startswith("diagonal")
        num_pairs = options.pairs if is_diagonal else max(1, options.pairs // NUM_MOMENTS)
        ours, plain, worst, difference = measure(
            audio, video, combine, num_pairs=num_pairs, rounds=options.rounds
        )
        whole = plain * options.clips**2
        print(
            f"{combine:13} {ours:.2f} s (slowest {worst:.2f} s); plain loop {plain * 1e3:.2f} ms a pair, "
            f"{whole / 60:.1f} min for all: {whole / ours:.0f} x; largest difference {difference:.0e}"
        )


if __name__ == "__main__":
    main()
