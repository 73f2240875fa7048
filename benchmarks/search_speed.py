"""Search of a large embedded index: the pooled stage beside other libraries, both stages beside the exact order, HTTP.

    python -m benchmarks.search_speed                                          20,000 segments, two minutes
    python -m benchmarks.search_speed --segments 100000 --folder /var/tmp/s    8 GB, kept for the next run
    python -m benchmarks.search_speed --storage fine                           tracks in 8 bits a number
    python -m benchmarks.search_speed --storage fine --segments 1000000 --folder DIR    16 GB, of which 9 for peers
    pip install -e '.[bench]'                                                  for hnswlib and faiss

pooled   the nearest 10 by pooled vector: Qdrant Edge on the shard of the index, hnswlib, faiss (HNSW, M 16,
         ef_construction 128 each, and IVF-PQ) and up to 100,000 segments qdrant-client's local mode take turns in
         this process on one thread; printed is the fastest setting of each that finds .99 of the nearest 10, or the
         best one
stages   `EmbeddedIndex.search`, including its process and socket: the share of the exact 10 by diagonal mean that each
         prefetch finds, and its time
http     `POST /v1/search` with a base64 track to a server process
open     time to open the index, and the memory of its process
aside    a rebuild of the graphs beside the index while nobody searches, and under one client that never pauses; its
         searches before, during and after it

The corpus (`benchmarks.search_corpus`) is only sound, in assets of 250 segments, made anew from its seed where it is
needed. A build that was cut off is resumed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_corpus import ASSET_SEGMENTS, LIMIT, NUM_MOMENTS, PART, Corpus, asset_id
from benchmarks.search_http import cpu_seconds, time_http
from benchmarks.search_peers import time_pooled
from models.cores import num_cores
from service.index.contract import Segment, VectorQuery
from service.index.embedded.generation import current_shard
from service.index.embedded.index import EmbeddedIndex
from service.index.layout import VectorLayout
from service.system.storage import STORAGES, Storage

PARTS = ("pooled", "stages", "http", "open", "aside")
PREFETCHES = (50, 100, 200, 500, 1000)
ASIDE_QUERIES = 2000
WRITERS = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=20_000, help="more than 10,000, or no graph is built")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument(
        "--own-noise",
        type=float,
        default=0.8,
        help="noise of each moment; more makes the moments of a segment less alike",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="keep corpus and index in this folder; default: a temporary one"
    )
    parser.add_argument("--storage", choices=STORAGES, default="float16", help="how the index stores tracks")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        corpus = Corpus(
            folder=folder / "corpus",
            num_segments=options.segments,
            width=options.width,
            num_queries=options.queries,
            own_noise=options.own_noise,
        )
        print(
            f"{options.segments} segments, {options.width} wide, {options.queries} queries, {options.rounds} rounds, "
            f"load {os.getloadavg()[0]:.1f} on {num_cores()} cores"
        )
        kind = "" if options.storage == "float16" else f"-{options.storage}"
        index = folder / f"index-{corpus.name}{kind}"
        build_index(index, corpus, options.storage)
        if "pooled" in options.parts:
            time_pooled(index / current_shard(index), corpus, peers=folder / "peers", rounds=options.rounds)
        if "stages" in options.parts:
            time_stages(index, corpus, rounds=options.rounds)
        if "http" in options.parts:
            time_http(index, corpus, folder=folder, rounds=options.rounds)
        if "open" in options.parts:
            time_opening(index, corpus)
        if "aside" in options.parts:
            time_aside(index, corpus)


def build_index(folder: Path, corpus: Corpus, storage: Storage = "float16") -> None:
    """Write the corpus into an embedded index and optimize it, unless it exists."""
    if (folder / "built").exists():
        return
    with open_index(folder, corpus, storage) as index, ThreadPoolExecutor(WRITERS) as writers:
        num_found, used, started = index.count_segments(), cpu_seconds(os.getpid()), time.perf_counter()
        for first in corpus.firsts():
            if index.get_asset(asset_id(min(first + PART, corpus.num_segments) - 1)) is None:
                assets = cut_assets(corpus.tracks(first), first)
                for _ in writers.map(partial(index.write_asset, is_last=True), assets):
                    pass
        written, write_used = time.perf_counter(), cpu_seconds(os.getpid())
        index.optimize()
        info, optimized = index.info(), time.perf_counter()
        print(
            f"{storage}, {(info.num_bytes or 0) / corpus.num_segments:,.0f} bytes a segment; "
            f"{info.num_segments - num_found} written in {written - started:.0f} s, {write_used - used:.0f} core-s; "
            f"optimized in {optimized - written:.0f} s, {cpu_seconds(os.getpid()) - write_used:.0f} core-s; {info}"
        )
    (folder / "built").touch()


def open_index(folder: Path, corpus: Corpus, storage: Storage = "float16") -> EmbeddedIndex:
    """Open the index of a corpus; one that exists keeps its storage."""
    return EmbeddedIndex.open(
        folder,
        layout=VectorLayout.of_both(NUM_MOMENTS, corpus.width),
        min_free_bytes=0,
        call_seconds=120.0,
        storage=storage,
    )


def cut_assets(tracks: NDArray[np.float32], first: int) -> list[list[Segment]]:
    """Assets of 250 segments with these tracks, the first of which is that of the segment `first`."""
    return [
        [
            Segment(
                asset_id=asset_id(first + start),
                path=f"/library/{first + start}.mp4",
                index=index,
                start_seconds=10.0 * index,
                end_seconds=10.0 * index + 10.0,
                media={"container": "mp4", "duration_seconds": 10.0 * ASSET_SEGMENTS},
                audio_track=track,
            )
            for index, track in enumerate(tracks[start : start + ASSET_SEGMENTS])
        ]
        for start in range(0, len(tracks), ASSET_SEGMENTS)
    ]


def time_stages(folder: Path, corpus: Corpus, *, rounds: int) -> None:
    """Print for each prefetch the share of the exact results it finds, and its time."""
    exact = corpus.exact_segments()
    numbers = {asset_id(n): n for n in range(0, corpus.num_segments, ASSET_SEGMENTS)}
    seconds: dict[int, list[float]] = {prefetch: [] for prefetch in PREFETCHES}
    found: dict[int, list[float]] = {prefetch: [] for prefetch in PREFETCHES}
    cpu = dict.fromkeys(PREFETCHES, 0.0)
    with open_index(folder, corpus) as index:
        for turn in range(rounds + 1):  # the first one warms up
            for prefetch in PREFETCHES:
                cpu[prefetch] -= cpu_seconds(index.shard_pid) if turn else 0.0
                for query, best in zip(corpus.queries, exact, strict=True):
                    started = time.perf_counter()
                    matches = index.search(
                        VectorQuery(track=query, target="audio", limit=LIMIT, prefetch=prefetch)
                    )
                    if turn:
                        seconds[prefetch].append(time.perf_counter() - started)
                        places = {numbers[m.asset_id] + round(m.start_seconds / 10) for m in matches}
                        found[prefetch].append(len(places & set(best.tolist())) / LIMIT)
                cpu[prefetch] += cpu_seconds(index.shard_pid) if turn else 0.0
    for prefetch in PREFETCHES:
        p50, p95 = np.percentile(seconds[prefetch], [50, 95]) * 1e3
        print(
            f"stages, prefetch {prefetch:4}: {np.mean(found[prefetch]):.4f} of the exact {LIMIT}, "
            f"p50 {p50:.2f} ms, p95 {p95:.2f} ms; {cpu[prefetch] / len(seconds[prefetch]) * 1e3:.2f} core-ms"
        )


def time_aside(folder: Path, corpus: Corpus) -> None:
    """Print what `optimize_aside` takes without a client and with one, and its effect on the latency of searches."""
    with open_index(folder, corpus) as index:
        started = time.perf_counter()
        index.optimize_aside()
        alone = time.perf_counter() - started
        before = _search_for(index, corpus, lambda taken: taken >= ASIDE_QUERIES)
        build = threading.Thread(target=index.optimize_aside)
        started = time.perf_counter()
        build.start()
        during = _search_for(index, corpus, lambda _: not build.is_alive())
        seconds = time.perf_counter() - started
        after = _search_for(index, corpus, lambda taken: taken >= ASIDE_QUERIES)
    print(
        f"aside, {corpus.num_segments} segments: built and switched in {alone:.0f} s while nobody searched, in "
        f"{seconds:.0f} s under a client without pauses"
    )
    for name, times in (("before", before), ("during", during), ("after", after)):
        p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1e3
        print(
            f"  {name}: {len(times)} searches, p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms, "
            f"maximum {max(times) * 1e3:.0f} ms"
        )


def _search_for(index: EmbeddedIndex, corpus: Corpus, is_enough: Callable[[int], bool]) -> list[float]:
    times: list[float] = []
    while not is_enough(len(times)):
        began = time.perf_counter()
        index.search(
            VectorQuery(track=corpus.queries[len(times) % len(corpus.queries)], target="audio", limit=LIMIT)
        )
        times.append(time.perf_counter() - began)
    return times


def time_opening(folder: Path, corpus: Corpus) -> None:
    """Print how long opening takes, and the memory of the shard process after some searches."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        index = open_index(folder, corpus)
        num_segments = index.count_segments()
        seconds.append(time.perf_counter() - started)
        for query in corpus.queries[:100]:
            index.search(VectorQuery(track=query, target="audio", limit=LIMIT))
        memory = read_memory(index.shard_pid)
        index.close()
    print(
        f"open, {num_segments} segments: {min(seconds):.2f} to {max(seconds):.2f} s; its process holds {memory}"
    )


def read_memory(pid: int) -> str:
    """Return as text the memory of a process: its own, and mapped files, which the kernel may reclaim."""
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return f"{kib['RssAnon'] // 1024} MiB of its own and {kib['RssFile'] // 1024} MiB of mapped files"


if __name__ == "__main__":
    main()
