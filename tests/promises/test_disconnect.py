"""Clients that hang up before their answer, on a real server: what waits in their name is dropped."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.encode.queue import BatchLimits
from service.http.admission import Admission, Overloaded
from service.releases.opening import batch_limits
from service.system.caller import Caller, CallerGone, DeadlinePassed
from service.system.settings import Settings
from tests.support.serving import serve_in_thread
from tests.support.waiting import GENEROUS_SECONDS, wait_until

SECONDS = GENEROUS_SECONDS
BOUNDARY = "frontier"


class Held:
    """A server whose encoder is held inside a run until `gate` is set; it counts the segments it is given."""

    def __init__(self, running: serve_in_thread) -> None:
        self.address = running.address
        self.admission = running.app.state.shared.admission
        self.batcher = running.app.state.shared.foley.batcher
        self.gate = threading.Event()
        self.num_encoded = 0
        self._encode_audio = self.batcher._encode["audio"]
        self._before = self.batcher.stats()
        self.batcher._encode["audio"] = self._hold

    def _hold(self, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        self.num_encoded += len(rows)
        assert self.gate.wait(SECONDS)
        return self._encode_audio(rows)  # type: ignore[no-any-return]

    @property
    def num_queued(self) -> int:
        return self.batcher.stats().num_queued["query"]  # type: ignore[no-any-return]

    @property
    def num_abandoned(self) -> int:
        return self.batcher.stats().num_abandoned - self._before.num_abandoned  # type: ignore[no-any-return]

    @property
    def num_waiting(self) -> int:
        return self.admission.num_waiting

    def restore(self) -> None:
        self.gate.set()
        self.batcher._encode["audio"] = self._encode_audio


@pytest.fixture(scope="module")
def running(
    indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory, sound: bytes
) -> Iterator[serve_in_thread]:
    """Three workers, one of them in the encoder at a time, and room for one request to wait."""
    folder = tmp_path_factory.mktemp("held")
    settings = indexed_settings.replace(
        data=folder, search_workers=3, waiting_per_worker=1, max_wait_seconds=SECONDS, encode_runs=1
    )
    with serve_in_thread(settings) as running:
        assert post(running.address, sound).status_code == 200  # the decode workers are there from here on
        yield running
    assert not list(folder.glob("uploads/*/*"))


@pytest.fixture
def held(running: serve_in_thread) -> Iterator[Held]:
    held = Held(running)
    try:
        yield held
    finally:
        held.restore()


@pytest.fixture(scope="module")
def sound(library_files: Path) -> bytes:
    return min(library_files.glob("*.m4a")).read_bytes()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def post(address: str, content: bytes) -> httpx.Response:
    return httpx.post(
        f"{address}/v1/search", files={"file": content}, data={"target": "video"}, timeout=2 * SECONDS
    )


def send_raw(address: str, content: bytes) -> socket.socket:
    """A whole request on a bare socket, whose answer nobody reads yet."""
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
        + content
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )
    head = (
        f"POST /v1/search?target=video HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=SECONDS)
    connection.sendall(head.encode() + body)
    return connection


def hang_up(connection: socket.socket, *, with_reset: bool) -> None:
    if with_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize(
    "further", [b"", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"], ids=["", "pipelined"]
)
def test_segments_of_a_client_that_hangs_up_are_not_encoded(
    held: Held, sound: bytes, threads: ThreadPoolExecutor, with_reset: bool, further: bytes
) -> None:
    first = threads.submit(post, held.address, sound)
    wait_until(lambda: held.num_encoded == 1)
    gone = send_raw(held.address, sound)
    gone.sendall(further)  # the request that is answered is not the last one that was sent
    wait_until(lambda: held.num_queued == 1)
    hang_up(gone, with_reset=with_reset)
    wait_until(lambda: held.num_abandoned == 1)
    assert held.num_queued == 0
    last = threads.submit(post, held.address, sound)
    held.gate.set()
    assert first.result(SECONDS).status_code == last.result(SECONDS).status_code == 200
    assert held.num_encoded == 2


def test_a_client_that_stays_is_not_taken_for_one_that_left(held: Held, sound: bytes) -> None:
    """The control: the same bare socket, left open, gets its answer."""
    with send_raw(held.address, sound) as connection:
        wait_until(lambda: held.num_encoded == 1)
        time.sleep(0.2)
        held.gate.set()
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    assert held.num_abandoned == 0


def test_a_client_that_hangs_up_leaves_the_line(
    held: Held, sound: bytes, threads: ThreadPoolExecutor
) -> None:
    working = [threads.submit(post, held.address, sound) for _ in range(3)]
    wait_until(lambda: held.num_encoded == 1 and held.num_queued == 2)
    gone = send_raw(held.address, sound)
    wait_until(lambda: held.num_waiting == 1)
    hang_up(gone, with_reset=False)
    wait_until(lambda: held.num_waiting == 0)
    held.gate.set()
    assert [answer.result(SECONDS).status_code for answer in working] == [200] * 3
    assert held.num_encoded == 3


def test_full_queue_of_the_encoder_is_429(
    held: Held, sound: bytes, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held.batcher._queue, "_limits", BatchLimits(max_queued=1))
    first = threads.submit(post, held.address, sound)
    wait_until(lambda: held.num_encoded == 1)
    second = threads.submit(post, held.address, sound)
    wait_until(lambda: held.num_queued == 1)
    refused = post(held.address, sound)
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    held.gate.set()
    assert first.result(SECONDS).status_code == second.result(SECONDS).status_code == 200


def test_answer_that_takes_too_long_is_503(
    held: Held, sound: bytes, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = threads.submit(post, held.address, sound)
    wait_until(lambda: held.num_encoded == 1)
    monkeypatch.setattr(held.admission, "_max_work_seconds", 0.5)
    late = post(held.address, sound)
    assert (late.status_code, late.json()["code"]) == (503, "deadline_passed")
    assert int(late.headers["retry-after"]) >= 1
    held.gate.set()
    assert first.result(SECONDS).status_code == 200
    assert held.num_encoded == 1


@pytest.mark.parametrize(
    ("max_batch", "changes", "expected"),
    [
        (1, {}, BatchLimits(max_batch=1, max_wait_seconds=0, max_queued=48, num_runs=1)),
        (1, {"encode_max_batch": 4}, BatchLimits(max_batch=1, max_wait_seconds=0, max_queued=48)),
        (16, {}, BatchLimits(max_batch=16, max_wait_seconds=0.002, max_queued=48, num_runs=2)),
        (
            16,
            {
                "encode_max_batch": 3,
                "encode_wait_seconds": 0,
                "encode_queue_segments": 5,
                "encode_runs": 7,
            },
            BatchLimits(max_batch=3, max_wait_seconds=0, max_queued=5, num_runs=7),
        ),
    ],
)
def test_settings_become_limits(max_batch: int, changes: dict[str, Any], expected: BatchLimits) -> None:
    settings = Settings(search_workers=3, **changes)
    assert batch_limits(settings, max_batch) == expected


# The line itself


class Fickle:
    """A client that hangs up after a while, or never."""

    def __init__(self, leaves_after_seconds: float | None) -> None:
        self.caller = Caller()
        self._seconds = leaves_after_seconds

    async def watch(self) -> None:
        if self._seconds is None:
            await anyio.sleep_forever()
        else:
            await anyio.sleep(self._seconds)
        self.caller.leave()


def test_no_place_is_lost_whenever_clients_leave() -> None:
    rng = np.random.default_rng(0)
    outcomes: list[str] = []

    def work(client: Any) -> str:
        deadline = time.monotonic() + 0.01
        while time.monotonic() < deadline:
            client.caller.check()
            time.sleep(0.001)
        return "done"

    async def call(admission: Admission, after_seconds: float | None) -> None:
        client: Any = Fickle(after_seconds)
        try:
            outcomes.append(await admission.run_for(client, lambda: work(client)))
        except (CallerGone, Overloaded) as exc:
            outcomes.append(type(exc).__name__)

    async def main() -> None:
        admission = Admission(num_workers=3, max_waiting=1000, max_wait_seconds=0.3)
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(call, admission, None if rng.random() < 0.4 else float(rng.uniform(0, 0.4)))
        assert admission.num_waiting == 0
        assert admission._semaphore.value == 3

    anyio.run(main)
    assert len(outcomes) == 200
    assert {"done", "CallerGone"} <= set(outcomes)


def test_a_failure_of_the_work_comes_out_as_it_is() -> None:
    async def main() -> None:
        admission = Admission(num_workers=1, max_waiting=1, max_wait_seconds=1, max_work_seconds=1e-9)
        client: Any = Fickle(None)
        with pytest.raises(ZeroDivisionError):
            await admission.run_for(client, lambda: 1 // 0)
        with pytest.raises(DeadlinePassed, match="not ready within 1e-09 s"):
            await admission.run_for(client, client.caller.check)
        assert await admission.run_for(client, lambda: 7) == 7

    anyio.run(main)
