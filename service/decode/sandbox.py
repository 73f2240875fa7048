"""What a decode worker is: a spawned process that knows little and may do little.

It maps only so much memory, opens no file but what its own code needs, writes none, reaches no network, leaves no core,
gains no privileges and dies with its parent. The media it works on are opened by the parent and handed over.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import resource
import select
import signal
import site
import socket
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection, context, popen_spawn_posix, process, resource_tracker
from pathlib import Path
from typing import Any

import models
import service
from service.decode.landlock import PR_SET_NO_NEW_PRIVS, restrict
from service.system.child import die_with_parent, limit_memory, lower_limit

PIPE_BYTES = 1 << 20  # the most an unprivileged process may ask for; one clip is 3 MB, the default 64 KB
TICKET_BYTES = 8
HANDOVER_SECONDS = 5.0
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """What one decode worker may use; it is replaced after `max_tasks`, so that nothing leaks for ever.

    It is replaced too after a task that used half of `memory_bytes` or left more than `idle_bytes` in use.
    `memory_bytes` come on top of what a fresh worker maps (with many cores NumPy's thread stacks alone map gigabytes).
    `readable_folders` hold further modules whose functions it is to call. `restricts_files` is False in tests that show
    that Landlock matters.
    """

    memory_bytes: int = 3 << 30
    idle_bytes: int = 256 << 20
    max_open_files: int = 64
    max_tasks: int = 500
    readable_folders: tuple[Path, ...] = ()
    restricts_files: bool = True

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "max_open_files", "max_tasks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def confine_worker(limits: WorkerLimits, parent_pid: int) -> None:
    """Give up, before the first file, what decoding does not need."""
    # A Python handler would wait for the C call that is to be stopped.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lower_limit(resource.RLIMIT_CORE, 0)
    lower_limit(resource.RLIMIT_FSIZE, 0)
    lower_limit(resource.RLIMIT_NOFILE, limits.max_open_files)
    limit_memory(limits.memory_bytes)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before it could be watched
        os._exit(1)
    if limits.restricts_files:
        restrict([*_code_folders(), *limits.readable_folders])


def _code_folders() -> list[Path]:
    """Where Python finds what is imported late: its own modules, installed packages, ours, and C libraries."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    folders = [str(Path(prefix, name)) for prefix in sorted(prefixes) for name in ("lib", "lib64")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), *SYSTEM_LIBRARIES]
    return [Path(folder) for folder in (*folders, *models.__path__, *service.__path__)]


def limit_cpu(more_seconds: float) -> None:
    """Have this process killed by SIGXCPU once it has used so much more CPU time than now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(usage.ru_utime + usage.ru_stime + more_seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


class FilePassage:
    """Hands open files to a worker that may open none: a pair of sockets through which descriptors travel.

    Each file has a ticket, which goes with the task. Files of tasks that were killed before they took theirs are
    dropped by the next.
    """

    def __init__(self) -> None:
        self._sender, self.receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sender.settimeout(HANDOVER_SECONDS)
        self._num_sent = 0

    def send(self, descriptor: int) -> int:
        """Hand a file over; returns its ticket."""
        self._num_sent += 1
        socket.send_fds(self._sender, [self._num_sent.to_bytes(TICKET_BYTES, "big")], [descriptor])
        return self._num_sent

    def is_spent(self) -> bool:
        """Whether the worker has said that its last task took or left too much memory."""
        poll = select.poll()  # `select.select` fails above 1,024 open files
        poll.register(self._sender, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close both ends here; the worker's own stays open."""
        self._sender.close()
        self.receiver.close()


def receive_file(receiver: socket.socket, ticket: int) -> int:
    """Take the file of a ticket, which the caller closes, out of a passage; raises `EOFError` if the parent is gone."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(receiver, TICKET_BYTES, 1)
        if not message:
            raise EOFError("the passage for files is closed")
        if int.from_bytes(message, "big") == ticket:
            return descriptors[0]
        for descriptor in descriptors:
            os.close(descriptor)


_main_lock = threading.Lock()
_main_module = sys.modules["__main__"]


@contextlib.contextmanager
def _hide_main() -> Iterator[None]:
    """Keep a spawned process from importing the program that started it.

    multiprocessing has a child run the parent's main script again: all its imports, and unguarded scripts twice.
    """
    with _main_lock:
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = _main_module


@contextlib.contextmanager
def _blocking_interrupts() -> Iterator[None]:
    """Let a process that starts here ignore Ctrl-C from its first moment, by the mask it inherits from this thread.

    A worker that was still importing, not confined yet, would print a traceback before the command's own message.
    """
    resource_tracker.ensure_running()  # else started in the block, and that lifts the mask
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class _WorkerPopen(popen_spawn_posix.Popen):
    def _launch(self, process_obj: process.BaseProcess) -> None:
        with _hide_main(), _blocking_interrupts():
            super()._launch(process_obj)  # type: ignore[misc]


class _WorkerProcess(context.SpawnProcess):
    def __reduce__(self) -> tuple[Any, ...]:
        return _receive_process, (), self.__dict__

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> _WorkerPopen:  # noqa: N802 - multiprocessing's name
        return _WorkerPopen(process_obj)


def _receive_process() -> _WorkerProcess:
    """Make the process object in the worker. Its fields come next, and with them NumPy."""
    # Threads that start before Landlock is set up would stay outside of it.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    return _WorkerProcess.__new__(_WorkerProcess)


class WorkerContext(context.SpawnContext):
    """The spawn context, with pipes wide enough for a clip."""

    Process = _WorkerProcess

    def Pipe(self, duplex: bool = True) -> tuple[connection.Connection, connection.Connection]:  # noqa: N802
        """Make a pipe whose buffer holds a mebibyte if the system allows it."""
        reader, writer = super().Pipe(duplex)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return reader, writer
