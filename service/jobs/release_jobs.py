"""Jobs that build releases: in a lane of their own, so that indexing continues meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from service.index.failure import IndexFull
from service.jobs.lane import FOR_EVER, JobLane, JobResult, RunningJob
from service.jobs.ledger import Ledger
from service.jobs.records import CreatedJob, ReleaseRequest
from service.releases.building import BuildProgress
from service.releases.cost import Cost
from service.releases.documents import explain_refusal
from service.releases.manager import ReleaseManager, Switched
from service.releases.store import Release, ReleaseInUse, ReleaseRefused
from service.system.files import NoRoom
from service.system.storage import Storage

BUSY_SECONDS = 30.0
STOP_SECONDS = 60.0

OnStep = Callable[[Mapping[str, Any]], None]  # takes the progress of a build, as JSON values


def open_release_lane(ledger: Ledger) -> JobLane:
    """The lane of these jobs; a server waits while another replica builds, and while the disk is full."""
    return JobLane(
        ledger,
        kinds=("release",),
        attempts={ReleaseInUse: FOR_EVER, IndexFull: FOR_EVER, NoRoom: FOR_EVER},
        wait_seconds=BUSY_SECONDS,
        stop_seconds=STOP_SECONDS,
    )


class ReleaseJobs:
    """Does the jobs that build releases. Any thread may call it."""

    def __init__(self, manager: ReleaseManager, lane: JobLane) -> None:
        self.manager = manager
        self.lane = lane

    def submit(self, request: ReleaseRequest, *, idempotency_key: str | None = None) -> CreatedJob:
        """Queue a build; see `Ledger.create_job`."""
        return self.lane.submit("release", request.to_json(), idempotency_key=idempotency_key)

    def run(self, job_id: str, *, on_step: OnStep | None = None) -> tuple[Release, Switched | None]:
        """Build, and activate if asked to; returns the release and what the switch did, if any. See `JobLane.run`."""
        return self.lane.run(job_id, partial(self._work, on_step=on_step))

    def _work(self, job: RunningJob, *, on_step: OnStep | None) -> JobResult[tuple[Release, Switched | None]]:
        def tell(progress: BuildProgress) -> None:
            job.tell(progress)
            if on_step is not None:
                on_step(progress.to_json())

        request = ReleaseRequest.from_json(job.record.request)
        cost: Cost = "any" if request.any_cost else "measured" if request.force else "limited"
        release = self.manager.create(
            Path(request.bundle),
            token=job.record.job_id,
            cost=cost,
            storage=cast("Storage", request.storage) if request.storage else None,
            on_progress=tell,
            stop=job.stop,
        )
        switched, refusal = None, None
        if request.activate and (release.outcome == "ready" or (request.force and release.is_complete)):
            job.stop.check()
            switched = self.manager.activate(release.release_id, who=request.who, why=request.force)
        elif request.activate:
            refusal = ReleaseRefused(explain_refusal(release.to_json()))
        report = {
            "release": release.to_json(),
            "switched": None if switched is None else switched.to_json(),
            "is_interrupted": False,
        }
        return JobResult(value=(release, switched), report=report, refusal=refusal)
