"""Requests to a real server: speed with many clients, cost of each form of embeddings, memory over many requests.

    python -m benchmarks.request_speed [--bundle FOLDER] [--clients 8] [--seconds 6] [--rounds 3] [--requests 400]

forms     processor time to turn the embeddings of one 10 s clip (sound and picture, width 768) into an answer, compared
          with FastAPI's own ways for a handler that returns lists of numbers: its default (`jsonable_encoder`, then
          `json`) and a declared `response_model` (pydantic-core); the forms take turns in one process
runs      processor time of a segment of picture in runs of 1, 2 and 4 segments, which take turns: shows whether joining
          segments gains anything on this machine
batching  closed-loop clients send `POST /v1/search`; servers take turns. `on` has the default settings of this machine;
          `off` has no queue: one segment a run, and as many runs at a time as requests
memory    resident memory of one server over `--requests` requests: its peak, and the slope without file cache after the
          first fifth
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.embedding_forms import measure_forms
from benchmarks.pipeline_speed import write_sound
from models.bundle.bundle import Bundle, load_bundle, starter_path
from models.cores import num_cores
from service.encode.encoder import Encoder
from service.foley import open_foley
from service.library.indexing import index_paths
from service.system.settings import Settings
from training.corpus.synthesis import write_corpus

BOUNDARY = "frontier"
PARTS = ("forms", "runs", "batching", "memory")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024
# Environment variables of the server that set its queue.
VARIANTS: dict[str, dict[str, str]] = {
    "off": {
        "FOLEY_ENCODE_MAX_BATCH": "1",
        "FOLEY_ENCODE_WAIT_SECONDS": "0",
        "FOLEY_ENCODE_RUNS": "{workers}",
    },
    "on": {},
    "on, a run for each core": {"FOLEY_ENCODE_RUNS": "{cores}"},
}


# Runs of the encoder


def measure_runs(bundle: Bundle, rounds: int) -> None:
    """Print processor and wall milliseconds a segment, by the number of segments in one run."""
    settings = Settings()
    encoder = Encoder(bundle, device=settings.device, num_threads=settings.num_threads)
    frames = bundle.golden().frames
    sizes = (1, 2, 4)
    costs: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for round_number, size in itertools.product(range(-1, rounds), sizes):
        rows = np.stack([frames] * size)
        used, began = time.process_time(), time.perf_counter()
        for _ in range(4 // size):
            encoder.engine.run_video(rows)
        if round_number >= 0:
            costs[size].append(((time.process_time() - used) / 4, (time.perf_counter() - began) / 4))
    for size in sizes:
        core, wall = np.median(costs[size], axis=0) * 1000
        print(f"{size} segments a run   {core:7.1f} core-ms a segment   {wall:7.1f} ms")


# Servers and clients


@dataclass(eq=False)
class Server:
    """A server process and the measurements of it."""

    process: subprocess.Popen[bytes]
    port: int
    seconds: list[float] = field(default_factory=list)
    num_requests: int = 0
    wall_seconds: float = 0.0
    core_seconds: float = 0.0
    rates: list[float] = field(default_factory=list)

    def tree(self) -> list[int]:
        """Return the ids of the process and all its descendants."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in task.read_text().split()]
        return found

    def used_seconds(self) -> float:
        """Return the processor time of the process and its descendants."""
        total = 0
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_SECOND


def read_memory(pid: int, name: str) -> int:
    """Return a line of /proc/PID/status in bytes: `RssAnon` is memory without file cache, `VmHWM` the peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def serve(data: Path, bundle: Path, environment: dict[str, str], workers: int) -> Iterator[Server]:
    """Run a server until the block ends."""
    given = {name: value.format(workers=workers, cores=num_cores()) for name, value in environment.items()}
    given |= {
        "FOLEY_DATA": str(data),
        "FOLEY_BUNDLE": str(bundle),
        "FOLEY_PORT": str(find_free_port()),
        "FOLEY_MIN_FREE_BYTES": "0",
        "FOLEY_SEARCH_WORKERS": str(workers),
        "FOLEY_WAITING_PER_WORKER": "64",
        "FOLEY_MAX_WAIT_SECONDS": "600",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_ENCODE")}
    command = [sys.executable, "-m", "service.cli", "serve"]
    process = subprocess.Popen(
        command, env={**inherited, **given}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(process, int(given["FOLEY_PORT"]))
        yield Server(process, int(given["FOLEY_PORT"]))
    finally:
        process.terminate()
        process.wait(60)


def find_free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a server is ready."""
    deadline = time.monotonic() + 120
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the server did not start")
        time.sleep(0.2)


class Crowd:
    """Clients that send their next request as soon as they have the answer to the last one.

    Args:
        files: Query files; pictures search for sound and sounds for pictures.
        num_clients: Number of clients.
    """

    def __init__(self, files: list[Path], num_clients: int) -> None:
        self._requests = [_write_form(path) for path in files]
        self._num_clients = num_clients

    def run(self, server: Server, is_enough: Callable[[int], bool]) -> None:
        """Send requests until `is_enough(number of requests)`, and add the measurements to the server."""
        counter = itertools.count()
        lock = threading.Lock()
        began, used = time.perf_counter(), server.used_seconds()
        before = server.num_requests

        def work() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
            while True:
                with lock:
                    number = next(counter)
                if is_enough(number):
                    connection.close()
                    return
                seconds = _send(connection, self._requests[number % len(self._requests)])
                with lock:
                    server.seconds.append(seconds)
                    server.num_requests += 1

        threads = [threading.Thread(target=work) for _ in range(self._num_clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.perf_counter() - began
        server.wall_seconds += wall
        server.core_seconds += server.used_seconds() - used
        server.rates.append((server.num_requests - before) / wall)


def _write_form(path: Path) -> tuple[str, bytes]:
    target = "video" if path.suffix in (".m4a", ".wav") else "audio"
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
    return target, head + path.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def _send(connection: http.client.HTTPConnection, request: tuple[str, bytes]) -> float:
    target, body = request
    began = time.perf_counter()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    connection.request("POST", f"/v1/search?target={target}", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status} {content[:300]!r}")
    return time.perf_counter() - began


def index_library(library: Path, data: Path, bundle: Path) -> None:
    """Index a library into the data folder of a server."""
    settings = Settings(data=data, bundle=bundle, min_free_bytes=0)
    with open_foley(settings) as foley:
        report = index_paths([library], snapshot=foley.snapshot(priority="bulk"), decoder=foley.decoder)
    assert not report.failed


# Measurements


def measure_batching(options: argparse.Namespace, library: Path, folder: Path) -> None:
    """Print throughput, latency and processor time of each setting; the servers take turns."""
    crowd = Crowd(sorted(library.glob("*.m*")), options.clients)
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, environment in VARIANTS.items():
            data = folder / name.replace(" ", "-").replace(",", "")
            index_library(library, data, options.bundle)
            servers[name] = stack.enter_context(serve(data, options.bundle, environment, options.workers))
        for server in servers.values():
            crowd.run(server, lambda number: number >= 2 * options.clients)  # warm up
            server.seconds.clear()
            server.rates.clear()
            server.num_requests, server.wall_seconds, server.core_seconds = 0, 0.0, 0.0
        for _, server in itertools.product(range(options.rounds), servers.values()):
            until = time.monotonic() + options.seconds
            crowd.run(server, lambda _, until=until: time.monotonic() >= until)  # type: ignore[misc]
    off = servers["off"]
    for name, server in servers.items():
        middle, late = np.percentile(np.array(server.seconds) * 1000, [50, 95])
        rate = server.num_requests / server.wall_seconds
        ratios = [ours / other for ours, other in zip(server.rates, off.rates, strict=True)]
        print(
            f"{name:24} {rate:6.2f} requests/s ({min(server.rates):.2f} to {max(server.rates):.2f} by round)   "
            f"p50 {middle:6.0f} ms  p95 {late:6.0f} ms   "
            f"{1000 * server.core_seconds / server.num_requests:6.1f} core-ms a request   "
            f"{statistics.median(ratios):.2f} x the rate of `off` (median of the turns)"
        )


def measure_memory(options: argparse.Namespace, library: Path, folder: Path) -> None:
    """Print the peak and the slope of one server's resident memory."""
    crowd = Crowd(_choose_queries(options, library, folder), options.clients)
    data = folder / "memory"
    index_library(library, data, options.bundle)
    samples: list[tuple[int, int, int]] = []  # requests so far, bytes of the server, bytes of its descendants
    step = max(1, options.requests // 40)
    with serve(data, options.bundle, {}, options.workers) as server:
        for start in range(0, options.requests, step):
            size = min(step, options.requests - start)
            crowd.run(server, lambda number, size=size: number >= size)  # type: ignore[misc]
            main, *others = server.tree()
            below = sum(read_memory(pid, "RssAnon") for pid in others)
            samples.append((server.num_requests, read_memory(main, "RssAnon"), below))
        peak = read_memory(server.process.pid, "VmHWM")
    settled = np.array(samples[len(samples) // 5 :], np.float64)
    part = len(settled) // 3
    for name, column in (("server process", 1), ("decode workers and index", 2)):
        slope = np.polyfit(settled[:, 0], settled[:, column], 1)[0]
        first, last = (np.median(some[:, column]) / MIB for some in (settled[:part], settled[-part:]))
        print(
            f"{name:25} {first:7.1f} MiB (median up to request {settled[part - 1, 0]:.0f}), "
            f"{last:7.1f} MiB (from request {settled[-part, 0]:.0f}); "
            f"slope {1000 * slope / MIB:+.2f} MiB for 1,000 requests"
        )
    print(f"{'peak of the server process':25} {peak / MIB:7.1f} MiB")


def _choose_queries(options: argparse.Namespace, library: Path, folder: Path) -> list[Path]:
    """Return the clips of the library, or with --sound-seconds 24 short sounds and one clip."""
    clips = sorted(library.glob("*.m*"))
    if options.sound_seconds is None:
        return clips
    sounds = [folder / f"sound-{number}.wav" for number in range(24)]
    for number, path in enumerate(sounds):
        write_sound(path, number, seconds=options.sound_seconds)
    return [*sounds, next(path for path in clips if path.suffix == ".mp4")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=starter_path())
    parser.add_argument("--clients", type=int, default=8, help="closed-loop clients")
    parser.add_argument("--workers", type=int, default=8, help="requests that the server handles at a time")
    parser.add_argument("--seconds", type=float, default=6, help="seconds of one turn of one server")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server")
    parser.add_argument("--requests", type=int, default=400, help="requests of the memory measurement")
    parser.add_argument(
        "--sound-seconds",
        type=float,
        help="memory: 24 of 25 queries are sounds of this length, for encoders that take seconds for a clip",
    )
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    print(f"{bundle.bundle_id}, {options.clients} clients, {options.workers} workers, {num_cores()} cores")
    if "forms" in options.parts:
        asyncio.run(measure_forms(rounds=40))
    if "runs" in options.parts:
        measure_runs(bundle, rounds=7)
    with tempfile.TemporaryDirectory() as name:
        library = Path(name) / "library"
        write_corpus(library, num_scenes=12, seed=0, split="demo", separate_fraction=0.5)
        for part, measure in (("batching", measure_batching), ("memory", measure_memory)):
            if part in options.parts:
                measure(options, library, Path(name))


if __name__ == "__main__":
    main()
