"""Mounted disks, by a table like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.library.mounts import find_mounts, is_within, touches

TABLE = r"""22 1 0:20 / / rw - overlay overlay rw
30 22 8:1 / /mnt/media rw - ext4 /dev/sda1 rw
31 30 8:2 / /mnt/media/my\040disk rw - ext4 /dev/sdb1 rw
32 22 8:3 / /mnt/other rw - ext4 /dev/sdc1 rw
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
def test_mounts_above_and_below(tmp_path: Path, roots: list[str], expected: set[str]) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert find_mounts(map(Path, roots), table=table) == expected


def test_a_kernel_that_does_not_say(tmp_path: Path) -> None:
    assert find_mounts([Path("/")], table=tmp_path / "none") == set()


def test_the_kernel_of_this_machine_says() -> None:
    assert "/proc" in find_mounts([Path("/proc/self")])


def test_within_is_by_whole_names() -> None:
    assert is_within("/a/b", "/a")
    assert is_within("/a", "/a")
    assert is_within("/a", "/")
    assert not is_within("/ab", "/a")
    assert touches("/a/b/disk", [Path("/a/b")])
    assert not touches("/a/disk", [Path("/a/b")])
