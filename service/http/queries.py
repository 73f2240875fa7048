"""Searches written as JSON: by an indexed asset or by a track, one alone or several in a batch."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
import pydantic_core
from pydantic import ConfigDict, Field, ValidationError
from starlette.requests import Request

from service.http.body import BodyTooLarge
from service.http.parameters import SearchFields
from service.http.problems import InvalidParameter
from service.index.failure import InvalidVector
from service.index.layout import VectorLayout
from service.index.points import check_query_track
from service.search.matching import SearchAnswer
from service.search.snapshot import Snapshot
from service.search.sources import check_embedded
from service.search.stored_query import search_asset, search_track
from service.system.modality import Modality, Track
from service.system.settings import MAX_LIMIT, Settings

MAX_TRACK_CHARS = 1024 * 1024


class AssetQuery(SearchFields):
    """Search with an asset that is indexed."""

    model_config = ConfigDict(strict=True)

    asset_id: str = Field(pattern="^[0-9a-f]{64}$", description="Search with the segments of this asset.")
    start_seconds: float | None = Field(
        None, ge=0, le=1e6, description="Search only with the segment at this time."
    )

    def answer(self, settings: Settings, snapshot: Snapshot) -> SearchAnswer:
        """Search a snapshot."""
        options = self.to_options(settings)
        return search_asset(self.asset_id, options, start_seconds=self.start_seconds, snapshot=snapshot)


class TrackQuery(SearchFields):
    """Search with embeddings that the caller has, as `/v1/embeddings` returns them with `encoding=base64`."""

    model_config = ConfigDict(strict=True)

    track: str = Field(
        max_length=MAX_TRACK_CHARS,
        description="One vector for each moment (16 × `width` numbers in a TG-DP bundle; `GET /v1/releases` tells the "
        "active bundle's shape), one after another: base64 of little-endian float16 numbers, embedded by the active "
        "bundle. If it compares by cosine, vectors have at most unit length.",
        json_schema_extra={"contentEncoding": "base64"},
    )

    def answer(self, settings: Settings, snapshot: Snapshot) -> SearchAnswer:
        """Search a snapshot, whose index says which shape the track must have."""
        options = self.to_options(settings)
        check_embedded(snapshot.bundle, options.target)
        track = read_track(self.track, layout=snapshot.layout, target=options.target)
        return search_track(track, options, snapshot=snapshot)


Query = AssetQuery | TrackQuery


def read_track(text: str, *, layout: VectorLayout, target: Modality) -> Track:
    """Read a track, float32 (T, D) of the target, of base64 float16, little-endian; raises `InvalidParameter`."""
    num_moments, width = layout.shape(target)
    try:
        data = base64.b64decode(text, validate=True)
        if len(data) != 2 * num_moments * width:
            raise InvalidVector(
                f"a track is {num_moments} × {width} numbers of 2 bytes, {2 * num_moments * width} in all, "
                f"got {len(data)}"
            )
        track = np.frombuffer(data, dtype="<f2").astype(np.float32).reshape(num_moments, width)
        return check_query_track(track, layout=layout, target=target, name="track")
    except (binascii.Error, ValueError, InvalidVector) as exc:
        raise InvalidParameter([{"parameter": "track", "message": str(exc)}]) from exc


async def read_query(request: Request, *, max_bytes: int) -> Query:
    """Read the one search of a JSON body of at most `max_bytes`."""
    return _check(await read_json(request, max_bytes=max_bytes), place=())


async def read_batch(request: Request, *, max_bytes: int, max_queries: int) -> list[Query]:
    """Read the 1 to `max_queries` searches of a JSON list; raises `InvalidParameter` if it is none."""
    document = await read_json(request, max_bytes=max_bytes)
    if not isinstance(document, list) or not 1 <= len(document) <= max_queries:
        raise InvalidParameter(
            [{"parameter": "request", "message": f"must be a list of 1 to {max_queries} searches"}]
        )
    return [_check(query, place=(number,)) for number, query in enumerate(document)]


async def read_json(request: Request, *, max_bytes: int) -> Any:
    """Read a JSON body; raises `BodyTooLarge`, or `InvalidParameter` for no JSON or with a query string."""
    if request.query_params:
        raise InvalidParameter([{"parameter": "request", "message": "a JSON search takes no query string"}])
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that JSON may have here")
    try:
        return pydantic_core.from_json(bytes(body), allow_inf_nan=False)
    except ValueError as exc:
        raise InvalidParameter([{"parameter": "request", "message": f"must be JSON: {exc}"}]) from exc


def _check(document: Any, *, place: tuple[int, ...]) -> Query:
    """Check a search as the kind it is by its fields, so that an error names the fields of that kind alone."""
    kind: type[Query] = TrackQuery if isinstance(document, dict) and "track" in document else AssetQuery
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        raise InvalidParameter.of([{**error, "loc": (*place, *error["loc"])} for error in errors]) from exc


def describe_query() -> dict[str, Any]:
    """The JSON schema of one search."""
    return {"oneOf": [kind.model_json_schema(by_alias=True) for kind in (AssetQuery, TrackQuery)]}


def describe_batch() -> dict[str, Any]:
    """FastAPI's `openapi_extra` of a route that takes a list of searches."""
    schema = {"type": "array", "items": describe_query(), "minItems": 1, "maxItems": MAX_LIMIT}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
