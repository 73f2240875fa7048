"""The bodies of answers as the OpenAPI description shows them, and what every route says of its errors.

These classes describe and are not run on an answer: its values come from checked dataclasses, and checking
ten thousand floats again costs more than the search that found them. Tests hold the answers to the
description.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.search.matching import EmptyReason
from service.system.modality import Modality

ASSET_ID = "5d2f3d2f6c5b6a1d0b7a8e9f4c3b2a1908f7e6d5c4b3a29180716f5e4d3c2b1a"
MOMENTS: list[Any] = [
    0.41,
    0.47,
    0.52,
    0.55,
    0.61,
    0.66,
    0.7,
    0.72,
    0.69,
    0.64,
    0.6,
    0.58,
    0.53,
    0.49,
    0.46,
    0.45,
]
VECTOR = "zThmOg=="  # [0.6, 0.8] as float16
TRACK = "zThmOs04ZjrNOGY6" * 5 + VECTOR  # 16 times the same
CURSOR = "5b1a4f0e-7d0c-5c5a-9d43-9b6f4f9d2a10"
ASSET: dict[str, Any] = {
    "asset_id": ASSET_ID,
    "path": "/media/rain/window.mp4",
    "paths": ["/media/rain/window.mp4", "/backup/window.mp4"],
    "num_segments": 3,
    "modalities": ["audio", "video"],
    "media": {"container": "mp4", "duration_seconds": 27.5, "video_codec": "h264"},
    "metadata": {"take": 3, "mood": ["calm", "cold"]},
}
UPLOAD_PROBLEMS = (400, 408, 413, 415, 422, 429, 500, 503, 507)


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:foley:problem:no_stream",
                    "title": "The file has no stream of the kind asked for",
                    "status": 422,
                    "code": "no_stream",
                    "detail": "the file has no video stream to search from",
                    "instance": "/v1/search",
                    "request_id": "4b1c6a0f2f6e4a7c9a39c3a1f0f1d2e3",
                }
            ]
        }
    )

    type: str = Field(description="URI of the kind of problem; ends with its code.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="HTTP status.")
    code: str = Field(description="Stable name of the kind of problem, for programs.")
    detail: str = Field(description="What happened this time, for people.")
    instance: str = Field(description="Path of the request.")
    request_id: str | None = Field(
        description="Id of the request, as in the header `X-Request-ID` and the log."
    )
    errors: list[dict[str, str]] | None = Field(
        None, description="With `invalid_parameter`: each parameter at fault and what is wrong with it."
    )


class BestMoment(BaseModel):
    """The moment at which query and result are most alike."""

    index: int = Field(ge=0, description="Which of the moments, from 0.")
    time_seconds: float = Field(ge=0, description="When it is, on the asset's own timeline.")
    similarity: float = Field(description="Cosine similarity there.")


class SearchResultBody(BaseModel):
    """The best segment of one asset."""

    asset_id: str = Field(description="sha256 of the file's content.")
    path: str = Field(description="Path of the file when it was indexed.")
    start_seconds: float = Field(ge=0, description="Start of the segment.")
    end_seconds: float = Field(ge=0, description="End of the segment, exclusive.")
    score: float = Field(description="Mean of `moments`, in [-1, 1].")
    match_probability: float | None = Field(
        description="How likely the result belongs to the query, in [0, 1], learned from the library's own pairs at "
        "even odds that there is anything to find. Null while the library is too small to learn from, and where sound "
        "is compared with sound or picture with picture."
    )
    best_moment: BestMoment
    moments: list[float] = Field(description="Cosine similarity of query and segment at each of 16 moments.")
    query_start_seconds: float = Field(ge=0, description="Start of the segment of the query that fits best.")
    query_end_seconds: float = Field(ge=0, description="Its end, exclusive.")
    metadata: dict[str, Any] = Field(description="What was said about the asset.")


class QueryBody(BaseModel):
    """What the search was made with."""

    num_segments: int = Field(ge=1, description="Segments of the query file that were searched with.")
    is_partial: bool = Field(description="True when less than 95 % of the file could be decoded.")


class SearchAnswerBody(BaseModel):
    """What a search found, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {
                            "asset_id": ASSET_ID,
                            "path": "/media/rain/window.wav",
                            "start_seconds": 20.0,
                            "end_seconds": 30.0,
                            "score": 0.5675,
                            "match_probability": 0.83,
                            "best_moment": {"index": 7, "time_seconds": 24.375, "similarity": 0.72},
                            "moments": MOMENTS,
                            "query_start_seconds": 0.0,
                            "query_end_seconds": 8.0,
                            "metadata": {"take": 3, "mood": "calm"},
                        }
                    ],
                    "target": "audio",
                    "from": "video",
                    "bundle_id": "starter-0123456789ab",
                    "release_id": "starter-0123456789ab",
                    "query": {"num_segments": 1, "is_partial": False},
                    "next_offset": 10,
                    "reason": None,
                }
            ]
        }
    )

    results: list[SearchResultBody]
    target: Modality = Field(description="What was searched.")
    source: Modality = Field(alias="from", description="Which stream of the query file was used.")
    bundle_id: str = Field(description="The encoder bundle that embedded query and library.")
    release_id: str = Field(description="The release that answered: one encoder, one index, one calibration.")
    query: QueryBody
    next_offset: int | None = Field(
        description="Give it as `offset` for the next page. Null after the last page, and without an `offset`."
    )
    reason: EmptyReason | None = Field(
        None, description="Why there are no results. Null where there are some."
    )


class BatchAnswerBody(BaseModel):
    """Answers to several searches."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answers": [
                        {
                            "results": [],
                            "target": "audio",
                            "from": "video",
                            "bundle_id": "starter-0123456789ab",
                            "release_id": "starter-0123456789ab",
                            "query": {"num_segments": 1, "is_partial": False},
                            "next_offset": 10,
                            "reason": None,
                        }
                    ]
                }
            ]
        }
    )

    answers: list[SearchAnswerBody] = Field(description="One for each search, in their order.")


class AssetBody(BaseModel):
    """A media file as the index knows it."""

    model_config = ConfigDict(json_schema_extra={"examples": [ASSET]})

    asset_id: str = Field(description="sha256 of the file's content.")
    path: str = Field(description="Path of the file when it was indexed.")
    paths: list[str] = Field(description="Every path with this content, that one first.")
    num_segments: int = Field(ge=1)
    modalities: list[Modality] = Field(description="What at least one of its segments has.")
    media: dict[str, Any] = Field(description="Facts about the file.")
    metadata: dict[str, Any] = Field(description="What was said about the asset.")


class AssetPageBody(BaseModel):
    """One page of assets."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"assets": [ASSET], "next_cursor": CURSOR}]})

    assets: list[AssetBody]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null after the last.")


class LiveBody(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "alive"}]})

    status: Literal["alive"]


class ReadyBody(BaseModel):
    """The service answers correctly."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "ready",
                    "bundle_id": "starter-0123456789ab",
                    "provider": "CPUExecutionProvider",
                    "num_segments": 1234,
                    "free_bytes": 84_123_456_789,
                    "is_writable": True,
                    "landlock_version": 7,
                }
            ]
        }
    )

    status: Literal["ready"]
    bundle_id: str = Field(description="The active encoder bundle.")
    provider: str = Field(description="What the encoder runs on.")
    num_segments: int = Field(ge=0, description="Segments that can be found.")
    free_bytes: int = Field(ge=0, description="Free disk space where the data lies.")
    is_writable: bool = Field(description="Whether that is above the floor: else nothing new is indexed.")
    landlock_version: int = Field(
        ge=0,
        description="What keeps decode workers from files and, from 4 on, the network; 0 where this kernel cannot.",
    )


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Say in the OpenAPI description that a route may answer with these errors.

    Args:
        *statuses: Their HTTP statuses.

    Returns:
        FastAPI's `responses`.
    """
    reference = {"$ref": "#/components/schemas/ProblemBody"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": reference}},
        }
        for status in statuses
    }


def describe_media() -> dict[int | str, dict[str, Any]]:
    """Say in the OpenAPI description that a route sends a file, whole or in part."""
    # Generators of clients know the first; browsers get the others.
    kinds = ("application/octet-stream", "audio/*", "video/*")
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {
        200: {"description": "The whole file.", "content": content},
        206: {"description": "The range of bytes asked for.", "content": content},
        304: {"description": "The client has this file already."},
    }


def describe_form(parameters: type[BaseModel], *, json: dict[str, Any] | None = None) -> dict[str, Any]:
    """Say in the OpenAPI description that a route takes a form with a file and these fields.

    Args:
        parameters: The fields beside `file`.
        json: Schema of the JSON that the route takes instead of a form, if it takes any.

    Returns:
        FastAPI's `openapi_extra`.
    """
    schema = parameters.model_json_schema(by_alias=True)
    file = {
        "type": "string",
        "contentMediaType": "application/octet-stream",
        "format": "binary",
        "description": "A media file.",
    }
    fields = {name: _drop_null(field) for name, field in schema["properties"].items()}
    form = {
        "type": "object",
        "properties": {"file": file, **fields},
        "required": ["file", *schema.get("required", [])],
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": form}}
    if json is not None:
        content["application/json"] = {"schema": json}
    return {"requestBody": {"required": True, "content": content}}


def _drop_null(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that may be left out: a form cannot say null."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    merged = {**field, **(kinds[0] if len(kinds) == 1 else {})}
    return {name: value for name, value in merged.items() if name not in ("anyOf", "default")}
