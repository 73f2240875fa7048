"""What an index of each kind of storage takes, finds and costs, beside float16.

    python -m benchmarks.storage_kinds                                20,000 segments of sound, ten minutes
    python -m benchmarks.storage_kinds --picture docs/storage.svg     and the picture of docs/search.md
    python -m benchmarks.storage_kinds --data DIR                     also the tracks of a library's active release

For each likeness of a segment's moments: of the exact ten best by the diagonal mean of the float16 tracks, how many the
search of the index finds, with the prefetch that the query chooses, and the mean error of the scores that it gives.
Bytes are those of the disk, all in but Edge's log, whose size does not grow with the library. The kinds take turns in
one run with each query: times are given as ratios to float16.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_corpus import ASSET_SEGMENTS, asset_id
from benchmarks.search_http import cpu_seconds
from benchmarks.search_prefetch import SIGNAL
from benchmarks.track_rows import OWN_NOISES, make_corpus
from models.cores import num_cores
from service.index.contract import Segment, VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.iteration import iter_assets, iter_segments
from service.index.layout import VectorLayout
from service.index.opening import index_place
from service.releases.opening import active_release
from service.search.prefetch import choose_prefetch
from service.system.settings import Settings
from service.system.storage import STORAGES, Storage

LIMIT = 10
CHUNK = 500
MISSED = (5e-4, 0.1)  # shares at the top and the bottom of the picture
COLOURS: Mapping[Storage, str] = {"float16": "#666", "fine": "#1565c0", "compact": "#c62828"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One kind of storage with the tracks of one name."""

    storage: Storage
    name: str
    num_bytes: float
    share: float
    error: float
    p50_ms: float
    p95_ms: float
    core_ms: float


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=20_000, help="more than 10,000, or no graph is built")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--noises", type=float, nargs="*", default=OWN_NOISES, help="of each moment")
    parser.add_argument(
        "--kinds", nargs="+", choices=STORAGES, default=STORAGES, help="times are compared with the first"
    )
    parser.add_argument("--data", type=Path, help="take the tracks of this data folder; it is not changed")
    parser.add_argument("--picture", type=Path, help="write the picture here")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {num_cores()} cores")
    results: list[Result] = []
    for noise in options.noises:
        tracks, queries = make_corpus(options.segments, options.width, options.queries, noise)
        cosine = f"{SIGNAL / (SIGNAL + noise**2):.2f}"
        results += measure(tracks, queries, f"cosine {cosine}", options.kinds, rounds=options.rounds)
    if options.data is not None:
        tracks, queries = read_library(options.data)
        results += measure(tracks, queries, "library", options.kinds, rounds=options.rounds)
    if options.picture is not None:
        options.picture.write_text(draw(results), encoding="utf-8")


def read_library(data: Path) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Tracks of the sound of a library, and those of the picture as queries, of segments that have both."""
    settings = Settings(data=data, min_free_bytes=0)
    release_id, bundle = active_release(settings)
    index = index_place(settings).find(bundle, release_id=release_id)
    if index is None:
        raise SystemExit(f"{data} has no index of {release_id}")
    sounds, pictures = [], []
    for asset in iter_assets(index):
        for segment in iter_segments(index, asset):
            if segment.audio_track is not None and segment.video_track is not None:
                sounds.append(segment.audio_track)
                pictures.append(segment.video_track)
    index.close()
    return np.stack(sounds).astype(np.float16), np.stack(pictures)


def measure(
    tracks: NDArray[np.float16],
    queries: NDArray[np.float32],
    name: str,
    kinds: Sequence[Storage],
    *,
    rounds: int,
) -> list[Result]:
    """Build an index of each kind of storage, search them in turns, and print what was found."""
    exact = np.concatenate(
        [
            tracks[n : n + CHUNK].astype(np.float32).reshape(len(tracks[n : n + CHUNK]), -1)
            @ queries.reshape(len(queries), -1).T
            for n in range(0, len(tracks), CHUNK)
        ]
    ) / len(queries[0])
    best = np.argsort(-exact, axis=0, kind="stable")[:LIMIT].T
    places = {asset_id(n): n for n in range(0, len(tracks), ASSET_SEGMENTS)}
    shares: dict[Storage, list[float]] = {storage: [] for storage in kinds}
    errors: dict[Storage, list[float]] = {storage: [] for storage in kinds}
    seconds: dict[Storage, list[float]] = {storage: [] for storage in kinds}
    cores: dict[Storage, float] = dict.fromkeys(kinds, 0.0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        num_bytes = {storage: build(folder / storage, tracks, storage) for storage in kinds}
        indexes = {
            storage: stack.enter_context(open_index(folder / storage, tracks, storage)) for storage in kinds
        }
        for turn in range(rounds + 1):  # the first one warms up
            for number, query in enumerate(queries):
                wanted = VectorQuery(
                    track=query, target="audio", limit=LIMIT, prefetch=choose_prefetch(query, limit=LIMIT)
                )
                for storage, index in indexes.items():
                    used, began = cpu_seconds(index.shard_pid), time.perf_counter()
                    matches = index.search(wanted)
                    if turn:
                        seconds[storage].append(time.perf_counter() - began)
                        cores[storage] += cpu_seconds(index.shard_pid) - used
                    if turn == 1:
                        found = [places[m.asset_id] + round(m.start_seconds / 10) for m in matches]
                        shares[storage].append(len(set(found) & set(best[number].tolist())) / LIMIT)
                        errors[storage] += [
                            abs(m.score - float(exact[place, number]))
                            for m, place in zip(matches, found, strict=True)
                        ]
    results = []
    for storage in kinds:
        p50, p95 = np.percentile(seconds[storage], [50, 95]) * 1e3
        result = Result(
            storage=storage,
            name=name,
            num_bytes=num_bytes[storage],
            share=float(np.mean(shares[storage])),
            error=float(np.mean(errors[storage])),
            p50_ms=float(p50),
            p95_ms=float(p95),
            core_ms=cores[storage] / len(seconds[storage]) * 1e3,
        )
        results.append(result)
        base = results[0]
        print(
            f"{name}, {storage}: {result.num_bytes:,.0f} bytes a segment, {result.share:.4f} of the exact "
            f"{LIMIT}, mean error {result.error:.1e}; p50 {result.p50_ms / base.p50_ms:.2f}, p95 "
            f"{result.p95_ms / base.p95_ms:.2f}, core time {result.core_ms / max(base.core_ms, 1e-9):.2f} of "
            f"{base.storage}'s",
            flush=True,
        )
    return results


def open_index(folder: Path, tracks: NDArray[np.float16], storage: Storage) -> EmbeddedIndex:
    """Open or create an index for tracks."""
    layout = VectorLayout.of_both(*tracks.shape[1:])
    return EmbeddedIndex.open(folder, layout=layout, min_free_bytes=0, call_seconds=600.0, storage=storage)


def build(folder: Path, tracks: NDArray[np.float16], storage: Storage) -> float:
    """Write tracks as sound into an index, optimize it, and return the bytes of a segment without Edge's log."""
    with open_index(folder, tracks, storage) as index:
        for first in range(0, len(tracks), ASSET_SEGMENTS):
            some = tracks[first : first + ASSET_SEGMENTS].astype(np.float32)
            segments = [
                Segment(
                    asset_id=asset_id(first),
                    path=f"/library/{first}.mp4",
                    index=n,
                    start_seconds=10.0 * n,
                    end_seconds=10.0 * n + 10.0,
                    media={"container": "mp4", "duration_seconds": 10.0 * len(some)},
                    audio_track=track,
                )
                for n, track in enumerate(some)
            ]
            index.write_asset(segments, is_last=True)
        index.optimize()
    files = [path for path in folder.rglob("*") if path.is_file() and "wal" not in path.parts]
    return sum(path.stat().st_blocks * 512 for path in files) / len(tracks)


def draw(results: list[Result]) -> str:
    """The picture: bytes a segment against the share of the exact ten that is missed, both logarithmic."""
    least, most = 0.8 * min(one.num_bytes for one in results), max(one.num_bytes for one in results)
    parts = []
    for result in results:
        x = _place(result.num_bytes, least, most, 70, 540)
        y = _place(max(1 - result.share, MISSED[0]), *MISSED, 40, 250)
        colour = COLOURS[result.storage]
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{colour}"/>')
        parts.append(
            f'<text x="{x + 8:.0f}" y="{y + 4:.0f}" fill="{colour}">{result.name}: {result.share:.3f}</text>'
        )
    for result in {result.storage: result for result in results}.values():
        x = _place(result.num_bytes, least, most, 70, 540)
        parts.append(
            f'<text x="{x:.0f}" y="272" text-anchor="middle" fill="{COLOURS[result.storage]}">{result.storage} '
            f"{result.num_bytes / 1000:.1f} KB</text>"
        )
    for missed in (0.001, 0.01, 0.1):
        y = _place(missed, *MISSED, 40, 250)
        parts.append(f'<text x="62" y="{y + 4:.0f}" text-anchor="end">{1 - missed:g}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 300" font-family="sans-serif" font-size="11">\n'
        '<rect width="680" height="300" fill="#fff"/>\n'
        '<path d="M70 30V250H640" fill="none" stroke="#999"/>\n'
        '<text x="70" y="20">share of the exact ten that is found, by the mean cosine of two moments</text>\n'
        '<text x="640" y="292" text-anchor="end">bytes of a segment on the disk</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _place(value: float, least: float, most: float, first: int, last: int) -> float:
    return first + (last - first) * float(np.log(value / least) / np.log(most / least))


if __name__ == "__main__":
    main()
