"""Speed of the embedded index, including its process and socket: writing, searching, opening.

    python -m benchmarks.index_speed --segments 30000 --width 128

Tracks are random around 300 centres, so neighbours are real neighbours. Prints one line a measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.index.contract import Segment, VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.layout import VectorLayout


def make_tracks(rng: np.random.Generator, count: int, centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return random unit tracks, shape (count, 16, D)."""
    width = centres.shape[1]
    rows = centres[rng.integers(0, len(centres), count), None]
    rows = rows + 0.6 * rng.standard_normal((count, 1, width), dtype=np.float32)
    rows = rows + 0.8 * rng.standard_normal((count, 16, width), dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def make_asset(number: int, tracks: NDArray[np.float32]) -> list[Segment]:
    """Return the segments of one asset with sound and picture."""
    return [
        Segment(
            asset_id=hashlib.sha256(str(number).encode()).hexdigest(),
            path=f"/library/{number}.mp4",
            index=index,
            start_seconds=10.0 * index,
            end_seconds=10.0 * index + 10.0,
            media={"container": "mp4", "duration_seconds": 40.0, "size_bytes": number},
            audio_track=track,
            video_track=track,
        )
        for index, track in enumerate(tracks)
    ]


def time_writes(index: EmbeddedIndex, assets: list[list[Segment]], *, num_threads: int) -> None:
    """Write assets, each acknowledged as durable, and print the speed."""
    waiting = iter(assets)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                asset = next(waiting, None)
            if asset is None:
                return
            index.write_asset(asset, is_last=True)

    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    rate, per_asset = sum(map(len, assets)) / seconds, len(assets[0])
    print(f"write, {num_threads} threads, {per_asset} segments an asset: {rate:.0f} segments/s")


def time_calls(
    name: str, call: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]
) -> None:
    """Call with every query and print the median and the 95th percentile."""
    for query in queries[:20]:
        call(query)
    seconds = []
    for query in queries:
        started = time.perf_counter()
        call(query)
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    print(f"{name}: p50 {p50:.2f} ms, p95 {p95:.2f} ms")


def time_searches(index: EmbeddedIndex, queries: NDArray[np.float32]) -> None:
    """Print the latency of each kind of search."""
    for limit in (1, 10, 100):
        time_calls(
            f"  search, limit {limit}",
            lambda query, limit=limit: index.search(VectorQuery(track=query, target="audio", limit=limit)),  # type: ignore[misc]
            queries,
        )
    time_calls(
        "  search by asset, limit 10",
        lambda query: index.search_assets(VectorQuery(track=query, target="audio", limit=10)),
        queries,
    )
    time_calls("  count (an empty call)", lambda _: index.get_asset("0" * 64), queries)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((300, options.width), dtype=np.float32)
    queries = make_tracks(rng, 200, centres)
    with tempfile.TemporaryDirectory() as folder:
        with EmbeddedIndex.open(Path(folder), layout=VectorLayout.of_both(16, options.width)) as index:
            for number, (num_threads, num_assets, per_asset) in enumerate(
                ((1, 100, 4), (8, 400, 4), (1, 8, 250))
            ):
                assets = [
                    make_asset(10_000_000 * number + n, make_tracks(rng, per_asset, centres))
                    for n in range(num_assets)
                ]
                time_writes(index, assets, num_threads=num_threads)
            for number in range((options.segments - index.count_segments()) // 250):
                index.write_asset(make_asset(number, make_tracks(rng, 250, centres)), is_last=True)
            print("before optimize")
            time_searches(index, queries)
            exact = [
                index.search(VectorQuery(track=query, target="audio", limit=10, prefetch=2000))
                for query in queries
            ]
            started = time.perf_counter()
            index.optimize()
            print(f"optimize: {time.perf_counter() - started:.1f} s, {index.info()}")
            time_searches(index, queries)
            kept = [
                len(
                    {(m.asset_id, m.start_seconds) for m in was}
                    & {(m.asset_id, m.start_seconds) for m in now}
                )
                for was, now in zip(
                    exact,
                    (index.search(VectorQuery(track=q, target="audio", limit=10)) for q in queries),
                    strict=True,
                )
            ]
            print(f"share of the exact top 10 (2,000 candidates) found: {np.mean(kept) / 10:.4f}")
        started = time.perf_counter()
        with EmbeddedIndex.open(Path(folder), layout=VectorLayout.of_both(16, options.width)) as index:
            print(f"open: {time.perf_counter() - started:.2f} s, {index.count_segments()} segments")


if __name__ == "__main__":
    main()
