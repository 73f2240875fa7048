"""Requests that wait for each other, or for a switch, and those that need not wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.system.settings import Settings
from tests.support.serving import serve_in_thread
from tests.support.waiting import GENEROUS_SECONDS

NUM_WAITING = 50  # more than the 40 threads that all requests share


@pytest.fixture(scope="module")
def running(
    indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serve_in_thread]:
    settings = indexed_settings.replace(data=tmp_path_factory.mktemp("waiting"))
    with serve_in_thread(settings) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "held"),
    [
        ("/v1/releases/none:activate", "activate"),
        ("/v1/releases:rollback", "rollback"),
        ("/v1/releases:calibrate", "calibrate"),
    ],
)
def test_changes_of_releases_that_wait_hold_up_nobody(
    running: serve_in_thread, monkeypatch: pytest.MonkeyPatch, path: str, held: str
) -> None:
    manager = running.app.state.shared.releases
    goes_on, has_begun = threading.Event(), threading.Event()
    change = getattr(manager, held)

    def wait_and_change(*given: object, **more: object) -> object:
        has_begun.set()
        assert goes_on.wait(30)
        return change(*given, **more)

    monkeypatch.setattr(manager, held, wait_and_change)
    assert_reads_go_on(running, "POST", path, has_begun, goes_on)


def test_writes_that_wait_for_a_switch_hold_up_nobody(
    running: serve_in_thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(*_: object) -> None:
        has_begun.set()

    goes_on, has_begun = threading.Event(), threading.Event()
    monkeypatch.setattr("service.http.routes.assets.find_asset", find)
    gate = running.app.state.shared.foley.releases.gate

    def switch() -> None:
        with gate.closed():
            goes_on.wait(30)

    switching = threading.Thread(target=switch)
    switching.start()
    assert_reads_go_on(running, "DELETE", f"/v1/assets/{'0' * 64}", has_begun, goes_on)
    switching.join()


def assert_reads_go_on(
    running: serve_in_thread, method: str, path: str, has_begun: threading.Event, goes_on: threading.Event
) -> None:
    def ask(_: int) -> int:
        return httpx.request(method, f"{running.address}{path}", timeout=GENEROUS_SECONDS).status_code

    with ThreadPoolExecutor(NUM_WAITING) as threads:
        answers = [threads.submit(ask, number) for number in range(NUM_WAITING)]
        try:
            assert has_begun.wait(GENEROUS_SECONDS)
            time.sleep(0.5)  # until all of them are there
            assert running.client.get("/v1/assets", timeout=60).status_code == 200
            assert not any(answer.done() for answer in answers)
        finally:
            goes_on.set()
        assert {answer.result() for answer in answers} <= {404, 409}
