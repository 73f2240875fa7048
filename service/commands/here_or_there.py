"""Running a job for a command: in this process, or on the `foley serve` that has the index open.

report = run_job(settings, "index", [Path("Videos")], on_progress=..., ...)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.client.client import find_server as find_client
from service.client.following import JobClient, find_server
from service.foley import open_foley
from service.index.failure import IndexInUse
from service.jobs.database import LedgerInUse
from service.jobs.documents import LEDGER_NAME
from service.jobs.lane import JobEnded
from service.jobs.ledger import Ledger
from service.jobs.opening import Jobs, open_jobs
from service.jobs.records import JobRequest, Kind
from service.library.report import IndexReport, OnProgress
from service.library.scanning import FoundFile, find_files
from service.operations.backup import ROUTE, Manifest, read_library, read_tar, save_backup
from service.system.paths import make_absolute
from service.system.settings import Settings

Say = Callable[[str], None]
WATCH_SETTLE_SECONDS = 5.0
BACKUP_SECONDS = 120.0  # for the next piece of a running server's answer


def make_request(paths: Sequence[Path], **options: Any) -> JobRequest:
    """A request for paths as a person gave them.

    Args:
        paths: Files and folders.
        **options: The other fields of a request.

    Returns:
        The request, its paths absolute.
    """
    return JobRequest(paths=tuple(str(make_absolute(path)) for path in paths), **options)


def run_job(
    settings: Settings, kind: Kind, request: JobRequest, *, on_progress: OnProgress, say: Say
) -> IndexReport:
    """Do a job and wait for its end: in this process, or on the `foley serve` that has the index open.

    Ctrl-C ends it early; the report says so. A job that was killed is gone on with.

    Args:
        settings: Whose library.
        kind: What to do.
        request: With what.
        on_progress: Called with the state of things.
        say: Tells a person where the job runs.

    Returns:
        What was done.

    """

    def work(jobs: Jobs) -> IndexReport:
        same = jobs.library.find_same(kind, request)
        if same is not None and same.started_at is not None:
            say(f"going on with job {same.job_id}, which was interrupted")
        job = same or jobs.library.submit(kind, request).job
        return jobs.library.run(job.job_id, on_progress=on_progress)

    def ask(client: JobClient) -> IndexReport:
        created = client.submit(kind, request)
        say(f"the server on {client.address} has the index open and does it: job {created['job_id']}")
        return client.follow(created["job_id"], on_progress)

    return _here_or_there(settings, work, ask)


def retry_job(settings: Settings, job_id: str, *, on_progress: OnProgress, say: Say) -> IndexReport:
    """Do the failed files of a job again, and what it never reached; see `run_job`.

    Args:
        settings: Whose library.
        job_id: A job that has ended.
        on_progress: Called with the state of things.
        say: Tells a person where the job runs.

    Returns:
        What the job did, over all its runs.
    """

    def work(jobs: Jobs) -> IndexReport:
        return jobs.library.run(jobs.retry(job_id).job_id, on_progress=on_progress)

    def ask(client: JobClient) -> IndexReport:
        client.retry(job_id)
        say(f"the server on {client.address} has the index open and does it")
        return client.follow(job_id, on_progress)

    return _here_or_there(settings, work, ask)


def cancel_job(settings: Settings, job_id: str) -> str:
    """End a job, here or on the server; see `run_job`.

    Args:
        settings: Whose library.
        job_id: A job that waits or runs.

    Returns:
        Its state.

    Raises:
        JobEnded: If it has ended.
        LedgerInUse: If a process works on the jobs that is no server, or none that answers where it should.
    """
    try:
        with Ledger.open(settings.data / LEDGER_NAME) as ledger:
            job = ledger.get_job(job_id)
            if job.has_ended:
                raise JobEnded(f"job {job_id} has ended: {job.state}")
            return ledger.end_job(
                job_id, "cancelled", report=None
            ).state  # nobody runs it: the ledger is ours
    except LedgerInUse:
        server = find_server(settings)
        if server is None:
            raise
    with JobClient(*server, headers=settings.client_headers()) as client:
        return str(client.cancel(job_id)["state"])


def make_backup(settings: Settings, folder: Path) -> Manifest:
    """Write a backup into a new folder; a server that has the index open sends it.

    Returns:
        What the backup holds.
    """
    try:
        with contextlib.closing(read_library(settings)) as files:
            return save_backup(folder, files)
    except IndexInUse as exc:
        held = exc
    with (
        find_client(settings, held) as client,
        client.stream("POST", ROUTE, timeout_seconds=BACKUP_SECONDS) as pieces,
        contextlib.closing(read_tar(pieces)) as files,
    ):
        return save_backup(folder, files)


def _here_or_there(
    settings: Settings, work: Callable[[Jobs], IndexReport], ask: Callable[[JobClient], IndexReport]
) -> IndexReport:
    """Work in this process, or ask the server that has the index open.

    Args:
        settings: Whose library.
        work: What to do here.
        ask: What to ask there.

    Returns:
        What was done.

    Raises:
        IndexInUse: If a process has the index open that is no server, or none that answers where it should.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    try:
        with open_foley(settings) as foley, open_jobs(foley) as jobs:
            return work(jobs)
    except IndexInUse:
        server = find_server(settings)
        if server is None:
            raise
    with JobClient(*server, headers=settings.client_headers()) as client:
        return ask(client)


def watch_library(
    settings: Settings,
    request: JobRequest,
    *,
    interval_seconds: float,
    on_progress: OnProgress,
    on_report: Callable[[IndexReport], None],
    say: Say,
) -> None:
    """Synchronise again and again, whenever something has changed, until Ctrl-C.

    The folders are looked through every so often: names, sizes and times only, 100,000 files in about a second. The
    kernel could tell of changes, but not of those on network disks, only through a further dependency, and not of what
    happened before somebody listened, so that a look is needed anyway.

    Args:
        settings: Whose library.
        request: What to synchronise, and how long a file must be left alone before it counts.
        interval_seconds: Time between two looks.
        on_progress: Called with the state of things.
        on_report: Called after each synchronisation.
        say: Tells a person what goes on.
    """
    done: int | None = None
    with contextlib.suppress(KeyboardInterrupt):  # it is how a watch ends, wherever it is just now
        while True:
            state = _fingerprint(request)
            if state != done:
                report = run_job(settings, "sync", request, on_progress=on_progress, say=say)
                on_report(report)
                if report.is_interrupted:
                    return
                # Files that changed while they were read failed as such: the next look finds them changed.
                done = state
            time.sleep(interval_seconds)


def _fingerprint(request: JobRequest) -> int:
    """What the folders look like; the same number means that nothing has changed."""
    state = 0
    for finding in find_files(map(Path, request.paths), settle_seconds=request.settle_seconds):
        facts: tuple[object, ...] = (str(finding.path), type(finding).__name__)
        if isinstance(finding, FoundFile):
            facts = (*facts, finding.size_bytes, finding.modified_ns)
        state ^= hash(facts)
    return state
