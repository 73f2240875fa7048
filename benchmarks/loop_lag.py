"""How late the event loop of a service wakes up while it indexes, compared with an idle service.

    python -m benchmarks.loop_lag [--files 200]

A `foley serve`, started for this, indexes synthetic clips as a job. It checks its loop 20 times a second
(`foley_event_loop_lag_seconds`); the goal is 20 ms. A sleeping loop is late too if other processes use the cores, so a
process that only sleeps is measured at the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.release_speed import Server
from service.http.loop_lag import watch_loop
from service.system.settings import Settings
from training.corpus.synthesis import write_corpus

NAME = "foley_event_loop_lag_seconds_bucket"
IDLE_SECONDS = 10.0
GOAL_SECONDS = 0.02


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        write_corpus(library, num_scenes=options.files, seed=11, split="heldout", separate_fraction=0.0)
        with Server(Settings(data=Path(folder) / "data", device="cpu", precision="fp32")) as server:
            time.sleep(1)
            before = read_buckets(server)
            time.sleep(IDLE_SECONDS)
            idle = read_buckets(server)
            with Beside() as beside:
                began = time.monotonic()
                job = index(server, library)
                seconds = time.monotonic() - began
            busy = read_buckets(server)
    print(f"{job['report']['files']['indexed']} clips of 10 s indexed in {seconds:.1f} s")
    print("idle           " + describe(before, idle))
    print("while indexing " + describe(idle, busy))
    late = sorted(beside.seen)
    above = sum(lag > GOAL_SECONDS for lag in late)
    print(
        f"a process that only sleeps: {len(late)} checks, {above} later than 20 ms, "
        f"p99 {1e3 * late[int(0.99 * len(late))]:.1f} ms, maximum {1e3 * late[-1]:.1f} ms"
    )


def index(server: Server, library: Path) -> dict[str, Any]:
    """Index a folder as a job and return the finished job."""
    job = server.post("/v1/jobs", {"kind": "index", "paths": [str(library)]})
    while job["state"] in ("queued", "running"):
        time.sleep(0.5)
        job = server.client.get(f"/v1/jobs/{job['job_id']}").json()
    if job["state"] != "done":
        raise SystemExit(f"the job ended: {job}")
    return job


def read_buckets(server: Server) -> dict[float, float]:
    """Return how many checks found the loop at most this late, by bound in seconds."""
    found = {}
    for line in server.client.get("/metrics").text.splitlines():
        if line.startswith(NAME):
            bound, count = line.split('le="')[1].split('"} ')
            found[float(bound)] = float(count)
    return found


def describe(before: Mapping[float, float], after: Mapping[float, float]) -> str:
    """Describe the checks between two readings of the buckets."""
    counts = {bound: after[bound] - before[bound] for bound in after}
    total = counts[float("inf")]
    p50, p99, worst = (
        next(bound for bound, count in counts.items() if count >= share * total) for share in (0.5, 0.99, 1.0)
    )
    above = total - counts[GOAL_SECONDS]
    return (
        f"{total:.0f} checks, {above:.0f} later than 20 ms; p50 up to {1e3 * p50:g} ms, p99 up to {1e3 * p99:g} ms, "
        f"maximum up to {1e3 * worst:g} ms"
    )


class Beside:
    """An event loop in this process, which otherwise only asks about the job."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        self._task = self._loop.create_task(watch_loop(self.seen.append))
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)


if __name__ == "__main__":
    main()
