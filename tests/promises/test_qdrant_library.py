"""A whole library on a real Qdrant server: copied there and back, followed by three services, killed beneath them.

FOLEY_TEST_QDRANT=/path/to/qdrant pytest tests/promises/test_qdrant_library.py -s
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.index.failure import IndexUnavailable
from service.index.opening import index_place
from service.index.qdrant.index import ServerIndex
from service.operations.migration import migrate_places
from service.releases.store import ReleaseStore
from service.system.settings import Settings
from tests.support.qdrant_server import PREFERS_GRPC, QdrantServer, needs_qdrant, run_qdrant
from tests.support.serving import run_server
from tests.support.swapping import Clients, TwoReleases
from tests.support.waiting import wait_until

pytestmark = needs_qdrant

NUM_REPLICAS = 3


def on_server(settings: Settings, server: QdrantServer) -> Settings:
    return settings.replace(
        qdrant_url=server.url, qdrant_grpc_port=server.grpc_port, qdrant_prefer_grpc=PREFERS_GRPC
    )


def migrate_all(releases: TwoReleases, server: QdrantServer) -> int:
    """Copy both releases to the server, the first one last activated; how many vectors were compared."""
    settings, store = releases.settings, ReleaseStore(releases.settings.release_folder)
    num_compared = 0
    for name in reversed(releases.names):
        store.activate(name, previous=None)
        there = settings.replace(qdrant_grpc_port=server.grpc_port, qdrant_prefer_grpc=PREFERS_GRPC)
        migration = migrate_places(there, target=server.url)
        assert migration.num_present == 0
        num_compared += migration.num_compared
        assert migrate_places(there, target=server.url).num_copied == 0, "it has them all"
    index_place(on_server(settings, server)).activate(releases.names[0])
    return num_compared


def test_a_library_goes_to_a_server_and_back(two_releases: TwoReleases, tmp_path: Path) -> None:
    with run_qdrant(tmp_path / "qdrant") as server:
        assert migrate_all(two_releases, server) > 0
        settings = on_server(two_releases.settings, server)
        back = tmp_path / "back"
        copied = migrate_places(settings, target=str(back))
        assert (copied.num_present, copied.num_compared > 0) == (0, True)
        first = two_releases.settings.data / "index" / two_releases.names[0]
        assert (back / "index" / two_releases.names[0]).is_dir()
        assert first.is_dir()


def test_three_services_follow_one_alias_and_live_through_a_restart(
    two_releases: TwoReleases, tmp_path: Path
) -> None:
    with run_qdrant(tmp_path / "qdrant") as server, ExitStack() as stack:
        migrate_all(two_releases, server)
        shared = {
            **two_releases.environment(),
            "RELEASES": two_releases.settings.release_folder,
            "QDRANT_URL": server.url,
            "QDRANT_GRPC_PORT": server.grpc_port,
            "QDRANT_PREFER_GRPC": PREFERS_GRPC,
            "RELEASE_POLL_SECONDS": 0.1,
        }
        services = [
            stack.enter_context(run_server(shared | {"DATA": tmp_path / f"data-{n}"}, tmp_path / f"log-{n}"))
            for n in range(NUM_REPLICAS)
        ]
        askers = [stack.enter_context(httpx.Client(base_url=one, timeout=60)) for one in services]
        clients = [stack.enter_context(Clients(one, two_releases, count=1)) for one in services]
        first, second = two_releases.names
        turns = ((f"/{second}:activate", second), (":rollback", first), (f"/{second}:activate", second))
        for asker, (path, expected) in zip(askers, turns, strict=True):
            answer = asker.post(f"/v1/releases{path}")
            assert answer.status_code == 200, answer.text
            wait_until(lambda expected=expected: _active(askers) == {expected})
            seen = [len(one.report.seconds) for one in clients]
            wait_until(
                lambda seen=seen: all(len(c.report.seconds) > n for c, n in zip(clients, seen, strict=True))
            )
        for one in clients:
            one.__exit__()
            one.report.check()
            assert set(one.report.answers) == {first, second}
        check_restart(server, askers[0])
    num_answers = sum(len(one.report.seconds) for one in clients)
    print(f"\n{NUM_REPLICAS} services: {num_answers} answers, 0 failed, 0 mixed")  # noqa: T201


def _active(askers: list[httpx.Client]) -> set[str]:
    return {asker.get("/v1/releases").json()["active"] for asker in askers}


def check_restart(server: QdrantServer, asker: httpx.Client) -> None:
    """A service says that the index is away, lives, and answers as soon as it is back."""
    server.kill()
    answer = asker.get("/v1/assets")
    assert (answer.status_code, answer.json()["code"]) == (503, "index_unavailable")
    assert asker.get("/livez").status_code == 200
    server.start()
    began = time.monotonic()
    wait_until(lambda: asker.get("/v1/assets").status_code == 200)
    assert time.monotonic() - began < 10.0
    assert asker.get("/readyz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_copy_that_is_interrupted_goes_on(
    two_releases: TwoReleases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The server goes away between two writes: the command fails with one line, and the next one copies the rest."""
    settings = two_releases.settings
    write, one_at_a_time, num_written = ServerIndex.write_asset, threading.Lock(), 0
    with run_qdrant(tmp_path / "qdrant") as server:
        there = settings.replace(qdrant_grpc_port=server.grpc_port, qdrant_prefer_grpc=PREFERS_GRPC)

        def write_two(*arguments: Any, **options: Any) -> None:
            nonlocal num_written
            with one_at_a_time:
                if num_written < 2:
                    write(*arguments, **options)
                    num_written += 1
                    return
                server.end(number)
            write(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(ServerIndex, "write_asset", write_two)
            with pytest.raises(IndexUnavailable, match="Qdrant server on"):
                migrate_places(there, target=server.url)
        server.start()
        migration = migrate_places(there, target=server.url)
        assert migration.num_present == 2
        assert migration.num_copied > 0
