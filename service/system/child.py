"""How processes of ours are started, limited, and ended with their parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
MAX_OPEN_FILES = 65_536  # some programs of others close each number that there may be


def start_child(
    module: str,
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    num_blas_threads: int | None = None,
) -> subprocess.Popen[str]:
    """Run a module of ours as a process that does not get the terminal's Ctrl-C.

    It imports nothing from the working directory (-P) and reads no `FOLEY_` variable: its settings come another way.
    Its standard error is that of this process unless `stderr` says otherwise. `num_blas_threads` is for NumPy's
    products: threads that wait for each other cost more than they save where these are small.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if num_blas_threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = str(num_blas_threads)
    return subprocess.Popen(  # noqa: S603 - the command is ours
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        env=environment,
        text=True,
        errors="replace",  # messages of native libraries quote names from files
        start_new_session=True,
    )


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def limit_memory(more_bytes: int) -> None:
    """Limit the address space of this process to what it maps now and `more_bytes` (Linux only)."""
    if sys.platform == "linux":  # by hand: psutil would cost each decode worker 15 ms of imports
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        lower_limit(resource.RLIMIT_AS, num_pages * resource.getpagesize() + more_bytes)


def raise_open_files() -> int:
    """Let this process open as many files as it may, at most 65,536; returns how many these are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, min(hard, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def lower_limit(kind: int, value: int) -> None:
    """Set a limit of this process (`resource.RLIMIT_…`) for good, or keep the one it has if that is lower."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
