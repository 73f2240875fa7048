"""`/v1/exports`: what people collected, as files for editors and sound programs."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Response

from service.exports.event import build_cut
from service.exports.formats import FORMATS, write
from service.exports.timecode import RATES
from service.http.export_schemas import ExportRequest, FormatsBody
from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.state import State, StateOf
from service.jobs.collections import get_collection
from service.library.assets import describe_asset

router = APIRouter(prefix="/v1/exports", tags=["collections"])

_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_HEADERS = {
    "Foley-Left-Out": {
        "description": "Items that are not in the file: not indexed, or without what the item wants.",
        "schema": {"type": "integer"},
    }
}


@router.get(
    "/formats",
    summary="List the formats of exports",
    responses={200: {"model": FormatsBody}, **describe_problems(500, 503)},
)
async def list_export_formats() -> Response:
    """Answer with every format."""
    formats = [
        {"format": name, "name": kind.title, "suffix": kind.suffix, "media_type": kind.media_type}
        for name, kind in FORMATS.items()
    ]
    return JsonResponse({"formats": formats, "frame_rates": list(RATES)})


@router.post(
    "",
    summary="Export a collection or items",
    description="The parts one after the other, as a file for an editor or a sound program.",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": _FILE, "headers": _HEADERS},
        **describe_problems(400, 404, 408, 413, 422, 500, 503),
    },
)
async def create_export(body: ExportRequest, state: StateOf) -> Response:
    """Answer with the file."""
    return await anyio.to_thread.run_sync(partial(_export, body, state))


def _export(body: ExportRequest, state: State) -> Response:
    title, items = body.title, [item.model_dump() for item in body.items or ()]
    if body.collection_id is not None:
        collection = get_collection(state.jobs.ledger, body.collection_id)
        title, items = title or collection.name, [asdict(item) for item in collection.items]
    with state.foley.lease() as snapshot:
        found = snapshot.index.get_assets(sorted({item["asset_id"] for item in items}))
    assets = {asset_id: describe_asset(asset) for asset_id, asset in found.items()}
    pairs = [(old, new) for old, new in body.path_map]
    cut = build_cut(items, assets, rate=RATES[body.frame_rate], title=title or "Foley", path_map=pairs)
    kind = FORMATS[body.format]
    headers: dict[str, Any] = {
        "Content-Disposition": name_file(cut.title + kind.suffix),
        "Foley-Left-Out": str(cut.num_left_out),
        "Cache-Control": "no-store",
    }
    return Response(write(cut, body.format), headers=headers, media_type=kind.media_type)


def name_file(name: str) -> str:
    """A header that saves what comes as a file of this name."""
    name = re.sub(r'[/\\\\:*?"<>|]', "_", name)
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
