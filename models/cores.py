"""How many processor cores this process may use: its affinity, and the CPU quotas of its control groups (v1 and v2)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def num_cores(proc: Path | None = None) -> int:
    """Cores this process may keep busy, at least 1: a quota of 1.5 cores counts as 2.

    Args:
        proc: Where the kernel describes this process, with `cgroup` and `mountinfo`. Default: /proc/self.

    Returns:
        The smallest of the affinity and of the quotas of its control group and of all groups above it.
    """
    shares = [math.ceil(quota) for group in _groups(proc or PROC) if (quota := _quota(group)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *shares]))


def _groups(proc: Path) -> Iterator[Path]:
    """The folders that hold the CPU limits of this process: its groups', and those of the groups above."""
    try:
        lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # not Linux, or hidden
        return
    # `0::/here` is version 2, `4:cpu,cpuacct:/here` version 1
    paths = {
        number == "0": path for number, names, path in lines if number == "0" or "cpu" in names.split(",")
    }
    for mount in mounts:
        # 36 35 98:0 /root /mounted/at rw,relatime [tag ...] - cgroup cgroup rw,cpu,cpuacct
        kind, _, options = mount[mount.index("-") + 1 :]
        is_v2 = kind == "cgroup2"
        if is_v2 in paths and (is_v2 or (kind == "cgroup" and "cpu" in options.split(","))):
            yield from _up_from(PurePosixPath(paths[is_v2]), PurePosixPath(mount[3]), Path(mount[4]))


def _up_from(path: PurePosixPath, root: PurePosixPath, top: Path) -> Iterator[Path]:
    """The folder of a group and those above it, where `root` is mounted at `top`; `top` alone shows no more."""
    inside = path.relative_to(root).parts if path.is_relative_to(root) and ".." not in path.parts else ()
    for length in range(len(inside), -1, -1):
        yield top.joinpath(*inside[:length])


def _quota(group: Path) -> float | None:
    """Cores that a control group may use; None without a limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()  # `150000 100000`, `max 100000`
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()  # -1 without a limit
            period = (group / "cpu.cfs_period_us").read_text()
        cores = int(quota) / int(period)
    except (OSError, ValueError):  # the top group has no such file
        return None
    return cores if cores > 0 else None
