"""What `/readyz` says: true, part by part, and not ready as soon as one part answers wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.decode.landlock import landlock_version
from service.system.files import DiskSpace
from service.system.settings import Settings
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread


@pytest.fixture(scope="module")
def running(
    indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serve_in_thread]:
    settings = indexed_settings.replace(data=tmp_path_factory.mktemp("data"), readiness_cache_seconds=0)
    with memory_indexes(), serve_in_thread(settings) as running:
        yield running


def test_ready(running: serve_in_thread) -> None:
    answer = running.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json().items() >= {"status": "ready", "num_segments": 0, "is_writable": True}.items()
    assert answer.json()["free_bytes"] > 0
    assert answer.json()["landlock_version"] == landlock_version()


def test_a_full_disk_is_said_and_searches_go_on(
    running: serve_in_thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = DiskSpace(free_bytes=1, total_bytes=2, floor_bytes=2)
    monkeypatch.setattr(Settings, "disk_space", lambda self: full)
    answer = running.client.get("/readyz")
    assert (answer.status_code, answer.json()["is_writable"]) == (200, False)


@pytest.mark.parametrize(
    ("part", "method", "name"),
    [
        ("encoder", "check_golden", "the encoder"),
        ("index", "count_segments", "the index"),
        ("ledger", "check", "the ledger of jobs"),
    ],
)
def test_a_part_that_fails_is_named(
    running: serve_in_thread, monkeypatch: pytest.MonkeyPatch, part: str, method: str, name: str
) -> None:
    state = running.app.state.shared
    owner = state.jobs.ledger if part == "ledger" else getattr(state.foley, part)

    def fail() -> None:
        raise OSError("it is broken")

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, fail)
        answer = running.client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert answer.json()["detail"] == f"{name} failed its check: it is broken"
        assert answer.headers["retry-after"]
        assert running.client.get("/livez").status_code == 200
    assert running.client.get("/readyz").status_code == 200


def test_wrong_embeddings_are_noticed(running: serve_in_thread, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden clip is embedded for real: an encoder that gives other numbers is not ready."""
    engine = running.app.state.shared.foley.encoder.engine
    right = engine.run_video
    monkeypatch.setattr(engine, "run_video", lambda rows: -right(rows))
    answer = running.client.get("/readyz")
    assert answer.status_code == 503
    assert "the encoder failed its check" in answer.json()["detail"]


def test_one_check_serves_all_who_ask(indexed_settings: Settings, tmp_path: Path) -> None:
    with (
        memory_indexes(),
        serve_in_thread(indexed_settings.replace(data=tmp_path, readiness_cache_seconds=60)) as running,
    ):
        assert running.client.get("/readyz").status_code == 200
        running.app.state.shared.foley.index.close()
        assert running.client.get("/readyz").status_code == 200
