import os
from pathlib import Path

import pytest

from models.cores import num_cores

FREE = 64  # cores of the made-up machine


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(FREE)))


def describe(
    folder: Path, *, cgroup: str, mounts: str, limits: dict[str, str], root: str = "/", v1: bool = False
) -> Path:
    """Files of /proc/self, and those of the control groups at `folder`/fs."""
    (folder / "cgroup").write_text(cgroup)
    top = folder / "fs"
    shown = [f"30 20 0:26 {root} {top} rw,nosuid shared:4 - {mounts}"]
    (folder / "mountinfo").write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *shown, ""]))
    for group, limit in limits.items():
        path = top / group
        path.mkdir(parents=True, exist_ok=True)
        if v1:
            quota, period = limit.split()
            (path / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (path / "cpu.cfs_period_us").write_text(f"{period}\n")
        else:
            (path / "cpu.max").write_text(f"{limit}\n")
    return folder


V2 = "cgroup2 cgroup2 rw,nsdelegate"


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", FREE),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("9900000 100000", FREE),
        ("nonsense", FREE),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, limit: str, cores: int) -> None:
    proc = describe(tmp_path, cgroup="0::/a.slice/b\n", mounts=V2, limits={"a.slice/b": limit})
    assert num_cores(proc) == cores


def test_the_smallest_of_nested_groups_counts(tmp_path: Path) -> None:
    limits = {"a": "300000 100000", "a/b": "max 100000", "a/b/c": "500000 100000", "other": "100000 100000"}
    assert num_cores(describe(tmp_path, cgroup="0::/a/b/c\n", mounts=V2, limits=limits)) == 3


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    proc = describe(tmp_path, cgroup="0::/\n", mounts=V2, limits={"": "250000 100000"})
    assert num_cores(proc) == 3
    moved = tmp_path / "moved"  # the group is outside of what the namespace shows
    moved.mkdir()
    proc = describe(moved, cgroup="0::/../other\n", mounts=V2, limits={"": "250000 100000"})
    assert num_cores(proc) == 3


@pytest.mark.parametrize("root", ["/", "/docker/1f"])
def test_a_quota_of_version_1(tmp_path: Path, root: str) -> None:
    cgroup = "5:cpuset:/x\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f\n0::/\n"
    group = "docker/1f" if root == "/" else ""
    limits = {"": "-1 100000", group: "350000 100000"}
    mounts = "cgroup cgroup rw,cpu,cpuacct"
    assert num_cores(describe(tmp_path, cgroup=cgroup, mounts=mounts, limits=limits, root=root, v1=True)) == 4


def test_the_affinity_counts_where_it_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert num_cores(describe(tmp_path, cgroup="0::/\n", mounts=V2, limits={"": "800000 100000"})) == 1


def test_without_control_groups(tmp_path: Path) -> None:
    assert num_cores(tmp_path) == FREE


def test_the_settings_count_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from service.system.settings import Settings

    proc = describe(tmp_path, cgroup="0::/\n", mounts=V2, limits={"": "300000 100000"})
    monkeypatch.setattr("models.cores.PROC", proc)
    monkeypatch.delenv("FOLEY_DECODE_WORKERS")  # the suite's own
    settings = Settings()
    assert (settings.decode_workers, settings.search_workers, settings.release_threads) == (3, 3, 1)
