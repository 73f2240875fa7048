"""One worker process for decoding, and the thread that feeds it.

Each worker has a pool (Pebble) of its own. Workers of one Pebble pool share a pipe and its lock: one that is
killed while it sends leaves the lock held and half a message in the pipe, and the others wait for ever.
"""

from __future__ import annotations

import contextlib
import operator
import os
import queue
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from models.media.clip import UnreadableClip, open_regular
from service.decode.sandbox import (
    FilePassage,
    WorkerContext,
    WorkerLimits,
    confine_worker,
    limit_cpu,
    receive_file,
)
from service.system.failure import Failure

START_GRACE_SECONDS = 60.0  # a spawned worker takes 0.3 s to import NumPy and PyAV on an idle machine


class DecodeFailure(Failure):
    """A file could not be decoded for a reason outside its bytes. Subclasses say which."""

    code = "decoder_unavailable"


class DecodeTimedOut(DecodeFailure):
    """Decoding took longer than its limit and was killed."""

    code = "decode_timed_out"


class DecoderCrashed(DecodeFailure):
    """The worker died, ran out of memory or failed in a way no decoder should."""

    code = "decoder_crashed"
    is_public = False


class DecoderClosed(DecodeFailure):
    """The decoder was closed before the file's turn came."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call that waits for a worker, and the future of its outcome; `file` goes before its arguments."""

    file: Path | int | None
    follows_links: bool  # above the file's name
    future: Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout_seconds: float


class Deaths:
    """Counts the workers that a file killed. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter(timed_out=0, crashed=0, failed=0)

    def count(self, reason: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[reason] += 1

    def read(self) -> dict[str, int]:
        """The counts now."""
        with self._lock:
            return dict(self._counts)


class Lane(threading.Thread):
    """Feeds one worker, one task at a time.

    The thread also keeps the worker alive: Linux sends a child its parent-death signal when the thread that
    started it ends, so workers must not be started by threads that come and go.
    """

    def __init__(self, tasks: queue.SimpleQueue[Task | None], limits: WorkerLimits, deaths: Deaths) -> None:
        super().__init__(name="decode-lane", daemon=True)
        self._tasks = tasks
        self._limits = limits
        self._deaths = deaths
        self._pool: ProcessPool | None = None
        self._passage: FilePassage | None = None
        self._lock = threading.Lock()  # between `stop` and the start of a task
        self._running: Future[Any] | None = None
        self._is_stopping = False

    def run(self) -> None:
        """Take tasks until `stop` is called."""
        while not self._is_stopping:
            task = self._tasks.get()
            if task is None:
                break
            if task.future.set_running_or_notify_cancel():
                try:
                    outcome = self._execute(task)
                except BaseException as exc:  # every outcome belongs to the caller that waits for the future
                    task.future.set_exception(exc)
                else:
                    task.future.set_result(outcome)
        self._discard_pool(wait=True)

    def stop(self) -> None:
        """Kill the task that runs, if any, and end the thread soon after."""
        with self._lock:
            self._is_stopping = True
            if self._running is not None:
                self._running.cancel()

    def _execute(self, task: Task) -> Any:
        for is_retry in (False, True):
            try:
                return self._attempt(task)
            except BrokenProcessPool as exc:
                # The worker died before it took the task, while idle or at its start: not the file's fault.
                self._discard_pool()
                if is_retry:
                    raise DecoderCrashed("no decode worker could be started") from exc
        raise AssertionError("the second attempt returns or raises")

    def _attempt(self, task: Task) -> Any:
        with _open_file(task) as descriptor:
            running = self._schedule(task, descriptor)
        try:
            return running.result(timeout=task.timeout_seconds + START_GRACE_SECONDS)
        except TimeoutError as exc:
            self._deaths.count("timed_out")
            self._discard_pool()
            raise DecodeTimedOut(
                f"decoding took longer than {task.timeout_seconds:g} s and was stopped"
            ) from exc
        except ProcessExpired as exc:
            self._discard_pool()
            failure = _explain_death(exc.exitcode, task.timeout_seconds)
            self._deaths.count("timed_out" if isinstance(failure, DecodeTimedOut) else "crashed")
            raise failure from exc
        except DecoderCrashed:
            self._deaths.count("failed")
            self._discard_pool()  # after a failed allocation the heap is not worth keeping
            raise
        except CancelledError as exc:
            raise DecoderClosed("the decoder was closed while it decoded this file") from exc
        finally:
            if self._passage is not None and self._passage.is_spent():
                self._discard_pool()

    def _schedule(self, task: Task, descriptor: int | None) -> Future[Any]:
        with self._lock:
            if self._is_stopping:
                raise DecoderClosed("the decoder was closed before this file's turn came")
            if self._pool is None or self._passage is None:
                self._passage = FilePassage()
                self._pool = self._start_pool(self._passage)
            try:
                ticket = None if descriptor is None else self._passage.send(descriptor)
                running: Future[Any] = self._pool.schedule(
                    _run_task,
                    args=(ticket, task.function, task.args, task.kwargs, task.timeout_seconds),
                    timeout=task.timeout_seconds,
                )
            except (RuntimeError, OSError) as exc:
                raise BrokenProcessPool("the worker died while it was idle") from exc
            self._running = running
        return running

    def _start_pool(self, passage: FilePassage) -> ProcessPool:
        return ProcessPool(
            max_workers=1,
            max_tasks=self._limits.max_tasks,
            initializer=_prepare_worker,
            initargs=(self._limits, os.getpid(), passage.receiver),
            context=WorkerContext(),
        )

    def _discard_pool(self, *, wait: bool = False) -> None:
        pool, passage, self._pool, self._passage = self._pool, self._passage, None, None
        if pool is None or passage is None:
            return
        pool.stop()  # type: ignore[no-untyped-call]
        joiner = threading.Thread(target=_bury, args=(pool, passage), name="decode-discard", daemon=True)
        joiner.start()
        if wait:
            joiner.join(START_GRACE_SECONDS)


def _bury(pool: ProcessPool, passage: FilePassage) -> None:
    pool.join()
    passage.close()  # not before: the pool may be starting a worker with it


@contextlib.contextmanager
def _open_file(task: Task) -> Iterator[int | None]:
    if task.file is None:
        yield None
        return
    with open_regular(task.file, follows_links=task.follows_links) as (descriptor, _):
        yield descriptor


def _explain_death(exit_code: int, timeout_seconds: float) -> DecodeFailure:
    if exit_code == -signal.SIGXCPU:
        return DecodeTimedOut(f"decoding took more than {timeout_seconds:g} s of CPU time and was stopped")
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return DecoderCrashed(f"the decode worker was killed by {signal.Signals(-exit_code).name}")
    return DecoderCrashed(f"the decode worker ended with exit code {exit_code}")


# In a worker: where the files of its tasks come in, its memory as the kernel shows it, and how much is too much.
_files: socket.socket | None = None
_status: int | None = None
_max_memory: Sequence[int] = ()


def _prepare_worker(limits: WorkerLimits, parent_pid: int, files: socket.socket) -> None:
    """Confine a new worker. To find this function it has imported NumPy and PyAV: they are not counted."""
    global _files, _status, _max_memory
    _files = files
    with contextlib.suppress(OSError):
        _status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    fresh = _read_memory()
    _max_memory = [
        now + more for now, more in zip(fresh, (limits.memory_bytes // 2, limits.idle_bytes), strict=False)
    ]
    confine_worker(limits, parent_pid)


def _read_memory() -> list[int]:
    """Most resident memory so far and resident memory now, bytes; nothing if the kernel does not say."""
    text = b"" if _status is None else os.pread(_status, 1 << 14, 0)
    return [int(kib) << 10 for name in (b"VmHWM", b"VmRSS") for kib in re.findall(name + rb":\s*(\d+)", text)]


def _run_task(
    ticket: int | None,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout_seconds: float,
) -> Any:
    """Call the function under a CPU limit; every error leaves as one that the parent knows."""
    limit_cpu(timeout_seconds)
    try:
        with _receive_file(ticket) as file:
            return function(*file, *args, **kwargs)
    except UnreadableClip:
        raise
    except MemoryError as exc:
        raise DecoderCrashed("decoding needs more memory than a worker may use") from exc
    except Exception as exc:  # a bug that one odd file found must not end the job that met it
        raise DecoderCrashed(f"the decoder failed: {type(exc).__name__}: {exc}") from exc
    finally:
        if _files is not None and any(map(operator.gt, _read_memory(), _max_memory)):
            _files.send(b"!")  # before the outcome is sent; see `FilePassage.is_spent`


@contextlib.contextmanager
def _receive_file(ticket: int | None) -> Iterator[tuple[int, ...]]:
    if ticket is None:
        yield ()
        return
    assert _files is not None
    descriptor = receive_file(_files, ticket)
    try:
        yield (descriptor,)
    finally:
        os.close(descriptor)
