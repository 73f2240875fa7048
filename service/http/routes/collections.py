"""`/v1/collections`: what people collect from answers, to order, note and export."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Header, Response
from fastapi import Path as PathParameter

from service.http.collection_schemas import (
    COLLECTION_ID,
    CollectionBody,
    CollectionChanges,
    CollectionsBody,
    ItemFields,
    NewCollection,
)
from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.routes.assets import AssetNotFound
from service.http.routes.media import matches_etag
from service.http.state import State, StateOf
from service.jobs.collections import (
    Collection,
    append_items,
    change_collection,
    create_collection,
    delete_collection,
    describe_collection,
    get_collection,
    list_collections,
)
from service.jobs.ledger import Ledger
from service.library.assets import AssetDocument, describe_asset

PREFIX = "/v1/collections"
router = APIRouter(prefix=PREFIX, tags=["collections"])
CHANGE_PROBLEMS = describe_problems(400, 404, 408, 409, 413, 422, 500, 503, 507)

CollectionId = Annotated[str, PathParameter(description="Name of the collection.", examples=[COLLECTION_ID])]
P = TypeVar("P")

Seen = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=4096,
        description="`etag` of the collection as you know it: if it is another by now, nothing is changed, and the "
        "answer is 412 `collection_changed`.",
        examples=['"1767225790.1"'],
    ),
]


@router.get(
    "",
    summary="List collections",
    responses={200: {"model": CollectionsBody}, **describe_problems(500, 503)},
)
async def get_collections(state: StateOf) -> Response:
    """Answer with every collection, without items."""
    return JsonResponse({"collections": await _work(state, list_collections)})


@router.post(
    "",
    status_code=201,
    summary="Create a collection",
    responses={
        201: {"model": CollectionBody, "description": "The collection is there."},
        **describe_problems(400, 408, 409, 413, 422, 500, 503, 507),
    },
)
async def post_collection(body: NewCollection, state: StateOf) -> Response:
    """Make an empty collection."""
    made = await _work(state, create_collection, body.name)
    headers = {"Location": f"{PREFIX}/{made.collection_id}"}
    return JsonResponse(
        describe_collection(made, {}), status_code=201, headers={**headers, "ETag": made.etag}
    )


@router.get(
    "/{collection_id}",
    summary="Show a collection",
    responses={200: {"model": CollectionBody}, **describe_problems(404, 500, 503)},
)
async def show_collection(collection_id: CollectionId, state: StateOf) -> Response:
    """Answer with one collection and its items."""
    return await _answer(state, await _work(state, get_collection, collection_id))


@router.patch(
    "/{collection_id}",
    summary="Rename a collection, or replace its items",
    description=(
        "`items` is the whole list in its new order. "
        "With `If-Match`, the change is refused (412) if somebody else changed the collection meanwhile."
    ),
    responses={200: {"model": CollectionBody}, **CHANGE_PROBLEMS, **describe_problems(412)},
)
async def patch_collection(
    collection_id: CollectionId, body: CollectionChanges, state: StateOf, seen: Seen = None
) -> Response:
    """Change a collection, and answer with it."""
    items = None if body.items is None else [item.to_item() for item in body.items]
    kept = await _work(state, get_collection, collection_id)
    new = {item.asset_id for item in items or ()} - {item.asset_id for item in kept.items}
    await _check_assets(state, new)
    change = partial(change_collection, name=body.name, items=items, is_seen=_is_seen(seen))
    changed = await _work(state, change, collection_id)
    return await _answer(state, changed)


@router.delete(
    "/{collection_id}",
    summary="Delete a collection",
    description="The assets stay as they are.",
    status_code=204,
    response_class=Response,
    responses=describe_problems(404, 412, 422, 500, 503, 507),
)
async def remove_collection(collection_id: CollectionId, state: StateOf, seen: Seen = None) -> Response:
    """Delete a collection."""
    await _work(state, partial(delete_collection, is_seen=_is_seen(seen)), collection_id)
    return Response(status_code=204)


@router.post(
    "/{collection_id}/items",
    status_code=201,
    summary="Add an item to a collection",
    description="It is put behind the others.",
    responses={201: {"model": CollectionBody, "description": "The item is there."}, **CHANGE_PROBLEMS},
)
async def post_item(collection_id: CollectionId, body: ItemFields, state: StateOf) -> Response:
    """Add an item, and answer with the collection."""
    await _work(state, get_collection, collection_id)
    await _check_assets(state, {body.asset_id})
    changed = await _work(state, append_items, collection_id, [body.to_item()])
    return await _answer(state, changed, status_code=201)


def _is_seen(given: str | None) -> Callable[[str], bool]:
    """Which states a header allows. A proxy that compresses answers calls their etags weak: those count, too."""
    return lambda etag: given is None or matches_etag(given, etag)


async def _work(state: State, function: Callable[..., P], *values: Any) -> P:
    ledger: Ledger = state.jobs.ledger
    return await anyio.to_thread.run_sync(partial(function, ledger, *values))


async def _find_assets(state: State, asset_ids: set[str]) -> dict[str, AssetDocument]:
    """Those assets that are indexed."""

    def work() -> dict[str, AssetDocument]:
        with state.foley.lease() as snapshot:
            found = snapshot.index.get_assets(sorted(asset_ids))
        return {asset_id: describe_asset(asset) for asset_id, asset in found.items()}

    return await anyio.to_thread.run_sync(work)


async def _check_assets(state: State, asset_ids: set[str]) -> None:
    for asset_id in asset_ids - (await _find_assets(state, asset_ids)).keys():
        raise AssetNotFound(f"no asset {asset_id} is indexed")


async def _answer(state: State, collection: Collection, *, status_code: int = 200) -> Response:
    assets = await _find_assets(state, {item.asset_id for item in collection.items})
    headers = {"ETag": collection.etag}
    return JsonResponse(describe_collection(collection, assets), status_code=status_code, headers=headers)
