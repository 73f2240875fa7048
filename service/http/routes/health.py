"""`/livez` says that the process answers; `/readyz` proves that its answers are right."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.http.openapi import describe_problems
from service.http.schemas import LiveBody, ReadyBody
from service.http.state import StateOf

router = APIRouter(tags=["health"])


@router.get(
    "/livez", summary="Is the process alive?", responses={200: {"model": LiveBody}}, response_class=Response
)
async def get_liveness() -> Response:
    """Answer at once: the event loop runs."""
    return Response(b'{"status":"alive"}', media_type="application/json")


@router.get(
    "/readyz",
    summary="Does the service answer correctly?",
    description=(
        "Embeds the bundle's golden clip on the active provider and compares; asks the index and the ledger of jobs. "
        "A disk too full to write is reported (`is_writable`) but does not make the service unready: searches work."
    ),
    responses={200: {"model": ReadyBody}, **describe_problems(500, 503)},
    response_class=Response,
)
async def get_readiness(state: StateOf) -> Response:
    """Answer with what was checked, or a problem that says what failed."""
    return Response(
        await state.readiness.check(state.foley, state.jobs.ledger), media_type="application/json"
    )
