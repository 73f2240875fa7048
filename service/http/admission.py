"""Who may work now: a fixed number of requests compute, a few wait, the rest are told to come back.

A client that hangs up gives its place back: it leaves the queue here, and what waits for the encoder in its name
is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from service.system.caller import Caller, CallerGone
from service.system.failure import Failure
from service.system.timing import timed

T = TypeVar("T")

RECENT_SHARE = 0.2  # of the last piece of work in the moving average of what one costs


class Overloaded(Failure):
    """Too many requests wait already, or this one waited too long.

    Args:
        message: Which of the two.
        retry_after_seconds: When the client may try again.

    Attributes:
        headers: What to tell the client beside the error.
    """

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": f"{max(1, round(retry_after_seconds))}"}


class Client:
    """The client of one request, from the end of its body to the answer.

    Args:
        request: The request. When the client is watched, nobody else may read from it.

    Attributes:
        caller: What the work done for the client asks whether to go on.
    """

    def __init__(self, request: Request) -> None:
        self.caller = Caller()
        self._receive = request.receive

    async def watch(self) -> None:
        """Wait until the client hangs up, and let its caller leave then."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.caller.leave()


class Admission:
    """Runs blocking work, so much at a time.

    Args:
        num_workers: Threads that work at the same time.
        max_waiting: Callers that may wait for one.
        max_wait_seconds: How long they may.
        max_work_seconds: How long a client may wait for its answer, that time included.

    Attributes:
        num_waiting: Callers that wait for a thread now.
        num_refused: Callers refused so far.
    """

    def __init__(
        self, *, num_workers: int, max_waiting: int, max_wait_seconds: float, max_work_seconds: float = 300.0
    ) -> None:
        self._semaphore = anyio.Semaphore(num_workers)
        self._threads = anyio.CapacityLimiter(num_workers)
        self._max_waiting = max_waiting
        self._max_wait_seconds = max_wait_seconds
        self._max_work_seconds = max_work_seconds
        self._num_workers = num_workers
        self._work_seconds = 0.0  # a moving average
        self.num_waiting = 0
        self.num_refused = 0

    def check(self) -> None:
        """Refuse early, before a body is read that could not be worked on.

        Raises:
            Overloaded: If the queue is full, or so long that the turn would hardly come in time.
        """  # noqa: DOC502 - raised by `_refuse`
        if self.num_waiting >= self._max_waiting:
            self._refuse(f"{self.num_waiting} requests are waiting already")
        if self._semaphore.value == 0 and self._expected_seconds() > self._max_wait_seconds:
            self._refuse(f"the wait for a worker would be about {self._expected_seconds():.0f} s")

    def _expected_seconds(self) -> float:
        """How long one more request would wait, as work has lasted of late."""
        return self._work_seconds * (self.num_waiting + 1) / self._num_workers

    def _refuse(self, message: str, cause: Exception | None = None) -> NoReturn:
        self.num_refused += 1
        raise Overloaded(message, retry_after_seconds=self._max_wait_seconds) from cause

    async def run_for(self, client: Client, work: Callable[[], T]) -> T:
        """Do blocking work for a client, for as long as it waits for it.

        Args:
            client: Who waits; its body has been read.
            work: What to do. It asks `client.caller` whether to go on.

        Returns:
            What the work returned.

        Raises:
            CallerGone: If the client hangs up first.
            Overloaded: If the queue is full or the turn does not come in time.
        """  # noqa: DOC503 - Overloaded is raised while it waits, and the failure of the work as it is
        client.caller.start_clock(self._max_work_seconds)
        outcome: list[T] = []
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, client, group.cancel_scope)
            try:
                outcome.append(await self.run(work))
            except Exception as exc:  # a task group would wrap it: it is raised below
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not outcome:
            raise CallerGone("the client went away before its turn came")
        return outcome[0]

    async def run(self, work: Callable[[], T]) -> T:
        """Wait for a turn and do blocking work in a thread.

        Args:
            work: What to do; it runs to its end.

        Returns:
            What the work returned.

        Raises:
            Overloaded: If the queue is full or the turn does not come in time.
        """  # noqa: DOC502 - raised while it waits
        with timed("wait"):
            await self._take_turn()
        began = time.monotonic()
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._work_seconds += RECENT_SHARE * (time.monotonic() - began - self._work_seconds)
            self._semaphore.release()

    async def _watch(self, client: Client, scope: anyio.CancelScope) -> None:
        await client.watch()
        scope.cancel()

    async def _take_turn(self) -> None:
        try:
            self._semaphore.acquire_nowait()
            return
        except anyio.WouldBlock:
            self.check()
        self.num_waiting += 1
        try:
            with anyio.fail_after(self._max_wait_seconds):
                await self._semaphore.acquire()
        except TimeoutError as exc:
            self._refuse(f"no worker became free within {self._max_wait_seconds:g} s", exc)
        finally:
            self.num_waiting -= 1
