"""Duration of a switch and a rollback, their effect on requests, and whether memory is freed.

    python -m benchmarks.release_speed [--segments 10000] [--swaps 50] [--clips 200] [--folder FOLDER]
    python -m benchmarks.release_speed --deletions 5000

There are two releases, the starter and a copy of it under another name; their indexes are filled with random tracks. A
`foley serve` is switched between them over HTTP, while one client searches by vector on one connection without a pause.
Its p99 during a switch is compared with its p99 between two switches. Then clips are indexed, and a release of a third
bundle is built at the lowest priority: the client's p99 during the build is compared with its p99 before and after.

With `--deletions` there is no client: each of two releases holds so many assets of one segment and a hundredth more,
the second one is activated, `sync` finds that the files are gone, and a rollback makes the first one follow.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.search_corpus import unit
from benchmarks.search_http import cpu_seconds
from models.bundle.bundle import Bundle, load_bundle, starter_path
from service.index.contract import Segment
from service.index.opening import index_place
from service.releases.store import ReleaseStore
from service.system.settings import Settings
from training.corpus.synthesis import write_corpus

ASSET_SEGMENTS = 10
NUM_MOMENTS = 16
KEPT_OF = 100  # one asset of so many is kept when the others are deleted
NUM_QUERIES = 200
WRITERS = 32
PAUSE_SECONDS = 0.5
CALM_SECONDS = 6.0
START_SECONDS = 120.0


def main() -> None:
    """Fill, serve, switch and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--clips", type=int, default=200, help="number of clips that a third release embeds")
    parser.add_argument("--deletions", type=int, help="number of assets that go before a rollback")
    parser.add_argument("--folder", type=Path, help="folder for all files; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.deletions is not None:
            delete_and_roll_back(Path(folder), args.deletions)
            return
        run(Path(folder), num_segments=args.segments, num_swaps=args.swaps, num_clips=args.clips)


def run(folder: Path, *, num_segments: int, num_swaps: int, num_clips: int) -> None:
    """Measure everything in one folder."""
    settings, names, width = prepare(folder, num_segments)
    with (
        Server(settings) as server,
        Asker(server.address, width=width) as asker,
    ):
        switch_many(server, asker, names, num_swaps)
        build_third(server, asker, copy_starter(folder / "third", "third"), folder / "library", num_clips)


def prepare(
    folder: Path, num_segments: int, *, asset_segments: int = ASSET_SEGMENTS
) -> tuple[Settings, list[str], int]:
    """Make two releases of the same assets; returns settings, the names of the releases and the width of a moment."""
    settings = Settings(data=folder / "data", device="cpu", precision="fp32", min_free_bytes=0)
    store = ReleaseStore(settings.release_folder)
    bundles = [load_bundle(starter_path()), copy_starter(folder / "second", "second")]
    names = [store.create(bundle, outcome="ready").release_id for bundle in bundles]
    began, width = time.monotonic(), bundles[0].manifest.embedding_width
    for bundle, name in zip(bundles, names, strict=True):
        fill(settings, bundle, name, num_segments, asset_segments=asset_segments)
    store.activate(names[0], previous=None)
    print(f"{num_segments} segments of {width} numbers in each of two releases")
    print(f"filled in {time.monotonic() - began:.0f} s")
    return settings, names, width


def delete_and_roll_back(folder: Path, num_assets: int) -> None:
    """Delete assets from the second of two releases, return to the first, and print the times of both."""
    settings, names, _ = prepare(folder, num_assets + num_assets // KEPT_OF, asset_segments=1)
    with Server(settings) as server:
        server.post(f"/v1/releases/{names[1]}:activate")
        request = {"kind": "sync", "paths": ["/nowhere/gone"], "allow_empty": True}
        steps = {
            "deletions": lambda: server.finish("/v1/jobs", request),
            "rollback": lambda: server.post("/v1/releases:rollback"),
        }
        for name, step in steps.items():
            used, began = cpu_seconds(server.process.pid), time.monotonic()
            step()
            seconds, used = time.monotonic() - began, cpu_seconds(server.process.pid) - used
            left = server.client.get("/v1/assets?limit=1&with_count=true").json()["num_assets"]
            print(f"{name}: {seconds:.2f} s, {used:.2f} core-s; {left} assets are left")


def copy_starter(target: Path, name: str) -> Bundle:
    """Copy the starter under another name, which makes it another bundle."""
    shutil.copytree(starter_path(), target, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps(manifest | {"name": name}, indent=2, sort_keys=True))
    return load_bundle(target)


def fill(
    settings: Settings,
    bundle: Bundle,
    release_id: str,
    num_segments: int,
    *,
    asset_segments: int = ASSET_SEGMENTS,
) -> None:
    """Write random tracks; both releases have the same assets with different tracks."""
    rng = np.random.default_rng(len(release_id))
    index = index_place(settings).open(bundle, release_id=release_id)
    shape = (2, asset_segments, NUM_MOMENTS, bundle.manifest.embedding_width)

    def write(asset: int) -> None:
        index.write_asset(make_asset(asset, unit(rng.standard_normal(shape, dtype=np.float32))), is_last=True)

    try:
        with ThreadPoolExecutor(WRITERS) as writers:  # they share flushes
            for _ in writers.map(write, range(num_segments // asset_segments)):
                pass
        index.optimize()
    finally:
        index.close()


def make_asset(number: int, tracks: NDArray[np.float32]) -> list[Segment]:
    """An asset with sound and picture, shape (2, S, T, D); most of them lie in a folder of their own."""
    folder = "gone" if number % (KEPT_OF + 1) else "kept"
    return [
        Segment(
            asset_id=hashlib.sha256(str(number).encode()).hexdigest(),
            path=f"/nowhere/{folder}/{number}.mp4",
            index=index,
            start_seconds=10.0 * index,
            end_seconds=10.0 * index + 10.0,
            media={"duration_seconds": 10.0 * len(audio)},
            audio_track=audio,
            video_track=video,
        )
        for index, (audio, video) in enumerate(zip(*tracks, strict=True))
    ]


class Server:
    """A `foley serve` that runs until the block ends."""

    def __init__(self, settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        ours = {
            "DATA": settings.data,
            "DEVICE": "cpu",
            "PRECISION": "fp32",
            "MIN_FREE_BYTES": 0,
            "PORT": port,
        }
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
        self._environment = theirs | {f"FOLEY_{name}": str(value) for name, value in ours.items()}
        self.log = settings.data.with_name("server.log")

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "service.cli", "serve"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self.client = httpx.Client(base_url=self.address, timeout=300)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.get("/livez").raise_for_status()
                return self
            except httpx.HTTPError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def resident_mib(self) -> float:
        """Return the memory of the server process without its children."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def finish(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Begin a job, wait for its end and return it."""
        job = self.post(path, body)
        while job["state"] in ("queued", "running"):
            time.sleep(0.2)
            job = self.client.get(f"/v1/jobs/{job['job_id']}").json()
        return job

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a POST request and return the JSON of the answer."""
        answer = self.client.post(path, json=body) if body is not None else self.client.post(path)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


class Asker:
    """A client that searches by vector without a pause and records the time and duration of each answer."""

    def __init__(self, address: str, *, width: int) -> None:
        rng = np.random.default_rng(1)
        rows = rng.standard_normal((NUM_QUERIES, NUM_MOMENTS, width))
        tracks = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype("<f2")
        self._bodies = [
            {"track": base64.b64encode(track.tobytes()).decode(), "target": "audio"} for track in tracks
        ]
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answers: list[tuple[float, float]] = []
        self.num_failed = 0

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        print(f"{len(self.answers)} answers, {self.num_failed} failed")

    def _ask(self) -> None:
        with httpx.Client(base_url=self._address, timeout=60) as client:
            number = 0
            while not self._stop.is_set():
                began = time.monotonic()
                answer = client.post("/v1/search", json=self._bodies[number % NUM_QUERIES])
                self.num_failed += answer.status_code != 200
                self.answers.append((time.monotonic(), time.monotonic() - began))
                number += 1

    def p99_ms(self, spans: list[tuple[float, float]]) -> float:
        """Return the p99 of the answers during the given spans of time."""
        took = sorted(
            seconds for at, seconds in self.answers if any(a <= at and at - seconds <= b for a, b in spans)
        )
        return 1e3 * took[min(len(took) - 1, round(0.99 * len(took)))] if took else float("nan")


def switch_many(server: Server, asker: Asker, names: list[str], num_swaps: int) -> None:
    """Activate and roll back in turns, and print the times."""
    switches: dict[str, list[dict[str, Any]]] = {"activate": [], "rollback": []}
    busy: list[tuple[float, float]] = []
    quiet: list[tuple[float, float]] = []
    memory: list[float] = []
    time.sleep(2.0)
    for turn in range(num_swaps):
        kind = "rollback" if turn % 2 else "activate"
        began = time.monotonic()
        path = ":rollback" if turn % 2 else f"/{names[1]}:activate"
        switches[kind].append(server.post(f"/v1/releases{path}"))
        ended = time.monotonic()
        time.sleep(2 * PAUSE_SECONDS)
        busy.append((began, ended))
        quiet.append((ended + PAUSE_SECONDS, ended + 2 * PAUSE_SECONDS))
        memory.append(server.resident_mib())
    for kind, found in switches.items():
        if found:
            steps, whole = ([one[key] for one in found] for key in ("switch_seconds", "seconds"))
            print(
                f"{kind}: the switch itself {1e3 * statistics.median(steps):.1f} ms (maximum {1e3 * max(steps):.1f}), "
                f"the whole call {statistics.median(whole):.2f} s (maximum {max(whole):.2f})"
            )
    calm, pressed = asker.p99_ms(quiet), asker.p99_ms(busy)
    print(
        f"search by vector: p99 {calm:.1f} ms between switches, {pressed:.1f} ms during ({pressed / calm:.2f} x)"
    )
    print(f"memory: {memory[0]:.0f} MiB after the first switch, {memory[-1]:.0f} after {num_swaps}")


def build_third(server: Server, asker: Asker, bundle: Bundle, library: Path, num_clips: int) -> None:
    """Build a release of a third bundle (try it, embed the clips, measure it) and print the client's p99."""
    write_corpus(library, num_scenes=num_clips, seed=5, split="heldout", separate_fraction=0.0)
    server.finish("/v1/jobs", {"kind": "index", "paths": [str(library)]})
    before = time.monotonic()
    time.sleep(CALM_SECONDS)
    began = time.monotonic()
    server.finish("/v1/releases", {"bundle": str(bundle.path)})
    ended = time.monotonic()
    time.sleep(CALM_SECONDS)
    quiet = [(before + 1.0, began), (ended + 1.0, ended + CALM_SECONDS)]
    calm, pressed = asker.p99_ms(quiet), asker.p99_ms([(began, ended)])
    print(
        f"building with {num_clips} clips of 10 s: {ended - began:.1f} s; p99 {pressed:.1f} ms, {calm:.1f} ms "
        f"before and after it ({pressed / calm:.2f} x)"
    )


if __name__ == "__main__":
    main()
