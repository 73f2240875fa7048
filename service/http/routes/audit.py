"""`GET /v1/audit`: files of the library whose sound does not fit their picture."""

from __future__ import annotations

from typing import Annotated

import anyio
import anyio.to_thread
import pydantic_core
from fastapi import APIRouter, Query, Response

from service.http.openapi import describe_problems
from service.http.state import StateOf
from service.search.audit import Audit, audit_release
from service.system.settings import MAX_LIMIT

router = APIRouter(tags=["assets"])


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
) -> Response:
    """Answer with the files that fit least."""

    def work() -> bytes:
        with state.foley.lease(priority="bulk") as snapshot:
            found = audit_release(snapshot, max_offset_seconds=max_offset_seconds)
            return pydantic_core.to_json(found.to_json(limit=limit))

    async with state.auditing:  # one at a time: it reads the whole index
        document = await anyio.to_thread.run_sync(work)
    return Response(document, media_type="application/json")
