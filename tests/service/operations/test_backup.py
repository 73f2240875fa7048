"""Backup and restore: what comes back is what was there, from a running server too, and damage is always found."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from models.bundle.bundle import Bundle, load_bundle
from service.cli import app
from service.client.client import ServerRefused
from service.commands.here_or_there import make_backup
from service.http.routes.backup import create_backup
from service.index.codec import encoding_of
from service.index.contract import Index, Segment
from service.index.failure import IndexInUse
from service.index.opening import index_place
from service.index.packing import pack_segments, unpack_assets
from service.jobs.ledger import Ledger
from service.operations.backup import (
    KEYS,
    MANIFEST,
    BackupFailed,
    Member,
    check_backup,
    copy_members,
    read_tar,
    safe_path,
    save_backup,
    write_tar,
)
from service.operations.keys import create_key
from service.operations.restore import restore_backup
from service.releases.opening import active_release
from service.releases.store import ReleaseStore
from service.system.settings import Settings
from tests.support.serving import serve_in_thread
from tests.support.waiting import GENEROUS_SECONDS, wait_until

NUM_ASSETS = 30


def make_track(rng: np.random.Generator, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    track = rng.standard_normal((16, width)).astype(np.float32)
    return track / np.linalg.norm(track, axis=1, keepdims=True)


def make_asset(number: int, width: int) -> list[Segment]:
    """One to three segments; every third has no sound, one has a name that is not UTF-8."""
    rng = np.random.default_rng(number)
    name = b"\xff\xfe.mp4".decode("utf-8", "surrogateescape") if number == 5 else f"{number}.mp4"
    return [
        Segment(
            asset_id=hashlib.sha256(b"%d" % number).hexdigest(),
            path=f"/media/{name}",
            index=index,
            start_seconds=10.0 * index,
            end_seconds=10.0 * index + 10,
            media={"duration_seconds": 30.0, "container": "mp4"},
            audio_track=None if number % 3 == 0 else make_track(rng, width),
            video_track=make_track(rng, width),
            paths=(f"/copies/{number}.mp4",) if number == 7 else (),
            metadata={"title": f"Größe {number}", "tags": ["a", "b"]} if number % 2 else {},
        )
        for index in range(1 + number % 3)
    ]


def read_all(index: Index) -> dict[str, tuple[Any, list[Segment]]]:
    assets = index.list_assets(limit=1000).assets
    return {a.asset_id: (a, index.read_segments(a.asset_id, limit=100)) for a in assets}


def assert_same(
    found: dict[str, tuple[Any, list[Segment]]], wanted: dict[str, tuple[Any, list[Segment]]]
) -> None:
    assert found.keys() == wanted.keys()
    for asset_id, (asset, segments) in wanted.items():
        other, others = found[asset_id]
        assert other == asset
        for one, two in zip(segments, others, strict=True):
            for field in ("index", "start_seconds", "end_seconds", "path", "paths", "media", "metadata"):
                assert getattr(one, field) == getattr(two, field)
            for field in ("audio_track", "video_track"):  # bit for bit
                left, right = getattr(one, field), getattr(two, field)
                assert (left is None) == (right is None)
                assert left is None or np.array_equal(left, right)
                assert left is None or rows_of(left) == rows_of(right)


def rows_of(track: Any) -> Any:
    """How a track is stored: its row and the codec, None for float16."""
    encoding = encoding_of(track)
    return encoding and (encoding[0], encoding[1].tobytes())


@pytest.fixture(scope="module")
def source(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder with an index, a ledger, keys and an agreement, nobody has it open."""
    data = tmp_path_factory.mktemp("source")
    settings = Settings(data=data, bundle=bundle_path, device="cpu", min_free_bytes=0)
    release_id, bundle = active_release(settings)
    index = index_place(settings).open(bundle, release_id=release_id)
    for number in range(NUM_ASSETS):
        index.write_asset(make_asset(number, bundle.manifest.embedding_width), is_last=True)
    index.close()
    with Ledger.open(data / "ledger.sqlite") as ledger:
        ledger.create_job("index", {"paths": ["/media"]})
    create_key(settings.keys_path, name="x", scope="admin")
    (data / "agreement").mkdir(exist_ok=True)
    (data / "agreement" / "x.json").write_text("{}")
    return settings


@pytest.fixture(scope="module")
def wanted(source: Settings) -> dict[str, tuple[Any, list[Segment]]]:
    return read_index(source)


def read_index(settings: Settings) -> dict[str, tuple[Any, list[Segment]]]:
    release_id, bundle = active_release(settings)
    index = index_place(settings).open(bundle, release_id=release_id)
    try:
        return read_all(index)
    finally:
        index.close()


@pytest.fixture(scope="module")
def backup(source: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "today"
    manifest = make_backup(source, folder)
    assert manifest.num_assets == NUM_ASSETS
    assert manifest.num_segments == sum(1 + n % 3 for n in range(NUM_ASSETS))
    return folder


def test_everything_comes_back(
    source: Settings, wanted: dict[str, tuple[Any, list[Segment]]], backup: Path, tmp_path: Path
) -> None:
    target = source.replace(data=tmp_path / "new")
    restore_backup(target, backup)
    assert_same(read_index(target), wanted)
    assert (target.data / "api-keys.json").read_bytes() == (source.data / "api-keys.json").read_bytes()
    assert (target.data / "agreement" / "x.json").read_text() == "{}"
    with Ledger.open(target.data / "ledger.sqlite") as ledger:
        assert [job.request for job in ledger.list_jobs(limit=10)] == [{"paths": ["/media"]}]
    assert not list(target.data.glob("restore-*"))
    assert not list(source.data.glob("backup-*"))


def test_any_kind_of_storage_comes_back_as_it_was(source: Settings, tmp_path: Path) -> None:
    """Whatever the setting says; a backup of float16 is what backups of before are."""
    for storage, version in (("float16", 1), ("compact", 2)):
        settings = source.replace(data=tmp_path / storage, storage=storage)
        release_id, bundle = active_release(settings)
        with closing(index_place(settings).open(bundle, release_id=release_id)) as index:
            index.write_asset(make_asset(4, bundle.manifest.embedding_width), is_last=True)
            wanted = read_all(index)
        folder = tmp_path / f"{storage}-backup"
        assert make_backup(settings, folder).version == version
        target = source.replace(data=tmp_path / f"{storage}-new", storage="fine")
        restore_backup(target, folder)
        assert_same(read_index(target), wanted)
        with np.load(folder / "index/000000.npz") as arrays:
            assert ("video_tracks" in arrays, "video_encoded" in arrays) == (version == 1, version == 2)


def test_nothing_is_overwritten_unasked(
    source: Settings, wanted: dict[str, tuple[Any, list[Segment]]], backup: Path, tmp_path: Path
) -> None:
    target = source.replace(data=tmp_path)
    release_id, bundle = active_release(target)
    index = index_place(target).open(bundle, release_id=release_id)
    index.write_asset(make_asset(99, bundle.manifest.embedding_width), is_last=True)
    index.close()
    with pytest.raises(BackupFailed, match=r"an index with 1 asset\b.*--force"):
        restore_backup(target, backup)
    assert len(read_index(target)) == 1
    restore_backup(target, backup, is_forced=True)
    assert_same(read_index(target), wanted)
    with pytest.raises(BackupFailed, match="exists"):
        make_backup(target, backup)


def test_what_is_known_of_the_replaced_library_goes_and_its_keys_stay(
    source: Settings, backup: Path, tmp_path: Path, second_bundle: Bundle
) -> None:
    """The backup has neither: a probability learned from other files says nothing, and no door opens by itself."""
    bare = tmp_path / "bare"
    shutil.copytree(backup, bare)
    manifest = json.loads((bare / MANIFEST).read_text())
    del manifest["files"][KEYS]
    (bare / MANIFEST).write_text(json.dumps(manifest))
    (bare / KEYS).unlink()
    target = source.replace(data=tmp_path / "there")
    release_id, _ = active_release(target)
    target.data.mkdir()
    create_key(target.keys_path, name="mine", scope="admin")
    keys = target.keys_path.read_bytes()
    calibration = target.release_folder / release_id / "calibration.json"
    calibration.parent.mkdir(parents=True)
    calibration.write_text("{}")
    store = ReleaseStore(target.release_folder)
    store.activate(store.create(second_bundle, outcome="ready").release_id, previous=None)
    restore_backup(target, bare)
    assert not calibration.exists()
    assert target.keys_path.read_bytes() == keys
    assert active_release(target)[0] == release_id


def test_an_index_in_use_is_not_replaced(source: Settings, backup: Path, tmp_path: Path) -> None:
    target = source.replace(data=tmp_path)
    release_id, bundle = active_release(target)
    index = index_place(target).open(bundle, release_id=release_id)
    try:
        with pytest.raises(IndexInUse, match="open in another process"):
            restore_backup(target, backup, is_forced=True)
        with pytest.raises(IndexInUse, match="does not listen on port"):
            make_backup(target.replace(port=1), tmp_path / "b")
    finally:
        index.close()
    assert not list(tmp_path.glob("*b*.partial")) + list(tmp_path.glob(".b*"))


def damage(folder: Path, how: str) -> None:
    chunk = folder / "index" / "000000.npz"
    if how == "flip":
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
    elif how == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-1])
    elif how == "missing":
        (folder / "ledger.sqlite").unlink()
    elif how == "extra":
        (folder / "index" / "000001.npz").write_bytes(b"x")
    elif how == "no manifest":
        (folder / "backup.json").unlink()
    elif how == "link":
        chunk.rename(folder.parent / "elsewhere.npz")
        chunk.symlink_to(folder.parent / "elsewhere.npz")
    else:
        manifest = json.loads((folder / "backup.json").read_text())
        manifest |= {"version": 9} if how == "version" else {"files": {"../x": {}}}
        (folder / "backup.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("flip", "not what was written"),
        ("cut", "not what was written"),
        ("missing", "ledger.sqlite is missing"),
        ("extra", "000001.npz is extra"),
        ("no manifest", "is not a backup"),
        ("link", "not what was written"),
        ("version", "version 9"),
        ("names", "is damaged"),
    ],
)
def test_damage_is_found_before_anything_is_touched(
    source: Settings, backup: Path, tmp_path: Path, how: str, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(backup, copy)
    check_backup(copy)
    damage(copy, how)
    target = source.replace(data=tmp_path / "new")
    with pytest.raises(BackupFailed, match=message):
        restore_backup(target, copy)
    assert not target.data.exists()


def test_another_bundle_is_refused(source: Settings, backup: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(backup, copy)
    manifest = json.loads((copy / "backup.json").read_text())
    (copy / "backup.json").write_text(json.dumps({**manifest, "bundle_id": "other-0123"}))
    with pytest.raises(BackupFailed, match="of bundle other-0123"):
        restore_backup(source.replace(data=tmp_path / "new"), copy)


@pytest.fixture
def running(source: Settings, tmp_path: Path) -> Iterator[serve_in_thread]:
    shutil.copytree(source.data, tmp_path / "data")
    with serve_in_thread(source.replace(data=tmp_path / "data", readiness_cache_seconds=0)) as running:
        yield running


def test_a_running_server_gives_a_backup_while_it_is_written_to(
    running: serve_in_thread,
    source: Settings,
    wanted: dict[str, tuple[Any, list[Segment]]],
    tmp_path: Path,
) -> None:
    """Every copy is whole and has at least what was there before; what comes meanwhile may be in it."""
    index = running.app.state.shared.foley.index
    width = running.app.state.shared.foley.bundle.manifest.embedding_width
    stop = threading.Event()

    def write() -> None:
        for number in range(1000, 1400):
            if stop.is_set():
                return
            index.write_asset(make_asset(number, width), is_last=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        asked = source.replace(data=tmp_path / "data", port=running.client.base_url.port)
        manifest = make_backup(asked, tmp_path / "copy")
    finally:
        stop.set()
        writer.join()
    assert running.client.get("/readyz").status_code == 200
    target = source.replace(data=tmp_path / "new")
    restore_backup(target, tmp_path / "copy")
    found = read_index(target)
    assert len(found) == manifest.num_assets
    assert_same({asset_id: found[asset_id] for asset_id in wanted}, wanted)


def test_one_backup_at_a_time_and_its_lock_is_given_back(running: serve_in_thread) -> None:
    lock = running.app.state.shared.backing_up
    with lock:
        answer = running.client.post("/v1/backup")
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    with running.client.stream("POST", "/v1/backup") as answer:
        assert answer.status_code == 200
        next(answer.iter_bytes())  # and hang up

    def taken() -> httpx.Response | None:
        answer = running.client.post("/v1/backup", timeout=GENEROUS_SECONDS)
        return None if answer.status_code == 429 else answer

    answer = wait_until(taken)  # when the server has noticed
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        names = tar.getnames()
    assert names[-1] == "backup.json"
    assert {"ledger.sqlite", "api-keys.json", "index/000000.npz"} <= set(names)


@pytest.mark.parametrize("num_sent", [0, 1, 2, 3])
def test_a_backup_that_breaks_off_holds_nothing(running: serve_in_thread, num_sent: int) -> None:
    """Whether the server can send no more, or the client went away before the first byte: all is let go at once."""
    state = running.app.state.shared
    failures: list[Exception] = []  # it keeps the frames, and so the generators, as a log does

    async def ask() -> None:
        async def receive() -> Any:
            if num_sent > 0:
                await anyio.sleep_forever()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal num_left
            if num_left == 0:
                if num_sent == 0:
                    await anyio.sleep_forever()  # what was written before waits to be taken
                raise RuntimeError("the handler is closed")
            num_left -= 1

        num_left = num_sent
        response = await create_backup(state)
        try:
            await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        except Exception as exc:
            failures.append(exc)

    anyio.run(ask)
    assert bool(failures) == bool(num_sent)
    assert not state.backing_up.locked()
    assert not list(state.foley.settings.data.glob("backup-*"))
    wait_until(
        lambda: state.foley.releases._held.num_users == 0
    )  # the service itself looks at it now and then


def test_a_file_that_is_replaced_while_it_is_sent(source: Settings, tmp_path: Path) -> None:
    """The copy has the one or the other, with its hash."""
    data = tmp_path / "data"
    shutil.copytree(source.data, data)
    settings = source.replace(data=data)
    release_id, bundle = active_release(settings)
    (data / "agreement").mkdir(exist_ok=True)
    replaced = data / "agreement" / "measured.json"
    replaced.write_text("old")
    with index_place(settings).open(bundle, release_id=release_id) as index:
        members = copy_members(settings, index, release_id=release_id, bundle=bundle)
        found = {}
        for member in members:
            replaced.write_text("newer")
            found[member.name] = b"".join(member.pieces())
            assert len(found[member.name]) == member.num_bytes
    manifest = json.loads(found.pop("backup.json"))
    assert found["agreement/measured.json"] in (b"old", b"newer")
    for name, content in found.items():
        assert manifest["files"][name]["sha256"] == hashlib.sha256(content).hexdigest(), name


def test_a_server_with_keys_wants_an_admin(source: Settings, tmp_path: Path) -> None:
    shutil.copytree(source.data, tmp_path / "data")
    keys_file = tmp_path / "data" / "api-keys.json"
    settings = source.replace(data=tmp_path / "data", api_keys_file=keys_file, library_roots="*")
    admin = create_key(settings.keys_path, name="admin", scope="admin").key
    writer = create_key(settings.keys_path, name="writer", scope="write").key
    with serve_in_thread(settings) as running:
        asked = settings.replace(port=running.client.base_url.port)
        for key, message in ((None, "FOLEY_API_KEY"), (writer, "needs admin")):
            with pytest.raises(ServerRefused, match=message):
                make_backup(asked.replace(api_key=key), tmp_path / "copy")
        make_backup(asked.replace(api_key=admin), tmp_path / "copy")
    check_backup(tmp_path / "copy")


@pytest.mark.parametrize(
    ("num_bytes", "message"), [(None, "is not a backup"), (700, "broke off"), (0, "broke off")]
)
def test_a_stream_that_breaks_off_is_no_backup(num_bytes: int | None, message: str, tmp_path: Path) -> None:
    """Without the manifest, which comes last, nothing counts."""
    content = b"".join(write_tar([Member(name="index/000000.npz", num_bytes=3000, content=bytes(3000))]))
    with pytest.raises(BackupFailed, match=message):
        save_backup(tmp_path / "copy", read_tar([content[:num_bytes]]))
    assert list(tmp_path.iterdir()) == []


def test_a_stream_with_a_name_that_leads_elsewhere_is_no_backup(tmp_path: Path) -> None:
    content = b"".join(write_tar([Member(name="../x", num_bytes=3, content=b"abc")]))
    with pytest.raises(BackupFailed, match="cannot be the name of a file"):
        save_backup(tmp_path / "copy", read_tar([content]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackupFailed, match="cannot be the name of a file"):
        safe_path(tmp_path, name)


def test_tracks_that_float16_cannot_hold_stay_as_they_are() -> None:
    (segment,) = make_asset(1000, 8)[:1]
    ((found,),) = unpack_assets(pack_segments([segment]))
    assert found.video_track is not None
    assert segment.video_track is not None
    assert np.array_equal(found.video_track, segment.video_track)
    assert found.asset_id == segment.asset_id


def test_a_long_asset_is_written_in_parts(source: Settings, tmp_path: Path) -> None:
    settings = source.replace(data=tmp_path / "data")
    release_id, bundle = active_release(settings)
    width = bundle.manifest.embedding_width
    first = make_asset(1, width)[0]
    rng = np.random.default_rng(0)
    many = [
        Segment(
            asset_id=first.asset_id,
            path="/long.mp4",
            index=n,
            start_seconds=10.0 * n,
            end_seconds=10.0 * n + 10,
            video_track=make_track(rng, width),
        )
        for n in range(150)
    ]
    index = index_place(settings).open(bundle, release_id=release_id)
    index.write_asset(many, is_last=True)
    index.close()
    make_backup(settings, tmp_path / "copy")
    target = settings.replace(data=tmp_path / "new")
    restore_backup(target, tmp_path / "copy")
    ((asset, segments),) = read_index(target).values()
    assert asset.num_segments == 150
    assert [segment.index for segment in segments] == list(range(100))  # as many as were asked for


def test_the_commands(source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLEY_DATA", str(source.data))
    monkeypatch.setenv("FOLEY_MIN_FREE_BYTES", "0")
    run = CliRunner().invoke
    done = run(app, ["backup", str(tmp_path / "copy"), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["num_assets"] == NUM_ASSETS
    again = run(app, ["backup", str(tmp_path / "copy")])
    assert again.exit_code == 1
    assert "exists" in again.stderr
    refused = run(app, ["restore", str(tmp_path / "copy")])
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    monkeypatch.setenv("FOLEY_DATA", str(tmp_path / "new"))
    restored = run(app, ["restore", str(tmp_path / "copy")])
    assert restored.exit_code == 0, restored.stderr
    assert f"{NUM_ASSETS} assets" in restored.stderr
    empty = run(app, ["backup", str(tmp_path / "nothing")], env={"FOLEY_DATA": str(tmp_path / "empty")})
    assert "nothing to back up" in empty.stderr
    with sqlite3.connect(tmp_path / "new" / "ledger.sqlite") as ledger:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    ledger.close()


def test_releases_on_another_disk_come_back_there(
    source: Settings, wanted: dict[str, tuple[Any, list[Segment]]], tmp_path: Path
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems: /dev/shm is none of its own here")
    bundle = load_bundle(source.bundle)
    with tempfile.TemporaryDirectory(dir=other) as releases:
        kept = source.replace(releases=tmp_path / "releases", data=tmp_path / "data")
        shutil.copytree(source.data, kept.data)
        store = ReleaseStore(kept.release_folder)
        store.create(bundle, outcome="ready")
        store.activate(bundle.bundle_id, previous=None)
        make_backup(kept, tmp_path / "copy")
        target = source.replace(releases=Path(releases), data=tmp_path / "new")
        for is_forced in (False, True):
            restore_backup(target, tmp_path / "copy", is_forced=is_forced)
            assert_same(read_index(target), wanted)
            there = ReleaseStore(target.release_folder)
            assert [release.release_id for release in there.list()] == [bundle.bundle_id]
            active = there.active()
            assert active is not None
            assert active.release_id == bundle.bundle_id
            there.load_bundle(bundle.bundle_id)
        assert not [path for path in Path(releases).iterdir() if path.name.startswith((".new-", ".old-"))]
        assert not list(target.data.glob("*/.old-*"))
