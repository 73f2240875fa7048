"""`GET /v1/audit`: files of the library whose sound does not fit their picture; and marks on what it found."""

from __future__ import annotations

from typing import Annotated

import anyio
import anyio.to_thread
import pydantic_core
from fastapi import APIRouter, Query, Response
from pydantic import ConfigDict, Field

from service.http.openapi import describe_problems
from service.http.routes.assets import AssetId, find_asset
from service.http.schemas import RequestBody
from service.http.state import StateOf
from service.jobs.marks import read_marks, set_mark
from service.search.audit import Audit, Mark, audit_release
from service.system.settings import MAX_LIMIT

router = APIRouter(tags=["assets"])


class MarkBody(RequestBody):
    """What to say of a finding."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [{"mark": "not_a_fault"}]})

    mark: Mark | None = Field(
        description="`fixed`: it was put right. `not_a_fault`: it is meant so. Null takes the mark away."
    )


@router.get(
    "/v1/audit",
    summary="Find files whose sound does not fit their picture",
    description=(
        "Compares the stored sound and picture of every file that has both, about 10 ms a file. Mis-muxed, dubbed, "
        "silent and shifted files come first; shifted ones with their offset. Refused with `cannot_tell` if the active "
        "release tells a file's own sound from that of another no better than chance."
    ),
    responses={200: {"model": Audit}, **describe_problems(409, 422, 500, 503)},
)
async def audit(
    state: StateOf,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of findings.")] = 50,
    max_offset_seconds: Annotated[
        float, Query(ge=0, le=600, description="Largest offset that is looked for.")
    ] = 30.0,
    include_marked: Annotated[
        bool, Query(description="Also list files that were marked as fixed or as no fault.")
    ] = False,
) -> Response:
    """Answer with the files that fit least."""

    def work() -> bytes:
        with state.foley.lease(priority="bulk") as snapshot:
            found = audit_release(snapshot, max_offset_seconds=max_offset_seconds)
            marked = found.with_marks(read_marks(state.jobs.ledger), shows_marked=include_marked)
            return pydantic_core.to_json(marked.to_json(limit=limit))

    async with state.auditing:  # one at a time: it reads the whole index
        document = await anyio.to_thread.run_sync(work)
    return Response(document, media_type="application/json")


@router.put(
    "/v1/audit/marks/{asset_id}",
    summary="Mark a finding of the audit",
    description="Audits leave marked files out, until their content changes.",
    status_code=204,
    response_class=Response,
    responses=describe_problems(400, 404, 408, 413, 422, 500, 503, 507),
)
async def mark_finding(asset_id: AssetId, body: MarkBody, state: StateOf) -> Response:
    """Mark an asset, or take its mark away."""
    await find_asset(state.foley, asset_id)
    await anyio.to_thread.run_sync(set_mark, state.jobs.ledger, asset_id, body.mark)
    return Response(status_code=204)
