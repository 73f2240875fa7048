"""`POST /v1/backup`: everything that cannot be made again from the media, as one tar, while the service runs."""

from __future__ import annotations

from collections.abc import Generator

from fastapi import APIRouter, Response

from service.http.admission import Overloaded
from service.http.openapi import describe_problems
from service.http.state import State, StateOf
from service.http.tar_response import TarResponse
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
    return TarResponse(_pieces(state), on_end=state.backing_up.release)


def _pieces(state: State) -> Generator[bytes]:
    """The tar; the release stays open until the generator is closed."""
    with state.foley.releases.lease() as release:
        members = copy_members(
            state.foley.settings, release.index, release_id=release.release_id, bundle=release.bundle
        )
        yield from write_tar(members)
