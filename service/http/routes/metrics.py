"""`GET /metrics`: what the service counts and times, as Prometheus reads it."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Response

from service.http.metrics import CONTENT_TYPE
from service.http.openapi import describe_problems
from service.http.state import StateOf

router = APIRouter(tags=["health"])

PATH = "/metrics"


@router.get(
    PATH,
    summary="Counters and timings",
    description="Prometheus' text format, base units. docs/operations.md says what each means and what to watch.",
    responses={
        200: {
            "description": "All metrics.",
            "content": {
                "text/plain": {"schema": {"type": "string"}, "example": "foley_index_segments 1042.0\n"}
            },
        },
        **describe_problems(500, 503),
    },
    response_class=Response,
)
async def get_metrics(state: StateOf) -> Response:
    """Answer with everything that is counted."""
    return Response(
        await anyio.to_thread.run_sync(state.metrics.render), headers={"Content-Type": CONTENT_TYPE}
    )
