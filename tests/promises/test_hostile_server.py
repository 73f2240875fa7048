"""Every hostile file as a query of one server: the status of its outcome, in time, the same processes at the end.

What hostile is about HTTP itself is in tests/promises/test_hostile_http.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from models.bundle.bundle import starter_path
from service.http.problems import PROBLEMS
from tests.support.hostile.cases import CASES, MAX_SECONDS, Case
from tests.support.hostile.escapes import ESCAPES, Canaries
from tests.support.serving import run_server

OPEN_SECONDS, QUERY_SECONDS = 4.0, 6.0
GRACE_SECONDS = 4.0  # 2 are promised; the suite keeps both cores busy with other tests
STATUS = {code: problem.status for code, problem in PROBLEMS.items()}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server, and the processes that must outlive everything."""

    client: httpx.Client
    pids: dict[str, int]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all of them, over an empty index."""
    folder = tmp_path_factory.mktemp("hostile")
    settings: dict[str, object] = {
        "DATA": folder / "data",
        "BUNDLE": starter_path(),
        "DEVICE": "cpu",
        "MIN_FREE_BYTES": 0,
        "OPEN_TIMEOUT_SECONDS": OPEN_SECONDS,
        "QUERY_TIMEOUT_SECONDS": QUERY_SECONDS,
        "MAX_QUERY_SECONDS": MAX_SECONDS,
        "DECODE_WORKERS": 1,
    }
    server = run_server(settings, folder / "server.log")
    with server as address, httpx.Client(base_url=address, timeout=60) as client:
        client.get("/readyz").raise_for_status()
        pids = find_processes(server.process.pid)
        assert set(pids) == {"server", "engine"}
        yield Running(client=client, pids=pids)
        assert find_processes(server.process.pid) == pids
        client.get("/readyz").raise_for_status()
    assert "Traceback" not in server.log.read_text()
    assert not list((folder / "data").glob("uploads/*/*"))


def find_processes(server_pid: int) -> dict[str, int]:
    """The server and the engine of its index."""
    found = {"server": server_pid}
    for children in Path(f"/proc/{server_pid}/task").glob("*/children"):
        for pid in children.read_text().split():
            if b"service.index.embedded.shard_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found["engine"] = int(pid)
    return found


def search(client: httpx.Client, path: Path) -> tuple[int, str]:
    """Status and outcome."""
    began = time.monotonic()
    with path.open("rb") as file:
        # The name on disk need not be UTF-8; a header is.
        name = path.name.encode("utf-8", "replace").decode()
        answer = client.post("/v1/search", files={"file": (name, file)}, data={"target": "audio"})
    assert time.monotonic() - began < OPEN_SECONDS + QUERY_SECONDS + GRACE_SECONDS
    body = answer.json()
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, body["code"]
    return 200, "partial" if body["query"]["is_partial"] else "ok"


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_query(case: Case, running: Running, tmp_path: Path) -> None:
    status, outcome = search(running.client, case.write(tmp_path))
    # A still picture may be searched with, but is no media of a library.
    assert outcome in ({"ok"} if case.name == "picture" else case.outcomes)
    assert status == STATUS.get(outcome, 200)


def test_uploads_open_nothing_else(running: Running, tmp_path: Path) -> None:
    with Canaries(tmp_path / "secret") as canaries:
        for name, escape in ESCAPES.items():
            path = tmp_path / escape.file_name
            path.write_bytes(escape.content(canaries))
            canaries.take()
            assert search(running.client, path) == (STATUS[escape.outcome], escape.outcome), name
            assert canaries.take() == set(), name
