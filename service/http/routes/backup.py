"""`POST /v1/backup`: everything that cannot be made again from the media, as one tar, while the service runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import anyio
import anyio.to_thread
from fastapi import APIRouter, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.http.admission import Overloaded
from service.http.openapi import describe_problems
from service.http.state import State, StateOf
from service.operations.backup import ROUTE, copy_members, write_tar

router = APIRouter(tags=["operations"])

RETRY_SECONDS = 60.0


@router.post(
    ROUTE,
    summary="Copy the index, the ledger of jobs, the API keys and the release",
    description=(
        "`foley backup` asks this. The answer is a tar; its last file, `backup.json`, has the sha256 of all others: "
        "without it the copy is incomplete. Only one backup runs at a time."
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
        raise Overloaded("another backup is running", retry_after_seconds=RETRY_SECONDS)
    return _BackupResponse(state)


class _BackupResponse(StreamingResponse):
    """Streams a backup and lets go of the release and the lock however that ends, a client that hangs up included."""

    def __init__(self, state: State) -> None:
        self._backing_up = state.backing_up
        self._pieces = _pieces(state)
        super().__init__(_stream(self._pieces), media_type="application/x-tar")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):  # a client that hangs up cancels us
                await anyio.to_thread.run_sync(self._pieces.close)
            self._backing_up.release()


async def _stream(pieces: Generator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece


def _pieces(state: State) -> Generator[bytes]:
    """The tar; the release stays open until the generator is closed."""
    with state.foley.releases.lease() as release:
        members = copy_members(
            state.foley.settings, release.index, release_id=release.release_id, bundle=release.bundle
        )
        yield from write_tar(members)
