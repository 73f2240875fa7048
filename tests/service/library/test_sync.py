"""Synchronising with the real parts, and never taking a missing disk for deleted files."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.foley import Foley, open_foley
from service.index.contract import Asset, Filter
from service.jobs import library_jobs as library_jobs_module
from service.jobs.files import count_outcomes
from service.jobs.opening import Jobs, open_jobs
from service.jobs.records import JobRequest, Kind
from service.library import catalogue as catalogue_module
from service.library import fetching as fetching_module
from service.library import scanning
from service.library import stages as stages_module
from service.library import sync as sync_module
from service.library.assets import describe_asset
from service.library.mounts import touches
from service.library.pipeline import Pipeline
from service.library.report import Counts, IndexReport
from service.library.run import LibraryRun
from service.library.scanning import (
    FoundFile,
)
from service.library.stamps import stamp_of
from service.library.sync import SyncRefused, TooManyGone
from service.system.settings import Settings
from tests.support.libraries import write_tone, write_tones
from tests.support.memory_index import memory_indexes
from tests.support.small_disk import MIB, small_disk, unmount

Sync = Callable[..., IndexReport]
NUMBERS = itertools.count(0, 100)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[Foley]:
    settings = Settings(
        data=tmp_path_factory.mktemp("sync"), bundle=bundle_path, device="cpu", min_free_bytes=0
    )
    with memory_indexes(), open_foley(settings) as foley:
        yield foley


@pytest.fixture
def jobs(opened: Foley, tmp_path: Path) -> Iterator[Jobs]:
    foley = replace(opened, settings=opened.settings.replace(data=tmp_path / "data"))
    with open_jobs(foley) as jobs:
        yield jobs


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Four sounds: a.wav, b.wav, sub/c.wav, sub/d.wav."""
    folder = tmp_path / "library"
    base = next(NUMBERS)
    for number, name in enumerate(("a.wav", "b.wav", "sub/c.wav", "sub/d.wav")):
        write_tone(folder / name, base + number, seconds=0.5)
    return folder


@pytest.fixture
def sync(jobs: Jobs) -> Sync:
    def sync(*paths: Path, **options: object) -> IndexReport:
        request = JobRequest(paths=tuple(map(str, paths)), **options)  # type: ignore[arg-type]
        return jobs.library.run(jobs.library.submit("sync", request).job.job_id)

    return sync


@pytest.fixture
def paths_of(opened: Foley, tmp_path: Path) -> Callable[[], dict[str, tuple[str, ...]]]:
    """What the index holds below the test's folder: paths by asset."""

    def paths_of() -> dict[str, tuple[str, ...]]:
        return {asset.asset_id: asset.paths for asset in _assets(opened, tmp_path)}

    return paths_of


Paths = Callable[[], dict[str, tuple[str, ...]]]


def _assets(foley: Foley, folder: Path) -> tuple[Asset, ...]:
    return foley.index.list_assets(limit=1000, filter=Filter(folder=str(folder))).assets


def test_new_changed_moved_copied_and_deleted_files_at_once(
    sync: Sync, jobs: Jobs, library: Path, paths_of: Paths, opened: Foley
) -> None:
    assert sync(library).files == Counts(indexed=4)
    before = {path: asset_id for asset_id, paths in paths_of().items() for path in paths}
    assert all(map(opened.previews.get, before.values()))
    number = next(NUMBERS)
    write_tone(library / "new.wav", number)
    write_tone(library / "a.wav", number + 1)  # changed
    (library / "b.wav").rename(library / "sub" / "moved.wav")
    shutil.copy(library / "sub" / "c.wav", library / "copy.wav")
    (library / "sub" / "d.wav").unlink()

    planned = sync(library, dry_run=True)
    assert {(entry["does"], Path(entry["path"]).name, entry.get("from", "")) for entry in planned.plan} == {
        ("new", "new.wav", ""),
        ("changed", "a.wav", ""),
        ("moved", "moved.wav", str(library / "b.wav")),
        ("copied", "copy.wav", ""),
        ("deleted", "d.wav", ""),
    }
    assert {path: asset_id for asset_id, paths in paths_of().items() for path in paths} == before
    assert all(map(opened.previews.get, before.values()))

    report = sync(library)
    assert {path for path, asset_id in before.items() if opened.previews.get(asset_id) is None} == {
        str(library / "a.wav"),
        str(library / "sub" / "d.wav"),
    }
    assert report.files == Counts(indexed=2, unchanged=3)
    assert (report.num_moved, report.num_copied, report.num_deleted) == (1, 1, 1)
    assert report.num_removed == 2  # the old content of a.wav, and d.wav
    after = {path: asset_id for asset_id, paths in paths_of().items() for path in paths}
    assert set(after) == set(map(str, library.rglob("*.wav")))
    assert after[str(library / "sub" / "moved.wav")] == before[str(library / "b.wav")]
    assert (
        after[str(library / "copy.wav")]
        == after[str(library / "sub" / "c.wav")]
        == before[str(library / "sub" / "c.wav")]
    )
    job = jobs.ledger.list_jobs(limit=1)[0]
    assert count_outcomes(jobs.ledger, job.job_id) == {
        "indexed": 2,
        "unchanged": 1,
        "moved": 1,
        "copied": 1,
        "deleted": 1,
    }
    again = sync(library)
    assert (again.files, again.num_moved, again.num_copied, again.num_deleted) == (
        Counts(unchanged=5),
        0,
        0,
        0,
    )


def test_an_asset_lives_as_long_as_one_of_its_files(sync: Sync, library: Path, paths_of: Paths) -> None:
    shutil.copy(library / "a.wav", library / "copy.wav")
    sync(library)
    (asset_id,) = [key for key, paths in paths_of().items() if str(library / "a.wav") in paths]
    (library / "a.wav").unlink()
    report = sync(library)
    assert (report.num_deleted, report.num_removed) == (1, 0)
    assert paths_of()[asset_id] == (str(library / "copy.wav"),)
    (library / "copy.wav").unlink()
    report = sync(library)
    assert (report.num_deleted, report.num_removed) == (1, 1)
    assert asset_id not in paths_of()


def test_a_copy_is_not_read_again(sync: Sync, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy2(library / "a.wav", library / "copy.wav")
    os.utime(library / "copy.wav", ns=(1, 1))  # another time than the first file of the asset
    assert sync(library).num_copied == 1

    def refuse(found: object) -> str:
        raise AssertionError(found)

    monkeypatch.setattr("service.library.fetching.identify", refuse)
    assert sync(library).files == Counts(unchanged=5)


def test_files_elsewhere_are_left_alone(sync: Sync, library: Path, tmp_path: Path, paths_of: Paths) -> None:
    other = write_tone(tmp_path / "library-2" / "x.wav", next(NUMBERS))
    sync(library, other.parent)
    other.unlink()
    (library / "sub" / "c.wav").unlink()
    assert sync(library / "sub").num_deleted == 1
    paths = {path for paths in paths_of().values() for path in paths}
    assert paths == {str(other), *(str(library / name) for name in ("a.wav", "b.wav", "sub/d.wav"))}


def test_a_folder_that_is_gone_is_not_believed(sync: Sync, library: Path, paths_of: Paths) -> None:
    sync(library)
    before = paths_of()
    aside = library.rename(library.with_name("aside"))
    with pytest.raises(SyncRefused, match=r"library is not there: mount its disk.*--allow-empty"):
        sync(library)
    library.mkdir()  # what a disk leaves behind that is not mounted
    with pytest.raises(SyncRefused, match=r"no media file any more, and the index knows 4: mount its disk"):
        sync(library)
    (library / "lost+found").mkdir()
    with pytest.raises(SyncRefused, match="no media file any more"):
        sync(library)
    assert paths_of() == before
    library.joinpath("lost+found").rmdir()
    library.rmdir()
    aside.rename(library)
    assert sync(library).files == Counts(unchanged=4)


def test_a_folder_that_is_gone_is_believed_when_it_is_said(
    sync: Sync, library: Path, paths_of: Paths
) -> None:
    sync(library)
    shutil.rmtree(library)
    report = sync(library, allow_empty=True)
    assert (report.num_deleted, report.num_removed) == (4, 4)
    assert paths_of() == {}


def test_without_its_guards_a_missing_disk_empties_the_index(
    sync: Sync, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: it is the guards that keep the index whole, and nothing else."""
    sync(library)
    shutil.rmtree(library)
    library.mkdir()
    monkeypatch.setattr(sync_module, "_check_losses", lambda *_: None)
    sync(library)
    assert paths_of() == {}


def test_a_disk_below_that_is_not_mounted_is_missed(
    sync: Sync, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = {str(library / "sub")}
    monkeypatch.setattr(sync_module, "find_mounts", lambda roots: set(mounted))
    sync(library)
    before = paths_of()
    shutil.rmtree(library / "sub")
    (library / "sub").mkdir()
    mounted.clear()
    with pytest.raises(SyncRefused, match=r"no disk is mounted at .*sub, where there was one"):
        sync(library)
    assert paths_of() == before
    assert sync(library, allow_empty=True).num_deleted == 2
    assert sync(library).files == Counts(unchanged=2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_refused(sync: Sync, library: Path, paths_of: Paths) -> None:
    sync(library)
    before = paths_of()
    library.chmod(0)
    try:
        with pytest.raises(SyncRefused, match="cannot be read"):
            sync(library, allow_empty=True)
    finally:
        library.chmod(0o755)
    (library / "sub").chmod(0)
    try:
        assert sync(library).num_deleted == 0
    finally:
        (library / "sub").chmod(0o755)
    assert paths_of() == before


def test_a_disk_that_fails_is_not_a_disk_without_files(
    sync: Sync, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(library)
    before = paths_of()
    open_folder, lstat = scanning.open_without_links, Path.lstat

    def fail_scan(path: Path) -> int:
        if path.name == "sub":
            raise OSError(5, "Input/output error")
        return open_folder(path)

    def fail_lstat(path: Path) -> os.stat_result:
        if path.parent.name == "sub":
            raise OSError(5, "Input/output error")
        return lstat(path)

    with monkeypatch.context() as patch:
        patch.setattr(scanning, "open_without_links", fail_scan)
        patch.setattr(Path, "lstat", fail_lstat)
        report = sync(library)
    assert (report.num_deleted, [failed.code for failed in report.failed]) == (0, ["not_readable"])
    assert paths_of() == before


def test_a_file_that_is_still_written_is_left_for_later(sync: Sync, library: Path) -> None:
    assert sync(library, settle_seconds=3600.0).num_unsettled == 4
    old = time.time() - 7200
    os.utime(library / "a.wav", (old, old))  # a copying tool sets this time; the kernel's says when it came
    assert sync(library, settle_seconds=3600.0).num_unsettled == 4
    assert sync(library, settle_seconds=0.0).files == Counts(indexed=4)
    # A known file that is written to is neither new nor gone.
    report = sync(library, settle_seconds=3600.0)
    assert (report.num_unsettled, report.num_deleted) == (4, 0)


def test_a_move_that_was_not_noted_is_found_again(
    sync: Sync, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(library)
    (library / "a.wav").rename(library / "z.wav")
    (library / "b.wav").unlink()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("service.library.catalogue.Placement._write", die)
        assert sync(library).is_interrupted
    assert sync(library).num_moved == 1
    assert {path for paths in paths_of().values() for path in paths} == set(map(str, library.rglob("*.wav")))


def test_a_file_replaced_with_its_size_and_time_is_noticed(
    sync: Sync, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(library)
    time_ns = (library / "a.wav").stat().st_mtime_ns
    other = write_tone(library.parent / "other.wav", next(NUMBERS), seconds=0.5)
    (library / "a.wav").write_bytes(other.read_bytes())  # the same inode
    other.replace(library / "b.wav")  # another inode
    for name in ("a.wav", "b.wav"):
        os.utime(library / name, ns=(time_ns, time_ns))
    assert (library / "a.wav").stat().st_size == (library / "sub" / "c.wav").stat().st_size
    report = sync(library)
    assert (report.files, report.num_copied) == (Counts(indexed=1, unchanged=3), 1)
    (paths,) = (paths for paths in paths_of().values() if str(library / "a.wav") in paths)
    assert paths == (str(library / "a.wav"), str(library / "b.wav"))

    read: list[str] = []
    identify = fetching_module.identify

    def record(found: FoundFile) -> str:
        read.append(found.path.name)
        return identify(found)

    monkeypatch.setattr(fetching_module, "identify", record)
    assert (sync(library).files, read) == (Counts(unchanged=4), [])
    assert sync(library, verify=True).files == Counts(unchanged=4)
    assert sorted(read) == ["a.wav", "b.wav", "c.wav", "d.wav"]


def _stamps(jobs: Jobs) -> dict[str, str]:
    rows = jobs.ledger.read("SELECT path, stamp FROM identities")
    return {os.fsdecode(row["path"]): row["stamp"] for row in rows}


def test_what_was_hashed_has_its_stamp_and_what_was_not_has_none(
    sync: Sync, jobs: Jobs, library: Path
) -> None:
    sync(library)
    assert _stamps(jobs) == {str(path): stamp_of(path.lstat()) for path in library.rglob("*.wav")}
    with jobs.ledger.write() as connection:  # it is lost, and the index is not
        connection.execute("DELETE FROM identities")
    for verify in (False, True):
        assert sync(library, verify=verify).files == Counts(unchanged=4)
        assert all(stamp.startswith("<") is not verify for stamp in _stamps(jobs).values())


def test_a_ledger_of_before_is_trusted_for_what_was_not_touched_since(
    sync: Sync, jobs: Jobs, library: Path
) -> None:
    sync(library)
    with jobs.ledger.write() as connection:  # as its upgrade leaves it
        connection.execute("UPDATE identities SET stamp = ?", (f"<{time.time_ns()}",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching_module, "identify", None)
        assert sync(library).files == Counts(unchanged=4)
    time_ns = (library / "a.wav").stat().st_mtime_ns
    write_tone(library / "a.wav", next(NUMBERS), seconds=0.5)
    os.utime(library / "a.wav", ns=(time_ns, time_ns))
    assert sync(library).files == Counts(indexed=1, unchanged=3)


def test_linked_files_belong_to_their_folder_and_leave_with_it(
    sync: Sync, library: Path, paths_of: Paths
) -> None:
    target = write_tone(library.parent / "elsewhere" / "t.wav", next(NUMBERS), seconds=0.5)
    (library / "link.wav").symlink_to(target)
    (library / "folder").symlink_to(target.parent)
    report = sync(library)
    assert (report.files, report.linked_folders) == (Counts(indexed=5), [str(library / "folder")])
    assert (str(library / "link.wav"),) in paths_of().values()
    report = sync(library, follow_links=True)
    assert (report.num_copied, report.linked_folders) == (1, [])
    assert sync(library).num_deleted == 0  # it is still there, though not looked at
    target.unlink()
    report = sync(library)
    assert (report.num_deleted, report.num_removed) == (2, 1)
    assert not any(str(library / "link.wav") in paths for paths in paths_of().values())


def test_what_people_said_stays_with_the_path_and_follows_the_file(
    sync: Sync, opened: Foley, library: Path
) -> None:
    shutil.copy(library / "a.wav", library / "twin.wav")
    sync(library)
    said = {}
    for asset in _assets(opened, library):
        said[Path(asset.path).name] = {"title": Path(asset.path).name, "take": 3}
        opened.index.set_metadata(asset.asset_id, said[Path(asset.path).name])

    def now() -> dict[str, object]:
        return {Path(p).name: asset.metadata for asset in _assets(opened, library) for p in asset.paths}

    before = now()
    (library / "a.wav").write_bytes((library / "a.wav").read_bytes() + b"LIST\4\0\0\0INFO")  # one of two
    (library / "b.wav").rename(library / "moved.wav")
    write_tone(library / "sub" / "c.wav", next(NUMBERS), seconds=0.5)
    (library / "sub" / "d.wav").write_bytes(b"broken while it was edited")
    sync(library, dry_run=True)
    report = sync(library)
    assert (report.num_moved, len(report.failed)) == (1, 1)
    moved = {"b.wav": "moved.wav"}
    expected = {moved.get(name, name): values for name, values in before.items() if name != "d.wav"}
    assert now() == expected
    # What could not be indexed has it when it can; what was deleted has it when it comes back.
    write_tone(library / "sub" / "d.wav", number := next(NUMBERS), seconds=0.5)
    shutil.move(library / "moved.wav", library.parent / "aside.wav")
    sync(library)
    assert now() == {name: values for name, values in before.items() if name != "b.wav"}
    shutil.move(library.parent / "aside.wav", library / "back.wav")
    sync(library)
    assert now() == {"back.wav" if name == "b.wav" else name: values for name, values in before.items()}
    # Over a file of another content: both are kept.
    write_tone(library / "sub" / "c.wav", number, seconds=0.5)
    sync(library)
    assert now()["c.wav"] == now()["d.wav"] == {"title": ["d.wav", "c.wav"], "take": 3}
    # Two files that changed their names took what was said with them.
    (library / "back.wav").rename(library / "x.wav")
    (library / "a.wav").rename(library / "back.wav")
    (library / "x.wav").rename(library / "a.wav")
    sync(library)
    assert (now()["a.wav"], now()["back.wav"]) == (before["b.wav"], before["a.wav"])


@pytest.mark.parametrize("dies_at", ["set_metadata", "delete_assets"])
@pytest.mark.parametrize("change", ["content", "tags", "tags and name"])
def test_what_people_said_outlives_a_kill_between_two_steps(
    sync: Sync, opened: Foley, library: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str, change: str
) -> None:
    sync(library)
    path = str(library / "a.wav")
    asset = opened.index.find_path(path)
    assert asset is not None
    opened.index.set_metadata(asset.asset_id, {"take": 7})
    if change == "content":
        write_tone(library / "a.wav", next(NUMBERS), seconds=0.5)
    else:
        _edit_tags(library / "a.wav")
    if "name" in change:
        path = str((library / "a.wav").rename(library / "new.wav"))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opened.index, dies_at, die)
        assert sync(library).is_interrupted
    assert {"take": 7} in [dict(a.metadata) for a in _assets(opened, library)]
    sync(library)
    (new,) = [a for a in _assets(opened, library) if path in a.paths]
    assert (new.metadata, new.asset_id != asset.asset_id) == ({"take": 7}, True)


def _edit_tags(path: Path) -> None:
    """Add a chunk of tags to a WAV."""
    content = path.read_bytes() + b"LIST\4\0\0\0INFO"
    path.write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])


def test_new_tags_alone_embed_nothing(
    sync: Sync, opened: Foley, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(library)
    before = {Path(asset.path).name: asset for asset in _assets(opened, library)}
    for asset in before.values():
        opened.index.set_metadata(asset.asset_id, {"of": Path(asset.path).name})
    _edit_tags(library / "a.wav")
    _edit_tags(library / "b.wav")
    (library / "b.wav").rename(library / "new.wav")
    tracks = opened.index.read_segments(before["a.wav"].asset_id, limit=9)
    monkeypatch.setattr(stages_module, "embed_clips", None)
    report = sync(library)
    assert (report.files, report.segments) == (Counts(indexed=2, unchanged=2), Counts(unchanged=4))
    assert (report.num_retagged, report.num_removed, report.failed) == (2, 2, [])
    after = {Path(asset.path).name: asset for asset in _assets(opened, library)}
    assert after.keys() == {"a.wav", "new.wav", "c.wav", "d.wav"}
    new = after["a.wav"]
    assert new.asset_id == identify_path(library / "a.wav") != before["a.wav"].asset_id
    assert (new.metadata, after["new.wav"].metadata) == ({"of": "a.wav"}, {"of": "b.wav"})
    assert new.media["size_bytes"] == (library / "a.wav").stat().st_size
    assert new.media.items() >= {"duration_seconds": 0.5, "is_partial": False}.items()
    (old,), (copied,) = tracks, opened.index.read_segments(new.asset_id, limit=9)
    np.testing.assert_array_equal(copied.audio_track, old.audio_track)
    assert sync(library).files == Counts(unchanged=4)
    # Control: what is embedded is embedded by this.
    write_tone(library / "c.wav", next(NUMBERS), seconds=0.5)
    assert [failed.code for failed in sync(library).failed] == ["unforeseen"]


def test_what_tags_names_and_files_beside_it_say(sync: Sync, opened: Foley, library: Path) -> None:
    sound = (library / "a.wav").rename(library / "DOORWood_Gate_AB_FARM.wav")
    xmp = '<a xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>%s</dc:title></a>'
    (library / "DOORWood_Gate_AB_FARM.xmp").write_text(xmp % "Old gate")
    (library / "b.wav.xmp").write_text(xmp % ("x" * (2 << 20)))
    os.mkfifo(library / "sub" / "c.xmp")
    secret = library.parent / "secret.xmp"
    secret.write_text(xmp % "secret")
    (library / "sub" / "d.xmp").symlink_to(secret)
    sync(library)

    def said(path: Path) -> dict[str, object]:
        asset = opened.index.find_path(str(path))
        assert asset is not None
        return dict(asset.media["said"])

    by_name = {"ucs_category_id": "DOORWood", "ucs_category": "DOORS-WOOD", "ucs_fx_name": "Gate"}
    assert said(sound).items() >= {**by_name, "ucs_source": "FARM", "title": "Old gate"}.items()
    for name in ("b.wav", "sub/c.wav", "sub/d.wav"):
        assert "title" not in said(library / name)
    (found,) = _assets_with(opened, library, ucs_category_id="DOORWood")

    # A changed XMP file alone: the file says something else, and nothing is embedded.
    written = opened.index.info().num_segments
    (library / "DOORWood_Gate_AB_FARM.xmp").write_text(xmp % "New gate")
    (library / "b.wav.xmp").write_text(xmp % "Bell")
    report = sync(library)
    assert (report.files, report.num_retagged) == (Counts(unchanged=4), 2)
    assert said(sound).items() >= {**by_name, "title": "New gate"}.items()
    assert said(library / "b.wav")["title"] == "Bell"
    assert _assets_with(opened, library, title="Bell")
    assert opened.index.info().num_segments == written
    assert "sidecar" not in describe_asset(found)["media"]
    (library / "b.wav.xmp").unlink()
    assert sync(library).num_retagged == 1
    assert "title" not in said(library / "b.wav")
    assert sync(library).num_retagged == 0
    (library / "DOORWood_Gate_AB_FARM.xmp").write_text(xmp % "Old gate")
    sync(library)
    renamed = sound.rename(library / "DOORMetl_Gate_AB_FARM.wav")
    for _ in range(2):  # it left its XMP file behind, once and for all
        assert sync(library).num_retagged == 0
        assert said(renamed).items() >= {"ucs_category_id": "DOORMetl", "title": "Old gate"}.items()
    assert _assets_with(opened, library, ucs_category_id="DOORWood") == ()
    content = renamed.read_bytes() + b"LIST\x10\0\0\0INFOIART\4\0\0\0Ann\0"
    renamed.write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])
    assert sync(library).num_retagged == 1
    assert said(renamed).items() >= {"ucs_category_id": "DOORMetl", "artist": "Ann"}.items()
    assert found.asset_id not in {asset.asset_id for asset in _assets(opened, library)}


def _assets_with(foley: Foley, folder: Path, **metadata: str) -> tuple[Asset, ...]:
    return foley.index.list_assets(limit=9, filter=Filter(folder=str(folder), metadata=metadata)).assets


def test_an_asset_that_is_removed_while_its_segments_are_taken_over(
    sync: Sync, opened: Foley, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(library)
    old = opened.index.find_path(str(library / "a.wav"))
    assert old is not None
    _edit_tags(library / "a.wav")
    read = opened.index.read_segments

    def remove_and_read(asset_id: str, **options: int) -> object:
        opened.index.delete_asset(old.asset_id)
        return read(asset_id, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(opened.index, "read_segments", remove_and_read)
    report = sync(library)
    assert (report.files, report.num_retagged) == (Counts(indexed=1, unchanged=3), 0)
    new = opened.index.find_path(str(library / "a.wav"))
    assert new is not None
    assert (new.num_segments, new.asset_id) == (1, identify_path(library / "a.wav"))


def identify_path(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_that_are_gone_leave_the_index_together(
    sync: Sync, opened: Foley, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(library)
    shutil.rmtree(library / "sub")
    (library / "a.wav").unlink()
    calls: list[int] = []
    delete = opened.index.delete_assets
    monkeypatch.setattr(catalogue_module, "REMOVED_AT_ONCE", 2)
    monkeypatch.setattr(
        opened.index, "delete_assets", lambda asset_ids: (calls.append(len(asset_ids)), delete(asset_ids))[1]
    )
    report = sync(library, allow_gone=True)
    assert (report.num_deleted, report.num_removed, calls) == (3, 3, [2, 1])
    assert list(paths_of().values()) == [(str(library / "b.wav"),)]


def test_links_to_a_disk_that_is_not_mounted_are_not_dead(
    sync: Sync, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_tone(library.parent / "disk" / "t.wav", next(NUMBERS), seconds=0.5)
    (library / "link.wav").symlink_to(target)
    mounted = {str(target.parent)}
    monkeypatch.setattr(sync_module, "find_mounts", lambda places: {m for m in mounted if touches(m, places)})
    sync(library)
    before = paths_of()
    target.unlink()
    mounted.clear()
    with pytest.raises(SyncRefused, match=r"no disk is mounted at .*disk, where there was one"):
        sync(library)
    assert paths_of() == before
    assert sync(library, allow_empty=True).num_deleted == 1


@pytest.fixture
def disk(library: Path) -> Iterator[Path]:
    """A disk in the library with three more sounds, where root may mount one."""
    with small_disk(library / "disk", num_bytes=MIB) as disk:
        write_tones(disk, 3, first=next(NUMBERS), seconds=0.1)
        yield disk


def test_a_disk_that_is_lost_during_a_sync_is_missed_then_and_later(
    sync: Sync, library: Path, disk: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_all = LibraryRun.index_all

    def lose_disk(run: LibraryRun, pipeline: Pipeline) -> None:
        index_all(run, pipeline)
        unmount(disk)

    monkeypatch.setattr(LibraryRun, "index_all", lose_disk)
    with pytest.raises(SyncRefused, match=r"no disk is mounted at .*disk"):
        sync(library)
    monkeypatch.setattr(LibraryRun, "index_all", index_all)
    before = paths_of()
    assert len(before) == 7
    write_tone(disk / "stray.wav", next(NUMBERS), seconds=0.5)
    for options in ({}, {}, {"allow_gone": True}, {"dry_run": True}):
        with pytest.raises(SyncRefused, match=r"no disk is mounted at .*disk"):
            sync(library, **options)
    assert paths_of() == before
    assert sync(library, allow_empty=True).num_deleted == 3
    assert sync(library).files == Counts(unchanged=5)


@pytest.mark.parametrize("kind", ["index", "sync"])
def test_a_disk_that_was_there_at_the_start_of_a_run_is_remembered(
    jobs: Jobs, library: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    mounted = {str(library / "sub")}
    for module in (sync_module, library_jobs_module):
        monkeypatch.setattr(module, "find_mounts", lambda roots: set(mounted))
    monkeypatch.setattr(LibraryRun, "scan", lambda *_, **__: mounted.clear())
    with suppress(SyncRefused):
        jobs.library.run(jobs.library.submit(kind, JobRequest(paths=(str(library),))).job.job_id)
    (path,) = jobs.ledger.read("SELECT path FROM mounts")
    assert os.fsdecode(path["path"]) == str(library / "sub")


def test_a_copy_of_what_is_on_a_lost_disk_was_not_moved(
    sync: Sync, library: Path, paths_of: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = {str(library / "sub")}
    for module in (sync_module, catalogue_module):
        monkeypatch.setattr(module, "find_mounts", lambda roots: set(mounted))
    sync(library)
    elsewhere = library.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.move(library / "sub" / "c.wav", elsewhere)
    for is_lost in (True, False):
        if is_lost:
            mounted.clear()
        else:
            mounted.add(str(library / "sub"))
            (elsewhere / "c.wav").rename(elsewhere / "d.wav")
        sync(elsewhere)
        assert (str(library / "sub" / "c.wav") in {p for ps in paths_of().values() for p in ps}) is is_lost


def test_half_of_a_folder_is_not_removed_without_a_question(
    sync: Sync, jobs: Jobs, library: Path, paths_of: Paths
) -> None:
    many = write_tones(library / "many", 20, first=next(NUMBERS), seconds=0.1)
    sync(library)
    before = paths_of()
    for path in many[:9]:
        path.unlink()
    (library / "many").rename(library / "renamed")  # what is moved is not gone
    sync(library / "renamed")
    assert sync(library).num_deleted == 9
    rest = list((library / "renamed").iterdir())
    for path in rest[:10]:
        path.unlink()
    with pytest.raises(TooManyGone, match=r"10 of the 15 files that the index knows in .*--allow-gone"):
        sync(library)
    assert jobs.ledger.list_jobs(limit=1)[0].error_code == "too_many_gone"
    assert len(paths_of()) == len(before) - 9
    assert len(sync(library, dry_run=True).plan) == 10
    assert sync(library, allow_gone=True).num_deleted == 10
