"""Suggested tags: `GET /v1/suggested-tags`, and `/v1/assets/{id}/suggested-tags` to see and to decide."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Response
from pydantic import Field

from service.http.document import Document
from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.routes.assets import AssetId, AssetListParameters, AssetNotFound, find_asset
from service.http.schemas import ASSET_ID, NEXT_CURSOR, RequestBody, example
from service.http.state import StateOf
from service.library.metadata import MAX_LIST_VALUES, MAX_TEXT_CHARS
from service.library.tags import SuggestedTags, decide, load_classifier, suggest

router = APIRouter(prefix="/v1", tags=["assets"])

Tags = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]],
    Field(max_length=MAX_LIST_VALUES),
]
SUGGESTED = {
    "asset_id": ASSET_ID,
    "path": "/media/rain/window.mp4",
    "key": "tags",
    "suggestions": [{"tag": "rain", "probability": 0.97}],
    "accepted": ["window"],
    "declined": ["sea"],
}


class SuggestedTagBody(Document):
    """One tag."""

    tag: str
    probability: float
    """How likely it belongs to the file, in [0, 1]."""


class SuggestedTagsBody(Document):
    """What is suggested for an asset, the likeliest first, and what was decided."""

    model_config = example(SUGGESTED)

    asset_id: str
    path: str
    key: str = Field(description="Key of the metadata that accepted tags go to.")
    suggestions: list[SuggestedTagBody]
    accepted: list[str] = Field(
        description="Tags of the asset that were suggested and accepted, not given by people."
    )
    declined: list[str] = Field(description="Tags that were declined; they are not suggested again.")


class SuggestedTagsPageBody(Document):
    """The assets of one page that have suggestions."""

    model_config = example({"assets": [SUGGESTED], "next_cursor": None})

    assets: list[SuggestedTagsBody]
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class TagDecisions(RequestBody):
    """What becomes of suggested tags."""

    accept: Tags = Field(default=[], description="These join the metadata of the asset.")
    decline: Tags = Field(default=[], description="These are not suggested again.")


@router.get(
    "/suggested-tags",
    summary="List suggested tags",
    description=(
        "Looks at one page of assets, in the order of `/v1/assets`, and answers with those that have suggestions: a "
        "page may be empty and not be the last. Needs what `foley-train adapt` or `graph` learned from the tags that "
        "there are (`no_classifier`)."
    ),
    responses={200: {"model": SuggestedTagsPageBody}, **describe_problems(409, 422, 500, 503)},
)
async def list_suggested_tags(
    state: StateOf, parameters: Annotated[AssetListParameters, Query()]
) -> Response:
    """Answer with the suggestions of one page of assets."""
    chosen = parameters.to_filter()

    def work() -> Response:
        with state.foley.releases.lease() as release:
            classifier = load_classifier(state.foley.settings.data, release.bundle.bundle_id)
            page = release.index.list_assets(limit=parameters.limit, cursor=parameters.cursor, filter=chosen)
            found = [suggest(release.index, asset, classifier) for asset in page.assets]
        assets = [one.to_json() for one in found if one.probabilities]
        return JsonResponse({"assets": assets, "next_cursor": page.next_cursor})

    return await anyio.to_thread.run_sync(work)


@router.get(
    "/assets/{asset_id}/suggested-tags",
    summary="Show the suggested tags of an asset",
    responses={200: {"model": SuggestedTagsBody}, **describe_problems(404, 409, 500, 503)},
)
async def get_suggested_tags(asset_id: AssetId, state: StateOf) -> Response:
    """Answer with the suggestions of one asset."""
    asset = await find_asset(state.foley, asset_id)

    def work() -> SuggestedTags:
        with state.foley.releases.lease() as release:
            classifier = load_classifier(state.foley.settings.data, release.bundle.bundle_id)
            return suggest(release.index, asset, classifier)

    return JsonResponse((await anyio.to_thread.run_sync(work)).to_json())


@router.post(
    "/assets/{asset_id}/suggested-tags",
    summary="Accept or decline suggested tags",
    description=(
        "Accepted tags join the metadata under `key`, and `key` with `:accepted` says that they were suggested; "
        "declined ones are listed under `key` with `:declined`. A decision can be turned round. Tags that were neither "
        "suggested nor decided about are refused (`invalid_parameter`)."
    ),
    responses={
        200: {"model": SuggestedTagsBody},
        **describe_problems(400, 404, 408, 409, 413, 422, 500, 503, 507),
    },
)
async def decide_suggested_tags(asset_id: AssetId, decisions: TagDecisions, state: StateOf) -> Response:
    """Write what was decided, and answer with what is suggested now."""
    await find_asset(state.foley, asset_id)

    def work() -> SuggestedTags | None:
        with state.releases.lease_to_write() as index:
            classifier = load_classifier(state.foley.settings.data, state.foley.bundle.bundle_id)
            return decide(index, asset_id, classifier, accept=decisions.accept, decline=decisions.decline)

    found = await anyio.to_thread.run_sync(work, limiter=state.writing)
    if found is None:  # it was deleted just now
        raise AssetNotFound(f"no asset {asset_id} is indexed")
    return JsonResponse(found.to_json())
