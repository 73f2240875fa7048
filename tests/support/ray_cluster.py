"""Machines of a Ray cluster for tests, as processes on this one: started, killed, started again.

with RayNode(folder, head=None) as head, RayNode(folder, head=head, host="127.0.0.3") as other: ...

Each has one core, and an environment of its own: what Foley's workers there read. They listen on loopback or in a
network namespace, and tell nothing to anybody.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.support.paths import REPOSITORY
from tests.support.serving import find_free_port

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray, of the extra `cluster`")


class RayNode:
    """One machine; `before` is what runs its commands, like `ip netns exec`, and `cores` those it is kept to."""

    def __init__(
        self,
        environment: Mapping[str, object],
        *,
        head: RayNode | None = None,
        host: str = "127.0.0.2",  # Ray takes the first for another address of the machine
        before: Sequence[str] = (),
        num_cpus: int = 1,
        cores: str = "",
    ) -> None:
        self.host = host
        self.before = tuple(before)
        self.port = head.port if head else find_free_port()
        self.address = head.address if head else f"{host}:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))  # paths of sockets must be short
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")},
            "PYTHONPATH": str(REPOSITORY),
            "RAY_USAGE_STATS_ENABLED": "0",
            **{f"FOLEY_{name}": str(value) for name, value in environment.items()},
        }
        alone = ["--head", "--port", str(self.port), "--include-dashboard", "false"]
        role = ["--address", head.address] if head else alone
        self._command = [
            *before,
            *(["taskset", "-c", cores] if cores else []),
            str(Path(sys.executable).with_name("ray")),
            *("start", "--block", *role, "--node-ip-address", host, "--num-cpus", str(num_cpus)),
            *("--disable-usage-stats", "--include-log-monitor", "false"),
            *("--object-store-memory", str(100 << 20), "--temp-dir", str(self.folder)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it; see `is_ready`."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def is_ready(self) -> bool:
        """Whether it runs and has joined; fails if it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self.log()[-3000:]
        return "Ray runtime started" in self.log()

    def processes(self) -> list[psutil.Process]:
        """All that run on it."""
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [
                psutil.Process(self._process.pid),
                *psutil.Process(self._process.pid).children(recursive=True),
            ]
        return []

    def workers(self) -> list[psutil.Process]:
        """The processes of Foley's workers on it."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "ray::Worker" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """End all that runs on it as a power cut would."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text(errors="replace")
