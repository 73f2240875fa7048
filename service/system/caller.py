"""A caller that waits for an answer: until when, and whether it still does.

A request makes one `Caller`, and everything done for the request asks it. When the client hangs up, `leave` drops what
is queued for it; after its deadline nothing further is started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.system.failure import Failure


class CallerGone(Failure):
    """The caller no longer waits for the answer."""

    code = "client_disconnected"


class DeadlinePassed(Failure):
    """The answer was not ready in time; the remaining work is dropped."""

    code = "deadline_passed"


class Caller:
    """Waits for an answer, for at most `timeout_seconds` from now if given. Any thread may use it."""

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
        """Set the deadline, from now."""
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds

    def left_seconds(self) -> float | None:
        """Time until the deadline, 0 after it; None if there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def is_waiting(self, now: float) -> bool:
        """Whether the caller has neither left nor passed its deadline, at a time of the monotonic clock."""
        return not self._is_gone and (self._deadline is None or now < self._deadline)

    def check(self) -> None:
        """Raise `CallerGone` if the caller left, `DeadlinePassed` if its deadline passed."""
        if self._is_gone:
            raise CallerGone("the caller went away before its answer was ready")
        if not self.is_waiting(time.monotonic()):
            raise DeadlinePassed(f"the answer was not ready within {self._timeout_seconds:g} s")

    def leave(self) -> None:
        """Cancel, and call every listener once."""
        with self._lock:
            self._is_gone = True
            listeners, self._on_leave = self._on_leave, []
        for callback in listeners:  # outside the lock: a callback takes locks of its own
            callback()

    @contextmanager
    def telling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call something if the caller leaves inside the block, not if it left before.

        The callback is quick and never raises; it runs in the thread that calls `leave`.
        """
        with self._lock:
            self._on_leave.append(callback)
        try:
            yield
        finally:
            with self._lock:
                if callback in self._on_leave:
                    self._on_leave.remove(callback)
