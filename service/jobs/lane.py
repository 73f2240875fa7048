"""Running the jobs of some kinds: one at a time, in a thread or here, with their end written into the ledger."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.jobs.database import LedgerFailure
from service.jobs.documents import LiveProgress, Reportable
from service.jobs.ledger import Ledger
from service.jobs.records import CreatedJob, JobRecord, Kind
from service.library.report import NOTHING_YET
from service.system.caller import Caller, CallerGone
from service.system.failure import Failure, is_out_of_files

logger = logging.getLogger(__name__)

T = TypeVar("T")

FOR_EVER = math.inf
LOOK_SECONDS = 5.0  # between looks into the ledger


class JobNotEnded(Failure):
    """The job still runs or waits: it cannot be retried yet."""

    code = "job_not_ended"


class JobEnded(Failure):
    """The job has ended: it can neither be cancelled nor run."""

    code = "job_ended"


class RunningJob:
    """The job that a lane runs; its work ends early once `stop` has left."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.stop = Caller()
        self.live = LiveProgress(version=time.time_ns() // 1_000_000, progress=NOTHING_YET)

    def tell(self, progress: Reportable) -> None:
        """Show how far it is, under a new version."""
        version = max(time.time_ns() // 1_000_000, self.live.version + 1)
        self.live = LiveProgress(version=version, progress=progress)


@dataclass(frozen=True, kw_only=True)
class JobResult(Generic[T]):
    """What the work of a job came to: what `JobLane.run` returns, and the same as JSON values."""

    value: T
    report: Mapping[str, Any]
    is_interrupted: bool = False
    refusal: Failure | None = None  # why the job counts as failed although its work is done


class JobLane:
    """Runs the jobs of some kinds, one at a time. Any thread may call it.

    `attempts` says how often a server tries a job that fails in one of these ways before the job counts as failed:
    infinity for reasons that pass some day, such as a full disk. Other failures are final.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        kinds: tuple[Kind, ...],
        attempts: Mapping[type[Exception], float],
        wait_seconds: float,
        stop_seconds: float,
    ) -> None:
        self.ledger = ledger
        self._kinds = kinds
        self._attempts = attempts
        self._wait_seconds = wait_seconds
        self._stop_seconds = stop_seconds
        self._num_pauses = 0
        self._running: RunningJob | None = None
        self._changed = threading.Condition()  # guards what changes here
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    # A server's thread

    def start(self, run: Callable[[str], object]) -> None:
        """Run jobs in a thread from now on, those that an earlier process left first; `run` takes the job's id."""
        name = "-".join(self._kinds) + "-jobs"
        self._thread = threading.Thread(target=self._serve, args=(run,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_stopping(self) -> bool:
        """Whether no further job will be run."""
        return self._is_stopping

    def stop_soon(self) -> None:
        """Stop the running job after its present step; the next process resumes it."""
        with self._changed:
            self._is_stopping = True
            self._interrupt()

    def stop(self) -> None:
        """Like `stop_soon`, and wait until the thread has ended."""
        self.stop_soon()
        if self._thread is not None:
            self._thread.join(self._stop_seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run nothing inside the block: the running job stops after its present step and is resumed afterwards."""
        with self._changed:
            self._num_pauses += 1
            self._interrupt()
            self._changed.wait_for(lambda: self._running is None)
        try:
            yield
        finally:
            with self._changed:
                self._num_pauses -= 1
                self._changed.notify_all()

    def _interrupt(self) -> None:
        """The caller holds the lock."""
        if self._running is not None:
            self._running.stop.leave()
        self._changed.notify_all()

    # One job

    def submit(
        self, kind: Kind, request: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> CreatedJob:
        """Queue a job; see `Ledger.create_job`."""
        created = self.ledger.create_job(kind, request, idempotency_key=idempotency_key)
        self.wake()
        return created

    def wake(self) -> None:
        """Look into the ledger at once: a job was queued."""
        with self._changed:
            self._changed.notify_all()

    def leave(self, job_id: str) -> None:
        """End a job early if it is the one that runs here."""
        with self._changed:
            if self._running is not None and self._running.record.job_id == job_id:
                self._running.stop.leave()
            self._changed.notify_all()

    def live(self, job_id: str) -> LiveProgress | None:
        """How far a job is; None unless it runs here now."""
        running = self._running
        return running.live if running is not None and running.record.job_id == job_id else None

    def run(self, job_id: str, work: Callable[[RunningJob], JobResult[T]]) -> T:
        """Run a job in this thread, write its end into the ledger, and return the value of its result.

        Raises what the work raised; `JobEnded` if the job was cancelled before it began, and `CallerGone` if its work
        was stopped and has no result.
        """
        record = self.ledger.start_job(job_id)
        if record.has_ended:
            raise JobEnded(f"job {job_id} has ended: {record.state}")
        running = RunningJob(record)
        with self._changed:
            self._running = running
            if self._is_stopping or self._num_pauses or record.wants_cancel:
                running.stop.leave()
        try:
            result = work(running)
            self._end(job_id, result)
        except CallerGone:
            self._end_early(job_id, None)
            raise
        except KeyboardInterrupt:
            self.ledger.requeue_job(job_id)
            raise
        except Exception as exc:
            if self._thread is not None and self._max_attempts(exc) > 1:
                with suppress(LedgerFailure):  # its disk may be full as well; then the job stays as it is
                    self.ledger.requeue_job(job_id)
            else:
                self._end_failed(job_id, exc)
            raise
        finally:  # after the end is written: a job that runs always has its progress
            with self._changed:
                self._running = None
                self._changed.notify_all()
        return result.value

    def _end(self, job_id: str, result: JobResult[T]) -> None:
        if result.is_interrupted:
            self._end_early(job_id, result.report)
        elif result.refusal is not None:
            code, text = result.refusal.code, str(result.refusal)
            self.ledger.end_job(job_id, "failed", report=result.report, error_code=code, error=text)
        else:
            self.ledger.end_job(job_id, "done", report=result.report)

    def _end_early(self, job_id: str, report: Mapping[str, Any] | None) -> None:
        if (self._is_stopping or self._num_pauses) and not self.ledger.get_job(job_id).wants_cancel:
            self.ledger.requeue_job(job_id)
        else:
            self.ledger.end_job(job_id, "cancelled", report=report)

    def _end_failed(self, job_id: str, exc: Exception) -> None:
        code = failure_code(exc)
        is_ours = code == Failure.code
        if is_ours or self._thread is not None:  # a command prints it itself
            logger.error("job %s failed: %s", job_id, exc, exc_info=exc if is_ours else None)
        text = "the service failed; its log says why" if is_ours else str(exc)
        self.ledger.end_job(job_id, "failed", report=None, error_code=code, error=text)

    def _max_attempts(self, exc: Exception) -> float:
        if is_out_of_files(exc):
            return FOR_EVER
        return next((number for kind, number in self._attempts.items() if isinstance(exc, kind)), 1)

    # The thread

    def _serve(self, run: Callable[[str], object]) -> None:
        while not self._is_stopping:
            try:
                job = self._next()
                if job is not None:
                    self._run_patiently(job.job_id, run)
            except Exception:  # the ledger failed, or something after a job: the thread must outlive it
                logger.exception("the thread that runs jobs failed and continues")
                self._wait(LOOK_SECONDS)

    def _next(self) -> JobRecord | None:
        """The job to run next; waits a while if there is none."""
        with self._changed:
            jobs = [job for job in self.ledger.unfinished_jobs() if job.kind in self._kinds]
            if self._num_pauses:
                jobs = []
            if not jobs and not self._is_stopping:
                self._changed.wait(LOOK_SECONDS)
        return jobs[0] if jobs else None

    def _run_patiently(self, job_id: str, run: Callable[[str], object]) -> None:
        """Run a job, again and again while it fails for a reason that may pass."""
        num_attempts = 0
        while not self._is_stopping:
            num_attempts += 1
            try:
                run(job_id)
            except (CallerGone, JobEnded):
                return
            except Exception as exc:
                max_attempts = self._max_attempts(exc)
                if max_attempts > num_attempts:
                    logger.warning("job %s waits: %s", job_id, exc)
                    self._wait(self._wait_seconds)
                    continue
                if max_attempts > 1:
                    self._end_failed(job_id, exc)
                elif not self.ledger.get_job(job_id).has_ended:  # the ledger failed
                    raise
                return
            else:
                return

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping, seconds)


def failure_code(exc: Exception) -> str:
    """The stable name of what ended a job."""
    default = "not_readable" if isinstance(exc, OSError) else Failure.code
    return str(getattr(exc, "code", default))
