"""`/v1/assets`: what the library holds; each file, its metadata, and its removal from the index."""

from __future__ import annotations

import re
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema

from service.foley import Foley
from service.http.filters import LIST_SCHEMA, VALUE_SCHEMAS, FilterFields, MetadataText, read_values
from service.http.json_response import JsonResponse
from service.http.openapi import describe_media, describe_problems
from service.http.routes.media import respond_with_media
from service.http.schemas import AssetBody, AssetPageBody, RequestBody, at_most
from service.http.state import StateOf
from service.index.contract import Asset
from service.jobs.files import forget_asset
from service.library.assets import describe_asset
from service.library.metadata import MAX_KEY_CHARS, MAX_KEYS, merge_metadata
from service.system.failure import Failure
from service.system.settings import MAX_LIMIT

router = APIRouter(prefix="/v1/assets", tags=["assets"])

ASSET_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)

AssetId = Annotated[
    str,
    PathParameter(
        description="sha256 of the file's content, 64 lower-case hex digits.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]


class AssetListParameters(FilterFields):
    """Which page of which assets."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(100, ge=1, le=MAX_LIMIT, description="Maximum number of assets on a page.")
    cursor: str | None = Field(
        None, max_length=256, description="`next_cursor` of the page before; leave it out for the first."
    )
    metadata: MetadataText = None


class CountedListParameters(AssetListParameters):
    """Which page of which assets, and whether all of them are counted."""

    with_count: bool = Field(False, description="Also say how many assets pass the filters, `num_assets`.")


NewValue = Annotated[
    Any,
    PlainValidator(lambda given: None if given is None else read_values(given)),
    WithJsonSchema({"anyOf": [*VALUE_SCHEMAS, LIST_SCHEMA, {"type": "null"}]}),
]


class AssetChanges(RequestBody):
    """What to change about an asset."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"examples": [{"metadata": {"take": 3, "mood": ["calm", "cold"], "draft": None}}]},
    )

    metadata: Annotated[
        dict[Annotated[str, Field(max_length=MAX_KEY_CHARS)], NewValue],
        Field(max_length=MAX_KEYS),
        at_most(MAX_KEYS),
    ] = Field(
        description="New values by key: text, numbers, true, false, or lists of them. Null removes a key; other "
        "keys stay as they are (RFC 7396)."
    )


class AssetNotFound(Failure):
    """The index has no asset with this id."""

    code = "asset_not_found"


@router.get(
    "",
    summary="List the assets of the library",
    description=(
        "Pages of assets in a stable order; ask for the next page with the `next_cursor` of the last. Give the "
        "same filters for every page."
    ),
    responses={200: {"model": AssetPageBody}, **describe_problems(422, 500, 503)},
)
async def list_assets(state: StateOf, parameters: Annotated[CountedListParameters, Query()]) -> Response:
    """Answer with one page of assets."""
    chosen = parameters.to_filter()

    def work() -> Response:
        with state.foley.lease() as snapshot:
            page = snapshot.index.list_assets(limit=parameters.limit, cursor=parameters.cursor, filter=chosen)
            num_assets = snapshot.index.count_assets(filter=chosen) if parameters.with_count else None
        assets = [describe_asset(asset) for asset in page.assets]
        return JsonResponse({"assets": assets, "next_cursor": page.next_cursor, "num_assets": num_assets})

    return await anyio.to_thread.run_sync(work)


@router.get(
    "/{asset_id}",
    summary="Describe an asset",
    responses={200: {"model": AssetBody}, **describe_problems(404, 500, 503)},
)
async def get_asset(asset_id: AssetId, state: StateOf) -> Response:
    """Answer with one asset."""
    return JsonResponse(describe_asset(await find_asset(state.foley, asset_id)))


@router.patch(
    "/{asset_id}",
    summary="Change the metadata of an asset",
    description="Searches and lists can be filtered by metadata.",
    responses={200: {"model": AssetBody}, **describe_problems(400, 404, 408, 413, 422, 500, 503, 507)},
)
async def patch_asset(asset_id: AssetId, changes: AssetChanges, state: StateOf) -> Response:
    """Change the metadata of an asset, and answer with the asset."""
    await find_asset(state.foley, asset_id)

    def work() -> Asset | None:
        with state.releases.lease_to_write() as index:
            return merge_metadata(index, asset_id, changes.metadata)

    asset = await anyio.to_thread.run_sync(work, limiter=state.writing)
    if asset is None:  # it was deleted just now
        raise AssetNotFound(f"no asset {asset_id} is indexed")
    return JsonResponse(describe_asset(asset))


@router.delete(
    "/{asset_id}",
    summary="Remove an asset from the index",
    description="The asset is no longer found. Its file stays where it is.",
    status_code=204,
    response_class=Response,
    responses=describe_problems(404, 500, 503, 507),
)
async def delete_asset(asset_id: AssetId, state: StateOf) -> Response:
    """Remove an asset from the index."""
    await find_asset(state.foley, asset_id)

    def work() -> int:
        with state.releases.lease_to_write() as index:
            num_segments = index.delete_asset(asset_id)
        forget_asset(state.jobs.ledger, asset_id)
        state.foley.previews.remove(asset_id)
        state.foley.objects.remove(asset_id)
        return num_segments

    if await anyio.to_thread.run_sync(work, limiter=state.writing) == 0:  # another request was faster
        raise AssetNotFound(f"no asset {asset_id} is indexed")
    return Response(status_code=204)


@router.get(
    "/{asset_id}/media",
    summary="Play an asset's file",
    description=(
        "The file as it is on disk, or one range of its bytes. The entity tag is the asset's id, the hash of the "
        "content."
    ),
    response_class=Response,
    responses={**describe_media(), **describe_problems(404, 410, 416, 500, 503)},
)
async def get_asset_media(asset_id: AssetId, request: Request, state: StateOf) -> Response:
    """Answer with an asset's file."""
    return await respond_with_media(request, await find_asset(state.foley, asset_id), state)


# A route of its own, so that the API description has one operation for the file.
router.add_api_route("/{asset_id}/media", get_asset_media, methods=["HEAD"], include_in_schema=False)


async def find_asset(foley: Foley, asset_id: str) -> Asset:
    """Look up an asset of the active release; raises `AssetNotFound`, also for an id that could be none."""
    if ASSET_ID.fullmatch(asset_id):

        def work() -> Asset | None:
            with foley.lease() as snapshot:
                return snapshot.index.get_asset(asset_id)

        asset = await anyio.to_thread.run_sync(work)
        if asset is not None:
            return asset
    raise AssetNotFound(f"no asset {asset_id[:80]!r} is indexed")
