"""A lane with a real ledger and work that is made up: how each end of it is written down."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.http.problems import code_of
from service.index.failure import IndexFull, IndexUnavailable
from service.jobs.database import LedgerFull
from service.jobs.lane import FOR_EVER, JobEnded, JobLane, JobResult, RunningJob
from service.jobs.ledger import Ledger
from service.jobs.records import JobRecord
from service.library.report import NOTHING_YET
from service.library.scanning import FoundFile, identify
from service.library.stages import blame_file
from service.releases.store import ReleaseRefused
from service.system.caller import CallerGone
from tests.support.waiting import wait_until

Work = Callable[[RunningJob], JobResult[str]]
DONE: JobResult[str] = JobResult(value="done", report={"x": 1})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def lane(ledger: Ledger) -> Iterator[JobLane]:
    lane = JobLane(
        ledger,
        kinds=("index", "sync"),
        attempts={IndexFull: FOR_EVER, IndexUnavailable: 3},
        wait_seconds=0.01,
        stop_seconds=30,
    )
    yield lane
    lane.stop()


def _submit(lane: JobLane) -> str:
    return lane.submit("index", {}).job.job_id


def _serve(lane: JobLane, work: Work) -> None:
    lane.start(lambda job_id: lane.run(job_id, work))


def _ended(lane: JobLane, job_id: str) -> JobRecord:
    def ended() -> JobRecord | None:
        job = lane.ledger.get_job(job_id)
        return job if job.has_ended else None

    return wait_until(ended)


def _raise(exc: BaseException) -> Work:
    def work(_: RunningJob) -> JobResult[str]:
        raise exc

    return work


def test_what_work_came_to(lane: JobLane) -> None:
    job_id = _submit(lane)
    assert lane.run(job_id, lambda _: DONE) == "done"
    job = lane.ledger.get_job(job_id)
    assert (job.state, job.report, job.error_code) == ("done", {"x": 1}, None)
    refused = JobResult(value="no", report={"x": 2}, refusal=ReleaseRefused("its gates failed"))
    lane.run(job_id := _submit(lane), lambda _: refused)
    job = lane.ledger.get_job(job_id)
    assert (job.state, job.report, job.error_code, job.error) == (
        "failed",
        {"x": 2},
        "release_refused",
        "its gates failed",
    )
    with pytest.raises(JobEnded, match="has ended: failed"):
        lane.run(job_id, lambda _: DONE)


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (IndexFull("12 bytes free"), "failed", "disk_full"),
        (PermissionError("no"), "failed", "not_readable"),
        (ZeroDivisionError(), "failed", "internal_error"),
        (CallerGone("stopped"), "cancelled", None),
        (KeyboardInterrupt(), "queued", None),
    ],
)
def test_what_ends_a_job_of_a_command(
    lane: JobLane, error: BaseException, state: str, code: str | None
) -> None:
    job_id = _submit(lane)
    with pytest.raises(type(error)):
        lane.run(job_id, _raise(error))
    job = lane.ledger.get_job(job_id)
    assert (job.state, job.error_code) == (state, code)
    assert lane.live(job_id) is None


def test_a_server_waits_for_what_passes_and_takes_no_other_job_meanwhile(lane: JobLane) -> None:
    first, second = _submit(lane), _submit(lane)
    tried: list[str] = []

    def work(job: RunningJob) -> JobResult[str]:
        tried.append(job.record.job_id)
        if len(tried) < 6:
            raise IndexFull("12 bytes free")
        return DONE

    _serve(lane, work)
    assert _ended(lane, second).state == "done"
    assert tried == [first] * 6 + [second]
    assert lane.ledger.get_job(first).state == "done"


def test_a_server_tries_some_failures_three_times(lane: JobLane) -> None:
    tried: list[str] = []

    def work(job: RunningJob) -> JobResult[str]:
        tried.append(job.record.job_id)
        raise IndexUnavailable("it is away")

    _serve(lane, work)
    job = _ended(lane, job_id := _submit(lane))
    assert (job.state, job.error_code, job.error) == ("failed", "index_unavailable", "it is away")
    assert tried == [job_id] * 3


def test_a_ledger_that_fails_ends_neither_the_thread_nor_the_job(
    lane: JobLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.lane.LOOK_SECONDS", 0.01)
    end, failures = lane.ledger.end_job, iter([LedgerFull("full"), LedgerFull("full"), None])

    def end_late(*arguments: object, **options: object) -> JobRecord:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return end(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(lane.ledger, "end_job", end_late)
    _serve(lane, lambda _: DONE)
    assert _ended(lane, _submit(lane)).state == "done"


def test_a_pause_stops_the_job_and_resumes_it(lane: JobLane) -> None:
    entered, runs = threading.Event(), []

    def work(job: RunningJob) -> JobResult[str]:
        runs.append(job)
        if len(runs) > 1:
            return DONE
        entered.set()
        wait_until(lambda: job.stop.is_gone)
        return JobResult(value="", report={}, is_interrupted=True)

    job_id = _submit(lane)
    _serve(lane, work)
    assert entered.wait(30)
    with lane.paused():
        assert lane.ledger.get_job(job_id).state == "queued"
        assert lane.live(job_id) is None
        assert len(runs) == 1
    assert _ended(lane, job_id).state == "done"


def test_versions_of_progress_rise_with_every_change(lane: JobLane) -> None:
    def work(job: RunningJob) -> JobResult[str]:
        versions = []
        for _ in range(5):
            job.tell(NOTHING_YET)
            live = lane.live(job.record.job_id)
            assert live is not None
            versions.append(live.version)
        assert versions == sorted(set(versions))
        return DONE

    lane.run(_submit(lane), work)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_job_waits_for_descriptors(
    lane: JobLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever wants to open a file says so, and neither the file nor the job is blamed."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    failures = iter([True, True, True])

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, "Too many open files")

    def work(_: RunningJob) -> JobResult[str]:
        if next(failures, False):
            with monkeypatch.context() as patch:
                patch.setattr("models.media.regular.os.open", refuse)
                try:
                    identify(FoundFile(path=path, size_bytes=4, modified_ns=path.stat().st_mtime_ns))
                except Exception as exc:
                    raise blame_file(exc) from exc
        return DONE

    job_id = _submit(lane)
    _serve(lane, work)
    assert _ended(lane, job_id).state == "done"
    assert code_of(OSError(number, "x")) == "out_of_files"
