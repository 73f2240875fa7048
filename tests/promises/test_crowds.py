"""Crowds of connections, in `make soak`: idle sockets use up no descriptors, event streams share one look.

Each run has a control, in which the rule is switched off and the same check finds the fault.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from service.http import events
from service.http.routes import jobs as jobs_route
from service.jobs.records import JobRecord, JobRequest
from service.operations.keys import create_key, revoke_key
from service.system.child import raise_open_files
from service.system.settings import Settings
from tests.support.libraries import write_tone, write_tones
from tests.support.memory_index import memory_indexes
from tests.support.pressure import ask, form
from tests.support.serving import SERVE, run_server, serve_in_thread
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.environ.get("FOLEY_SOAK") != "1", reason="long: `make soak` runs it")

NUM_FILES = 1024  # that the server may open
NUM_SOCKETS = 2000
NUM_STREAMS, NUM_OWN = 1000, 700  # of two keys; the first asks for more than it may have
MAX_STREAMS = 600
FEW_FILES = ("bash", "-c", f'ulimit -n {NUM_FILES}; exec "$0" "$@"')
WITHOUT_RESERVE = (
    sys.executable,
    "-c",
    "from service.http import server; server.CONNECTIONS_SHARE = 1000; "
    "from service.cli import app; app(['serve'])",
)


def _need_files(number: int) -> None:
    if raise_open_files() < number:
        pytest.skip(f"this process may open fewer than {number} files")


@pytest.mark.parametrize("command", [SERVE, WITHOUT_RESERVE], ids=["reserve", "no reserve"])
def test_idle_sockets_leave_descriptors_for_work(
    command: tuple[str, ...], tmp_path: Path, bundle_path: Path
) -> None:
    _need_files(NUM_SOCKETS + 200)
    write_tones(tmp_path / "media", 30)
    query = form(write_tone(tmp_path / "query.wav", 99).read_bytes(), **{"from": "audio", "target": "audio"})
    settings = {
        "DATA": tmp_path / "data",
        "BUNDLE": bundle_path,
        "DEVICE": "cpu",
        "MIN_FREE_BYTES": 0,
        "MAX_CONNECTIONS": 100_000,
        "HEADER_TIMEOUT_SECONDS": 900,  # they stay: the cap alone helps
    }
    server = run_server(settings, tmp_path / "log", command=(*FEW_FILES, *command))
    with server as address:
        idle = [socket.socket() for _ in range(NUM_SOCKETS)]
        for one in idle:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", server.port))
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        wait_until(lambda: len(list(descriptors.iterdir())) > 300)
        state, statuses = "lost", Counter[int]()
        try:
            body = {"kind": "index", "paths": [str(tmp_path / "media")]}
            job = httpx.post(f"{address}/v1/jobs", json=body, timeout=20).raise_for_status().json()
            for _ in range(20):
                statuses[asyncio.run(ask(address, query, timeout_seconds=20)).status] += 1
            place = f"{address}/v1/jobs/{job['job_id']}"
            state = wait_until(
                lambda: (found := httpx.get(place).json()["state"]) in ("done", "failed") and found
            )
        except httpx.HTTPError:
            pass
        num_open = len(list(descriptors.iterdir()))
        for one in idle:
            one.close()
    print(f"{num_open} of {NUM_FILES} descriptors; searches {dict(statuses)}; job {state}")  # noqa: T201 - the figure
    is_served = (state, statuses) == ("done", {200: 20})
    assert is_served is (command is SERVE)


@dataclass(kw_only=True)
class StreamReport:
    """What became of the streams of two keys."""

    statuses: Counter[str] = field(default_factory=Counter)  # by key and status
    num_looks: int = 0  # into the ledger while all were open
    seconds: float = 0.0  # that this took
    slowest_seconds: float = 0.0  # answer to `/livez` meanwhile
    num_ended: Counter[str] = field(default_factory=Counter)  # by key, once the first is revoked
    num_told: int = 0  # streams of the second key that saw the end of the job


async def _follow(port: int, path: str, key: str, ended: list[bytes]) -> tuple[str, asyncio.Task[None]]:
    """Open a stream and follow it to its end; returns its status, and the task that notes its last bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n".encode())
    status = (await reader.readline()).split()[1].decode()

    async def read() -> None:
        last = b""
        while piece := await reader.read(4096):
            last = (last + piece)[-4096:]
            if last.endswith(b"0\r\n\r\n"):
                break
        ended.append(last)
        writer.close()

    return status, asyncio.create_task(read())


def _press(server: serve_in_thread, folder: Path) -> StreamReport:
    """Open streams for two keys, count looks, revoke the first key, and end the job."""
    state, report, looks = server.app.state.shared, StreamReport(), [0]
    keys = {name: create_key(folder / "keys.json", name=name, scope="write") for name in ("own", "other")}
    get_job = state.jobs.ledger.get_job

    def count_look(job_id: str) -> JobRecord:
        looks[0] += 1
        return get_job(job_id)

    async def press() -> None:
        ended: dict[str, list[bytes]] = {"own": [], "other": []}
        tasks = []
        for number in range(NUM_STREAMS + MAX_STREAMS):
            name = "own" if number < NUM_OWN else "other"
            if report.statuses["own 200"] + report.statuses["other 200"] == NUM_STREAMS:
                break
            found: list[bytes] = []
            status, task = await _follow(int(server.address.rpartition(":")[2]), path, keys[name].key, found)
            report.statuses[f"{name} {status}"] += 1
            tasks.append(task)
            if status == "200":
                task.add_done_callback(lambda _, found=found, name=name: ended[name].extend(found))
        looks[0], began = 0, time.monotonic()
        async with httpx.AsyncClient() as client:
            while time.monotonic() - began < 5:
                asked = time.monotonic()
                (await client.get(f"{server.address}/livez", timeout=60)).raise_for_status()
                report.slowest_seconds = max(report.slowest_seconds, time.monotonic() - asked)
                await asyncio.sleep(0.1)
        report.num_looks, report.seconds = looks[0], time.monotonic() - began
        revoke_key(folder / "keys.json", keys["own"].stored.key_id)
        await asyncio.sleep(5)
        report.num_ended.update({name: len(found) for name, found in ended.items()})
        state.jobs.cancel(job_id)
        await asyncio.wait(tasks, timeout=120)
        report.num_told = sum(b"event: end" in last for last in ended["other"])

    with state.jobs.library.lane.paused(), pytest.MonkeyPatch.context() as patch:
        job_id = state.jobs.ledger.create_job("index", JobRequest(paths=("/x",)).to_json()).job.job_id
        path = f"/v1/jobs/{job_id}/events"
        patch.setattr(state.jobs.ledger, "get_job", count_look)
        asyncio.run(press())
    print(report)  # noqa: T201 - the figure of the soak
    return report


@pytest.mark.parametrize("is_broken", [False, True], ids=["rules", "no rules"])
def test_event_streams_share_a_look_are_few_and_end_with_their_key(
    is_broken: bool, tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _need_files(3 * NUM_STREAMS)
    create_key(tmp_path / "keys.json", name="first", scope="admin")
    settings = Settings(
        data=tmp_path / "data",
        bundle=bundle_path,
        device="cpu",
        min_free_bytes=0,
        max_connections=4 * NUM_STREAMS,
        max_event_streams=100_000 if is_broken else MAX_STREAMS,
        api_keys_file=tmp_path / "keys.json",
        library_roots="*",
    )
    if is_broken:

        class Unshared(dict[str, events._Feed]):
            def setdefault(self, name: str, feed: events._Feed) -> events._Feed:  # type: ignore[override]
                return feed

        monkeypatch.setattr(events, "WeakValueDictionary", Unshared)
        monkeypatch.setattr(jobs_route, "is_still_known", lambda _: True)
    with memory_indexes(), serve_in_thread(settings) as server:
        report = _press(server, tmp_path)
    shares = report.num_looks <= 4 * report.seconds + 2
    is_limited = report.statuses == {
        "own 200": MAX_STREAMS,
        "own 429": NUM_OWN - MAX_STREAMS,
        "other 200": 400,
    }
    ends = report.num_ended == {"own": MAX_STREAMS, "other": 0}
    assert [shares, is_limited, ends] == [not is_broken] * 3
    assert is_broken or (report.num_told == NUM_STREAMS - MAX_STREAMS and report.slowest_seconds < 1)
