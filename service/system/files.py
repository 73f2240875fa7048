"""Files that survive a crash whole: written aside, flushed, renamed, and the folder flushed too."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import time
import uuid
from pathlib import Path

from service.system.failure import Failure

STALE_SECONDS = 3600.0  # no file of ours is written for so long: one that old was left by a crash


class NoRoom(Failure, OSError):
    """The disk has no room for a file of ours; what was there before still is."""

    code = "disk_full"
    is_public = False


def replace_file(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replace a file in one step: after a crash it holds the old content or the new, never a part.

    Of two who replace it at the same time, the later rename wins: each writes aside under a name of its own.

    Args:
        path: The file; its folder exists.
        content: All of it; text goes as UTF-8.
        mode: Who may read it, from its first byte on.

    Raises:
        NoRoom: If the disk is full.
    """  # noqa: DOC503 - whatever else fails leaves nothing behind either
    _remove_stale(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException as exc:
        aside.unlink(missing_ok=True)
        if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(exc.errno, f"the disk is full: {path.name} was not written") from exc
        raise
    sync_folder(path.parent)


def _remove_stale(path: Path) -> None:
    """Remove what crashes left beside a file."""
    oldest = time.time() - STALE_SECONDS
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*new"):
        with contextlib.suppress(OSError):  # another process removed it
            if aside.lstat().st_mtime < oldest:
                aside.unlink()


def sync_folder(folder: Path) -> None:
    """Make names that were created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
