"""Files that a crash leaves whole, locks on files, and how full a disk is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.system.failure import Failure

STALE_SECONDS = 3600.0  # no file of ours takes that long to write: an older one was left by a crash
POLL_SECONDS = 0.02
MIN_FREE_BYTES = 2 * 2**30
MIN_FREE_SHARE = 20  # one part in 20 of the disk


class NoRoom(Failure, OSError):
    """The disk has no room for a file of ours; what was there before still is."""

    code = "disk_full"
    is_public = False


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: after a crash it holds the old content or the new, never a part.

    Text is written as UTF-8; only the owner may read it. If two replace the file at the same time, the later rename
    wins. Raises `NoRoom` if the disk is full; whatever fails leaves nothing behind.
    """
    _remove_stale(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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


def name_owner(exc: OSError) -> str:
    """What went wrong, and who must own the folder if another user owns it."""
    place = Path(exc.filename or "/")
    while not place.exists():
        place = place.parent
    owner, user = place.stat().st_uid, os.geteuid()
    if not isinstance(exc, PermissionError) or owner == user:
        return str(exc)
    return f"{exc}: user {owner} owns {place}, and this process is user {user}; `chown -R {user} {place}` gives it over"


def make_private(place: Path) -> None:
    """Let nobody but its owner into a file or folder and what is in it; what another user owns stays as it is."""
    for root, folders, names in os.walk(place):
        for path in (Path(root, name) for name in (*folders, *names)):
            _close_to_others(path)
    _close_to_others(place)


def _close_to_others(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone by now, or on a disk that is read only or knows no modes
        mode = path.lstat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO) and not stat.S_ISLNK(mode):
            path.chmod(0o700 if stat.S_ISDIR(mode) else 0o600)


def sync_folder(folder: Path) -> None:
    """Make names that were created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileLocked(BlockingIOError):
    """Another process has the lock of a file; `holder` is its process id as text, or `unknown`."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(errno.EWOULDBLOCK, f"locked by process {holder}", str(path))
        self.holder = holder


@contextlib.contextmanager
def locked_file(path: Path, *, wait_seconds: float | None = None) -> Iterator[int]:
    """Hold the lock of a file until the block ends or the process dies; the file is made if it is missing.

    Yields the descriptor: a child process that inherits it keeps the lock as well. The file holds the id of the
    process. `FileLocked` is raised if another process that runs has the lock, or if the lock of one that has ended is
    not free after `wait_seconds`: a child of its may still be dying. None: wait for every holder, without a limit.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, path, wait_seconds)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, wait_seconds: float | None) -> None:
    if wait_seconds is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "unknown"
            if time.monotonic() >= deadline or _runs(holder):
                raise FileLocked(path, holder) from None
            time.sleep(POLL_SECONDS)
        else:
            return


def _runs(holder: str) -> bool:
    import psutil  # noqa: PLC0415 - shard processes would wait 20 ms for what only a lock that is held asks for

    try:
        return psutil.Process(int(holder)).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.Error, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """How full a disk is; nothing is written that would leave less than `floor_bytes` free."""

    free_bytes: int
    total_bytes: int
    floor_bytes: int

    def has_room(self, num_bytes: int = 0) -> bool:
        """Whether that much may be written."""
        return self.free_bytes >= self.floor_bytes + num_bytes


def read_disk_space(folder: Path, *, min_free_bytes: int | None) -> DiskSpace:
    """How full the disk of a folder is. The default floor is 2 GiB or 5 % of the disk, whichever is more."""
    usage = shutil.disk_usage(folder)
    floor = max(MIN_FREE_BYTES, usage.total // MIN_FREE_SHARE) if min_free_bytes is None else min_free_bytes
    return DiskSpace(free_bytes=usage.free, total_bytes=usage.total, floor_bytes=floor)
