"""`GET /v1/tracks`: the stored tracks of the library, for training that decodes no media."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Response

from service.http.admission import Overloaded
from service.http.openapi import describe_problems
from service.http.state import State, StateOf
from service.http.tar_response import TarResponse
from service.operations.track_stream import ROUTE, stream_release, stream_tracks

router = APIRouter(tags=["assets"])

RETRY_SECONDS = 60.0
ReleaseId = Annotated[
    str | None,
    Query(
        max_length=128,
        description="Tracks of this release. Default: the active one.",
        examples=["starter-1a2b3c"],
    ),
]


@router.get(
    ROUTE,
    summary="Stream the stored tracks of the library",
    description=(
        "`foley assets tracks` asks this, and `foley-train adapt` learns from it. The answer is a tar: `tracks.json` "
        "says what the tracks mean, each `tracks/*.npz` holds segments of whole assets, `end.json` counts them: "
        "without it the stream broke off. Only one such stream or backup runs at a time."
    ),
    responses={
        200: {
            "description": "The tracks.",
            "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
        },
        **describe_problems(404, 422, 429, 500, 503),
    },
    response_class=Response,
)
async def get_tracks(state: StateOf, release: ReleaseId = None) -> Response:
    """Answer with the tracks of a release."""
    if not state.backing_up.acquire(blocking=False):
        raise Overloaded("a backup or another stream of tracks is running", retry_after_seconds=RETRY_SECONDS)
    pieces = _pieces(state, release)
    try:
        first = await anyio.to_thread.run_sync(
            next, pieces
        )  # what cannot be streamed is a problem, not a short tar
    except BaseException:
        state.backing_up.release()
        raise
    return TarResponse(pieces, first=first, on_end=state.backing_up.release)


def _pieces(state: State, release_id: str | None) -> Generator[bytes]:
    """The tar; the release stays open until the generator is closed."""
    with state.foley.releases.lease() as active:
        if release_id in (None, active.release_id):
            yield from stream_tracks(active.index, release_id=active.release_id, bundle=active.bundle)
        else:
            yield from stream_release(state.foley.settings, release_id)
