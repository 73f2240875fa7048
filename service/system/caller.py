"""Whoever waits for an answer: until when, and whether somebody is still there.

A request makes one `Caller` and everything done for it asks it. When its client hangs up, `leave` drops what is
queued for it; when its time is over, nothing further is started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.system.failure import Failure


class CallerGone(Failure):
    """Nobody waits for the answer any more."""

    code = "client_disconnected"


class DeadlinePassed(Failure):
    """The answer was not there in time; what was still to be done for it is dropped."""

    code = "deadline_passed"


class Caller:
    """Somebody who waits. Any thread may use it.

    Args:
        timeout_seconds: How long the caller waits, from now; None for as long as it takes.
    """

    def __init__(self, *, timeout_seconds: float | None = None) -> None:
        self._timeout_seconds: float | None = None
        self._deadline: float | None = None
        self._is_gone = False
        self._lock = threading.Lock()
        self._on_leave: list[Callable[[], None]] = []
        if timeout_seconds is not None:
            self.start_clock(timeout_seconds)

    @property
    def is_gone(self) -> bool:
        """Whether the caller left."""
        return self._is_gone

    def start_clock(self, timeout_seconds: float) -> None:
        """Wait so long from now and no longer.

        Args:
            timeout_seconds: How long.
        """
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds

    def left_seconds(self) -> float | None:
        """Time until the deadline, 0 after it; None where there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def is_waiting(self, now: float) -> bool:
        """Whether it is worth working for the caller.

        Args:
            now: The time, on the monotonic clock.

        Returns:
            False when the caller left or its deadline passed.
        """
        return not self._is_gone and (self._deadline is None or now < self._deadline)

    def check(self) -> None:
        """Stop work that nobody waits for.

        Raises:
            CallerGone: If the caller left.
            DeadlinePassed: If its time is over.
        """
        if self._is_gone:
            raise CallerGone("the caller went away before its answer was ready")
        if not self.is_waiting(time.monotonic()):
            raise DeadlinePassed(f"the answer was not ready within {self._timeout_seconds:g} s")

    def leave(self) -> None:
        """Wait no longer: everybody who asked to be told is told, once."""
        with self._lock:
            self._is_gone = True
            told, self._on_leave = self._on_leave, []
        for callback in told:  # outside the lock: a callback takes locks of its own
            callback()

    @contextmanager
    def telling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call something when the caller leaves inside the block. One that left before is told nothing.

        Args:
            callback: Quick, and never raises; it runs in the thread that calls `leave`.

        Yields:
            Nothing.
        """
        with self._lock:
            self._on_leave.append(callback)
        try:
            yield
        finally:
            with self._lock:
                if callback in self._on_leave:
                    self._on_leave.remove(callback)
