"""`GET /v1/audit`: files of the library whose sound does not fit their picture."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import anyio.to_thread
import pydantic_core
from fastapi import APIRouter, Query, Response
from pydantic import Field

from service.http.openapi import describe_problems
from service.http.schemas import ASSET_ID, RELEASE_ID, Document, example
from service.http.state import StateOf
from service.search.audit import Finding, audit_release
from service.system.settings import MAX_LIMIT

router = APIRouter(tags=["assets"])

FINDING: dict[str, Any] = {
    "asset_id": ASSET_ID,
    "path": "/media/rain/dubbed.mp4",
    "verdict": "shifted",
    "match_probability": 0.023,
    "score": -0.039,
    "rank": 4.7,
    "offset_seconds": 10.0,
    "score_at_offset": 0.58,
}


class AuditBody(Document):
    """Files with sound and picture, the least likely first."""

    model_config = example({"findings": [FINDING], "num_files": 272, "release_id": RELEASE_ID})

    findings: list[Finding]
    num_files: int = Field(description="Files that were looked at.")
    release_id: str = Field(description="The release whose index was read.")


@router.get(
    "/v1/audit",
    summary="Find files whose sound does not fit their picture",
    description=(
        "Compares the stored sound and picture of every file that has both, about 10 ms a file. Mis-muxed, dubbed, "
        "silent and shifted files come first; shifted ones with their offset."
    ),
    responses={200: {"model": AuditBody}, **describe_problems(409, 422, 500, 503)},
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
            findings = audit_release(snapshot, max_offset_seconds=max_offset_seconds)
            document = {
                "findings": [finding.to_json() for finding in findings[:limit]],
                "num_files": len(findings),
                "release_id": snapshot.release_id,
            }
            return pydantic_core.to_json(document)

    async with state.auditing:  # one at a time: it reads the whole index
        document = await anyio.to_thread.run_sync(work)
    return Response(document, media_type="application/json")
