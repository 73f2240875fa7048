"""What the routes share while the application runs, and how a route gets hold of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Annotated, cast

import anyio
from fastapi import Depends, Request

from service.foley import Foley
from service.http.admission import Admission
from service.http.metrics import Metrics
from service.http.readiness import Readiness
from service.http.upload import UploadFolder
from service.jobs.opening import Jobs
from service.releases.manager import ReleaseManager

NUM_WRITERS = 8  # writes that wait together share a flush


@dataclass(frozen=True, kw_only=True)
class State:
    """The open parts of a running application.

    Attributes:
        foley: Encoder, index and decoder.
        admission: Who may compute now.
        uploads: Where query files live while they are answered.
        readiness: Whether the answers are right.
        metrics: What is counted and timed.
        releases: What builds, switches and measures releases.
        backing_up: Held while a backup is made.
        auditing: Held while the library is audited.
        changing: The thread that switches or deletes releases, which wait for each other and may take minutes: those
            that wait for it take no thread of other requests.
        calibrating: The thread that learns what scores mean, likewise.
        writing: The threads that write to the index, which wait while releases are switched.
        jobs: Work in the background.
    """

    foley: Foley
    admission: Admission
    uploads: UploadFolder
    readiness: Readiness
    metrics: Metrics
    releases: ReleaseManager
    jobs: Jobs
    backing_up: threading.Lock = field(default_factory=threading.Lock)
    auditing: anyio.Lock = field(default_factory=anyio.Lock)
    changing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    calibrating: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    writing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(NUM_WRITERS))


async def get_state(request: Request) -> State:
    """The state of the application that serves this request."""
    return cast(State, request.app.state.shared)


StateOf = Annotated[State, Depends(get_state)]
