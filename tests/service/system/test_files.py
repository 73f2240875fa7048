"""Files that are replaced in one step."""

from __future__ import annotations

import errno
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.http.problems import PROBLEMS
from service.system.files import (
    STALE_SECONDS,
    FileLocked,
    NoRoom,
    locked_file,
    make_private,
    name_owner,
    read_disk_space,
    replace_file,
)


def test_many_may_replace_a_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    contents = [str(number) * 10_000 for number in range(8)]

    def replace_often(content: str) -> None:
        for _ in range(20):
            replace_file(path, content)
            assert path.read_text() in contents, "torn"

    with ThreadPoolExecutor(len(contents)) as threads:
        list(threads.map(replace_often, contents))
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    replace_file(path, "old")
    assert path.stat().st_mode & 0o777 == 0o600
    with monkeypatch.context() as patch:
        patch.setattr("service.system.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError("no room")))
        with pytest.raises(OSError, match="no room"):
            replace_file(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@pytest.mark.parametrize("step", ["open", "fsync"])
def test_a_full_disk_is_told_from_other_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "calibration.json"
    replace_file(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(f"service.system.files.os.{step}", fail)
        with pytest.raises(NoRoom, match="was not written"):
            replace_file(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"
    assert PROBLEMS[NoRoom.code].status == 507


def test_what_a_crash_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    left = [tmp_path / f".keys.json{middle}.new" for middle in ("", ".0123")]
    for file in left:
        file.write_text("half of")
    replace_file(path, "new")
    assert all(file.exists() for file in left), "somebody may be writing them"
    for file in left:
        old = file.stat().st_mtime - STALE_SECONDS - 1
        os.utime(file, (old, old))
    other = tmp_path / ".other.json.new"
    other.write_text("x")
    os.utime(other, (0, 0))
    replace_file(path, "newer")
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_a_lock_is_held_by_one_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
        for wait_seconds in (0.0, 3600.0):  # this process runs: it is not waited for
            with pytest.raises(FileLocked, match="locked by process") as refused:
                locked_file(path, wait_seconds=wait_seconds).__enter__()
            assert refused.value.holder == str(os.getpid())
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(FileLocked):
            locked_file(path, wait_seconds=0).__enter__()
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors, "a refusal leaves nothing open"
    with locked_file(path, wait_seconds=0):
        pass


@pytest.mark.parametrize("wait_seconds", [None, 60.0])
def test_who_waits_for_a_lock_gets_it_when_it_is_free(tmp_path: Path, wait_seconds: float | None) -> None:
    def wait() -> str:
        with locked_file(tmp_path / "lock", wait_seconds=wait_seconds):
            return "mine"

    with ThreadPoolExecutor(1) as threads:
        with locked_file(tmp_path / "lock"):
            if wait_seconds is not None:  # of a service that was killed; its child holds the lock
                ended = subprocess.Popen(["true"])
                ended.wait()
                (tmp_path / "lock").write_text(f"{ended.pid}\n")
            waiting = threads.submit(wait)
            assert not waiting.done()
        assert waiting.result(60) == "mine"


def test_an_inherited_descriptor_keeps_the_lock(tmp_path: Path) -> None:
    with locked_file(tmp_path / "lock") as descriptor:
        inherited = os.dup(descriptor)
    with pytest.raises(FileLocked):
        locked_file(tmp_path / "lock", wait_seconds=0).__enter__()
    os.close(inherited)
    with locked_file(tmp_path / "lock", wait_seconds=0):
        pass


@pytest.mark.parametrize(("total_gib", "floor_gib"), [(10, 2), (1000, 50)])
def test_the_floor_of_a_disk(monkeypatch: pytest.MonkeyPatch, total_gib: int, floor_gib: int) -> None:
    gib = 2**30
    usage = SimpleNamespace(total=total_gib * gib, free=floor_gib * gib + 5)
    monkeypatch.setattr("service.system.files.shutil.disk_usage", lambda _: usage)
    disk = read_disk_space(Path("/"), min_free_bytes=None)
    assert (disk.total_bytes, disk.free_bytes, disk.floor_bytes) == (usage.total, usage.free, floor_gib * gib)
    assert disk.has_room()
    assert disk.has_room(5)
    assert not disk.has_room(6)
    assert read_disk_space(Path("/"), min_free_bytes=7).floor_bytes == 7


def test_what_is_made_private(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder" / "deep", tmp_path / "outside"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    for file in (folder / "file", outside):
        file.touch()
        file.chmod(0o664)
    make_private(tmp_path / "folder")
    modes = {path: path.lstat().st_mode & 0o777 for path in (folder.parent, folder, folder / "file", outside)}
    assert list(modes.values()) == [0o700, 0o700, 0o600, 0o664]
    make_private(tmp_path / "missing")
    make_private(outside)
    assert outside.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to another user")
def test_files_of_another_user_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o644)
    os.chown(tmp_path / "file", 12345, -1)
    tmp_path.chmod(0o755)
    os.seteuid(10001)
    try:
        make_private(tmp_path)
    finally:
        os.seteuid(0)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_folder_of_another_user_names_who_must_own_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "data" / "index"))
    assert name_owner(denied) == str(denied), "it is ours"
    user = os.geteuid() + 10001
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert name_owner(denied).endswith(f"; `chown -R {user} {tmp_path}` gives it over")
