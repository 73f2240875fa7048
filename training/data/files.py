"""Files that are never half there: whole on the disk before they have their name; folders that one process fills."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class FolderInUse(RuntimeError):
    """Another process works in a folder that is one process's own."""


@contextmanager
def only_one(folder: Path, *, waits: bool = True) -> Iterator[None]:
    """Keep a folder for this process; the kernel lets go when it dies.

    Args:
        folder: Holds the lock file afterwards.
        waits: Whether to wait for a process that has it.

    Yields:
        None: While no other process is in such a block.

    Raises:
        FolderInUse: If one is, and is not waited for.
    """
    with (folder / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError as exc:
            raise FolderInUse(
                f"another process is working in {folder}; wait for it or choose another folder"
            ) from exc
        yield


@contextmanager
def written_through(path: Path) -> Iterator[BinaryIO]:
    """Write a file that is on the disk when the block ends.

    Args:
        path: The file, made anew: who reads an older one of this name keeps that.

    Yields:
        The open file.
    """
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file that has its name only once it is whole and on the disk; after an error the old one is still there.

    Args:
        path: The file.

    Yields:
        The open file, under another name.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with written_through(unfinished) as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
