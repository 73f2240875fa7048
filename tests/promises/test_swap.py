"""Releases swapped under load: no request fails, and no answer is of two releases.

FOLEY_SWAP_CLIENTS=50 pytest tests/promises/test_swap.py -s      5 minutes, prints its figures
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.foley import open_foley
from service.releases.opening import open_release
from service.releases.store import ReleaseStore
from service.releases.switch import OpenRelease
from tests.support.serving import run_server, serve_in_thread
from tests.support.swapping import Clients, TwoReleases, ask_foley

IS_SOAK = "FOLEY_SWAP_CLIENTS" in os.environ
NUM_CLIENTS = int(os.environ.get("FOLEY_SWAP_CLIENTS", "4"))
NUM_SWAPS, NUM_ROLLBACKS = (20, 5) if IS_SOAK else (3, 1)
SECONDS = 300.0 if IS_SOAK else 6.0
NUM_MEMORY_SWAPS = 50
GROWTH_BYTES = 100 * 2**20
ROOM: dict[str, object] = {"WAITING_PER_WORKER": NUM_CLIENTS, "MAX_WAIT_SECONDS": 60}
"""Nobody is refused for want of room: what is measured here is another thing."""


def switch(client: httpx.Client, path: str) -> tuple[float, float]:
    """Ask for a switch; when it began and ended."""
    began = time.monotonic()
    answer = client.post(path)
    assert answer.status_code == 200, answer.text
    return began, time.monotonic()


def test_no_request_fails_and_no_answer_is_mixed(two_releases: TwoReleases, tmp_path: Path) -> None:
    num_spans = NUM_SWAPS + NUM_ROLLBACKS
    pause = SECONDS / (num_spans + 2)
    spans: list[tuple[float, float]] = []
    server = run_server(two_releases.environment() | ROOM, tmp_path / "log")
    with (
        server as address,
        httpx.Client(base_url=address, timeout=60) as client,
        Clients(address, two_releases, count=NUM_CLIENTS) as clients,
    ):
        time.sleep(pause)
        sizes = [_resident_bytes(server.process.pid)]
        active = 0
        for number in range(num_spans):
            active = 1 - active
            is_rollback = number % (num_spans // NUM_ROLLBACKS) == num_spans // NUM_ROLLBACKS - 1
            path = ":rollback" if is_rollback else f"/{two_releases.names[active]}:activate"
            spans.append(switch(client, f"/v1/releases{path}"))
            time.sleep(pause)
            sizes.append(_resident_bytes(server.process.pid))
        time.sleep(pause)
    report = clients.report
    report.check()
    assert set(report.answers) == set(two_releases.names), "both answered"
    assert len(spans) == NUM_SWAPS + NUM_ROLLBACKS
    quiet = [(first + 1.0, last) for first, last in _between(spans)]
    during, before = report.p99(spans), report.p99(quiet)
    print(  # noqa: T201 - the figure of `make soak`
        f"\n{NUM_CLIENTS} clients, {NUM_SWAPS} swaps and {NUM_ROLLBACKS} rollbacks: {len(report.seconds)} answers, "
        f"0 failed, 0 mixed; p99 {1e3 * during:.0f} ms while a switch ran, {1e3 * before:.0f} ms between them "
        f"({during / before:.2f} x); a switch took {sum(b - a for a, b in spans) / len(spans):.2f} s; "
        f"{sizes[1] / 2**20:.0f} MiB after the first, {sizes[-1] / 2**20:.0f} after the last"
    )


def _between(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [
        (before[1], after[0])
        for before, after in zip(spans, [*spans[1:], (spans[-1][1] + 10,) * 2], strict=True)
    ]


def test_an_answer_of_two_releases_would_be_seen(two_releases: TwoReleases) -> None:
    """The control: an engine that takes the new index and keeps the old encoder is found out by the same check."""
    second = two_releases.names[1]
    settings = two_releases.settings
    path = two_releases.queries[0]
    with open_foley(settings) as foley:
        assert ask_foley(foley, two_releases, path) is None
        store = ReleaseStore(settings.release_folder)
        live = open_release(settings, second, store.load_bundle(second))
        old = foley.releases.current
        mixed = replace(live, encoder=old.encoder, batcher=old.batcher)
        foley.releases._held.release = mixed
        assert "does not score" in (ask_foley(foley, two_releases, path) or "")
        foley.releases._held.release = replace(old, index=live.index)
        assert "does not score" in (ask_foley(foley, two_releases, path) or "")
        foley.releases._held.release = replace(live, release_id=old.release_id)
        assert "answered with bundle" in (ask_foley(foley, two_releases, path) or "")
        foley.releases._held.release = live
        assert ask_foley(foley, two_releases, path) is None
        foley.releases._held.release = old
        live.close()


def test_a_swap_under_load_without_leases_would_be_seen(
    two_releases: TwoReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the whole run: a server that forgets half of a release while clients ask is caught by them."""
    names = two_releases.names
    with serve_in_thread(two_releases.settings) as server:
        releases = server.app.state.shared.foley.releases
        original = releases.switch

        def tear(live: OpenRelease) -> None:
            old = releases.current
            torn = replace(live, encoder=old.encoder, batcher=old.batcher)
            original(torn)

        monkeypatch.setattr(releases, "switch", tear)
        monkeypatch.setattr("service.releases.switch._close", lambda box: None)  # the old queue goes on
        with Clients(server.address, two_releases, count=2) as clients:
            time.sleep(0.5)
            switch(server.client, f"/v1/releases/{names[1]}:activate")
            time.sleep(1.0)
        with pytest.raises(AssertionError, match="mixed"):
            clients.report.check()


@pytest.mark.skipif(not IS_SOAK, reason="`make soak`; the memory of a few swaps is printed above")
def test_memory_comes_back(two_releases: TwoReleases, tmp_path: Path) -> None:
    server = run_server(two_releases.environment(), tmp_path / "log")
    with server as address, httpx.Client(base_url=address, timeout=60) as client:
        sizes = []
        for number in range(NUM_MEMORY_SWAPS + 2):
            switch(client, f"/v1/releases/{two_releases.names[1 - number % 2]}:activate")
            for path in two_releases.queries[:2]:
                answer = client.post(
                    "/v1/search", files={"file": path.read_bytes()}, data={"target": "video"}
                )
                assert answer.status_code == 200
            time.sleep(0.3)
            sizes.append(_resident_bytes(server.process.pid))
    growth = sizes[-1] - sizes[1]  # both encoders have run once by then
    was, now = sizes[1] / 2**20, sizes[-1] / 2**20
    print(f"\n{NUM_MEMORY_SWAPS} swaps: {was:.0f} MiB, then {now:.0f} MiB")  # noqa: T201
    assert growth <= GROWTH_BYTES


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
