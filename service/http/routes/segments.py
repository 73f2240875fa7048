"""`/v1/assets/{asset_id}/segment`: a stretch of an asset as a file, cut in the sandbox."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from models.media.cut import MAX_SECONDS, MIN_SECONDS, cut_segment, is_span
from service.http.filters import MAX_SECONDS as MAX_TIME
from service.http.openapi import describe_media, describe_problems
from service.http.problems import InvalidParameter
from service.http.routes.assets import AssetId, find_asset
from service.http.routes.exports import name_file
from service.http.routes.previews import read_asset
from service.http.state import StateOf
from service.system.modality import Modality
from service.system.paths import show_path

router = APIRouter(prefix="/v1/assets", tags=["assets"])

END_TOLERANCE_SECONDS = 0.1  # past the end of the file: a length that was rounded


def _describe_segment() -> dict[int | str, dict[str, Any]]:
    number = {"type": "number"}
    headers = {
        "Foley-Start": {
            "description": "Where it begins in the asset, in seconds: before `start` if picture is copied from a key "
            "frame.",
            "schema": number,
        },
        "Foley-End": {"description": "Where it ends in the asset, in seconds.", "schema": number},
        "Foley-Copied": {
            "description": "Whether the packets are those of the asset's file.",
            "schema": {"type": "boolean"},
        },
    }
    content = describe_media()[200]["content"]
    return {200: {"description": "The segment.", "content": content, "headers": headers}}


@router.get(
    "/{asset_id}/segment",
    summary="Download a segment of an asset",
    description=f"At most {MAX_SECONDS:g} s. Picture is copied into MP4, or Matroska or QuickTime where the file "
    "is one, from the key frame at or before `start`; with `exact`, or where no such copy can be made, it is "
    "encoded again as H.264 and AAC in MP4. Sound comes as WAV in the depth of the file, 24 bits of a lossy one, "
    "with its time reference (`bext`) and a marker of the moment (`cue `).",
    response_class=Response,
    responses={**_describe_segment(), **describe_problems(404, 410, 422, 500, 503)},
)
async def get_segment(
    asset_id: AssetId,
    state: StateOf,
    start: Annotated[float, Query(ge=0, le=MAX_TIME, allow_inf_nan=False, description="Start, in seconds.")],
    end: Annotated[
        float, Query(gt=0, le=MAX_TIME, allow_inf_nan=False, description="End, exclusive, in seconds.")
    ],
    modality: Annotated[
        Modality | None,
        Query(
            description="`audio`: the sound alone; `video`: the picture with its sound. Default: what the file has."
        ),
    ] = None,
    moment: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_TIME,
            allow_inf_nan=False,
            description="Time of a marker in the sound, in seconds of the asset.",
        ),
    ] = None,
    exact: Annotated[
        bool, Query(description="Encode picture again, so that it begins at `start` and not at a key frame.")
    ] = False,
) -> Response:
    """Answer with the segment."""
    asset = await find_asset(state.foley, asset_id)
    if not is_span(start, end):
        message = f"must be after the start, by {MIN_SECONDS:g} to {MAX_SECONDS:g} s"
        raise InvalidParameter([{"parameter": "end", "message": message}])
    duration = asset.media.get("duration_seconds")
    if duration is not None and (start >= duration or end > duration + END_TOLERANCE_SECONDS):
        name = "start" if start >= duration else "end"
        raise InvalidParameter([{"parameter": name, "message": f"the file ends at {duration:g} s"}])
    segment = await read_asset(
        state,
        asset,
        cut_segment,
        start,
        end,
        more_seconds=end - start,
        modality=modality,
        moment=moment,
        exact=exact,
    )
    stem = show_path(PurePath(asset.path).stem)
    name = f"{stem} {segment.start_seconds:.3f}-{segment.end_seconds:.3f}{segment.suffix}"
    headers = {
        "Content-Disposition": name_file(name),
        "Foley-Start": f"{segment.start_seconds:.6f}",
        "Foley-End": f"{segment.end_seconds:.6f}",
        "Foley-Copied": str(segment.is_copy).lower(),
        "Cache-Control": "private, max-age=3600",
    }
    return Response(segment.content, media_type=segment.media_type, headers=headers)
