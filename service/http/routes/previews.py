"""What an asset looks and sounds like at a glance: thumbnail, filmstrip, waveform.

Indexing makes them; those of a file that was indexed before are made at the first request, in the sandbox, of the file
that `/media` would send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from models.media.clip import DecodeLimits, NoStream
from models.media.preview import (
    Preview,
    draw_waveform,
    read_peaks,
    read_pictures,
    read_thumbnail,
    read_waveform,
)
from service.http.filters import MAX_SECONDS
from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.problems import InvalidParameter
from service.http.routes.assets import AssetId, find_asset
from service.http.routes.media import matches_etag, open_media
from service.http.schemas import WaveformBody
from service.http.state import State, StateOf
from service.index.contract import Asset
from service.library.indexing import library_limits
from service.library.scanning import LinkRules
from service.system.modality import Modality

R = TypeVar("R")

router = APIRouter(prefix="/v1/assets", tags=["assets"])

MAX_PIXELS = 4096
MAX_READ_SECONDS = 600.0  # a longer stretch is drawn from the stored peaks, however fine it is
MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 30.0, 300.0
SECONDS_READ_A_SECOND = 60.0  # by the slowest decoder
VERSION = 1  # of the pictures: a new one is another entity
Responses = dict[int | str, dict[str, Any]]
JPEG = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
OTHERS: Responses = {
    304: {"description": "The client has this already."},
    **describe_problems(404, 410, 422, 500, 503),
}
THUMBNAIL: Responses = {
    200: {"description": "A JPEG, at most 320 pixels on its longer side.", "content": JPEG}
}
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _describe_strip() -> Responses:
    numbers = {
        "Foley-Frames": ("integer", "How many pictures lie side by side."),
        "Foley-Frame-Width": ("integer", "Width of each, in pixels."),
        "Foley-Duration": ("number", "Length of the file, in seconds: picture k of n is that at k/n of it."),
    }
    headers = {
        name: {"description": text, "schema": {"type": kind}} for name, (kind, text) in numbers.items()
    }
    return {200: {"description": "A JPEG.", "content": JPEG, "headers": headers}}


@router.get(
    "/{asset_id}/thumbnail",
    summary="A picture of an asset",
    response_class=Response,
    responses=THUMBNAIL | OTHERS,
)
async def get_thumbnail(
    asset_id: AssetId,
    request: Request,
    state: StateOf,
    t: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_SECONDS,
            allow_inf_nan=False,
            description="When it is on screen, in seconds. Default: a tenth of the length.",
        ),
    ] = None,
) -> Response:
    """Answer with one picture."""
    asset = await _find(state, asset_id, "video")
    headers = _headers(asset_id, "thumbnail" if t is None else f"{t:.1f}")
    if matches_etag(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if t is None:
        content = (await _preview(state, asset, "video")).thumbnail
    else:
        content = await read_asset(state, asset, read_thumbnail, t)
    return Response(content, media_type="image/jpeg", headers=headers)


@router.get(
    "/{asset_id}/filmstrip",
    summary="Pictures of an asset side by side",
    description="Pictures of equal width, spread evenly over the length of the file.",
    response_class=Response,
    responses=_describe_strip() | OTHERS,
)
async def get_filmstrip(asset_id: AssetId, request: Request, state: StateOf) -> Response:
    """Answer with the filmstrip."""
    asset = await _find(state, asset_id, "video")
    headers = _headers(asset_id, "filmstrip")
    if matches_etag(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    preview = await _preview(state, asset, "video")
    headers |= {
        "Foley-Frames": str(preview.num_tiles),
        "Foley-Frame-Width": str(preview.tile_width),
        "Foley-Duration": str(_duration(asset)),
    }
    return Response(preview.strip, media_type="image/jpeg", headers=headers)


@router.get(
    "/{asset_id}/waveform",
    summary="The waveform of an asset",
    description="Lowest and highest sample of each pixel, of the mono sound that searches hear. With `Accept: "
    "application/octet-stream` the numbers come as signed bytes, lowest and highest of each pixel in turn.",
    response_class=Response,
    responses={200: {"model": WaveformBody, "content": BYTES}, **OTHERS},
)
async def get_waveform(
    asset_id: AssetId,
    request: Request,
    state: StateOf,
    pixels: Annotated[int, Query(ge=1, le=MAX_PIXELS, description="How many pixels it is wide.")] = 800,
    start: Annotated[
        float, Query(ge=0, le=MAX_SECONDS, allow_inf_nan=False, description="Start, in seconds.")
    ] = 0.0,
    end: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_SECONDS,
            allow_inf_nan=False,
            description="End, in seconds. Default: that of the file.",
        ),
    ] = None,
) -> Response:
    """Answer with the waveform."""
    asset = await _find(state, asset_id, "audio")
    stop = _duration(asset) if end is None else end
    if stop <= start:
        raise InvalidParameter([{"parameter": "start", "message": f"must be before the end, {stop:g} s"}])
    is_binary = "application/octet-stream" in request.headers.get("accept", "")
    headers = _headers(asset_id, f"waveform-{pixels}-{start:.4f}-{stop:.4f}-{is_binary}")
    headers["Vary"] = "Accept"
    if matches_etag(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    stored = await _preview(state, asset, "audio")
    assert stored.peaks is not None
    length = min(stop, _duration(asset)) - start
    if 0 < length <= MAX_READ_SECONDS and (stop - start) / pixels < stored.bucket_seconds:
        drawn = await read_asset(state, asset, read_waveform, start, stop, pixels)
    else:
        drawn = draw_waveform(stored.peaks, stored.bucket_seconds, start=start, end=stop, pixels=pixels)
    if is_binary:
        return Response(drawn.tobytes(), media_type="application/octet-stream", headers=headers)
    document = {
        "start": start,
        "end": stop,
        "pixels": pixels,
        "min": drawn[:, 0].tolist(),
        "max": drawn[:, 1].tolist(),
    }
    return JsonResponse(document, headers=headers)


async def _find(state: State, asset_id: str, modality: Modality) -> Asset:
    asset = await find_asset(state.foley, asset_id)
    if not asset.media.get(f"has_{modality}", modality in asset.modalities):
        raise NoStream(f"the file has no {'picture' if modality == 'video' else 'sound'}")
    return asset


def _duration(asset: Asset) -> float:
    return float(asset.media.get("duration_seconds") or 0.0)


def _headers(asset_id: str, name: str) -> dict[str, str]:
    return {"ETag": f'"{VERSION}-{name}-{asset_id}"', "Cache-Control": "private, max-age=3600"}


async def _preview(state: State, asset: Asset, modality: Modality) -> Preview:
    """What is kept of an asset, made now if it was not made before."""
    previews = state.foley.previews
    kept = await anyio.to_thread.run_sync(previews.get, asset.asset_id)
    if kept is not None and (
        kept.peaks is not None if modality == "audio" else kept.strip and kept.thumbnail
    ):
        return kept
    made = await read_asset(state, asset, read_peaks if modality == "audio" else read_pictures)
    await anyio.to_thread.run_sync(previews.put, asset.asset_id, made)
    return made


async def read_asset(
    state: State,
    asset: Asset,
    function: Callable[..., R],
    *args: Any,
    more_seconds: float = 0.0,
    **kwargs: Any,
) -> R:
    """Run a function on the file of an asset, in the sandbox; few at a time, so that searches find a worker.

    It has time to decode the file, and `more_seconds`.
    """
    settings = state.foley.settings
    limits: DecodeLimits = library_limits(settings)
    links = LinkRules(within=settings.library_roots, storages=settings.storage_roots)
    seconds = MIN_TIMEOUT_SECONDS + _duration(asset) / SECONDS_READ_A_SECOND

    def work() -> R:
        file, _ = open_media(asset, ledger=state.jobs.ledger, links=links, objects=state.foley.objects)
        with file:
            timeout = min(seconds, MAX_TIMEOUT_SECONDS) + more_seconds
            descriptor = file.fileno()
            return state.foley.decoder.read(descriptor, function, timeout, *args, limits=limits, **kwargs)

    return await anyio.to_thread.run_sync(work, limiter=state.previewing)
