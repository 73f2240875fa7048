"""Several services on one Qdrant server, here qdrant-client's local mode: all follow the alias, none mixes releases."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from libraries import write_tones
from swapping import LEAST_DIFFERENCE, TARGET, scores_of

from models.bundle import Bundle, load_bundle
from service.engine import Engine, open_engine, take_snapshot
from service.index.opening import active_index
from service.library import index_paths
from service.releases.manager import ReleaseManager
from service.releases.opening import open_release
from service.releases.store import ReleaseError, ReleaseInUse, ReleaseStore
from service.retrieval import Snapshot
from service.settings import Settings
from tests.service.index.qdrant_local import Shared, serve_local

URL = "http://qdrant.invalid:6333"


@dataclass(frozen=True)
class Replica:
    """One service, and what changes its releases."""

    engine: Engine
    manager: ReleaseManager

    @property
    def release_id(self) -> str:
        """Which release answers here."""
        return self.engine.releases.current.release_id


@dataclass(frozen=True)
class Replicas:
    """Two services on one server, two releases, and what each of them finds for a query."""

    both: tuple[Replica, Replica]
    names: tuple[str, str]
    query: Path
    expected: dict[str, dict[str, float]]

    def check(self, replica: Replica, release_id: str, *, snapshot: Snapshot | None = None) -> None:
        """An answer is that of one release, embedded and searched."""
        answer = replica.engine.search_file(self.query, target=TARGET, snapshot=snapshot).to_json()
        assert answer["release_id"] == release_id
        assert scores_of(answer) == pytest.approx(self.expected[release_id], abs=1e-4)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    yield from serve_local(tmp_path / "qdrant", monkeypatch)


@pytest.fixture
def settings(tmp_path: Path, bundle_path: Path, remote: Shared) -> list[Settings]:
    """Data folders of their own, one folder of releases."""
    return [
        Settings(
            data=tmp_path / name,
            releases=tmp_path / "releases",
            bundle=bundle_path,
            device="cpu",
            precision="fp32",
            num_threads=1,
            decode_workers=1,
            qdrant_url=URL,
        )
        for name in ("one", "two")
    ]


@pytest.fixture
def replicas(
    settings: list[Settings], second_bundle: Bundle, library_files: Path, tmp_path: Path
) -> Iterator[Replicas]:
    (query,) = write_tones(tmp_path / "query", 1)
    store = ReleaseStore(settings[0].release_folder)
    names, expected = [], {}
    with open_engine(settings[0]) as engine:
        for bundle in (load_bundle(settings[0].bundle), second_bundle):
            release_id = store.create(bundle, outcome="ready").release_id
            live = open_release(settings[0], release_id, bundle)
            snapshot = take_snapshot(live, None, priority="bulk")
            assert not index_paths([library_files], snapshot=snapshot, decoder=engine.decoder).failed
            answer = engine.search_file(query, target=TARGET, snapshot=snapshot)
            names.append(release_id)
            expected[release_id] = scores_of(answer.to_json())
            live.close()
    first, second = names
    differences = [abs(expected[first][asset] - expected[second][asset]) for asset in expected[first]]
    assert max(differences) > LEAST_DIFFERENCE
    with ExitStack() as stack:
        engines = [stack.enter_context(open_engine(one)) for one in settings]
        one, two = (
            Replica(engine, ReleaseManager(chosen, engine.releases, engine.decoder))
            for engine, chosen in zip(engines, settings, strict=True)
        )
        yield Replicas((one, two), (first, second), query, expected)


def test_a_switch_on_one_reaches_the_other_and_mixes_nothing(
    replicas: Replicas, settings: list[Settings]
) -> None:
    one, two = replicas.both
    first, second = replicas.names
    with two.engine.lease() as old:
        one.manager.activate(second)
        assert active_index(settings[1]) == second
        replicas.check(one, second)
        replicas.check(two, first)  # it has not looked yet: the old encoder asks the old collection
        assert two.manager.follow_once()
        assert not two.manager.follow_once()
        replicas.check(two, second)
        replicas.check(two, first, snapshot=old)
    switched = two.manager.rollback()
    assert (switched.active.release_id, switched.active.previous) == (first, second)
    with pytest.raises(ReleaseError, match="active already"):  # it looked before it changed anything
        one.manager.activate(first)
    for replica in replicas.both:
        replicas.check(replica, first)
    with pytest.raises(ReleaseInUse, match="a rollback returns to"):
        one.manager.delete(second)


def test_the_thread_follows_and_says_once_what_it_cannot(
    replicas: Replicas, settings: list[Settings], remote: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = replicas.both
    first, second = replicas.names
    follower = ReleaseManager(
        settings[1].replace(release_poll_seconds=0.02), two.engine.releases, two.engine.decoder
    )
    hidden = settings[0].release_folder / second
    one.manager.activate(second)
    shutil.move(hidden, hidden.with_name("elsewhere"))
    follower.follow()
    try:
        with caplog.at_level(logging.WARNING):
            time.sleep(0.5)
        assert [r.message for r in caplog.records] == ["the active release could not be followed"]
        replicas.check(two, first)
        shutil.move(hidden.with_name("elsewhere"), hidden)
        deadline = time.monotonic() + 20
        while two.release_id != second and time.monotonic() < deadline:
            time.sleep(0.02)
        replicas.check(two, second)
        remote.is_away = True
        time.sleep(0.1)
        remote.is_away = False
        assert two.release_id == second
    finally:
        follower.stop()


def test_one_replica_builds_at_a_time(replicas: Replicas, second_bundle: Bundle) -> None:
    one, two = replicas.both
    with (
        two.manager.store.building(),
        pytest.raises(ReleaseInUse, match="another process builds a release"),
    ):
        one.manager.create(second_bundle.path)
    left = two.manager.store.folder / ".new-somebodys"
    left.mkdir()
    with one.manager.store.building():
        two.manager.store.sweep()
        assert left.exists(), "whoever builds may be making it"
    two.manager.store.sweep()
    assert not left.exists()
