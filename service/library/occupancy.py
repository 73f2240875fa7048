"""Busy seconds of a stage with several workers: 1 of 2 busy for 3 s, then both for 1 s → 2.5 s."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Occupancy:
    """Busy time of one stage, which works on `num_workers` tasks at once. Any thread may use it."""

    def __init__(self, num_workers: int = 1, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_workers = num_workers
        self._clock = clock
        self._num_tasks = 0
        self._seconds = 0.0
        self._since = clock()
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Count a task that begins."""
        with self._lock:
            self._advance()
            self._num_tasks += 1

    def leave(self) -> None:
        """Count a task that ends."""
        with self._lock:
            self._advance()
            self._num_tasks -= 1

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as a task."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @property
    def seconds(self) -> float:
        """Busy time so far: wall seconds, all workers busy counting as one."""
        with self._lock:
            self._advance()
            return self._seconds

    def _advance(self) -> None:
        now = self._clock()
        self._seconds += (now - self._since) * min(self._num_tasks, self._num_workers) / self._num_workers
        self._since = now
