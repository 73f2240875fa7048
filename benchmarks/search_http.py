"""Time of searches by vector over HTTP: a `foley serve` and one client on one connection."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import torch

from benchmarks.encode_speed import export_random
from benchmarks.search_corpus import Corpus
from models.bundle.bundle import load_bundle
from models.network.geometry import TgdpConfig
from models.network.tgdp import Tgdp

PREFETCHES = (None, 200, 500)
START_SECONDS = 120.0


def time_http(index: Path, corpus: Corpus, *, folder: Path, rounds: int) -> None:
    """Print the time of an answer with ten results, for each prefetch.

    Args:
        index: The index's folder; no process may have it open.
        corpus: The content of the index.
        folder: Folder for a bundle of that width and for the service's data.
        rounds: How often each query is sent, after one round to warm up.
    """
    bundle = make_bundle(folder / f"bundle-{corpus.width}", width=corpus.width)
    data = folder / "data"
    place = data / "index" / load_bundle(bundle).bundle_id
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(index)
    bodies = [
        json.dumps(
            {"track": base64.b64encode(q.astype("<f2").tobytes()).decode(), "target": "audio"}
        ).encode()
        for q in corpus.queries
    ]
    for prefetch in PREFETCHES:
        _time_service(data, bundle, bodies, prefetch=prefetch, rounds=rounds)


def _time_service(
    data: Path, bundle: Path, bodies: list[bytes], *, prefetch: int | None, rounds: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {
        "DATA": data, "BUNDLE": bundle, "PORT": port, "MIN_FREE_BYTES": 0, "OPTIMIZE_SHARE": 1,
        "DEVICE": "cpu", "PRECISION": "fp32",
    }  # fmt: skip
    if prefetch is not None:
        settings["PREFETCH"] = prefetch
    environment = {**os.environ, **{f"FOLEY_{name}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            seconds, cpu, num_bytes = _ask(port, bodies, rounds, process)
        finally:
            process.terminate()
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1e3
    print(
        f"http, prefetch {prefetch or 'not set'}: p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms; "
        f"{cpu * 1e3:.2f} core-ms; an answer has {num_bytes} bytes"
    )


def _ask(
    port: int, bodies: list[bytes], rounds: int, process: subprocess.Popen[bytes]
) -> tuple[list[float], float, int]:
    """Send all queries with the standard library's client, which costs less time than other clients."""
    seconds = []
    began = 0.0
    _wait(port, process)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    for turn in range(rounds + 1):
        began = began or (cpu_seconds(process.pid) if turn else 0.0)
        for body in bodies:
            started = time.perf_counter()
            client.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
            response = client.getresponse()
            answer = response.read()
            if turn:
                seconds.append(time.perf_counter() - started)
            if response.status != 200 or len(json.loads(answer)["results"]) != 10:
                raise SystemExit(f"status {response.status}: {answer[:500]!r}")
    cpu = cpu_seconds(process.pid) - began
    client.close()
    return seconds, cpu / len(seconds), len(answer)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its descendants so far, those that ended included."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path("/proc", str(pid), "task").glob("*/children")
    return own + sum(cpu_seconds(int(child)) for file in children for child in file.read_text().split())


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/livez").raise_for_status()
            return
        except httpx.HTTPError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the service did not start") from None
            time.sleep(0.1)


def make_bundle(folder: Path, *, width: int, depth: int = 1) -> Path:
    """Make a bundle of a few blocks with random weights, once: one so that the service accepts tracks of that width."""
    if not folder.exists():
        torch.manual_seed(0)
        network = Tgdp(
            TgdpConfig(width=width, depth=depth, decoder_width=64, decoder_heads=4, decoder_depth=1)
        )
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim <= 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        export_random(network, folder)
    return folder
