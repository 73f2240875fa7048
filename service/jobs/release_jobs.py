"""Jobs that build releases: one at a time, in a thread of their own, so that indexing goes on meanwhile.

They stand in the same ledger as other jobs and are asked for, followed and cancelled in the same way. One that was
killed goes on where it was when the next process starts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from service.foley import Foley
from service.jobs.documents import LiveProgress
from service.jobs.job_request import JobRequest
from service.jobs.ledger import CreatedJob, JobRecord, Ledger
from service.jobs.library_jobs import LibraryJobs, failure_code
from service.releases.building import BuildProgress
from service.releases.manager import ReleaseManager, Switched
from service.releases.store import Release, ReleaseInUse
from service.system.caller import Caller, CallerGone

logger = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
BUSY_SECONDS = 30.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ReleaseRequest:
    """What a job is asked to build.

    Attributes:
        bundle: Absolute path of the bundle's folder on the machine of the service.
        activate: Whether to activate the release when it passes its gates.
        force: Why to activate it even when it does not; empty for never.
        who: Who asks.
    """

    bundle: str
    activate: bool = False
    force: str = ""
    who: str = ""

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(**document)


@contextmanager
def open_release_jobs(foley: Foley, jobs: LibraryJobs) -> Iterator[ReleaseJobs]:
    """Open what builds and switches the releases of an engine.

    Args:
        foley: Whose releases.
        jobs: What else writes to its index: it pauses for a switch, and embeds what a release lacks after one.

    Yields:
        What runs the jobs. Its thread, if it was started, is stopped in the end.
    """

    def submit(paths: Sequence[Path]) -> None:
        jobs.submit("index", JobRequest(paths=tuple(map(str, paths))))

    manager = ReleaseManager(
        foley.settings, foley.releases, foley.decoder, writers=jobs.paused, submit=submit
    )
    runner = ReleaseJobs(manager, jobs.ledger)
    jobs.other = runner
    jobs.after_job = manager.calibrate_if_stale
    try:
        yield runner
    finally:
        runner.stop()
        manager.follower.stop()
        jobs.other = None


class ReleaseJobs:
    """Runs the jobs that build releases. Any thread may call it.

    Args:
        manager: What builds and switches.
        ledger: Where jobs are remembered.

    Attributes:
        on_step: Called with the progress of every build, as JSON values.
    """

    def __init__(self, manager: ReleaseManager, ledger: Ledger) -> None:
        self.manager = manager
        self.ledger = ledger
        self._changed = threading.Condition()
        self._job_id: str | None = None
        self._stop = Caller()
        self._live: LiveProgress | None = None
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self.on_step: Callable[[Mapping[str, Any]], None] = lambda _: None

    def start(self) -> None:
        """Run jobs in a thread from now on, those that an earlier process left first; follow a server's alias."""
        self.manager.follower.start()
        self._thread = threading.Thread(target=self._serve, name="release-jobs", daemon=True)
        self._thread.start()

    def stop_soon(self) -> None:
        """Stop the build that runs; the next process goes on with it."""
        with self._changed:
            self._is_stopping = True
            self._stop.leave()
            self._changed.notify_all()

    def stop(self) -> None:
        """Like `stop_soon`, and wait until it has stopped."""
        self.stop_soon()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def submit(self, request: ReleaseRequest, *, idempotency_key: str | None = None) -> CreatedJob:
        """Ask for a release; see `service.jobs.ledger.Ledger.create_job`."""
        created = self.ledger.create_job("release", request.to_json(), idempotency_key=idempotency_key)
        with self._changed:
            self._changed.notify_all()
        return created

    def cancel(self, job_id: str) -> None:
        """End a build early, if it is this one that runs; the ledger knows already that it is to end."""
        with self._changed:
            if self._job_id == job_id:
                self._stop.leave()
            self._changed.notify_all()

    def live(self, job_id: str) -> LiveProgress | None:
        """How far a build is, while it runs."""
        return self._live if self._job_id == job_id else None

    def run(self, job_id: str) -> tuple[Release, Switched | None]:
        """Build, and activate where that was asked for, in this thread.

        Args:
            job_id: The job.

        Returns:
            The release, and what the switch did.

        Raises:
            CallerGone: If it was stopped or cancelled.
        """  # noqa: DOC503 - whatever fails is noted and goes on
        job = self.ledger.start_job(job_id)
        if job.has_ended:
            raise CallerGone(f"job {job_id} was cancelled before it began")
        with self._changed:
            self._job_id, self._stop = job_id, Caller()
            if self._is_stopping or job.wants_cancel:
                self._stop.leave()
        try:
            outcome = self._work(job)
        except CallerGone:
            if self._is_stopping and not self.ledger.get_job(job_id).wants_cancel:
                self.ledger.requeue_job(job_id)
            else:
                self.ledger.end_job(job_id, "cancelled", report=None)
            raise
        except ReleaseInUse as exc:  # another replica builds; a server waits for it
            if self._thread is None:
                self._end_failed(job_id, exc)
            else:
                self.ledger.requeue_job(job_id)
            raise
        except Exception as exc:
            self._end_failed(job_id, exc)
            raise
        finally:
            with self._changed:
                self._job_id, self._live = None, None
        return outcome

    def _work(self, job: JobRecord) -> tuple[Release, Switched | None]:
        request = ReleaseRequest.from_json(job.request)
        release = self.manager.create(
            Path(request.bundle), token=job.job_id, on_progress=self._tell, stop=self._stop
        )
        switched = None
        if request.activate and (release.outcome == "ready" or (request.force and release.is_complete)):
            self._stop.check()
            switched = self.manager.activate(release.release_id, who=request.who, why=request.force)
        report = {
            "release": release.to_json(),
            "switched": None if switched is None else switched.to_json(),
            "is_interrupted": False,
        }
        if request.activate and switched is None:
            reasons = "; ".join(release.gates.get("reasons", ())) or "its gates failed"
            self.ledger.end_job(
                job.job_id, "failed", report=report, error_code="release_refused", error=reasons
            )
        else:
            self.ledger.end_job(job.job_id, "done", report=report)
        return release, switched

    def _tell(self, progress: BuildProgress) -> None:
        self._live = LiveProgress(version=time.time_ns() // 1_000_000, progress=progress)
        self.on_step(progress.to_json())

    def _end_failed(self, job_id: str, exc: Exception) -> None:
        code = failure_code(exc)
        logger.error("job %s failed: %s", job_id, exc, exc_info=exc if code == "internal_error" else None)
        text = "the service failed; its log says why" if code == "internal_error" else str(exc)
        self.ledger.end_job(job_id, "failed", report=None, error_code=code, error=text)

    def _serve(self) -> None:
        while not self._is_stopping:
            try:
                with self._changed:
                    jobs = [job for job in self.ledger.unfinished_jobs() if job.kind == "release"]
                    if not jobs and not self._is_stopping:
                        self._changed.wait(WAIT_SECONDS)
                if jobs:
                    self.run(jobs[0].job_id)
            except CallerGone:
                logger.info("a build was stopped")
            except ReleaseInUse as exc:
                logger.info("a build waits: %s", exc)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopping, BUSY_SECONDS)
            except Exception:  # of a build it is in the ledger; of the ledger: the thread must outlive it
                logger.exception("a build failed; the thread that builds releases goes on")
                with self._changed:
                    if not self._is_stopping:
                        self._changed.wait(WAIT_SECONDS)
