"""The jobs of a library, open for work: what is asked for once is done, whatever happens in between.

    with open_jobs(foley) as jobs:
        created = jobs.library.submit("index", JobRequest(paths=("/videos",)))
        report = jobs.library.run(created.job.job_id)       # the command line: here and now
        jobs.start()                                        # a server: in threads, one job after another

The next process finds a job that was killed in the ledger and resumes it. What the index holds is not done again, so at
most the segments of one write are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.foley import Foley
from service.jobs.documents import LEDGER_NAME, LiveProgress
from service.jobs.files import count_outcomes, retry_failed
from service.jobs.lane import JobEnded, JobLane, JobNotEnded
from service.jobs.ledger import Ledger
from service.jobs.library_jobs import LibraryJobs, open_library_lane
from service.jobs.records import JobRecord, JobRequest
from service.jobs.release_jobs import ReleaseJobs, open_release_lane
from service.releases.manager import ReleaseManager

UNDONE = frozenset({"pending", "failed", "quarantined"})


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """All jobs of a library, in two lanes. Any thread may call it. Make one with `open_jobs`."""

    ledger: Ledger
    library: LibraryJobs
    releases: ReleaseJobs

    @property
    def _lanes(self) -> tuple[JobLane, JobLane]:
        return self.library.lane, self.releases.lane

    @property
    def is_stopping(self) -> bool:
        """Whether no further job will be run."""
        return self.library.lane.is_stopping

    def start(self) -> None:
        """Run jobs in threads from now on, and follow the release that other replicas activate."""
        self.releases.manager.follower.start()
        self.library.lane.start(self.library.run)
        self.releases.lane.start(self.releases.run)

    def stop_soon(self) -> None:
        """Stop the running jobs after their present step; the next process resumes them."""
        for lane in self._lanes:
            lane.stop_soon()

    def stop(self) -> None:
        """Like `stop_soon`, and wait until they have stopped."""
        self.stop_soon()
        for lane in self._lanes:
            lane.stop()
        self.releases.manager.follower.stop()

    def live(self, job_id: str) -> LiveProgress | None:
        """How far a job is; None unless it runs in this process now."""
        return next((live for lane in self._lanes if (live := lane.live(job_id)) is not None), None)

    def cancel(self, job_id: str) -> JobRecord:
        """End a job: at once if it waits, else after its present step; one that is done or failed raises `JobEnded`."""
        job = self.ledger.want_cancel(job_id)
        if job.state in ("done", "failed"):
            raise JobEnded(f"job {job_id} has ended: {job.state}")
        for lane in self._lanes:
            lane.leave(job_id)
        return job

    def retry(self, job_id: str, *, who: str = "") -> JobRecord:
        """Queue an ended job again, for `who`: for its failed files and those it never reached, or to build again.

        Raises `JobNotEnded` if it runs or waits, and `JobEnded` if it is done and no file of it failed.
        """
        job = self.ledger.get_job(job_id)
        if not job.has_ended:
            raise JobNotEnded(f"job {job_id} is {job.state}")
        if job.state == "done" and not count_outcomes(self.ledger, job_id).keys() & UNDONE:
            raise JobEnded(f"job {job_id} is done: nothing of it is left to retry")
        retry_failed(self.ledger, job_id, who=who)
        for lane in self._lanes:
            lane.wake()
        return self.ledger.get_job(job_id)


@contextmanager
def open_jobs(foley: Foley) -> Iterator[Jobs]:
    """Open the ledger of a library for work; threads that were started are stopped when the block ends."""
    with Ledger.open(foley.settings.data / LEDGER_NAME) as ledger:
        lane = open_library_lane(ledger)

        def submit(paths: Sequence[Path]) -> None:
            lane.submit("index", JobRequest(paths=tuple(map(str, paths))).to_json())

        manager = ReleaseManager(
            foley.settings, foley.releases, foley.decoder, writers=lane.paused, submit=submit
        )
        jobs = Jobs(
            ledger=ledger,
            library=LibraryJobs(foley, lane, after_job=manager.calibrate_if_stale),
            releases=ReleaseJobs(manager, open_release_lane(ledger)),
        )
        try:
            yield jobs
        finally:
            jobs.stop()
