"""Jobs as the HTTP API and `foley jobs` show them; reading needs no index and no encoder, also while a server runs."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from service.jobs.database import check_database
from service.jobs.files import count_outcomes, find_missing
from service.jobs.ledger import Ledger
from service.jobs.records import JobRecord
from service.library.report import NOTHING_YET, IndexReport, Progress
from service.system.paths import show_path
from service.system.settings import Settings

LEDGER_NAME = "ledger.sqlite"


class Reportable(Protocol):
    """Progress of any kind of job."""

    def to_json(self) -> dict[str, Any]:
        """The progress as JSON values."""


@dataclass(frozen=True, kw_only=True)
class LiveProgress:
    """How far a running job is; `version` rises with every change, over restarts too."""

    version: int
    progress: Reportable


def describe_job(job: JobRecord, live: LiveProgress | None = None) -> dict[str, Any]:
    """A job as the HTTP API shows it, as JSON values; `live` is how far it is, while it runs."""
    return {
        "job_id": job.job_id,
        "kind": job.kind,
        "state": job.state,
        "request": show_request(job.request),
        "progress": (live.progress if live is not None else _last_progress(job)).to_json(),
        "report": None if job.report is None else dict(job.report),
        "error": None if job.error_code is None else {"code": job.error_code, "detail": job.error},
        "is_cancelling": job.wants_cancel,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
    }


def show_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request whose paths can be written as JSON: those of the command line may be any bytes."""
    shown = dict(request)
    if "paths" in shown:
        shown["paths"] = [show_path(path) for path in shown["paths"]]
    if "bundle" in shown:
        shown["bundle"] = show_path(shown["bundle"])
    return shown


def _last_progress(job: JobRecord) -> Progress:
    """How far an ended job came, by its report."""
    if job.report is None or job.kind == "release":
        return NOTHING_YET
    report = IndexReport.from_json(job.report)
    num_files = report.files.indexed + report.files.unchanged + report.files.failed
    seconds = report.stages.elapsed_seconds
    return Progress(
        num_files=num_files,
        num_done=num_files,
        num_failed=report.files.failed,
        num_segments=report.segments.indexed,
        segments_per_second=report.segments.indexed / seconds if seconds > 0 else 0.0,
        left_seconds=0.0 if job.state == "done" else None,
        stages=report.stages,
    )


def list_jobs(settings: Settings, *, limit: int) -> list[dict[str, Any]]:
    """At most `limit` jobs, the newest first, as the HTTP API shows them; the ledger is only read."""
    path = settings.data / LEDGER_NAME
    if not path.exists():
        return []
    check_database(path)
    with Ledger.open(path, is_worker=False) as ledger:
        return [describe_job(job) for job in ledger.list_jobs(limit=limit)]


def find_lost(settings: Settings, stored: Container[str]) -> dict[str, str]:
    """See `find_missing`; the ledger is checked and only read, and there may be none."""
    path = settings.data / LEDGER_NAME
    if not path.exists():
        return {}
    check_database(path)
    with Ledger.open(path, is_worker=False) as ledger:
        return find_missing(ledger, stored)


def show_job(settings: Settings, job_id: str) -> tuple[dict[str, Any], IndexReport | None]:
    """One job as the HTTP API shows it, and its report if it has ended; the ledger is only read."""
    with Ledger.open(settings.data / LEDGER_NAME, is_worker=False) as ledger:
        job = ledger.get_job(job_id)
        counts = count_outcomes(ledger, job_id)
    has_files = job.kind != "release"
    report = IndexReport.from_json(job.report) if has_files and job.report is not None else None
    return {**describe_job(job), "counts": counts}, report
