"""Decodes untrusted files in worker processes with limits, which may crash or hang without harm.

A task that overruns its wall-clock or CPU time is killed with its worker, and a fresh worker takes the next file. What
a worker may do is in `service.decode.sandbox`; the file of a task is opened here and handed over.
"""

from __future__ import annotations

import functools
import logging
import math
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from models.media.clip import ClipSpec, DecodedMedia, DecodeLimits, MediaSource, decode_segments
from service.decode.landlock import describe_landlock
from service.decode.lane import Deaths, DecoderClosed, Lane, Task
from service.decode.sandbox import WorkerLimits
from service.system.timing import timed

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_LIMITS = DecodeLimits()

logger = logging.getLogger(__name__)


class Decoder:
    """Decodes media files in sandboxed worker processes, started by the first tasks. Any thread may call it."""

    def __init__(self, *, num_workers: int = 2, limits: WorkerLimits | None = None) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        _warn_of_landlock()
        self.num_workers = num_workers
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._deaths = Deaths()
        self._lanes = [Lane(self._tasks, limits or WorkerLimits(), self._deaths) for _ in range(num_workers)]
        for lane in self._lanes:
            lane.start()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        path: Path | str,
        spec: ClipSpec,
        *,
        first: int = 0,
        count: int | None = None,
        modalities: Collection[Literal["audio", "video"]] = ("audio", "video"),
        limits: DecodeLimits = DEFAULT_LIMITS,
        timeout_seconds: float = 60.0,
        hashes_packets: bool = False,
        with_preview: bool = False,
        sidecar: bytes = b"",
        follows_links: bool = True,
    ) -> Future[DecodedMedia]:
        """Cut a file into segments and decode at most `count` of them; see `models.media.clip.decode_segments`.

        Returns at once. The future raises an `UnreadableClip` if the file cannot be used, and a `DecodeFailure` if the
        work timed out, its worker crashed or the decoder was closed. `timeout_seconds` limits wall-clock and CPU time;
        waiting for a worker is not counted. For `follows_links` see `models.media.clip.open_regular`.
        """
        arguments = {
            "first": first,
            "count": count,
            "limits": limits,
            "modalities": tuple(modalities),
            "hashes_packets": hashes_packets,
            "with_preview": with_preview,
            "sidecar": sidecar,
        }
        return self._enqueue(
            decode_segments, (spec,), arguments, timeout_seconds, file=Path(path), follows_links=follows_links
        )

    def read(
        self,
        source: MediaSource,
        function: Callable[Concatenate[MediaSource, P], R],
        timeout_seconds: float,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run any importable function on a file, in a sandboxed worker, and wait; errors are those of `submit`.

        The function gets the descriptor of the open file first; arguments and result are pickled. A `source` that is
        a descriptor stays open until then.
        """
        with timed("decode"):
            file = source if isinstance(source, int) else Path(source)
            future: Future[R] = self._enqueue(function, args, kwargs, timeout_seconds, file=file)
            return future.result()

    def call(
        self, function: Callable[P, R], timeout_seconds: float, /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run any importable function that needs no file in a sandboxed worker, and wait; see `read`."""
        with timed("decode"):
            future: Future[R] = self._enqueue(function, args, kwargs, timeout_seconds)
            return future.result()

    def deaths(self) -> Mapping[str, int]:
        """How many workers files have cost so far: `timed_out`, `crashed`, `failed`."""
        return self._deaths.read()

    def close(self) -> None:
        """Kill the workers; calls that wait or run end with `DecoderClosed`. Safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        for _ in self._lanes:
            self._tasks.put(None)
        for lane in self._lanes:
            lane.stop()
        for lane in self._lanes:
            lane.join()
        while not self._tasks.empty():
            task = self._tasks.get()
            if task is not None and task.future.set_running_or_notify_cancel():
                task.future.set_exception(
                    DecoderClosed("the decoder was closed before this file's turn came")
                )

    def _enqueue(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout_seconds: float,
        *,
        file: Path | int | None = None,
        follows_links: bool = True,
    ) -> Future[Any]:
        if not (timeout_seconds > 0 and math.isfinite(timeout_seconds)):
            raise ValueError(f"timeout_seconds must be positive and finite, got {timeout_seconds}")
        future: Future[Any] = Future()
        task = Task(
            file=file.absolute() if isinstance(file, Path) else file,
            follows_links=follows_links,
            future=future,
            function=function,
            args=args,
            kwargs=kwargs,
            timeout_seconds=timeout_seconds,
        )
        with self._lock:
            if self._is_closed:
                raise DecoderClosed("the decoder is closed")
            self._tasks.put(task)
        return future


@functools.cache
def _warn_of_landlock() -> None:
    """Warn once in a process of what this kernel cannot keep the workers from."""
    if (weakness := describe_landlock()) is not None:
        logger.warning(weakness)
