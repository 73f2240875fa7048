"""Mounted disks, by a table like the kernel's `/proc/self/mounts`."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from service.library.mounts import find_mounts, is_within, touches

TABLE = r"""overlay / overlay rw 0 0
/dev/sda1 /mnt/media ext4 rw 0 0
/dev/sdb1 /mnt/media/my\040disk ext4 rw 0 0
/dev/sdc1 /mnt/other ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("roots", "expected"),
    [
        (["/mnt/media/films"], {"/mnt/media"}),
        (["/mnt/media"], {"/mnt/media", "/mnt/media/my disk"}),
        (["/mnt/media/my disk/a.mp4"], {"/mnt/media", "/mnt/media/my disk"}),
        (["/mnt/mediator"], set()),
        (["/mnt"], {"/mnt/media", "/mnt/media/my disk", "/mnt/other"}),
        (["/"], {"/mnt/media", "/mnt/media/my disk", "/mnt/other"}),
    ],
)
def test_mounts_above_and_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: list[str], expected: set[str]
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mounts").write_text(TABLE)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert find_mounts(map(Path, roots)) == expected


def test_a_kernel_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "none"))
    assert find_mounts([Path("/")]) == set()


def test_a_path_that_is_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mounts").write_bytes(b"/dev/sda1 /mnt/caf\xe9 ext4 rw 0 0\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert find_mounts([Path("/mnt")]) == {os.fsdecode(b"/mnt/caf\xe9")}


def test_the_kernel_of_this_machine_says() -> None:
    assert "/proc" in find_mounts([Path("/proc/self")])


def test_within_is_by_whole_names() -> None:
    assert is_within("/a/b", "/a")
    assert is_within("/a", "/a")
    assert is_within("/a", "/")
    assert not is_within("/ab", "/a")
    assert touches("/a/b/disk", [Path("/a/b")])
    assert not touches("/a/disk", [Path("/a/b")])
