"""What a hostile file may make a decode worker do; run by name in the workers of test_decoding.py."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.media.clip import EmptyFile


def worker_pid() -> int:
    return os.getpid()


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def mark_and_sleep(folder: str, seconds: float) -> None:
    (Path(folder) / str(os.getpid())).touch()  # an empty file: the limit is on bytes
    time.sleep(seconds)


def spin() -> None:
    while True:
        pass


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def exit_at_once(code: int) -> None:
    os._exit(code)


def allocate(num_bytes: int) -> int:
    return np.empty(num_bytes, np.uint8).nbytes


kept: list[NDArray[np.uint8]] = []


def use_memory(num_bytes: int, end: str) -> int:
    """Touch memory, and give it back (or keep it) before the task ends."""
    used = np.ones(num_bytes, np.uint8)
    if end == "keep":
        kept.append(used)
    del used
    if end == "raise":
        raise EmptyFile("as after a bomb")
    return os.getpid()


def send_half_and_die(num_bytes: int) -> NDArray[np.uint8]:
    """Be killed halfway through sending the result, the worst moment: the lock is held, the message torn."""

    def send_half(self: Connection, data: memoryview) -> None:
        os.write(self.fileno(), data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = send_half
    return np.zeros(num_bytes, np.uint8)


def write_file(path: str) -> int:
    return Path(path).write_bytes(b"x" * 4096)


def open_many(count: int) -> int:
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    return len(descriptors)


def fail_oddly() -> None:
    raise KeyError("a bug that one odd file found")


def main_file() -> str | None:
    return getattr(sys.modules["__main__"], "__file__", None)


def loaded_modules() -> list[str]:
    return sorted(sys.modules)


def double(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([values, values])


def attempt(action: str, *args: str) -> str:
    """What the kernel says to an attempt to reach out: `allowed`, or the name of the error."""
    try:
        ATTEMPTS[action](*args)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, "no number")
    return "allowed"


def _connect(port: str) -> None:
    socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()


def _listen() -> None:
    socket.create_server(("127.0.0.1", 0)).close()


def _execute(path: str) -> None:
    subprocess.run([path], check=True)


ATTEMPTS: dict[str, Callable[..., object]] = {
    "read": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "list": lambda path: list(Path(path).iterdir()),
    "write": lambda path: os.close(os.open(path, os.O_WRONLY)),
    "create": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)),
    "rename": lambda path: Path(path).rename(path + ".new"),
    "remove": os.unlink,
    "truncate": lambda path: os.truncate(path, 0),
    "link": lambda path: Path(path + ".link").symlink_to(path),
    "execute": _execute,
    "connect": _connect,
    "listen": _listen,
    "signal": lambda pid: os.kill(int(pid), 0),
}
