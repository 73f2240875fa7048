"""Starting and stopping the server process."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio.to_thread
import h11
import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from service.http.server import MAX_HEAD_BYTES, Connection, HttpProtocol, Server
from service.system.settings import Settings
from tests.support.serving import find_free_port, run_server
from tests.support.waiting import GENEROUS_SECONDS, wait_until


def test_index_in_use_is_said_in_one_line(
    server: str, indexed_settings: Settings, library_files: Path
) -> None:
    environment = {
        "FOLEY_DATA": str(indexed_settings.data),
        "FOLEY_BUNDLE": str(indexed_settings.bundle),
        "FOLEY_PORT": "0",
        "FOLEY_DEVICE": "cpu",
        "FOLEY_PRECISION": "fp32",
    }
    assert httpx.get(f"{server}/livez").status_code == 200
    command = [sys.executable, "-m", "service.cli", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "open" in done.stderr
    assert "Traceback" not in done.stderr


def test_stop_answers_what_runs_and_leaves_nothing(
    indexed_settings: Settings, library_files: Path, tmp_path: Path
) -> None:
    settings = {"DATA": tmp_path, "BUNDLE": indexed_settings.bundle, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}
    content = (library_files / "long.mp4").read_bytes()
    statuses: list[int] = []

    def embed(address: str) -> None:
        statuses.append(
            httpx.post(
                f"{address}/v1/embeddings", files={"file": content}, timeout=GENEROUS_SECONDS
            ).status_code
        )

    with run_server(settings, tmp_path / "log") as address:
        running = threading.Thread(target=embed, args=(address,))
        running.start()
        wait_until(lambda: list(tmp_path.glob("uploads/*/*")), every=0.002)
    running.join()
    assert statuses == [200]
    assert list(tmp_path.glob("uploads/*")) == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_stop_does_not_wait_for_a_request_without_end(indexed_settings: Settings, tmp_path: Path) -> None:
    settings = {
        "DATA": tmp_path,
        "BUNDLE": indexed_settings.bundle,
        "DEVICE": "cpu",
        "MIN_FREE_BYTES": 0,
        "BODY_GRACE_SECONDS": 900,
        "GRACEFUL_STOP_SECONDS": 8,
    }
    with run_server(settings, tmp_path / "log") as address:
        host, port = address.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)))
        connection.sendall(
            b"POST /v1/search?target=audio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        time.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 8 + 1
    connection.close()
    assert list(tmp_path.glob("uploads/*")) == []


class Hanging:
    """A decoder or an encoder that does not end."""

    def close(self, **_: object) -> None:
        return


def test_what_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that cannot be cancelled does not keep the process; work is given up and jobs are told first."""
    ended = threading.Event()
    called: list[str] = []
    released = threading.Event()

    async def hang() -> None:
        await anyio.to_thread.run_sync(released.wait)  # as decoding does: it cannot be cancelled

    app = FastAPI()
    app.add_api_route("/", hang)
    app.state.shared = SimpleNamespace(jobs=SimpleNamespace(stop_soon=lambda: called.append("jobs")))
    hanging = Hanging()
    monkeypatch.setattr(hanging, "close", lambda **_: called.append("work"), raising=False)
    monkeypatch.setattr(
        "service.http.server.os._exit", lambda code: (called.append(f"exit {code}"), ended.set())
    )
    config = uvicorn.Config(
        app, port=find_free_port(), log_config=None, timeout_graceful_shutdown=2, lifespan="off"
    )
    foley: Any = SimpleNamespace(decoder=hanging, batcher=hanging)
    server = Server(config, foley=foley, stop_seconds=2.5)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with socket.create_connection(("127.0.0.1", config.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        began = time.monotonic()
        server.should_exit = True
        assert ended.wait(10)
        assert time.monotonic() - began == pytest.approx(2.5, abs=2.0)
        released.set()
    thread.join(10)
    assert called == ["jobs", "work", "work", "exit 1"]


@pytest.mark.parametrize("place", ["target", "head", "trailer"])
@pytest.mark.parametrize("excess", [-1000, 0])
def test_a_head_is_counted_although_it_arrives_at_once(place: str, excess: int) -> None:
    target, fields = "/", "X: " + "x" * (MAX_HEAD_BYTES + excess) + "\r\n"
    if place == "target":
        target, fields = f"/{fields[3:-2]}", ""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    ends = f"{fields}\r\n0\r\n\r\n" if place != "trailer" else f"\r\n0\r\n{fields}\r\n"
    connection = Connection(h11.SERVER, MAX_HEAD_BYTES)
    connection.receive_data((head + ends).encode())

    def read() -> list[type]:
        return [type(connection.next_event()) for _ in range(2)]

    if excess < 0:
        assert read() == [h11.Request, h11.EndOfMessage]
        return
    with pytest.raises(h11.RemoteProtocolError) as caught:
        read()
    assert caught.value.error_status_hint == 431


def test_idle_connections_give_way_to_new_ones() -> None:
    """However many there are, the others find room, and one that waits for its answer is never closed."""
    app = FastAPI()
    released = threading.Event()

    async def wait() -> str:
        await anyio.to_thread.run_sync(released.wait)
        return "good"

    app.add_api_route("/slow", wait)
    app.add_api_route("/", lambda: "good")
    facts: dict[str, Any] = {"max_connections": 8, "idle": {}}
    protocol = type("Few", (HttpProtocol,), facts)
    config = uvicorn.Config(app, port=find_free_port(), log_config=None, lifespan="off", http=protocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    address = ("127.0.0.1", config.port)
    slow, *idle = [socket.create_connection(address)]
    slow.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    wait_until(lambda: server.server_state.tasks)
    for _ in range(3):
        idle += [socket.create_connection(address) for _ in range(20)]
        good = httpx.get(f"http://127.0.0.1:{config.port}/", timeout=GENEROUS_SECONDS)
        assert good.json() == "good"
    assert len(server.server_state.connections) <= 8
    assert idle[0].recv(1000).startswith(b"HTTP/1.1 503 ")
    released.set()
    assert b"good" in b"".join(iter(lambda: slow.recv(1000), b""))
    for connection in (slow, *idle):
        connection.close()
    server.should_exit = True
    thread.join(10)


def test_the_soft_limit_of_open_files_is_raised() -> None:
    code = (
        "import resource; from service.system.child import raise_open_files; "
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)); "
        "print(raise_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
