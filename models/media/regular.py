"""Regular files, opened once and without a surprise, and what they hold as a hash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from models.media.unreadable import EmptyFile, NotARegularFile

MediaSource = Path | str | int
"""A regular file by its path, or by a descriptor that is open for reading; the latter stays open."""


def hash_media(source: MediaSource, *, follows_links: bool = True) -> tuple[str, int, int]:
    """Hash the content of a file, opened as safely as for decoding.

    Args:
        source: A regular file.
        follows_links: Links above its name; see `open_regular`.

    Returns:
        sha256 as 64 hex digits, the size in bytes and the time of last change in nanoseconds since 1970.
    """
    with open_regular(source, follows_links=follows_links) as (descriptor, status):
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, status.st_size, clamp_time_ns(status.st_mtime_ns)


def clamp_time_ns(time_ns: int) -> int:
    """Bring a time of a file within 64 bits, which hold 1678 to 2261 in nanoseconds since 1970; tmpfs keeps any."""
    return max(1 - 2**63, min(time_ns, 2**63 - 1))


@contextlib.contextmanager
def open_regular(source: MediaSource, *, follows_links: bool = True) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file without following a link at its name or waiting for a pipe.

    Args:
        source: Path of the file, or a descriptor of it that nobody else reads at the same time.
        follows_links: Whether folders above its name may be links; without, the path is absolute and has no `..`.

    Yields:
        tuple[int, os.stat_result]: A descriptor at the start of the file, closed at the end of the block, and facts.

    Raises:
        NotARegularFile: If it cannot be opened, or is something else.
        OSError: If this process or the machine has too many files open.
        EmptyFile: If it has no bytes.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        if isinstance(source, int):
            descriptor = os.dup(source)
        else:
            descriptor = os.open(source, flags) if follows_links else open_without_links(source)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.EMFILE, errno.ENFILE):  # says nothing of the file
            raise OSError(number, os.strerror(number)) from error
        reason = getattr(error, "strerror", None) or error
        raise NotARegularFile(f"the file cannot be opened: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = stat.filemode(status.st_mode)[0]
            raise NotARegularFile(f"only regular files are read, this one is of type {kind!r}")
        if status.st_size == 0:
            raise EmptyFile("the file is empty: 0 bytes")
        os.lseek(descriptor, 0, os.SEEK_SET)  # a copy of a descriptor shares its place with it
        yield descriptor, status
    finally:
        os.close(descriptor)


def open_without_links(path: Path | str) -> int:
    """Open a file or folder for reading, so that no link at its name or above is followed, nor a pipe waited for.

    Fails with OSError if there is none or a link on its way, and with ValueError for a path that is none.

    Args:
        path: Absolute path, normalised.

    Returns:
        A descriptor, which the caller closes.
    """
    root, *folders = Path(path).parts
    name = folders.pop() if folders else "."
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_PATH | os.O_DIRECTORY | flags, dir_fd=place)
            os.close(place)
            place = inner
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=place)
    finally:
        os.close(place)
