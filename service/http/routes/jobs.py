"""`/v1/jobs`: index and synchronise folders on the machine of the service, and follow the jobs that do it."""

from __future__ import annotations

import base64
import binascii
import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi import Path as PathParameter

from models.media.names import find_path
from service.http.access import RELEASE_JOBS, allows, check_scope, is_still_known, name_of
from service.http.events import EventResponse, event_id
from service.http.job_schemas import JOB_ID, JobBody, JobFilePageBody, JobPageBody, JobRequestBody
from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.parameters import PathNotAllowed, check_path
from service.http.problems import InvalidParameter
from service.http.state import StateOf
from service.jobs.documents import LiveProgress, describe_job
from service.jobs.files import count_outcomes, read_files
from service.jobs.opening import Jobs
from service.jobs.records import JobRecord, JobRequest, Kind, State
from service.library.journal import FileRow
from service.library.locations import is_url, locate
from service.library.mounts import is_within
from service.library.outcomes import STORED
from service.library.parts import Part
from service.library.report import Outcome
from service.library.scanning import LinkRules
from service.system.paths import make_absolute, show_path
from service.system.settings import MAX_LIMIT, Settings

PREFIX = "/v1/jobs"
MAX_LISTED = 1000  # failed files in the report of one job; `/files` has all

router = APIRouter(prefix=PREFIX, tags=["jobs"])


JobId = Annotated[str, PathParameter(description="Name of the job.", examples=[JOB_ID])]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of entries on a page.")]
CURSOR = "`next_cursor` of the page before; leave it out for the first."
Cursor = Annotated[str | None, Query(description=CURSOR)]
NumberCursor = Annotated[str | None, Query(pattern="^[0-9]{1,18}$", description=CURSOR)]
LOCATION = {"Location": {"description": "Address of the job.", "schema": {"type": "string"}}}


async def _find_job(request: Request, job_id: JobId, state: StateOf) -> JobRecord:
    """The job that a path names; raises `JobNotFound`, and `ScopeMissing` if the key may not see its kind."""
    job = await anyio.to_thread.run_sync(state.jobs.ledger.get_job, job_id)
    if job.kind == "release":
        check_scope(request, RELEASE_JOBS)
    return job


JobOf = Annotated[JobRecord, Depends(_find_job)]


@router.post(
    "",
    status_code=202,
    summary="Index or synchronise folders",
    description=(
        "The job is queued and runs in the background, also after a restart of the service. With an `Idempotency-Key` "
        "the request may be sent again: it creates one job, and every answer is the first one."
    ),
    responses={
        202: {"model": JobBody, "description": "The job is queued.", "headers": LOCATION},
        **describe_problems(400, 403, 408, 413, 422, 500, 503, 507),
    },
)
async def create_job(
    body: JobRequestBody,
    state: StateOf,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="A name you choose for this request. The same key with another body is an error.",
        ),
    ] = None,
) -> Response:
    """Queue a job."""
    request = _read_request(body, state.foley.settings)
    submit = functools.partial(state.jobs.library.submit, body.kind, request, idempotency_key=idempotency_key)
    created = await anyio.to_thread.run_sync(submit)
    # As it was when it was made: a repeated request gets the same answer, however far the job is by then.
    job = replace(
        created.job,
        state="queued",
        started_at=None,
        ended_at=None,
        report=None,
        error_code=None,
        error=None,
        wants_cancel=False,
    )
    return JsonResponse(describe_job(job), status_code=202, headers={"Location": f"{PREFIX}/{job.job_id}"})


@router.get(
    "",
    summary="List jobs",
    description="The newest first. Those that build releases are listed for scope `admin` only.",
    responses={200: {"model": JobPageBody}, **describe_problems(422, 500, 503)},
)
async def list_jobs(
    state: StateOf,
    request: Request,
    limit: Limit = 100,
    cursor: NumberCursor = None,
    job_state: Annotated[State | None, Query(alias="state", description="Only jobs in this state.")] = None,
) -> Response:
    """Answer with one page of jobs."""
    before = None if cursor is None else int(cursor)
    without: Kind | None = None if allows(request, RELEASE_JOBS) else "release"
    work = functools.partial(
        state.jobs.ledger.list_jobs, limit=limit + 1, before=before, state=job_state, without=without
    )
    jobs = await anyio.to_thread.run_sync(work)
    page = jobs[:limit]
    document = {
        "jobs": [{**describe_job(job, state.jobs.live(job.job_id)), "report": None} for job in page],
        "next_cursor": str(page[-1].number) if len(jobs) > limit else None,
    }
    return JsonResponse(document)


@router.get(
    "/{job_id:one_name}",
    summary="Describe a job",
    responses={200: {"model": JobBody}, **describe_problems(404, 500, 503)},
)
async def get_job(job: JobOf, state: StateOf) -> Response:
    """Answer with one job."""
    return JsonResponse(await _describe_now(state.jobs, job.job_id))


@router.get(
    "/{job_id:one_name}/files",
    summary="List the files of a job",
    description=(
        "What happened to each file, in the order of the paths. `outcome=quarantined` lists the files that are not "
        "tried again."
    ),
    responses={200: {"model": JobFilePageBody}, **describe_problems(404, 422, 500, 503)},
)
async def list_job_files(
    job: JobOf,
    state: StateOf,
    outcome: Annotated[
        list[Outcome] | None, Query(description="Only files with one of these outcomes.", max_length=8)
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Answer with one page of files."""
    after = None if cursor is None else _read_path_cursor(cursor)
    ledger = state.jobs.ledger

    def work() -> dict[str, Any]:
        files = read_files(ledger, job.job_id, outcomes=outcome or (), limit=limit + 1, after=after)
        return {
            "files": [_describe_file(file) for file in files[:limit]],
            "counts": count_outcomes(ledger, job.job_id),
            "next_cursor": _write_path_cursor(files[limit - 1].path) if len(files) > limit else None,
        }

    return JsonResponse(await anyio.to_thread.run_sync(work))


@router.get(
    "/{job_id:one_name}/events",
    summary="Follow a job",
    description=(
        "Server-sent events: `progress` while the job runs, `end` with the final state; the data of each is the job. "
        "`Last-Event-ID` skips what you have seen; after the end the answer is 204."
    ),
    response_class=Response,
    responses={
        200: {"description": "The events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The job has ended, and you have seen it."},
        **describe_problems(404, 422, 429, 500, 503),
    },
)
async def follow_job(
    request: Request,
    job: JobOf,
    state: StateOf,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", max_length=255, description="`id` of the last event you have seen."),
    ] = None,
) -> Response:
    """Answer with the events of a job."""
    if job.has_ended and last_event_id == event_id(job, None):
        return Response(status_code=204)
    events = state.streams.follow(
        job.job_id,
        last_event_id=last_event_id,
        describe=_describe,
        is_allowed=lambda: is_still_known(request),
    )
    return EventResponse(events, state.streams.counted(getattr(request.state, "key_id", None)))


@router.post(
    "/{job_id:one_name}:cancel",
    summary="Cancel a job",
    description="What is done stays. A running job ends after its current step.",
    responses={200: {"model": JobBody}, **describe_problems(404, 409, 500, 503, 507)},
)
async def cancel_job(job: JobOf, state: StateOf) -> Response:
    """Cancel a job and answer with it."""
    await anyio.to_thread.run_sync(state.jobs.cancel, job.job_id)
    return JsonResponse(await _describe_now(state.jobs, job.job_id))


@router.post(
    "/{job_id:one_name}:retry",
    status_code=202,
    summary="Retry the failed files of a job",
    description=(
        "The job is queued again for files that failed, quarantined ones included, and files not reached. One that is "
        "done and has none of them is refused. A build of a release is recorded as asked for by who retries it."
    ),
    responses={
        202: {"model": JobBody, "description": "The job is queued.", "headers": LOCATION},
        **describe_problems(404, 409, 500, 503, 507),
    },
)
async def retry_job(job: JobOf, request: Request, state: StateOf) -> Response:
    """Queue a job again and answer with it."""
    job = await anyio.to_thread.run_sync(
        functools.partial(state.jobs.retry, job.job_id, who=name_of(request))
    )
    return JsonResponse(describe_job(job), status_code=202, headers={"Location": f"{PREFIX}/{job.job_id}"})


def _read_request(body: JobRequestBody, settings: Settings) -> JobRequest:
    """Check what the schema cannot express; raises `InvalidParameter` or `PathNotAllowed`."""
    if body.kind == "index":
        for name in ("allow_empty", "allow_gone", "dry_run", "settle_seconds"):
            if getattr(body, name):
                raise InvalidParameter([{"parameter": name, "message": "only a job of kind sync takes it"}])
    elif body.part:
        raise InvalidParameter([{"parameter": "part", "message": "only a job of kind index takes it"}])
    try:
        Part.parse(body.part)
    except ValueError as exc:
        raise InvalidParameter([{"parameter": "part", "message": str(exc)}]) from exc
    return JobRequest(
        paths=tuple(_read_path(path, settings) for path in body.paths),
        allow_empty=body.allow_empty,
        allow_gone=body.allow_gone,
        dry_run=body.dry_run,
        settle_seconds=body.settle_seconds,
        retry_quarantined=body.retry_quarantined,
        verify=body.verify,
        follow_links=body.follow_links,
        part=body.part,
    )


def _read_path(text: str, settings: Settings) -> str:
    if is_url(text):
        location = locate(text)
        if not any(is_within(str(location), root) for root in settings.storage_roots):
            raise PathNotAllowed("jobs over HTTP work on addresses below FOLEY_STORAGE_ROOTS only")
        return str(location)
    try:
        os.fsencode(text)
        if "\0" in text:
            raise ValueError("null byte")
    except ValueError as exc:
        raise InvalidParameter([{"parameter": "paths", "message": "not a path of this machine"}]) from exc
    return str(check_path(make_absolute(Path(find_path(text))), LinkRules(within=settings.library_roots)))


def _describe(job: JobRecord, live: LiveProgress | None) -> dict[str, Any]:
    document = describe_job(job, live)
    report = document["report"]
    if report is not None:  # that of a release has no lists
        lists = [name for name in ("failed", "quarantined", "partial", "linked_folders") if name in report]
        document["report"] = {**report, **{name: report[name][:MAX_LISTED] for name in lists}}
    return document


async def _describe_now(jobs: Jobs, job_id: str) -> dict[str, Any]:
    live = jobs.live(job_id)  # before the job: a job that ended in between has its report
    return _describe(await anyio.to_thread.run_sync(jobs.ledger.get_job, job_id), live)


def _describe_file(file: FileRow) -> dict[str, Any]:
    is_media = file.outcome in (
        *STORED,
        "deleted",
    )  # of other files only the path is shown
    return {
        "path": show_path(file.path),
        "outcome": file.outcome,
        "code": file.code,
        "reason": file.reason,
        "attempts": file.attempts,
        "asset_id": file.asset_id if is_media else None,
        "size_bytes": file.size_bytes if is_media else None,
        "num_segments": file.num_segments,
        "is_partial": file.is_partial,
        "ended_at": file.ended_at,
    }


def _write_path_cursor(path: str) -> str:
    return base64.urlsafe_b64encode(os.fsencode(path)).decode().rstrip("=")


def _read_path_cursor(cursor: str) -> str:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return os.fsdecode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise InvalidParameter([{"parameter": "cursor", "message": "not a cursor of this list"}]) from exc
