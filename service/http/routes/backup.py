"""`POST /v1/backup`: everything that cannot be made anew from the media, as one tar, while the service goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import anyio.to_thread
from fastapi import APIRouter, Response

from service.http.admission import Overloaded
from service.http.ended_stream import EndedStream
from service.http.schemas import describe_problems
from service.http.state import State, StateOf
from service.operations.backup import ROUTE, copy_members, write_tar

router = APIRouter(tags=["operations"])

RETRY_SECONDS = 60.0


@router.post(
    ROUTE,
    summary="Copy the index, the ledger of jobs, the API keys and the release",
    description=(
        "`foley backup` asks this. The answer is a tar; its last file, `backup.json`, has the sha256 of all others: "
        "without it the copy is not whole. One copy is made at a time."
    ),
    responses={
        200: {
            "description": "The backup.",
            "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
        },
        **describe_problems(429, 500, 503),
    },
    response_class=Response,
)
async def create_backup(state: StateOf) -> Response:
    """Answer with a backup."""
    if not state.backing_up.acquire(blocking=False):
        raise Overloaded("a backup is being made already", retry_after_seconds=RETRY_SECONDS)
    pieces = _pieces(state)

    def end() -> None:
        pieces.close()
        state.backing_up.release()

    return EndedStream(_stream(pieces), on_end=end, media_type="application/x-tar")


async def _stream(pieces: Generator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece


def _pieces(state: State) -> Generator[bytes]:
    """The tar, whose release stays open until it is closed."""
    with state.foley.releases.lease() as release:
        members = copy_members(
            state.foley.settings, release.index, release_id=release.release_id, bundle=release.bundle
        )
        yield from write_tar(members)
