"""`GET /v1/library`: how large the library is, and what the active release does with it."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Response

from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.schemas import LibraryBody
from service.http.state import StateOf
from service.library.tags import has_classifier
from service.releases.documents import describe_bundle

router = APIRouter(tags=["assets"])


@router.get(
    "/v1/library",
    summary="Describe the library",
    description="Cheap: what an application shows before anything else. Nothing is checked; `/readyz` does that.",
    responses={200: {"model": LibraryBody}, **describe_problems(500, 503)},
)
async def show_library(state: StateOf) -> Response:
    """Answer with counts, and with what the active release embeds."""

    def work() -> Response:
        with state.foley.releases.lease() as release:
            return JsonResponse(
                {
                    "num_assets": release.index.count_assets(),
                    "num_segments": release.index.count_segments(),
                    "release_id": release.release_id,
                    "bundle_id": release.bundle.bundle_id,
                    "bundle": describe_bundle(release.bundle.manifest),
                    "suggests_tags": has_classifier(state.foley.settings.data, release.bundle.bundle_id),
                }
            )

    return await anyio.to_thread.run_sync(work)
