"""Stamps of files and objects: what changes with them and cannot be set back, as one word."""

from __future__ import annotations

import os

ETAG = "etag:"  # before the stamp of an object


def stamp_of(status: os.stat_result) -> str:
    """Inode, time of the last change by the kernel's clock, and the number of the disk, as one word."""
    return f"{status.st_ino}:{status.st_ctime_ns}@{status.st_dev}"


def doubt_stamp(stamp: str) -> str:
    """What to remember of a file that was taken for known without its stamp: that it has not changed since now."""
    return stamp if stamp.startswith(ETAG) else "<" + stamp.partition("@")[0].partition(":")[2]


def is_same_stamp(stamp: str | None, known: str | None) -> bool:
    """Whether two stamps can be those of one unchanged file; disks get new numbers when the machine starts."""
    if not stamp or not known:
        return True
    if stamp.startswith(ETAG) or known.startswith(ETAG):
        return stamp == known
    if known.startswith("<"):
        return int(stamp.partition("@")[0].partition(":")[2]) <= int(known[1:])
    return stamp.partition("@")[0] == known.partition("@")[0]
