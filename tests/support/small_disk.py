"""A small disk of its own for tests that fill it: a tmpfs, mounted by root; skipped elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1024 * 1024


@contextmanager
def small_disk(folder: Path, *, num_bytes: int) -> Iterator[Path]:
    """Mount an empty disk of so many bytes until the block ends."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk, and not in every container")
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Take the disk away, also while it is in use; nothing happens if it is gone."""
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leaving_bytes: int) -> Path:
    """Fill a disk but for some bytes with one file, which frees it when it is removed."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        free = shutil.disk_usage(disk).free
        os.posix_fallocate(file.fileno(), 0, max(1, free - leaving_bytes))
    return ballast
