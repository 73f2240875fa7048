"""Jobs: work over a library that is asked for once and done, whatever happens in between.

    with open_jobs(engine) as runner:
        created = runner.submit("index", JobRequest(paths=("/videos",)))
        report = runner.run(created.job.job_id)       # the command line: here and now
        runner.start()                                # a server: in a thread, one job after another

A job that was killed is found in the ledger by the next process and gone on with: what the index holds is not done
again, so at most the segments of one write are. Jobs use the encoder as bulk work: queries go first.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from service.foley import Foley
from service.index.failure import IndexFull, IndexUnavailable
from service.jobs.documents import LEDGER_NAME, LiveProgress
from service.jobs.files import lift_quarantine, read_files, retry_failed
from service.jobs.job_request import JobRequest
from service.jobs.journal import LedgerJournal, Rehearsal
from service.jobs.ledger import CreatedJob, JobRecord, Kind, Ledger
from service.library.indexing import index_paths, library_limits
from service.library.mounts import find_mounts
from service.library.report import NOTHING_YET, IndexReport, OnProgress, Progress
from service.library.sync import sync_paths
from service.search.snapshot import Snapshot
from service.system.caller import Caller
from service.system.failure import Failure

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # at a job whose index is not available
WAIT_SECONDS = 5.0  # before the second of them; also how often a full disk is looked at
STOP_SECONDS = 20.0  # one run of the encoder and one write
MIN_VERSION_SECONDS = 0.1


class JobNotEnded(Failure):
    """The job still runs or waits: it cannot be retried yet."""

    code = "job_not_ended"


class JobEnded(Failure):
    """The job has ended: there is nothing to cancel."""

    code = "job_ended"


class ReleaseRunner(Protocol):
    """What a runner of jobs asks of the one that builds releases."""

    def cancel(self, job_id: str) -> None:
        """End a build early."""

    def live(self, job_id: str) -> LiveProgress | None:
        """How far a build is."""


@dataclass(eq=False, kw_only=True)
class _Running:
    """The job that runs now."""

    job_id: str
    stop: Caller
    live: LiveProgress


@contextmanager
def open_jobs(foley: Foley) -> Iterator[LibraryJobs]:
    """Open the ledger of an engine's data folder for work.

    Args:
        foley: Whose library the jobs are over.

    Yields:
        What runs them. Its thread, if it was started, is stopped in the end.
    """
    with Ledger.open(foley.settings.data / LEDGER_NAME) as ledger:
        runner = LibraryJobs(foley, ledger)
        try:
            yield runner
        finally:
            runner.stop()


class LibraryJobs:
    """Runs jobs, one at a time. Any thread may call it.

    Args:
        foley: Encoder, index and decoder.
        ledger: Where jobs are remembered.

    Attributes:
        ledger: The same.
        other: What runs the jobs that build releases, where somebody does.
        after_job: Called after each job that came to its end.
    """

    def __init__(self, foley: Foley, ledger: Ledger) -> None:
        self.ledger = ledger
        self._foley = foley
        self.other: ReleaseRunner | None = None
        self.after_job: Callable[[], object] = lambda: None
        self._limits = library_limits(foley.settings)
        self._num_pauses = 0
        self._running: _Running | None = None
        self._changed = threading.Condition()  # guards `_running` and `_is_stopping`
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    # A server's thread

    def start(self) -> None:
        """Run jobs in a thread from now on, those that an earlier process left first."""
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
        self._thread.start()

    @property
    def is_stopping(self) -> bool:
        """Whether no further job will be run."""
        return self._is_stopping

    def stop_soon(self) -> None:
        """Stop the job that runs after what it does at this moment; the next process goes on with it."""
        with self._changed:
            self._is_stopping = True
            running = self._running
            self._changed.notify_all()
        if running is not None:
            running.stop.leave()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Write nothing inside the block: the job that runs stops after what it does now, and goes on afterwards."""
        with self._changed:
            self._num_pauses += 1
            if self._running is not None:
                self._running.stop.leave()
            self._changed.wait_for(lambda: self._running is None)
        try:
            yield
        finally:
            with self._changed:
                self._num_pauses -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Like `stop_soon`, and wait until it has stopped."""
        self.stop_soon()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    # What can be asked for

    def submit(self, kind: Kind, request: JobRequest, *, idempotency_key: str | None = None) -> CreatedJob:
        """Ask for a job; see `Ledger.create_job`."""
        created = self.ledger.create_job(kind, request.to_json(), idempotency_key=idempotency_key)
        with self._changed:
            self._changed.notify_all()
        return created

    def find_same(self, kind: Kind, request: JobRequest) -> JobRecord | None:
        """An unfinished job that was asked to do just this."""
        for job in self.ledger.unfinished_jobs():
            if (job.kind, job.request) == (kind, request.to_json()):
                return job
        return None

    def cancel(self, job_id: str) -> JobRecord:
        """End a job: at once where it waits, else after what it does at this moment.

        Args:
            job_id: Which.

        Returns:
            The job; it may still run for a moment.

        Raises:
            JobEnded: If it is done or has failed.
        """
        job = self.ledger.want_cancel(job_id)
        if job.state in ("done", "failed"):
            raise JobEnded(f"job {job_id} has ended: {job.state}")
        with self._changed:
            running = self._running
            self._changed.notify_all()
        if running is not None and running.job_id == job_id:
            running.stop.leave()
        if self.other is not None:
            self.other.cancel(job_id)
        return job

    def retry(self, job_id: str) -> JobRecord:
        """Queue a job again for its failed files, and for those that it never reached.

        Args:
            job_id: Which.

        Returns:
            The job.

        Raises:
            JobNotEnded: If it still runs or waits.
        """
        job = self.ledger.get_job(job_id)
        if not job.has_ended:
            raise JobNotEnded(f"job {job_id} is {job.state}")
        retry_failed(self.ledger, job_id)
        with self._changed:
            self._changed.notify_all()
        return self.ledger.get_job(job_id)

    def live(self, job_id: str) -> LiveProgress | None:
        """How far a job is, while it runs."""
        running = self._running
        if running is not None and running.job_id == job_id:
            return running.live
        return None if self.other is None else self.other.live(job_id)

    # Running

    def run(self, job_id: str, *, on_progress: OnProgress | None = None) -> IndexReport:
        """Run a job in this thread. What ends it early is noted in the ledger and raised.

        Args:
            job_id: Which.
            on_progress: Called with the state of things whenever it changes.

        Returns:
            What was done.

        Raises:
            JobEnded: If it was cancelled before it began.
            Exception: What ended it early.
        """
        job = self.ledger.start_job(job_id)
        if job.has_ended:
            raise JobEnded(f"job {job_id} has ended: {job.state}")
        live = LiveProgress(version=time.time_ns() // 1_000_000, progress=NOTHING_YET)
        running = _Running(job_id=job_id, stop=Caller(), live=live)
        with self._changed:
            self._running = running
            if self._is_stopping or self._num_pauses or job.wants_cancel:
                running.stop.leave()
        try:
            report = self._work(job, running, on_progress)
            self._end(job_id, report)
        except Exception as exc:
            if not self._is_passing(exc):
                self._end_failed(job_id, exc)
            raise
        finally:  # after the end is noted: a job that runs always has its progress
            with self._changed:
                self._running = None
                self._changed.notify_all()
        if not report.is_interrupted:
            self.after_job()
        return report

    def _end(self, job_id: str, report: IndexReport) -> None:
        if not report.is_interrupted:
            self.ledger.end_job(job_id, "done", report=report.to_json())
        elif (self._is_stopping or self._num_pauses) and not self.ledger.get_job(job_id).wants_cancel:
            self.ledger.requeue_job(job_id)
        else:
            self.ledger.end_job(job_id, "cancelled", report=report.to_json())

    def _end_failed(self, job_id: str, exc: Exception) -> None:
        code = failure_code(exc)
        is_ours = code == Failure.code
        if is_ours or self._thread is not None:  # a command says it itself
            logger.error("job %s failed: %s", job_id, exc, exc_info=exc if is_ours else None)
        text = "the service failed; its log says why" if is_ours else str(exc)
        self.ledger.end_job(job_id, "failed", report=None, error_code=code, error=text)

    def _is_passing(self, exc: Exception) -> bool:
        """Whether a server waits until the reason has passed: its job must not fail because a disk is full."""
        return self._thread is not None and isinstance(exc, IndexFull | IndexUnavailable)

    def _work(self, job: JobRecord, running: _Running, on_progress: OnProgress | None) -> IndexReport:
        with self._foley.lease(priority="bulk") as snapshot:
            return self._work_with(snapshot, job, running, on_progress)

    def _work_with(
        self, snapshot: Snapshot, job: JobRecord, running: _Running, on_progress: OnProgress | None
    ) -> IndexReport:
        request = JobRequest.from_json(job.request)
        roots = [Path(path) for path in request.paths]
        journal_of = Rehearsal if request.dry_run else LedgerJournal
        journal = journal_of(self.ledger, job.job_id, basis=_describe_basis(self._foley, snapshot.bundle_id))
        if request.retry_quarantined and not job.is_scanned and not request.dry_run:
            lift_quarantine(self.ledger, roots)
        do = partial(
            index_paths,
            snapshot=snapshot,
            decoder=self._foley.decoder,
            limits=self._limits,
            on_progress=partial(self._tell, running, on_progress),
            journal=journal,
            stop=running.stop,
        )
        if job.is_retry:
            return do(self._pending_paths(job.job_id))
        if job.kind == "index":
            report = do(roots)
            journal.remember_mounts(roots, find_mounts(roots) | journal.mounts())
            return report
        return sync_paths(
            roots, **do.keywords, allow_empty=request.allow_empty, settle_seconds=request.settle_seconds
        )

    def _pending_paths(self, job_id: str) -> Sequence[Path]:
        return [Path(row.path) for row in read_files(self.ledger, job_id, outcomes=("pending",))]

    def _tell(self, running: _Running, on_progress: OnProgress | None, progress: Progress) -> None:
        now = time.time_ns() // 1_000_000
        if now - running.live.version >= MIN_VERSION_SECONDS * 1000:
            running.live = LiveProgress(version=now, progress=progress)
        else:  # a later look finds the newest state under the version it has seen already, or a later one
            running.live = replace(running.live, progress=progress)
        if on_progress is not None:
            on_progress(progress)

    # The thread

    def _serve(self) -> None:
        while not self._is_stopping:
            try:
                job = self._next()
                if job is not None:
                    self._run_patiently(job.job_id)
            except Exception:  # of the ledger: the thread must outlive it
                logger.exception("the thread that runs jobs failed and goes on")
                self._pause()

    def _next(self) -> JobRecord | None:
        """The job to run next; waits until there is one."""
        with self._changed:
            jobs = [job for job in self.ledger.unfinished_jobs() if job.kind != "release"]
            if self._num_pauses:
                jobs = []
            if not jobs and not self._is_stopping:
                self._changed.wait(WAIT_SECONDS)
        return jobs[0] if jobs else None

    def _run_patiently(self, job_id: str) -> None:
        """Run a job; wait while the disk is full, and a while when the index is not available."""
        attempt = 0
        while not self._is_stopping:
            attempt += 1
            try:
                self.run(job_id)
            except (IndexFull, IndexUnavailable) as exc:
                if isinstance(exc, IndexUnavailable) and attempt >= ATTEMPTS:
                    self._end_failed(job_id, exc)
                    return
                logger.warning("job %s waits: %s", job_id, exc)
                self._pause()
                if self.ledger.get_job(job_id).wants_cancel:
                    self.ledger.end_job(job_id, "cancelled", report=None)
                    return
            except Exception:  # it is noted in the ledger, or was cancelled
                return
            else:
                return

    def _pause(self) -> None:
        with self._changed:
            if not self._is_stopping:
                self._changed.wait(WAIT_SECONDS)


def failure_code(exc: Exception) -> str:
    """The stable name of what ended a job."""
    default = "not_readable" if isinstance(exc, OSError) else Failure.code
    return str(getattr(exc, "code", default))


def _describe_basis(foley: Foley, bundle_id: str) -> str:
    """What files are decoded with, in short: a fault under other limits or another decoder does not count."""
    facts = (
        library_limits(foley.settings),
        foley.settings.worker_memory_bytes,
        version("av"),
        version("foley-av"),
        bundle_id,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
