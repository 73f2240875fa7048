"""Who may compute now: a fixed number of requests work, a few wait, the rest are refused and told when to try again.

A client that hangs up gives its place back: it leaves the queue here, and its work that waits for the encoder is
dropped.
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
    """Too many requests wait already, or this one waited too long; `headers` says when to try again."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": f"{max(1, round(retry_after_seconds))}"}


class Client:
    """The client of one request, after its body; do not read from the request elsewhere while it is watched."""

    def __init__(self, request: Request) -> None:
        self.caller = Caller()
        self._receive = request.receive

    async def watch(self) -> None:
        """Wait until the client hangs up, and cancel its caller then."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.caller.leave()


class Admission:
    """Runs blocking work in `num_workers` threads; `max_waiting` callers may wait for one.

    A caller waits at most `max_wait_seconds` for a thread, and `max_work_seconds` for its answer, that wait included.
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
        """Raise `Overloaded` early, before a body is read: if the queue is full or the wait would be too long."""
        if self.num_waiting >= self._max_waiting:
            self._refuse(f"{self.num_waiting} requests are waiting already")
        if self._semaphore.value == 0 and self._expected_seconds() > self._max_wait_seconds:
            self._refuse(f"the wait for a worker would be about {self._expected_seconds():.0f} s")

    def _expected_seconds(self) -> float:
        """How long one more request would wait, judging by how long recent work took."""
        return self._work_seconds * (self.num_waiting + 1) / self._num_workers

    def _refuse(self, message: str, cause: Exception | None = None) -> NoReturn:
        self.num_refused += 1
        raise Overloaded(message, retry_after_seconds=self._max_wait_seconds) from cause

    async def run_for(self, client: Client, work: Callable[[], T]) -> T:
        """Do blocking work for a client whose body has been read, as long as the client waits for it.

        The work asks `client.caller` whether to go on. Raises `CallerGone` if the client hangs up first, `Overloaded`
        if the queue is full or the turn does not come in time, and whatever the work raises.
        """
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
        """Wait for a turn and do blocking work in a thread; raises `Overloaded` if the turn does not come in time."""
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
