"""Progress of a job as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    event: progress          whenever something has changed, at most four times a second
    id: running-1767225600500
    data: {"job_id": …}      the job as `GET /v1/jobs/{job_id}` shows it

    event: end               the last one, with the final state; the stream is closed after it

A client that comes back with `Last-Event-ID` gets what changed since then, and 204 after the end, which stops
browsers from asking again. A comment line every 15 s keeps proxies from closing the connection.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
import pydantic_core

from service.jobs.documents import LiveProgress
from service.jobs.opening import Jobs
from service.jobs.records import JobRecord

LOOK_SECONDS = 0.25
HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 2000

Describe = Callable[[JobRecord, LiveProgress | None], dict[str, Any]]


def event_id(job: JobRecord, live: LiveProgress | None) -> str:
    """Name the state of a job; the name changes with it."""
    if job.has_ended:
        return f"{job.state}-{round((job.ended_at or 0) * 1000)}"
    return f"{job.state}-{live.version if live is not None else 0}"


async def stream_events(
    jobs: Jobs, job_id: str, *, last_event_id: str | None, describe: Describe
) -> AsyncIterator[bytes]:
    """Yield the events of a job after `last_event_id`, and heartbeats, until it or the service ends."""
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    told, told_at = last_event_id, time.monotonic()
    while True:
        live = jobs.live(job_id)  # before the job: a job that ended in between has its report
        job = await anyio.to_thread.run_sync(jobs.ledger.get_job, job_id)
        name = event_id(job, live)
        if name != told:
            yield _write_event("end" if job.has_ended else "progress", name, describe(job, live))
            told, told_at = name, time.monotonic()
        elif time.monotonic() - told_at >= HEARTBEAT_SECONDS:
            yield b": heartbeat\n\n"
            told_at = time.monotonic()
        if job.has_ended or jobs.is_stopping:
            return
        await anyio.sleep(LOOK_SECONDS)


def _write_event(kind: str, name: str, document: dict[str, Any]) -> bytes:
    data = pydantic_core.to_json(document, inf_nan_mode="null")  # one line: JSON escapes line breaks
    return b"event: " + kind.encode() + b"\nid: " + name.encode() + b"\ndata: " + data + b"\n\n"
