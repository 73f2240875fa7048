"""Which disks are mounted at, above or below some folders.

A disk that is not mounted leaves an empty folder behind: what was on it looks deleted and is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def is_within(path: str, folder: str) -> bool:
    """Whether an absolute path is a folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def touches(mount: str, roots: Iterable[Path]) -> bool:
    """Whether one of the roots lies on a mount, or the mount below it."""
    return any(is_within(mount, str(root)) or is_within(str(root), mount) for root in roots)


def find_mounts(roots: Iterable[Path], *, table: Path = MOUNTS) -> set[str]:
    """Where disks are mounted that hold a part of the roots.

    Args:
        roots: Absolute files and folders.
        table: The kernel's list.

    Returns:
        Mount points; none where the kernel does not say.
    """
    roots = list(roots)
    try:
        # proc(5): the fifth field is the mount point, with spaces and such as \\040
        fields = [line.split(" ") for line in table.read_text("utf-8", "surrogateescape").splitlines()]
    except OSError:
        return set()
    points = {re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line[4]) for line in fields}
    return {point for point in points if point != "/" and touches(point, roots)}
