"""Uploads: kept privately, gone afterwards."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from service.http.upload import UploadDiskFull, UploadFolder, write_all


def test_file_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path / "uploads", reserve_bytes=0)
    with folder.create() as (path, file):
        assert folder.write(file, [b"ab", b"c"]) == 3
        assert path.read_bytes() == b"abc"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), folder.create() as (path, _):
        _ = 1 / 0
    assert not path.exists()
    folder.close()
    assert not path.parent.exists()


def test_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    old, new, other = tmp_path / "serve-old", tmp_path / "serve-new", tmp_path / "precious"
    for path in (old, new, other):
        path.mkdir()
        (path / "file").touch()
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    UploadFolder(tmp_path, reserve_bytes=0).close()
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(UploadDiskFull, match="no room"):
        write_all(full, b"x" * 10)
    folder = UploadFolder(tmp_path / "uploads", reserve_bytes=2**60)
    with folder.create() as (path, file), pytest.raises(UploadDiskFull, match="bytes free"):
        folder.write(file, [b"x"])
    assert not path.exists()
