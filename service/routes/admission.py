"""Who may work now: a fixed number of requests compute, a few wait, the rest are told to come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class Overloaded(Exception):
    """Too many requests wait already, or this one waited too long.

    Args:
        message: Which of the two.
        retry_after_seconds: When the client may try again.

    Attributes:
        headers: What to tell the client beside the error.
    """

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": f"{max(1, round(retry_after_seconds))}"}


class Admission:
    """Runs blocking work, so much at a time.

    Args:
        num_workers: Threads that work at the same time.
        max_waiting: Callers that may wait for one.
        max_wait_seconds: How long they may.
    """

    def __init__(self, *, num_workers: int, max_waiting: int, max_wait_seconds: float) -> None:
        self._semaphore = anyio.Semaphore(num_workers)
        self._threads = anyio.CapacityLimiter(num_workers)
        self._max_waiting = max_waiting
        self._max_wait_seconds = max_wait_seconds
        self._num_waiting = 0

    def check(self) -> None:
        """Refuse early, before a body is read that could not be worked on.

        Raises:
            Overloaded: If the queue is full.
        """
        if self._num_waiting >= self._max_waiting:
            raise Overloaded(
                f"{self._num_waiting} requests are waiting already",
                retry_after_seconds=self._max_wait_seconds,
            )

    async def run(self, work: Callable[[], T]) -> T:
        """Wait for a turn and do blocking work in a thread.

        Args:
            work: What to do; it runs to its end even when the client goes away.

        Returns:
            What the work returned.

        Raises:
            Overloaded: If the queue is full or the turn does not come in time.
        """  # noqa: DOC502 - raised while it waits
        await self._take_turn()
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._semaphore.release()

    async def _take_turn(self) -> None:
        try:
            self._semaphore.acquire_nowait()
            return
        except anyio.WouldBlock:
            self.check()
        self._num_waiting += 1
        try:
            with anyio.fail_after(self._max_wait_seconds):
                await self._semaphore.acquire()
        except TimeoutError as exc:
            raise Overloaded(
                f"no worker became free within {self._max_wait_seconds:g} s",
                retry_after_seconds=self._max_wait_seconds,
            ) from exc
        finally:
            self._num_waiting -= 1
