"""Progress of a job as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    event: progress          whenever something has changed, at most four times a second
    id: running-1767225600500
    data: {"job_id": …}      the job as `GET /v1/jobs/{job_id}` shows it

    event: end               the last one, with the final state; the stream is closed after it

A client that comes back with `Last-Event-ID` gets what changed since then, and 204 after the end, which stops
browsers from asking again. A comment line every 15 s keeps proxies from closing the connection.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import pydantic_core
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.jobs.documents import LiveProgress
from service.jobs.opening import Jobs
from service.jobs.records import JobRecord
from service.system.failure import Failure

LOOK_SECONDS = 0.25
HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 2000

Describe = Callable[[JobRecord, LiveProgress | None], dict[str, Any]]


def event_id(job: JobRecord, live: LiveProgress | None) -> str:
    """Name the state of a job; the name changes with it."""
    if job.has_ended:
        return f"{job.state}-{round((job.ended_at or 0) * 1000)}"
    return f"{job.state}-{live.version if live is not None else 0}"


class TooManyStreams(Failure):
    """The caller follows as many jobs as one key may."""

    code = "too_many_streams"


class _Feed:
    """What all streams of a job share: one look at it, and one text, each LOOK_SECONDS."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._looked_at = -math.inf
        self._seen = ("", b"", False)

    async def look(self, jobs: Jobs, job_id: str, describe: Describe) -> tuple[str, bytes, bool]:
        """Name of the job's state, its event, and whether it is the last."""
        async with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                live = jobs.live(job_id)  # before the job: a job that ended in between has its report
                job = await anyio.to_thread.run_sync(jobs.ledger.get_job, job_id)
                name, kind = event_id(job, live), "end" if job.has_ended else "progress"
                if name != self._seen[0]:
                    self._seen = name, _write_event(kind, name, describe(job, live)), job.has_ended
                self._looked_at = time.monotonic()
            return self._seen


class EventStreams:
    """The streams of events that are open, at most `max_streams` for each API key (or for all who need none)."""

    def __init__(self, jobs: Jobs, *, max_streams: int) -> None:
        self._jobs = jobs
        self._max_streams = max_streams
        self._feeds: WeakValueDictionary[str, _Feed] = (
            WeakValueDictionary()
        )  # each lives as long as its streams
        self._num_open: Counter[str | None] = Counter()

    @contextmanager
    def counted(self, key_id: str | None) -> Iterator[None]:
        """Count one more stream of a key during the block; raises `TooManyStreams`."""
        if self._num_open[key_id] >= self._max_streams:
            raise TooManyStreams(f"{self._max_streams} event streams are open: see FOLEY_MAX_EVENT_STREAMS")
        self._num_open[key_id] += 1
        try:
            yield
        finally:
            self._num_open[key_id] -= 1

    async def follow(
        self, job_id: str, *, last_event_id: str | None, describe: Describe, is_allowed: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Yield a job's events after `last_event_id`, and heartbeats, until it ends or is not allowed any more."""
        yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
        feed = self._feeds.setdefault(job_id, _Feed())
        told, told_at = last_event_id, time.monotonic()
        while is_allowed():
            name, event, has_ended = await feed.look(self._jobs, job_id, describe)
            if name != told:
                yield event
                told, told_at = name, time.monotonic()
            elif time.monotonic() - told_at >= HEARTBEAT_SECONDS:
                yield b": heartbeat\n\n"
                told_at = time.monotonic()
            if has_ended or self._jobs.is_stopping:
                return
            await anyio.sleep(LOOK_SECONDS)


class EventResponse(StreamingResponse):
    """Sends events, counted among the open streams of a key as long as it does."""

    def __init__(self, events: AsyncIterator[bytes], counted: AbstractContextManager[None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them, or raise `TooManyStreams`."""
        with self._counted:
            await super().__call__(scope, receive, send)


def _write_event(kind: str, name: str, document: dict[str, Any]) -> bytes:
    data = pydantic_core.to_json(document, inf_nan_mode="null")  # one line: JSON escapes line breaks
    return b"event: " + kind.encode() + b"\nid: " + name.encode() + b"\ndata: " + data + b"\n\n"
