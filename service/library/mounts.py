"""Which disks are mounted near some folders. Without its disk a folder is empty: its files only look deleted."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

from service.library.locations import Location


def is_within(path: str, folder: str) -> bool:
    """Whether an absolute path is a folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def touches(mount: str, roots: Iterable[Location]) -> bool:
    """Whether one of the roots lies on a mount, or the mount below it."""
    return any(is_within(mount, str(root)) or is_within(str(root), mount) for root in roots)


def find_mounts(roots: Iterable[Location]) -> set[str]:
    """Where disks are mounted that hold a part of the roots; none if the kernel does not say."""
    roots = list(roots)
    try:
        points = {partition.mountpoint for partition in psutil.disk_partitions(all=True)}
    except OSError:
        return set()
    return {point for point in points if point != "/" and touches(point, roots)}
