"""What rows of 8 and 4 bits cost and keep (`service.index.codec`), beside the float16 tracks of the index.

    python -m benchmarks.track_rows              10,000 segments, three minutes

For each likeness of a segment's moments: the share of the exact ten best by diagonal mean, of all segments, that are
the ten best by the scores of the rows, and the mean error of a score. Then the time that rescoring takes. The tracks
are those of `benchmarks.search_prefetch`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_corpus import KEPT, NUM_MOMENTS, SHARED
from benchmarks.search_prefetch import SIGNAL, make_tracks
from service.index.codec import TrackCodec

OWN_NOISES = (0.4, 0.8, 1.6)
CENTRES = 60
CHUNK = 1000
CANDIDATES = (200, 1000)
TURNS = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--limit", type=int, default=10)
    options = parser.parse_args()
    codecs = {bits: TrackCodec(num_moments=NUM_MOMENTS, width=options.width, bits=bits) for bits in (8, 4)}
    print(f"float16: {2 * NUM_MOMENTS * options.width} bytes")
    for noise in OWN_NOISES:
        tracks, queries = make_corpus(options.segments, options.width, options.queries, noise)
        exact = _exact(tracks, queries)
        for bits, codec in codecs.items():
            scores = np.concatenate(
                [_score_all(codec, queries, tracks[n : n + CHUNK]) for n in range(0, len(tracks), CHUNK)]
            )
            print(
                f"cosine {SIGNAL / (SIGNAL + noise**2):.2f}, {bits} bits, {codec.row_bytes} bytes: "
                f"{_share(exact, scores, options.limit):.4f} of the exact {options.limit}, "
                f"mean error {np.abs(scores - exact).mean():.1e}"
            )
    for bits, codec in codecs.items():
        rows = codec.encode(np.asarray(tracks[:CHUNK], dtype=np.float32))
        for count in CANDIDATES:
            print(
                f"{bits} bits: {count} candidates rescored in {_time(codec, queries[0], rows[:count]):.2f} core-ms"
            )


def make_corpus(
    num_segments: int, width: int, num_queries: int, noise: float
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Tracks around `CENTRES` centres, (N, T, D), and queries, (Q, T, D)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, width), dtype=np.float32)
    own = rng.integers(0, CENTRES, num_segments)
    shared = rng.standard_normal((num_segments, width), dtype=np.float32)
    chosen = rng.choice(num_segments, num_queries, replace=False)
    changed = KEPT * shared[chosen]
    changed += (1 - KEPT**2) ** 0.5 * rng.standard_normal((num_queries, width), dtype=np.float32)
    signal = centres[own] + SHARED * shared
    parts = [
        make_tracks(rng, signal[n : n + CHUNK], noise).astype(np.float16)
        for n in range(0, num_segments, CHUNK)
    ]
    return np.concatenate(parts), make_tracks(rng, centres[own[chosen]] + SHARED * changed, noise)


def _exact(tracks: NDArray[np.float16], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = queries.reshape(len(queries), -1).T / NUM_MOMENTS
    parts = [
        tracks[n : n + CHUNK].astype(np.float32).reshape(-1, len(flat)) @ flat
        for n in range(0, len(tracks), CHUNK)
    ]
    return np.concatenate(parts)


def _score_all(
    codec: TrackCodec, queries: NDArray[np.float32], tracks: NDArray[np.float16]
) -> NDArray[np.float32]:
    """Scores of all queries, as products with what `score` multiplies: a test says that they are the same."""
    estimates = codec.estimate(codec.encode(tracks.astype(np.float32)))
    found = estimates.reshape(len(tracks), -1) @ queries.reshape(len(queries), -1).T / NUM_MOMENTS
    return np.asarray(found, dtype=np.float32)


def _share(exact: NDArray[np.float32], scores: NDArray[np.float32], limit: int) -> float:
    best, found = (np.argsort(-some, axis=0, kind="stable")[:limit].T for some in (exact, scores))
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(best, found, strict=True)]))


def _time(codec: TrackCodec, query: NDArray[np.float32], rows: NDArray[np.uint8]) -> float:
    """The least of some turns, in milliseconds of processor time."""
    times = []
    for _ in range(TURNS):
        began = time.process_time()
        codec.score(query, rows)
        times.append(time.process_time() - began)
    return min(times) * 1e3


if __name__ == "__main__":
    main()
