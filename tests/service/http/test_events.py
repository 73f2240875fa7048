"""Streams of events: one look at a job for all who follow it, a limit for each key, and an end with the key's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from service.http import events
from service.http.events import EventStreams, TooManyStreams
from service.jobs.documents import LiveProgress
from service.jobs.ledger import Ledger
from service.jobs.records import JobRecord


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def open_streams(ledger: Ledger, *, max_streams: int = 64) -> EventStreams:
    jobs: Any = SimpleNamespace(ledger=ledger, live=lambda _: None, is_stopping=False)
    return EventStreams(jobs, max_streams=max_streams)


def describe(job: JobRecord, live: LiveProgress | None) -> dict[str, Any]:
    return {"state": job.state}


async def read(
    streams: EventStreams, job_id: str, is_allowed: Callable[[], bool] = lambda: True
) -> list[bytes]:
    following = streams.follow(job_id, last_event_id=None, describe=describe, is_allowed=is_allowed)
    return [piece async for piece in following]


def test_all_streams_of_a_job_share_one_look(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.05)
    job_id = ledger.create_job("index", {}).job.job_id
    get_job, looks, found = ledger.get_job, [], []

    def look(job_id: str) -> JobRecord:
        looks.append(job_id)
        if len(looks) == 3:
            ledger.end_job(job_id, "cancelled", report=None)
        return get_job(job_id)

    monkeypatch.setattr(ledger, "get_job", look)
    streams = open_streams(ledger)

    async def follow_all() -> None:
        async def follow() -> None:
            found.append(await read(streams, job_id))

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(follow)

    anyio.run(follow_all)
    assert len(looks) < 10, "each stream looked by itself"
    assert [b"event: end" in pieces[-1] for pieces in found] == [True] * 100
    assert all(pieces == found[0] for pieces in found)
    assert len(streams._feeds) == 0, "nothing is kept of a job that nobody follows"


def test_a_key_has_so_many_streams(ledger: Ledger) -> None:
    streams = open_streams(ledger, max_streams=2)
    full = "2 event streams are open: see FOLEY_MAX_EVENT_STREAMS"
    with ExitStack() as stack:
        for key_id in ("a", "a", "b", None):
            stack.enter_context(streams.counted(key_id))
        with pytest.raises(TooManyStreams, match=full):
            stack.enter_context(streams.counted("a"))
    with streams.counted("a"), streams.counted("a"):
        pass


def test_a_stream_ends_with_its_right(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.0)
    job_id = ledger.create_job("index", {}).job.job_id
    allowed = iter([True, True, False])
    pieces = anyio.run(read, open_streams(ledger), job_id, lambda: next(allowed))
    assert len(pieces) == 2
    assert next(allowed, math.inf) == math.inf
