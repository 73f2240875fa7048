"""What the routes share while the application runs, and how a route gets it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Annotated, cast

import anyio
from fastapi import Depends, Request

from service.foley import Foley
from service.http.admission import Admission
from service.http.events import EventStreams
from service.http.metrics import Metrics
from service.http.readiness import Readiness
from service.http.upload import UploadFolder
from service.jobs.opening import Jobs
from service.releases.manager import ReleaseManager

NUM_HASHED = 2  # files that are read at the same time before they are played
NUM_PREVIEWED = 2  # files that are decoded at the same time to be shown
NUM_WRITERS = 8  # writes that wait together share a flush


@dataclass(frozen=True, kw_only=True)
class State:
    """The open parts of a running application.

    Switching and deleting releases wait for each other and may take minutes, as does calibrating: each has one thread
    of its own (`changing`, `calibrating`), so that requests that wait for it take no thread of others. So do writes
    to the index, which wait while releases are switched (`writing`), and the reading of whole files before they are
    played (`hashing`), and the decoding of files that are shown at a glance (`previewing`).
    `backing_up` and `auditing` are held by the one backup and audit that may run.
    """

    foley: Foley
    admission: Admission
    uploads: UploadFolder
    readiness: Readiness
    metrics: Metrics
    releases: ReleaseManager
    jobs: Jobs
    streams: EventStreams
    backing_up: threading.Lock = field(default_factory=threading.Lock)
    auditing: anyio.Lock = field(default_factory=anyio.Lock)
    changing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    calibrating: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    hashing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(NUM_HASHED))
    previewing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(NUM_PREVIEWED))
    writing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(NUM_WRITERS))


async def get_state(request: Request) -> State:
    """The state of the application that serves this request."""
    return cast(State, request.app.state.shared)


StateOf = Annotated[State, Depends(get_state)]
