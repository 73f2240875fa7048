"""Several services on one Qdrant server, here qdrant-client's local mode: all follow the alias, none mixes releases."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from models.bundle.bundle import Bundle, load_bundle
from service.foley import Foley, open_foley
from service.index.opening import index_place
from service.index.qdrant import place
from service.library.indexing import index_paths
from service.releases.manager import ReleaseManager
from service.releases.opening import open_release
from service.releases.store import ReleaseError, ReleaseInUse, ReleaseStore
from service.search.options import SearchOptions
from service.search.snapshot import Snapshot
from service.system.settings import Settings
from tests.support.calibrations import CALIBRATION
from tests.support.libraries import write_tones
from tests.support.qdrant_local import Shared, serve_local
from tests.support.swapping import LEAST_DIFFERENCE, TARGET, scores_of
from tests.support.waiting import wait_until

URL = "http://qdrant.invalid:6333"


@dataclass(frozen=True)
class Replica:
    """One service, and what changes its releases."""

    foley: Foley
    manager: ReleaseManager

    @property
    def release_id(self) -> str:
        """Which release answers here."""
        return self.foley.releases.current.release_id


@dataclass(frozen=True)
class Replicas:
    """Two services on one server, two releases, and what each of them finds for a query."""

    both: tuple[Replica, Replica]
    names: tuple[str, str]
    query: Path
    expected: dict[str, dict[str, float]]

    def check(self, replica: Replica, release_id: str, *, snapshot: Snapshot | None = None) -> None:
        """An answer is that of one release, embedded and searched."""
        answer = replica.foley.search_file(
            self.query, SearchOptions(target=TARGET), snapshot=snapshot
        ).to_json()
        assert answer["release_id"] == release_id
        assert scores_of(answer) == pytest.approx(self.expected[release_id], abs=1e-4)


def settings_of(folder: Path, name: str, bundle: Path) -> Settings:
    """A data folder of its own; Qdrant server and releases are one for all in `folder`."""
    return Settings(
        data=folder / name,
        releases=folder / "releases",
        bundle=bundle,
        device="cpu",
        precision="fp32",
        num_threads=1,
        decode_workers=1,
        qdrant_url=URL,
    )


@dataclass(frozen=True)
class Filled:
    """A folder in which two releases are filled, their names, and what each of them finds for a query."""

    folder: Path
    names: tuple[str, str]
    query: Path
    expected: dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, bundle_path: Path, second_bundle: Bundle, library_files: Path
) -> Filled:
    """Made once; every test takes a copy."""
    folder = tmp_path_factory.mktemp("filled")
    (query,) = write_tones(tmp_path_factory.mktemp("query"), 1)
    settings = settings_of(folder, "first", bundle_path)
    store = ReleaseStore(settings.release_folder)
    expected = {}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextmanager(serve_local)(folder / "qdrant", patch),
        open_foley(settings) as foley,
    ):
        for bundle in (load_bundle(settings.bundle), second_bundle):
            release_id = store.create(bundle, outcome="ready").release_id
            live = open_release(settings, release_id, bundle)
            snapshot = live.snapshot(priority="bulk")
            assert not index_paths([library_files], snapshot=snapshot, decoder=foley.decoder).failed
            answer = foley.search_file(query, SearchOptions(target=TARGET), snapshot=snapshot)
            expected[release_id] = scores_of(answer.to_json())
            live.close()
    first, second = expected
    differences = [abs(expected[first][asset] - expected[second][asset]) for asset in expected[first]]
    assert max(differences) > LEAST_DIFFERENCE
    return Filled(folder, (first, second), query, expected)


@pytest.fixture
def copied(filled: Filled, tmp_path: Path) -> Path:
    shutil.copytree(filled.folder, tmp_path / "shared")
    return tmp_path / "shared"


@pytest.fixture
def remote(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    yield from serve_local(copied / "qdrant", monkeypatch)


@pytest.fixture
def settings(copied: Path, bundle_path: Path, remote: Shared) -> list[Settings]:
    return [settings_of(copied, name, bundle_path) for name in ("one", "two")]


@pytest.fixture
def replicas(filled: Filled, settings: list[Settings]) -> Iterator[Replicas]:
    with ExitStack() as stack:
        engines = [stack.enter_context(open_foley(one)) for one in settings]
        one, two = (
            Replica(foley, ReleaseManager(chosen, foley.releases, foley.decoder))
            for foley, chosen in zip(engines, settings, strict=True)
        )
        yield Replicas((one, two), filled.names, filled.query, filled.expected)


def test_a_switch_on_one_reaches_the_other_and_mixes_nothing(
    replicas: Replicas, settings: list[Settings]
) -> None:
    one, two = replicas.both
    first, second = replicas.names
    with two.foley.lease() as old:
        one.manager.activate(second)
        assert index_place(settings[1]).active() == second
        replicas.check(one, second)
        replicas.check(two, first)  # it has not looked yet: the old encoder asks the old collection
        assert two.manager.follower.follow_once()
        assert not two.manager.follower.follow_once()
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
    watching = ReleaseManager(
        settings[1].replace(release_poll_seconds=0.02), two.foley.releases, two.foley.decoder
    )
    hidden = settings[0].release_folder / second
    one.manager.activate(second)
    shutil.move(hidden, hidden.with_name("elsewhere"))
    watching.follower.start()
    try:
        with caplog.at_level(logging.WARNING):
            wait_until(lambda: caplog.records)
            time.sleep(0.2)  # ten more looks, which say nothing
        assert [r.message for r in caplog.records] == ["the active release could not be followed"]
        replicas.check(two, first)
        shutil.move(hidden.with_name("elsewhere"), hidden)
        wait_until(lambda: two.release_id == second)
        replicas.check(two, second)
        remote.is_away = True
        time.sleep(0.1)
        remote.is_away = False
        one.manager.rollback()
        wait_until(lambda: two.release_id == first)
        replicas.check(two, first)
    finally:
        watching.follower.stop()


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
    with one.manager.store.changing():
        two.manager.store.sweep()  # a replica starts while another one switches: it does not wait
        assert left.exists()
    two.manager.store.sweep()
    assert not left.exists()


def test_what_one_replica_builds_no_other_deletes(replicas: Replicas, second_bundle: Bundle) -> None:
    one, two = replicas.both
    half = one.manager.store.create(second_bundle, outcome="building", token="t")
    with one.manager.store.building(), pytest.raises(ReleaseInUse, match="another process builds"):
        two.manager.delete(half.release_id)
    two.manager.delete(half.release_id)
    assert half.release_id not in [release.release_id for release in one.manager.store.list()]


def test_what_was_written_beside_a_switch_is_embedded_by_the_new_release(
    replicas: Replicas, settings: list[Settings], tmp_path: Path
) -> None:
    """The replica that did not switch wrote to the old collection; its job goes on, and what it stored is queued."""
    one, two = replicas.both
    _, second = replicas.names
    queued: list[Sequence[Path]] = []
    paused: list[bool] = []

    @contextmanager
    def writers() -> Iterator[None]:
        paused.append(True)
        yield
        paused.append(False)

    manager = ReleaseManager(
        settings[1], two.foley.releases, two.foley.decoder, writers=writers, submit=queued.append
    )
    (late,) = write_tones(tmp_path / "late", 1, first=900)
    with two.foley.lease() as old:
        one.manager.activate(second)
        assert not index_paths([late], snapshot=old, decoder=two.foley.decoder).failed
    assert manager.follower.follow_once()
    assert paused == [True, False]
    assert queued == [[late]]


def test_a_change_looks_first_who_answers(replicas: Replicas) -> None:
    one, two = replicas.both
    _, second = replicas.names
    one.manager.activate(second)
    with two.manager.lease_to_write() as index:
        asset = index.list_assets(limit=1).assets[0]
        assert index.set_metadata(asset.asset_id, {"take": 3})
    with one.foley.lease() as snapshot:
        changed = snapshot.index.get_asset(asset.asset_id)
    assert changed is not None
    assert changed.metadata == {"take": 3}


def test_a_crash_between_alias_and_pointer_is_mended(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas.both
    first, second = replicas.names
    one.manager.activate(second)
    one.manager.rollback()

    def die(*_: object, **__: object) -> NoReturn:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(one.manager.store, "activate", die)
        with pytest.raises(OSError, match="killed"):
            one.manager.activate(second)
    assert two.manager.rollback().active.release_id == first
    active = two.manager.store.active()
    assert active is not None
    assert (active.release_id, active.previous) == (first, second)
    replicas.check(two, first)


def test_what_one_replica_learns_of_the_scores_the_others_take_over(replicas: Replicas) -> None:
    one, two = replicas.both
    assert two.foley.releases.current.calibration is None
    one.manager.store.save_calibration(one.release_id, CALIBRATION)
    two.manager.follower._refresh_calibration()
    assert two.foley.releases.current.calibration == CALIBRATION


def test_a_look_uses_the_connection_that_is_open(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes before every change and every two seconds: a connection of its own would cost more than the change."""
    two = replicas.both[1]

    def refuse(_: object) -> NoReturn:
        raise AssertionError("another connection was opened")

    monkeypatch.setattr(place, "open_client", refuse)
    with two.manager.lease_to_write() as index:
        assert index.info().num_assets > 0
    assert not two.manager.follower.follow_once()
