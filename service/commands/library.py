"""`foley index`, `foley sync` and `foley jobs`: index media, keep the index in step, see what was done."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.options import Json
from service.commands.terminal import (
    INTERRUPTED,
    WRONG_USAGE,
    fail,
    interrupt,
    log_to_stderr,
    print_json,
    read_settings,
    report_errors,
    say,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from service.jobs.records import JobRequest
    from service.library.report import IndexReport, OnProgress
    from service.system.settings import Settings

jobs_app = typer.Typer(help="Jobs: list, show, retry, cancel.")
Paths = Annotated[
    list[str], typer.Argument(help="Files and folders, also s3://bucket/prefix.", metavar="PATH...")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try quarantined files again.")]
Verify = Annotated[bool, typer.Option("--verify", help="Read every file again, even if it looks unchanged.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow links to folders.")]
WATCH_SETTLE_SECONDS = 5.0
JobName = Annotated[str, typer.Argument(help="Id of the job.", metavar="JOB")]


def index(
    paths: Paths,
    retry: Retry = False,
    verify: Verify = False,
    follow_links: FollowLinks = False,
    part: Annotated[
        str,
        typer.Option(
            help="Index only this part of the files: 3/8 is the third of eight, for the third of eight machines.",
            metavar="K/N",
        ),
    ] = "",
    ray: Annotated[
        str,
        typer.Option(
            help="Let the machines of a Ray cluster do it: HOST:PORT, ray://HOST:PORT or auto.",
            metavar="ADDRESS",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Index media files and folders. Files that are already indexed and have not changed are skipped."""
    from service.commands.cluster import run_cluster_job
    from service.commands.here_or_there import run_job
    from service.commands.starter_hint import hint_once
    from service.jobs.records import JobRequest
    from service.library.parts import Part

    try:
        Part.parse(part)
    except ValueError as exc:
        fail(str(exc), code=WRONG_USAGE)
    settings = read_settings()
    with _working() as on_progress:
        request = JobRequest(
            paths=_absolute(paths),
            retry_quarantined=retry,
            verify=verify,
            follow_links=follow_links,
            part=part,
        )
        if ray:
            report = run_cluster_job(settings, ray, request, on_progress=on_progress, say=say)
        else:
            report = run_job(settings, "index", request, on_progress=on_progress, say=say)
    _show_report(report, as_json=as_json)
    if report.is_interrupted:
        fail("stopped; run the same command to continue", code=INTERRUPTED)
    if report.files.indexed + report.files.unchanged == 0 and (report.files.failed or not part):
        fail("no file was indexed" if report.files.failed else "no media files found")
    if not as_json:
        hint_once(settings, say)


def sync(
    paths: Paths,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Keep running until Ctrl-C: synchronise whenever something has changed."
        ),
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, help="With --watch: seconds between two checks of the folders.")
    ] = 10.0,
    settle: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=3600,
            help="Skip files that were written to within this many seconds; the next run takes them. Default: 5 with "
            "--watch, else 0.",
        ),
    ] = None,
    allow_empty: Annotated[
        bool,
        typer.Option(
            "--allow-empty",
            help="Accept that a path, all of its files or its disk is gone, and delete them from the index.",
        ),
    ] = False,
    allow_gone: Annotated[
        bool,
        typer.Option(
            "--allow-gone", help="Delete from the index without asking if most of a folder is gone."
        ),
    ] = False,
    retry: Retry = False,
    verify: Verify = False,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Bring the index in step with the files: new, changed, moved and deleted ones."""
    from service.commands.watching import watch_library
    from service.jobs.records import JobRequest

    if dry_run and watch:
        fail("--dry-run and --watch cannot be used together", code=WRONG_USAGE)
    settings = read_settings()
    settle_seconds = (WATCH_SETTLE_SECONDS if watch else 0.0) if settle is None else settle
    request = JobRequest(
        paths=_absolute(paths),
        allow_empty=allow_empty,
        allow_gone=allow_gone,
        dry_run=dry_run,
        settle_seconds=settle_seconds,
        retry_quarantined=retry,
        verify=verify,
        follow_links=follow_links,
    )
    if watch:
        with _working() as on_progress:
            watch_library(
                settings,
                request,
                interval_seconds=interval,
                on_progress=on_progress,
                on_report=lambda report: _show_report(report, as_json=as_json),
                say=say,
            )
        return
    report = _sync(settings, request)
    _show_report(report, as_json=as_json)
    if report.is_interrupted:
        fail("stopped; run the same command to continue", code=INTERRUPTED)


def repair(
    active: Annotated[
        str | None, typer.Option(help="Also make this release the active one.", metavar="RELEASE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Repair a damaged index: drop what cannot be read, and index again what is missing. Stop `foley serve` first."""
    from service.commands.here_or_there import repair_library

    settings = read_settings()
    with _working() as on_progress:
        report = repair_library(settings, active=active, on_progress=on_progress, say=say)
    _show_report(report, as_json=as_json)


def _sync(settings: Settings, request: JobRequest) -> IndexReport:
    """Synchronise; somebody at a terminal is asked before most of a folder is removed."""
    from service.commands.here_or_there import run_job
    from service.system.failure import Failure

    with _working() as on_progress:
        try:
            return run_job(settings, "sync", request, on_progress=on_progress, say=say)
        except Failure as exc:
            if exc.code != "too_many_gone" or not sys.stdin.isatty():
                raise
            question = f"foley: {exc}\nRemove them from the index?"
    if not typer.confirm(question, err=True):
        fail("nothing was removed")
    return _sync(settings, replace(request, allow_gone=True))


@jobs_app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 20,
    as_json: Json = False,
) -> None:
    """List the newest jobs, if no subcommand is given."""
    if context.invoked_subcommand is not None:
        return
    from service.commands.printing import print_jobs
    from service.jobs.documents import list_jobs

    settings = read_settings()
    with report_errors():
        found = list_jobs(settings, limit=limit)
    if as_json:
        print_json({"jobs": found})
    elif found:
        print_jobs(stdout(), found)
    else:
        say(f"there are no jobs in {settings.data}: start with `foley index PATH...`")


@jobs_app.command()
def show(job: JobName, as_json: Json = False) -> None:
    """Show what a job did, and which files failed."""
    from service.commands.printing import format_path, job_paths
    from service.jobs.documents import show_job

    settings = read_settings()
    with report_errors():
        document, report = show_job(settings, job)
    if as_json:
        print_json(document)
        return
    paths = ", ".join(map(format_path, job_paths(document)))
    stdout().print(f"{document['kind']} of {paths}: {document['state']}", markup=False, highlight=False)
    if document["error"] is not None:
        stdout().print(f"{document['error']['code']}: {document['error']['detail']}", markup=False)
    if report is not None:
        _show_report(report, as_json=False)


@jobs_app.command()
def retry(job: JobName, as_json: Json = False) -> None:
    """Try the failed files of a job again, and those it did not reach; or build its release again."""
    from service.commands.here_or_there import retry_build, retry_job
    from service.commands.printing import show_steps
    from service.commands.releases import show_build
    from service.jobs.documents import show_job

    settings = read_settings()
    with report_errors():
        is_build = show_job(settings, job)[0]["kind"] == "release"
    if is_build:
        log_to_stderr()
        with report_errors(), show_steps(stderr()) as on_step:
            done = retry_build(settings, job, on_step=on_step)
        show_build(done, as_json=as_json)
        return
    with _working() as on_progress:
        report = retry_job(settings, job, on_progress=on_progress, say=say)
    _show_report(report, as_json=as_json)
    if report.is_interrupted:
        fail("stopped; files that are done stay indexed", code=INTERRUPTED)


@jobs_app.command()
def cancel(job: JobName) -> None:
    """Cancel a job that waits or runs. Files that are done stay indexed."""
    from service.commands.here_or_there import cancel_job

    settings = read_settings()
    with report_errors():
        state = cancel_job(settings, job)
    say(f"job {job} is {state}")


@contextmanager
def _working() -> Iterator[OnProgress]:
    """Show progress, report errors in one line, and treat SIGTERM like Ctrl-C."""
    from service.commands.printing import show_progress

    signal.signal(signal.SIGTERM, interrupt)
    log_to_stderr()
    with report_errors(), show_progress(stderr()) as on_progress:
        yield on_progress


def _absolute(paths: list[str]) -> tuple[str, ...]:
    from service.library.locations import InvalidLocation, locate

    try:
        return tuple(str(locate(path)) for path in paths)
    except InvalidLocation as exc:
        fail(str(exc), code=WRONG_USAGE)


def _show_report(report: IndexReport, *, as_json: bool) -> None:
    from service.commands.printing import print_plan, print_report

    if as_json:
        print_json(report.to_json())
        return
    if report.plan:
        print_plan(stdout(), report)
    print_report(stdout(), report)
