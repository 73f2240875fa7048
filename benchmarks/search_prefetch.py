"""How many candidates the pooled vectors must return, by how alike the moments of query and library are.

    python -m benchmarks.search_prefetch              20,000 segments, two minutes

Nothing is timed and no index is used: NumPy compares the exact ten best by diagonal mean with the order by pooled
vector. There are 60 centres with 333 segments each, as 100,000 segments have around 300 centres.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_corpus import KEPT, NUM_MOMENTS, SHARED, unit
from service.search.prefetch import choose_prefetch, measure_alikeness

PREFETCHES = (20, 50, 100, 200, 500, 1000)
OWN_NOISES = (0.4, 0.8, 1.2, 1.6, 3.0)
SEGMENTS_PER_CENTRE = 333
SIGNAL = 1 + SHARED**2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--limit", type=int, default=10, help="number of best segments")
    options = parser.parse_args()
    limit = options.limit
    rng = np.random.default_rng(0)
    count = max(1, options.segments // SEGMENTS_PER_CENTRE)
    centres = rng.standard_normal((count, options.width), dtype=np.float32)
    own = rng.integers(0, count, options.segments)
    shared = rng.standard_normal((options.segments, options.width), dtype=np.float32)
    chosen = rng.choice(options.segments, options.queries, replace=False)
    fresh = rng.standard_normal((options.queries, options.width), dtype=np.float32)
    changed = KEPT * shared[chosen] + (1 - KEPT**2) ** 0.5 * fresh
    print("cosine of two moments in library and query; share of the exact best that is among the candidates")
    print("library  query   " + "  ".join(f"{prefetch:5}" for prefetch in PREFETCHES) + "   chosen")
    for library_noise in OWN_NOISES:
        tracks = make_tracks(rng, centres[own] + SHARED * shared, library_noise)
        pooled = unit(tracks.mean(axis=1))
        for query_noise in OWN_NOISES:
            queries = make_tracks(rng, centres[own[chosen]] + SHARED * changed, query_noise)
            shares = _shares(tracks, pooled, queries, limit)
            alike = float(np.mean([measure_alikeness(query) for query in queries]))
            prefetch = choose_prefetch(queries[0], limit=limit)
            print(
                f"{SIGNAL / (SIGNAL + library_noise**2):7.2f} {alike:6.2f}   "
                + "  ".join(f"{share:5.3f}" for share in shares)
                + f"   {prefetch:5}"
            )


def make_tracks(
    rng: np.random.Generator, signal: NDArray[np.float32], own_noise: float
) -> NDArray[np.float32]:
    """Tracks of unit moments: a signal, (N, D), with noise of each moment."""
    tracks = rng.standard_normal((len(signal), NUM_MOMENTS, signal.shape[1]), dtype=np.float32)
    tracks *= own_noise
    tracks += signal[:, None]
    tracks /= np.linalg.norm(tracks, axis=-1, keepdims=True)
    return tracks


def _shares(
    tracks: NDArray[np.float32], pooled: NDArray[np.float32], queries: NDArray[np.float32], limit: int
) -> list[float]:
    exact = tracks.reshape(len(tracks), -1) @ queries.reshape(len(queries), -1).T
    best = np.argsort(-exact, axis=0, kind="stable")[:limit]
    near = np.argsort(-(pooled @ unit(queries.mean(axis=1)).T), axis=0, kind="stable")[: PREFETCHES[-1]]
    return [
        float(np.mean([np.isin(best[:, q], near[:prefetch, q]).mean() for q in range(len(queries))]))
        for prefetch in PREFETCHES
    ]


if __name__ == "__main__":
    main()
