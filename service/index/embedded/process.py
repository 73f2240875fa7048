"""The service's end of the shard process: start it, send requests from many threads, notice its death.

`service.index.embedded.shard_process` is the other end and says how the two talk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from concurrent.futures import Future
from contextvars import Context, copy_context
from multiprocessing.connection import Connection
from typing import Any

from service.index.embedded.messages import ShardConfig
from service.index.failure import IndexFailure, IndexUnavailable
from service.system.child import start_child
from service.system.logs import child_options
from service.system.timing import report

logger = logging.getLogger(__name__)

OPEN_SECONDS = 300.0  # a long log is replayed
CLOSE_SECONDS = 60.0


class ShardProcessDied(IndexUnavailable):
    """The shard process ended while a call waited for it."""


class ShardProcess:
    """A running process that has opened the shard. When it has died, it stays dead: start another.

    It keeps `lock_fd`, the folder's lock, open too, and is killed if it does not take a request in `send_seconds`.
    Raises `IndexUnavailable` if it cannot start or is silent, or its `IndexFailure` if it cannot open the shard.
    """

    def __init__(self, config: ShardConfig, *, lock_fd: int, send_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        try:
            self._child = start_child(
                "service.index.embedded.shard_process",
                str(theirs.fileno()),
                str(lifeline_read),
                *child_options(),
                pass_fds=(theirs.fileno(), lifeline_read, lock_fd),
                num_blas_threads=1,
            )
        except OSError as exc:
            ours.close()
            os.close(self._lifeline)
            raise IndexUnavailable(f"the shard process could not start: {exc}") from exc
        finally:
            theirs.close()
            os.close(lifeline_read)
        timeout = struct.pack("ll", int(send_seconds), int(send_seconds % 1 * 1e6))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Future[Any], Context]] = {}
        self._number = 0
        self._is_dead = False
        self._is_killed = False
        self.answered_at = time.monotonic()
        try:
            self._open(config)
        except BaseException:
            self.kill()
            self._release()
            raise
        self._reader = threading.Thread(target=self._read, name="shard-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not (self._is_dead or self._is_killed) and self._child.poll() is None

    def _open(self, config: ShardConfig) -> None:
        try:
            self._connection.send(config)
            if not self._connection.poll(OPEN_SECONDS):
                raise IndexUnavailable(f"the shard process did not open {config.folder} in {OPEN_SECONDS} s")
            failure: IndexFailure | None = self._connection.recv()
        except (EOFError, OSError) as exc:
            code = self._child.wait()
            # One that was killed from outside may be replaced by another. One that ended by itself would end again.
            kind = IndexUnavailable if code < 0 else IndexFailure
            raise kind(
                f"the shard process could not open {config.folder}: it ended with code {code}"
            ) from exc
        if failure:
            raise failure

    def submit(self, method: str, *arguments: Any) -> Future[Any]:
        """Call a method of `Shard`; this, or the future, fails with `ShardProcessDied` if the process ends first."""
        future: Future[Any] = Future()
        with self._lock:
            if self._is_dead:
                raise ShardProcessDied("the shard process has ended")
            self._number += 1
            self._waiting[self._number] = future, copy_context()
            try:
                self._connection.send((self._number, method, arguments))
            except OSError as exc:  # dead, or stuck for send_seconds with half a request in the socket
                del self._waiting[self._number]
                self.kill()
                raise ShardProcessDied(f"the shard process takes no requests: {exc}") from exc
        return future

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, value, failure, times = self._connection.recv()
                self.answered_at = time.monotonic()
                future, context = self._waiting.pop(number)
                for stage, seconds in times:  # to the collector of the caller
                    context.run(report, stage, seconds)
                if failure:
                    future.set_exception(failure)
                else:
                    future.set_result(value)
        self.kill()
        code = self._child.wait()
        with self._lock:
            self._is_dead = True
            waiting, self._waiting = list(self._waiting.values()), {}
            self._release()
        for future, _ in waiting:
            future.set_exception(ShardProcessDied(f"the shard process ended with code {code}"))

    def _release(self) -> None:
        self._connection.close()
        os.close(self._lifeline)
        self._child.wait()

    def kill(self) -> None:
        """End the process now. What it acknowledged is safe in its log."""
        self._is_killed = True
        self._child.kill()

    def close(self) -> None:
        """Let the process answer what waits, flush and end; kill it if that takes too long."""
        with self._lock, contextlib.suppress(OSError):
            if not self._is_dead:
                self._connection.send(None)
        self._reader.join(CLOSE_SECONDS)
        if self._reader.is_alive():
            logger.warning("the shard process did not stop in %s s: killing it", CLOSE_SECONDS)
            self.kill()
            self._reader.join()
