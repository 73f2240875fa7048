"""The folder of releases: what it holds after a crash at any step, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from models.bundle.bundle import (
    Agreement,
    BrokenBundle,
    Bundle,
    Variant,
    describe_file,
    load_bundle,
    variant_path,
)
from service.index.failure import IndexUnavailable
from service.releases.opening import active_release
from service.releases.store import (
    Active,
    Release,
    ReleaseError,
    ReleaseInUse,
    ReleaseNotFound,
    ReleaseStore,
)
from service.system.settings import Settings
from tests.support.bundles import copy_starter, rehash
from tests.support.calibrations import CALIBRATION


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Two small bundles: the files are no graphs, and nobody runs them."""
    found = []
    for name in ("first", "second"):
        folder = copy_starter(tmp_path_factory.mktemp("bundles") / name, name=name)
        for file in ("audio.onnx", "video.onnx", "golden.npz"):
            (folder / file).write_bytes(f"{file} of {name}".encode() * 10)
        found.append(load_bundle(rehash(folder)))
    return found


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "data")


# What it does


def test_a_release_is_a_copy_of_its_bundle(store: ReleaseStore, bundles: list[Bundle]) -> None:
    release = store.create(bundles[0], outcome="building", token="job 1")
    assert release.release_id == bundles[0].bundle_id
    assert store.get(release.release_id) == release == store.list()[0]
    copy = store.load_bundle(release.release_id)
    assert (copy.bundle_id, copy.manifest) == (bundles[0].bundle_id, bundles[0].manifest)
    assert copy.path.is_relative_to(store.folder)
    assert store.active() is None
    assert store.load_calibration(release.release_id) is None


def test_asking_again_finds_the_same_release(store: ReleaseStore, bundles: list[Bundle]) -> None:
    first = store.create(bundles[0], outcome="building", token="job 1")
    assert store.create(bundles[0], outcome="building", token="job 2") == first, "it is not finished"
    done = replace(first, outcome="ready")
    store.save(done)
    assert store.create(bundles[0], outcome="building", token="job 1") == done
    assert store.create(bundles[0], outcome="ready", is_new_generation=False) == done
    second = store.create(bundles[0], outcome="building", token="job 3")
    assert second.release_id == f"{bundles[0].bundle_id}.2"
    assert store.load_bundle(second.release_id).bundle_id == bundles[0].bundle_id
    store.save(replace(second, outcome="refused"))
    assert store.create(bundles[0], outcome="building", token="").release_id.endswith(".3")


def test_variants_are_copied_too(store: ReleaseStore, bundles: list[Bundle], tmp_path: Path) -> None:
    source = load_bundle(Path(shutil.copytree(bundles[0].path, tmp_path / "mine")))
    folder = variant_path(source.path, "int8")
    folder.mkdir()
    for name in ("audio.onnx", "video.onnx"):
        (folder / name).write_bytes(name.encode())
    agreement = dict.fromkeys(Agreement.__dataclass_fields__, 1.0) | {
        "clips": "8 clips",
        "num_embeddings": 256,
    }
    variant = Variant(
        path=folder,
        bundle_id=source.bundle_id,
        precision="int8",
        agreement=Agreement(**agreement),  # type: ignore[arg-type]
        files={name: describe_file(folder / name) for name in ("audio.onnx", "video.onnx")},
    )
    (folder / "variant.json").write_text(variant.to_json())
    release = store.create(source, outcome="ready")
    copied = variant_path(store.path(release.release_id) / "bundle", "int8")
    assert sorted(path.name for path in copied.iterdir()) == ["audio.onnx", "variant.json", "video.onnx"]


def test_calibration_force_and_activation_are_kept(store: ReleaseStore, bundles: list[Bundle]) -> None:
    first, second = (store.create(bundle, outcome="ready") for bundle in bundles)
    store.save_calibration(first.release_id, CALIBRATION)
    assert store.load_calibration(first.release_id) == CALIBRATION
    store.force(first.release_id, who="me", why="I looked at it")
    forced = store.get(first.release_id).forced
    assert forced is not None
    assert (forced["who"], forced["why"]) == ("me", "I looked at it")
    store.activate(first.release_id, previous=None)
    active = store.activate(second.release_id, previous=first.release_id)
    assert store.active() == active
    assert (active.release_id, active.previous) == (second.release_id, first.release_id)


def test_what_is_in_use_stays(store: ReleaseStore, bundles: list[Bundle]) -> None:
    first, second = (store.create(bundle, outcome="ready") for bundle in bundles)
    store.activate(second.release_id, previous=first.release_id)
    with pytest.raises(ReleaseInUse, match=f"{second.release_id} is active"):
        store.delete(second.release_id)
    with pytest.raises(ReleaseInUse, match=f"{first.release_id} is the one a rollback returns to"):
        store.delete(first.release_id)
    store.delete(first.release_id, gives_up_rollback=True)
    active = store.active()
    assert active is not None
    assert (active.release_id, active.previous) == (second.release_id, None)
    store.create(bundles[0], outcome="ready")
    store.delete(first.release_id)
    assert [release.release_id for release in store.list()] == [second.release_id]
    with pytest.raises(ReleaseNotFound, match=f"there is no release {first.release_id}"):
        store.delete(first.release_id)
    with pytest.raises(ReleaseNotFound, match="there is no release"):
        store.activate(first.release_id, previous=None)


@pytest.mark.parametrize("name", ["../data", "", ".hidden", "a/b", "a\0b", "ä", "x" * 97])
def test_names_that_no_release_can_have(store: ReleaseStore, name: str) -> None:
    with pytest.raises(ReleaseNotFound, match="no release is called"):
        store.get(name)


def test_damaged_files_are_said(store: ReleaseStore, bundles: list[Bundle]) -> None:
    name = store.create(bundles[0], outcome="ready").release_id
    for file, read in (
        (store.path(name) / "calibration.json", lambda: store.load_calibration(name)),
        (store.folder / "active.json", store.active),
        (store.path(name) / "release.json", lambda: store.get(name)),
    ):
        for text in ("{", "[]", '{"foreign": 1}'):
            file.write_text(text)
            with pytest.raises(ReleaseError, match=f"{file.name} cannot be read"):
                read()


def test_a_bundle_that_rots_in_the_store(store: ReleaseStore, bundles: list[Bundle]) -> None:
    name = store.create(bundles[0], outcome="ready").release_id
    graph = store.path(name) / "bundle" / "audio.onnx"
    good = graph.read_bytes()
    graph.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(BrokenBundle, match="not the file of the manifest"):
        store.load_bundle(name)
    graph.write_bytes(good)
    shutil.rmtree(store.path(name) / "bundle")
    shutil.copytree(bundles[1].path, store.path(name) / "bundle")
    with pytest.raises(BrokenBundle, match=f"holds {bundles[1].bundle_id}, not {bundles[0].bundle_id}"):
        store.load_bundle(name)


def test_what_a_crash_left_is_swept(store: ReleaseStore, bundles: list[Bundle]) -> None:
    store.sweep()
    name = store.create(bundles[0], outcome="ready").release_id
    for left in (".new-other", ".old-other"):
        (store.folder / left / "bundle").mkdir(parents=True)
    store.sweep()
    assert sorted(path.name for path in store.folder.iterdir() if path.is_dir()) == [name]


# Crashes: every fsync and rename fails once, or is the last thing the process does


class Crash(OSError):
    """The step that fails."""


class Crashing:
    """Lets so many fsyncs and renames pass and fails the next: before it happens, or right after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, passes: int, is_after: bool) -> None:
        self.left = passes
        self.num_steps = 0
        self.is_after = is_after
        monkeypatch.setattr(os, "fsync", self._wrap(os.fsync))
        monkeypatch.setattr(Path, "rename", self._wrap(Path.rename))

    def _wrap(self, call: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object) -> object:
            self.num_steps += 1
            self.left -= 1
            if self.left < 0 and not self.is_after:
                raise Crash(errno.EIO, "crash")
            result = call(*args)
            if self.left < 0:
                raise Crash(errno.EIO, "crash")
            return result

        return step


def prepare(data: Path, bundles: list[Bundle]) -> ReleaseStore:
    store = ReleaseStore(data)
    store.create(bundles[0], outcome="ready")
    store.activate(bundles[0].bundle_id, previous=None)
    return store


CHANGES: dict[str, Callable[[ReleaseStore, list[Bundle]], object]] = {
    "create": lambda store, bundles: store.create(bundles[1], outcome="building", token="t"),
    "save": lambda store, bundles: store.save(
        replace(store.get(bundles[0].bundle_id), outcome="refused", missing=("a" * 64,))
    ),
    "calibrate": lambda store, bundles: store.save_calibration(bundles[0].bundle_id, CALIBRATION),
    "activate": lambda store, bundles: store.activate(bundles[0].bundle_id, previous=bundles[0].bundle_id),
    "delete": lambda store, bundles: store.delete(bundles[1].bundle_id),
}


def look(store: ReleaseStore) -> str:
    """Everything that can be read of a store; whatever is there must be whole."""
    found: dict[str, object] = {}
    for release in store.list():
        store.load_bundle(release.release_id)
        calibration = store.load_calibration(release.release_id)
        found[release.release_id] = [
            {**release.to_json(), "created_at": 0},
            None if calibration is None else calibration.to_json(),
        ]
    active = store.active()
    found["active"] = None if active is None else {**asdict(active), "switched_at": 0}
    return json.dumps(found, sort_keys=True)


def states(folder: Path, bundles: list[Bundle], change: str) -> Iterator[tuple[Path, str, str]]:
    """Folders to change, with what they show before and after."""
    number = 0
    while True:
        data = folder / f"{change}-{number}"
        store = prepare(data, bundles)
        if change == "delete":
            store.create(bundles[1], outcome="ready")
        before = look(store)
        shutil.copytree(data, folder / "done")
        done = ReleaseStore(folder / "done")
        CHANGES[change](done, bundles)
        after = look(done)
        shutil.rmtree(folder / "done")
        yield data, before, after
        number += 1


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, bundles: list[Bundle], change: str, is_after: bool
) -> None:
    seen = []
    for passes, (data, before, after) in enumerate(states(tmp_path, bundles, change)):
        assert before != after
        store = ReleaseStore(data)
        with pytest.MonkeyPatch.context() as patch:
            crashing = Crashing(patch, passes=passes, is_after=is_after)
            try:
                CHANGES[change](store, bundles)
                break
            except Crash:
                pass
        again = ReleaseStore(data)
        again.sweep()
        found = look(again)
        assert found in (before, after), f"neither old nor new after {passes} steps"
        assert sorted(path.name for path in again.folder.iterdir() if path.is_dir()) == [
            release.release_id for release in again.list()
        ]
        seen.append(found == after)
        if found == before:  # and it can be done all the same
            CHANGES[change](again, bundles)
            assert look(again) == after
    assert crashing.num_steps == passes, "the last run had a step more"
    assert passes >= 2
    assert seen == sorted(seen), "once new, always new"
    assert seen[0] is False or (is_after and change == "delete")
    assert seen[-1] is True, "the folder's names are the last thing that is made durable"


@pytest.mark.parametrize("is_after", [False, True])
def test_no_crash_makes_the_first_of_all_look_lost(
    tmp_path: Path, bundles: list[Bundle], is_after: bool
) -> None:
    """Nothing was ever activated: unlike after the loss of active.json, the bundle of the settings serves."""
    for passes in range(99):
        settings = Settings(data=tmp_path / str(passes), bundle=bundles[0].path)
        with pytest.MonkeyPatch.context() as patch:
            crashing = Crashing(patch, passes=passes, is_after=is_after)
            with suppress(Crash):
                ReleaseStore(settings.release_folder).adopt(bundles[0].bundle_id, bundles[0])
        assert active_release(settings)[0] == bundles[0].bundle_id
        if crashing.num_steps == passes:
            break
    (settings.release_folder / "active.json").unlink()
    with pytest.raises(ReleaseNotFound, match=r"active\.json is lost"):
        active_release(settings)


def test_files_written_in_place_would_be_seen(
    tmp_path: Path, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a store that writes active.json where it stands is torn by the same crash."""

    def replace_badly(path: Path, content: str) -> None:
        with path.open("w") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            os.fsync(file.fileno())
            file.write(content[len(content) // 2 :])

    store = prepare(tmp_path / "data", bundles)
    monkeypatch.setattr("service.releases.store.replace_file", replace_badly)
    with pytest.MonkeyPatch.context() as patch:
        Crashing(patch, passes=0, is_after=False)
        with pytest.raises(Crash):
            store.activate(bundles[0].bundle_id, previous=bundles[0].bundle_id)
    with pytest.raises(ReleaseError, match=r"active\.json cannot be read"):
        look(store)


KILLED = """
import os, signal, sys
from pathlib import Path
from models.bundle.bundle import load_bundle
from service.releases.store import ReleaseStore

left = int(sys.argv[3])

def wrap(call):
    def step(*args):
        global left
        result = call(*args)
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return step

os.fsync, Path.rename = wrap(os.fsync), wrap(Path.rename)
store = ReleaseStore(Path(sys.argv[1]))
store.create(load_bundle(Path(sys.argv[2])), outcome="ready")
"""


def test_a_killed_process_leaves_no_half_release(tmp_path: Path, bundles: list[Bundle]) -> None:
    """As above with SIGKILL, at the first, a middle and the last step of making a release."""
    for passes in (0, 4, 8):
        data = tmp_path / f"{passes}"
        done = subprocess.run([sys.executable, "-c", KILLED, data, bundles[1].path, str(passes)], check=False)
        assert done.returncode == -signal.SIGKILL
        store = ReleaseStore(data)
        store.sweep()
        look(store)
        assert [release.bundle_id for release in store.list()] in ([], [bundles[1].bundle_id])
        assert store.create(bundles[1], outcome="ready").bundle_id == bundles[1].bundle_id


def test_values(store: ReleaseStore, bundles: list[Bundle]) -> None:
    release = store.create(bundles[0], outcome="building")
    assert not release.is_complete
    assert replace(release, gates={"gates": [{}]}).is_complete
    assert Release(**release.to_json()) == release
    assert Active(release_id="a", previous=None, switched_at=0.0) != store.active()


def test_the_index_of_a_deleted_release_is_dropped_whatever_happens(
    store: ReleaseStore, bundles: list[Bundle]
) -> None:
    """The release is gone with one rename; what else bears its name goes then, or with a later sweep."""
    first, second = (store.create(bundle, outcome="ready").release_id for bundle in bundles)
    dropped: list[str] = []

    def fail(release_id: str) -> None:
        raise IndexUnavailable(f"the server is away: {release_id}")

    with pytest.raises(IndexUnavailable):
        store.delete(second, fail)
    assert [release.release_id for release in store.list()] == [first]
    store.sweep(fail)
    assert (store.folder / f".old-{second}").exists(), "it must be tried again"
    store.sweep(dropped.append)
    assert dropped == [second]
    store.sweep(dropped.append)
    assert dropped == [second]

    with pytest.raises(IndexUnavailable):
        store.delete(first, fail)
    assert store.create(bundles[0], outcome="ready").release_id == first
    store.sweep(dropped.append)
    assert dropped == [second], "another release has the name by now"
    store.delete(first, dropped.append)
    assert dropped == [second, first]
