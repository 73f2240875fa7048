"""Duration of a switch and a rollback, their effect on requests, and whether memory is freed.

    python -m benchmarks.release_speed [--segments 10000] [--swaps 50] [--clips 200] [--folder FOLDER]

There are two releases, the starter and a copy of it under another name; their indexes are filled with random tracks. A
`foley serve` is switched between them over HTTP, while one client searches by vector on one connection without a pause.
Its p99 during a switch is compared with its p99 between two switches. Then clips are indexed, and a release of a third
bundle is built at the lowest priority: the client's p99 during the build is compared with its p99 before and after.
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
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models.bundle.bundle import Bundle, load_bundle, starter_path
from service.index.contract import Segment
from service.index.opening import index_place
from service.releases.store import ReleaseStore
from service.system.settings import Settings
from training.corpus.synthesis import write_corpus

ASSET_SEGMENTS = 10
NUM_MOMENTS = 16
NUM_QUERIES = 200
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
    parser.add_argument("--folder", type=Path, help="folder for all files; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run(Path(folder), num_segments=args.segments, num_swaps=args.swaps, num_clips=args.clips)


def run(folder: Path, *, num_segments: int, num_swaps: int, num_clips: int) -> None:
    """Measure everything in one folder."""
    settings = Settings(data=folder / "data", device="cpu", precision="fp32", min_free_bytes=0)
    store = ReleaseStore(settings.release_folder)
    bundles = [load_bundle(starter_path()), copy_starter(folder / "second", "second")]
    names = [store.create(bundle, outcome="ready").release_id for bundle in bundles]
    began = time.monotonic()
    for bundle, name in zip(bundles, names, strict=True):
        fill(settings, bundle, name, num_segments)
    store.activate(names[0], previous=None)
    print(f"{num_segments} segments of {bundles[0].manifest.embedding_width} numbers in each of two releases")
    print(f"filled in {time.monotonic() - began:.0f} s")
    with (
        Server(settings) as server,
        Asker(server.address, width=bundles[0].manifest.embedding_width) as asker,
    ):
        switch_many(server, asker, names, num_swaps)
        build_third(server, asker, copy_starter(folder / "third", "third"), folder / "library", num_clips)


def copy_starter(target: Path, name: str) -> Bundle:
    """Copy the starter under another name, which makes it another bundle."""
    shutil.copytree(starter_path(), target, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps(manifest | {"name": name}, indent=2, sort_keys=True))
    return load_bundle(target)


def fill(settings: Settings, bundle: Bundle, release_id: str, num_segments: int) -> None:
    """Write random tracks; both releases have the same assets with different tracks."""
    rng = np.random.default_rng(len(release_id))
    index = index_place(settings).open(bundle, release_id=release_id)
    try:
        for asset in range(num_segments // ASSET_SEGMENTS):
            rows = rng.standard_normal((2, ASSET_SEGMENTS, NUM_MOMENTS, bundle.manifest.embedding_width))
            tracks = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
            index.write_asset(
                [
                    Segment(
                        asset_id=hashlib.sha256(str(asset).encode()).hexdigest(),
                        path=f"/nowhere/{asset}.mp4",
                        index=number,
                        start_seconds=10.0 * number,
                        end_seconds=10.0 * number + 10.0,
                        media={"duration_seconds": 100.0},
                        audio_track=tracks[0, number],
                        video_track=tracks[1, number],
                    )
                    for number in range(ASSET_SEGMENTS)
                ],
                is_last=True,
            )
        index.optimize()
    finally:
        index.close()


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

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "service.cli", "serve"]
        self.process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
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
    job = server.post("/v1/jobs", {"kind": "index", "paths": [str(library)]})
    while job["state"] in ("queued", "running"):
        time.sleep(0.5)
        job = server.client.get(f"/v1/jobs/{job['job_id']}").json()
    before = time.monotonic()
    time.sleep(CALM_SECONDS)
    began = time.monotonic()
    job = server.post("/v1/releases", {"bundle": str(bundle.path)})
    while job["state"] in ("queued", "running"):
        time.sleep(0.2)
        job = server.client.get(f"/v1/jobs/{job['job_id']}").json()
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
