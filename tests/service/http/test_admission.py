"""Overload: some work, few wait, the rest are told to come back; nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter

import anyio
import pytest

from service.http.admission import Admission, Overloaded


def test_work_runs_in_threads_and_returns() -> None:
    async def main() -> None:
        admission = Admission(num_workers=2, max_waiting=0, max_wait_seconds=1)
        assert await admission.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await admission.run(lambda: 1 // 0)
        # A failure gives its place back.
        assert [await admission.run(lambda: 7) for _ in range(5)] == [7] * 5

    anyio.run(main)


def test_overload() -> None:
    running, peak, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.2)
        with lock:
            running -= 1

    async def main() -> Counter[str]:
        admission = Admission(num_workers=2, max_waiting=3, max_wait_seconds=5)
        outcomes: Counter[str] = Counter()

        async def call() -> None:
            try:
                await admission.run(work)
                outcomes["done"] += 1
            except Overloaded as exc:
                outcomes[f"refused, {exc.headers['Retry-After']} s"] += 1

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(call)
        admission.check()
        return outcomes

    assert anyio.run(main) == {"done": 5, "refused, 5 s": 5}
    assert peak == 2


def test_nobody_waits_for_ever() -> None:
    release = threading.Event()

    async def main() -> None:
        admission = Admission(num_workers=1, max_waiting=1, max_wait_seconds=0.1)
        async with anyio.create_task_group() as group:
            group.start_soon(admission.run, release.wait)
            await anyio.sleep(0.05)
            with pytest.raises(Overloaded, match=r"within 0\.1 s"):
                await admission.run(lambda: None)
            release.set()
        await admission.run(lambda: None)

    anyio.run(main)


def test_who_would_hardly_get_a_turn_is_told_at_once() -> None:
    """Work of 0.3 s, one worker, 0.5 s of patience: the second in the queue would wait 0.6 s."""
    release = threading.Event()

    async def main() -> None:
        admission = Admission(num_workers=1, max_waiting=10, max_wait_seconds=0.5)
        for _ in range(30):
            admission._work_seconds += 0.2 * (0.3 - admission._work_seconds)
        admission.check()  # the worker is free: nobody waits
        async with anyio.create_task_group() as group:
            group.start_soon(admission.run, release.wait)
            await anyio.sleep(0.05)
            group.start_soon(admission.run, lambda: None)
            await anyio.sleep(0.05)
            began = time.monotonic()
            with pytest.raises(Overloaded, match="the wait for a worker would be about 1 s"):
                await admission.run(lambda: None)
            assert time.monotonic() - began < 0.1
            assert (admission.num_waiting, admission.num_refused) == (1, 1)
            release.set()

    anyio.run(main)
