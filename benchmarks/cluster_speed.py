"""Scaling of `foley index --ray` from one worker to two, what driver and server cost, and Qdrant's intake.

    FOLEY_TEST_QDRANT=/path/to/qdrant python -m benchmarks.cluster_speed [--files 60] [--rounds 4] [--parts scaling]
    python -m benchmarks.cluster_speed --blocks 3        # an encoder beside which the rest is small

scaling  two machines of a Ray cluster on loopback, each kept to a core of its own, and one driver. In turns one worker
         indexes so many new sounds of 10 s, and two index twice as many. The ratio of the two speeds is 2 if it is
         linear. Other work on the machine changes the seconds but not the work, so the same ratio is also computed from
         segments a core-second of the workers and the share of the time in which they had no batch
ingest   the same server takes segments as large as those of the published size from 8 threads: its core-milliseconds a
         segment, and those of the client
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.search_http import make_bundle
from models.bundle.bundle import starter_path
from service.foley import Foley, open_foley
from service.index.contract import Segment
from service.index.layout import VectorLayout
from service.index.qdrant.index import ServerIndex
from service.jobs.cluster_worker import LANES, Plan
from service.jobs.ray_pool import RayPool, check_cluster, open_pool
from service.library.batches import Batch
from service.library.cluster import BatchEnded, Event, index_on_cluster
from service.system.settings import Settings
from tests.support.qdrant_server import QdrantServer, run_qdrant
from tests.support.ray_cluster import RayNode
from tests.support.waiting import wait_until

SECONDS = 10.0
MOMENTS, WIDTH = 16, 768
INGESTED = 2000
WRITERS = 8


class Some:
    """The first workers of a pool; counts how long their lanes had a batch."""

    def __init__(self, pool: RayPool, num_workers: int) -> None:
        self.num_workers = num_workers
        self.busy_seconds = 0.0
        self._pool = pool

    def free(self) -> Sequence[str]:
        """See `Pool.free`."""
        chosen = sorted(self._pool._actors)[: self.num_workers]
        return [worker for worker in self._pool.free() if worker in chosen]

    def hand(self, worker: str, batch: Batch) -> None:
        """See `Pool.hand`."""
        self._pool.hand(worker, batch)

    def wait(self) -> Sequence[Event]:
        """See `Pool.wait`."""
        events = self._pool.wait()
        self.busy_seconds += sum(event.report.seconds for event in events if isinstance(event, BatchEnded))
        return events


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round took."""

    num_workers: int
    num_segments: int
    seconds: float
    worker_core_seconds: float
    driver_core_seconds: float
    server_core_seconds: float
    busy_share: float  # of the lanes' time

    @property
    def speed(self) -> float:
        """Segments a second."""
        return self.num_segments / self.seconds

    @property
    def power(self) -> float:
        """Segments a second that as many cores of their own would give: by core-seconds, and idle time taken off."""
        return self.num_workers * self.busy_share * self.num_segments / self.worker_core_seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=60, help="for each worker and round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--blocks", type=int, default=0, help="of an encoder of width 768 and random weights, for the starter"
    )
    parser.add_argument("--parts", nargs="+", choices=["scaling", "ingest"], default=["scaling", "ingest"])
    given = parser.parse_args()
    os.environ["FOLEY_PRECISION"] = "fp32"
    with tempfile.TemporaryDirectory() as name, run_qdrant(Path(name) / "qdrant") as server:
        print(f"load {os.getloadavg()[0]:.1f} before")
        if "scaling" in given.parts:
            measure_scaling(Path(name), server, given)
        if "ingest" in given.parts:
            measure_ingest(server)
        print(f"load {os.getloadavg()[0]:.1f} after")


def measure_scaling(folder: Path, server: QdrantServer, given: argparse.Namespace) -> None:
    """Print the speeds of one and of two workers, in turns."""
    shared = {
        "qdrant_url": server.url,
        "qdrant_grpc_port": server.grpc_port,
        "device": "cpu",
        "min_free_bytes": 0,
        "bundle": make_bundle(folder / "bundle", width=WIDTH, depth=given.blocks)
        if given.blocks
        else starter_path(),
    }
    settings = Settings(data=folder / "driver", decode_workers=1, num_threads=1, **shared)  # type: ignore[arg-type]
    with ExitStack() as stack:
        nodes: list[RayNode] = []
        for number in range(2):
            environment = {"DATA": folder / f"node-{number}", "PRECISION": "fp32", "MIN_FREE_BYTES": 0}
            head = nodes[0] if nodes else None
            nodes.append(RayNode(environment, head=head, host=f"127.0.0.{2 + number}", cores=str(number)))
            stack.enter_context(nodes[-1])
            wait_until(nodes[0].is_ready, every=0.1)
        foley = stack.enter_context(open_foley(settings))
        snapshot = foley.snapshot()
        ray = check_cluster(settings, nodes[0].address)
        pool = stack.enter_context(
            open_pool(ray, nodes[0].address, Plan.of(settings, snapshot), uses_gpus=False)
        )
        while len(set(pool.free())) < 2:
            pool.wait()
        run_round(folder / "warm", foley, pool, nodes, server, num_workers=2, num_files=8)
        rounds = []
        for turn in range(2 * given.rounds):
            num_workers = 1 + turn % 2
            media = folder / f"round-{turn}"
            done = run_round(
                media, foley, pool, nodes, server, num_workers=num_workers, num_files=given.files
            )
            rounds.append(done)
    for done in rounds:  # while a pool is open, what is printed is taken for Ray's
        print_round(done)
    print_ratio(rounds)


def run_round(
    media: Path,
    foley: Foley,
    pool: RayPool,
    nodes: list[RayNode],
    server: QdrantServer,
    *,
    num_workers: int,
    num_files: int,
) -> Round:
    """Index new files with some workers."""
    write_sounds(media, num_files * num_workers)
    some = Some(pool, num_workers)
    watched = [tree(worker) for node in nodes for worker in node.workers()]
    assert server._process is not None
    qdrant = psutil.Process(server._process.pid)
    before = [sum(map(core_seconds, group)) for group in watched], core_seconds(qdrant), time.process_time()
    began = time.monotonic()
    report = index_on_cluster([media], snapshot=foley.snapshot(), pool=some, decoder=foley.decoder)
    seconds = time.monotonic() - began
    assert report.files.indexed == num_files * num_workers, report
    used = [
        sum(map(core_seconds, group)) - earlier for group, earlier in zip(watched, before[0], strict=True)
    ]
    return Round(
        num_workers=num_workers,
        num_segments=report.segments.indexed,
        seconds=seconds,
        worker_core_seconds=sum(sorted(used)[-num_workers:]),
        driver_core_seconds=time.process_time() - before[2],
        server_core_seconds=core_seconds(qdrant) - before[1],
        busy_share=min(1.0, some.busy_seconds / (LANES * num_workers * seconds)),
    )


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A worker and its decoders."""
    return [process, *process.children(recursive=True)]


def core_seconds(process: psutil.Process) -> float:
    """Processor time of a process so far."""
    times = process.cpu_times()
    return times.user + times.system


def write_sounds(folder: Path, count: int) -> None:
    """Write sounds of 10 s, each a content of its own."""
    folder.mkdir()
    rng = np.random.default_rng(int.from_bytes(os.urandom(8), "big"))
    for number in range(count):
        with wave.open(str(folder / f"{number:05}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(rng.integers(-3000, 3000, round(16_000 * SECONDS), dtype=np.int16).tobytes())


def print_round(done: Round) -> None:
    """Print a round."""
    count = done.num_segments
    print(
        f"{done.num_workers} workers: {count} segments in {done.seconds:.1f} s, {done.speed:.2f} a second; a segment "
        f"takes {1e3 * done.worker_core_seconds / count:.0f} core-ms of the workers, "
        f"{1e3 * done.driver_core_seconds / count:.1f} of the driver, {1e3 * done.server_core_seconds / count:.1f} of "
        f"Qdrant; lanes without a batch {1 - done.busy_share:.1%}; the workers had "
        f"{done.worker_core_seconds / done.num_workers / done.seconds:.0%} of a core each"
    )


def print_ratio(rounds: list[Round]) -> None:
    """Print how much more two do than one."""
    one, two = rounds[::2], rounds[1::2]
    for name in ("speed", "power"):
        ratios = [getattr(b, name) / getattr(a, name) for a, b in zip(one, two, strict=True)]
        text = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"two workers against one, by {name}: {text}; median {statistics.median(ratios) / 2:.2f} of linear"
        )


def measure_ingest(server: QdrantServer) -> None:
    """Print what it costs to write segments of the published size."""
    layout = VectorLayout.of_both(MOMENTS, WIDTH)
    assert server._process is not None
    qdrant = psutil.Process(server._process.pid)
    rng = np.random.default_rng(0)
    tracks = rng.standard_normal((64, 2, MOMENTS, WIDTH)).astype(np.float32)
    tracks /= np.linalg.norm(tracks, axis=-1, keepdims=True)

    def make(number: int) -> Segment:
        return Segment(
            asset_id=f"{number:064x}",
            path=f"/media/{number}.mov",
            index=0,
            start_seconds=0.0,
            end_seconds=SECONDS,
            media={"duration_seconds": SECONDS},
            audio_track=tracks[number % 64, 0],
            video_track=tracks[number % 64, 1],
        )

    with ServerIndex.open(server.config(), name="ingest", layout=layout) as index:
        began, before, mine = time.monotonic(), core_seconds(qdrant), time.process_time()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda number: index.write_asset([make(number)], is_last=True), range(INGESTED)))
        seconds, mine = time.monotonic() - began, time.process_time() - mine
        written = core_seconds(qdrant) - before
        index.optimize()
        built = core_seconds(qdrant) - before - written
    print(
        f"ingest of {INGESTED} segments of 2 × {MOMENTS} × {WIDTH}, one a write, {WRITERS} threads: "
        f"{INGESTED / seconds:.0f} a second; a segment takes {1e3 * written / INGESTED:.2f} core-ms of Qdrant while it "
        f"is written and {1e3 * built / INGESTED:.2f} more until its graphs are built, {1e3 * mine / INGESTED:.2f} of "
        f"the client"
    )


if __name__ == "__main__":
    main()
