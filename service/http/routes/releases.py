"""`/v1/releases`: the active encoder and others; build them beside it, switch, roll back."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import ConfigDict, Field

from models.media.names import find_path
from service.http.access import name_of
from service.http.job_schemas import JobBody
from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.parameters import check_path
from service.http.problems import InvalidParameter
from service.http.schemas import RELEASE_ID, RequestBody
from service.http.state import StateOf
from service.jobs.documents import describe_job
from service.jobs.records import ReleaseRequest
from service.releases.comparison import compare_releases
from service.releases.documents import ReleaseDocument, ReleaseList, SwitchDocument
from service.search.calibration import Calibration

PREFIX = "/v1/releases"
MAX_REASON = 500

router = APIRouter(prefix=PREFIX, tags=["releases"])


ReleaseId = Annotated[str, PathParameter(description="Name of the release.", examples=[RELEASE_ID])]


class ReleaseRequestBody(RequestBody):
    """What to build."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"examples": [{"bundle": "/models/mine", "activate": True}]},
    )

    bundle: str = Field(
        pattern=r"^/[^\x00]*$",
        max_length=4096,
        description="Absolute path of the bundle's folder on the machine of the service. It is copied.",
    )
    activate: bool = Field(False, description="Activate the release when it has passed its gates.")
    force: str = Field(
        "",
        max_length=MAX_REASON,
        description="With `activate`: why to activate it even if it fails its gates. Recorded.",
    )
    any_cost: bool = Field(
        False,
        description="Let its encoder be as slow and as large as it is: the gates of latency and memory only report.",
    )
    storage: Literal["", "float16", "fine", "compact"] = Field(
        "",
        description="How its index stores tracks, if it is on this machine; empty for the setting FOLEY_STORAGE.",
    )


class ActivateBody(RequestBody):
    """How to activate."""

    model_config = ConfigDict(strict=True)

    force: str = Field(
        "", max_length=MAX_REASON, description="Why to activate a release that failed its gates. Recorded."
    )


@router.get(
    "", summary="List the releases", responses={200: {"model": ReleaseList}, **describe_problems(500, 503)}
)
async def list_releases(state: StateOf) -> Response:
    """Answer with every release."""
    manager = state.releases

    def work() -> ReleaseList:
        return {
            "releases": [manager.describe(release) for release in manager.store.list()],
            "active": state.foley.releases.current.release_id,
        }

    return JsonResponse(await anyio.to_thread.run_sync(work))


@router.post(
    "",
    status_code=202,
    summary="Build a release of a bundle",
    description=(
        "The bundle is copied, tried in a process of its own, and the library is embedded with it beside the active "
        "index. Then it is compared with the active release. The answer is a job: follow it under `/v1/jobs`."
    ),
    responses={
        202: {"model": JobBody, "description": "The job is queued."},
        **describe_problems(400, 408, 413, 422, 500, 503, 507),
    },
)
async def create_release(
    body: ReleaseRequestBody,
    request: Request,
    state: StateOf,
    idempotency_key: Annotated[
        str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)
    ] = None,
) -> Response:
    """Queue the building of a release."""
    if body.force and not body.activate:
        raise InvalidParameter([{"parameter": "force", "message": "belongs to `activate`"}])
    # Links are refused where the bundle is read, and `..` means nothing once it is a path of the machine.
    wanted = ReleaseRequest(
        bundle=str(check_path(Path(find_path(body.bundle)))),
        activate=body.activate,
        force=body.force,
        any_cost=body.any_cost,
        storage=body.storage,
        who=name_of(request),
    )
    submit = functools.partial(state.jobs.releases.submit, wanted, idempotency_key=idempotency_key)
    created = await anyio.to_thread.run_sync(submit)
    job = replace(created.job, state="queued", started_at=None, ended_at=None, report=None)
    return JsonResponse(describe_job(job), status_code=202, headers={"Location": f"/v1/jobs/{job.job_id}"})


@router.get(
    "/{release_id:one_name}",
    summary="Describe a release",
    responses={200: {"model": ReleaseDocument}, **describe_problems(404, 500, 503)},
)
async def get_release(release_id: ReleaseId, state: StateOf) -> Response:
    """Answer with one release."""
    manager = state.releases
    release = await anyio.to_thread.run_sync(manager.store.get, release_id)
    return JsonResponse(await anyio.to_thread.run_sync(manager.describe, release))


@router.get(
    "/{release_id:one_name}/comparison/{other:one_name}",
    summary="Compare two releases",
    description="Recall, overlap, latency and memory side by side, as a page with pictures.",
    response_class=Response,
    responses={
        200: {"description": "The page.", "content": {"text/html": {"schema": {"type": "string"}}}},
        **describe_problems(404, 500, 503),
    },
)
async def compare(release_id: ReleaseId, other: ReleaseId, state: StateOf) -> Response:
    """Answer with a page that shows two releases side by side."""
    store = state.releases.store
    first = await anyio.to_thread.run_sync(store.get, release_id)
    second = await anyio.to_thread.run_sync(store.get, other)
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
    return Response(compare_releases(first, second), media_type="text/html", headers=headers)


@router.post(
    "/{release_id:one_name}:activate",
    summary="Activate a release",
    description="New requests get the release; running requests finish on the old one.",
    responses={200: {"model": SwitchDocument}, **describe_problems(404, 409, 422, 500, 503, 507)},
)
async def activate_release(
    release_id: ReleaseId, request: Request, state: StateOf, body: ActivateBody | None = None
) -> Response:
    """Switch to a release."""
    reason = "" if body is None else body.force
    work = functools.partial(state.releases.activate, release_id, who=name_of(request), why=reason)
    switched = await anyio.to_thread.run_sync(work, limiter=state.changing)
    return JsonResponse(switched.to_json())


@router.post(
    ":rollback",
    summary="Switch back to the previous release",
    description="Immediate, without embedding anything; a job embeds what was indexed meanwhile.",
    responses={200: {"model": SwitchDocument}, **describe_problems(409, 500, 503, 507)},
)
async def rollback_release(state: StateOf) -> Response:
    """Switch to the release before the active one."""
    switched = await anyio.to_thread.run_sync(state.releases.rollback, limiter=state.changing)
    return JsonResponse(switched.to_json())


@router.post(
    ":calibrate",
    summary="Recalibrate scores",
    description="On the current library, for the active release. Refused with `not_embedded` or `not_comparable` if "
    "its bundle does not compare sound with picture.",
    responses={200: {"model": Calibration}, **describe_problems(409, 422, 500, 503, 507)},
)
async def calibrate_release(state: StateOf) -> Response:
    """Calibrate the active release."""
    calibration = await anyio.to_thread.run_sync(state.releases.calibrate, limiter=state.calibrating)
    return JsonResponse(calibration.to_json())


@router.delete(
    "/{release_id:one_name}",
    status_code=204,
    response_class=Response,
    summary="Remove a release",
    description="Its bundle and its generation of the index are deleted.",
    responses=describe_problems(404, 409, 422, 500, 503),
)
async def delete_release(
    release_id: ReleaseId,
    state: StateOf,
    force: Annotated[
        bool, Query(description="Delete it even if a rollback would return to it; none is possible then.")
    ] = False,
) -> Response:
    """Delete a release."""
    work = functools.partial(state.releases.delete, release_id, gives_up_rollback=force)
    await anyio.to_thread.run_sync(work, limiter=state.changing)
    return Response(status_code=204)
