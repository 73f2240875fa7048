"""Searches written as JSON: by an asset, a track, words or several together, one alone or several in a batch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import numpy as np
import pydantic_core
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from starlette.requests import Request

from models.media.clip import NoStream
from service.encode.embedding import EmbeddedSegment
from service.encode.text import UnusableText
from service.http.body import BodyTooLarge
from service.http.parameters import MATCH, TEXT, WEIGHT, SearchFields
from service.http.problems import InvalidParameter
from service.http.schemas import RequestBody
from service.index.failure import InvalidVector
from service.index.layout import VectorLayout
from service.index.points import check_query_track
from service.search.matching import NotCalibrated, SearchAnswer
from service.search.mixed_query import MAX_QUERIES, Part, WeightedText, of_segments, of_text, search_parts
from service.search.options import Match, SearchOptions
from service.search.snapshot import Snapshot
from service.search.sources import UnusableQuery, check_options, choose_source
from service.search.stored_query import read_asset, search_asset, search_track
from service.search.text_query import search_text
from service.system.modality import MODALITIES, Modality, NotComparable, NotEmbedded, Track
from service.system.settings import MAX_LIMIT, Settings

Body = TypeVar("Body", bound=BaseModel)
MAX_TRACK_CHARS = 1024 * 1024
ASSET_ID: Any = Field(pattern="^[0-9a-f]{64}$", description="Search with the segments of this asset.")
START: Any = Field(None, ge=0, le=1e6, description="Search only with the segment at this time.")
PART_SOURCE: Any = Field(
    None, alias="from", description="Stream of this query to search with. Default: that of the whole search."
)
TRACK: Any = Field(
    max_length=MAX_TRACK_CHARS,
    description="One vector for each moment (16 × `width` numbers in a TG-DP bundle; `GET /v1/releases` tells the "
    "active bundle's shape), one after another: base64 of little-endian float16 numbers, embedded by the active "
    "bundle. If it compares by cosine, vectors have at most unit length.",
    json_schema_extra={"contentEncoding": "base64"},
)


class AssetQuery(SearchFields):
    """Search with an asset that is indexed."""

    model_config = ConfigDict(strict=True)

    asset_id: str = ASSET_ID
    start_seconds: float | None = START

    def answer(self, settings: Settings, snapshot: Snapshot) -> SearchAnswer:
        """Search a snapshot."""
        options = self.to_options(settings)
        return search_asset(self.asset_id, options, start_seconds=self.start_seconds, snapshot=snapshot)


class TrackQuery(SearchFields):
    """Search with embeddings that the caller has, as `/v1/embeddings` returns them with `encoding=base64`."""

    model_config = ConfigDict(strict=True)

    track: str = TRACK

    def answer(self, settings: Settings, snapshot: Snapshot) -> SearchAnswer:
        """Search a snapshot, whose index says which shape the track must have."""
        options = self.to_options(settings)
        check_options(options, snapshot.bundle)
        track = read_track(self.track, layout=snapshot.layout, target=options.target)
        return search_track(track, options, snapshot=snapshot)


class TextQuery(SearchFields):
    """Search with words."""

    model_config = ConfigDict(strict=True)

    text: Annotated[str, TEXT]
    match: Match | None = MATCH

    def answer(self, settings: Settings, snapshot: Snapshot) -> SearchAnswer:
        """Search a snapshot."""
        options = replace(self.to_options(settings), match=self.match)
        return search_text(self.text, options, snapshot=snapshot)


class _Part(RequestBody):
    model_config = ConfigDict(strict=True)

    weight: float = WEIGHT


class AssetPart(_Part):
    """An indexed asset among several queries."""

    asset_id: str = ASSET_ID
    start_seconds: float | None = START
    source: Modality | None = PART_SOURCE

    def resolve(self, options: SearchOptions, snapshot: Snapshot) -> Part:
        """Read it from a snapshot."""
        options = replace(options, source=self.source or options.source)
        segments, source = read_asset(
            self.asset_id, options, start_seconds=self.start_seconds, snapshot=snapshot
        )
        return of_segments(segments, source=source, weight=self.weight)


class TrackPart(_Part):
    """Embeddings among several queries."""

    track: str = TRACK
    source: Modality | None = PART_SOURCE

    def resolve(self, options: SearchOptions, snapshot: Snapshot) -> Part:
        """Check it against a snapshot."""
        source = choose_source(
            MODALITIES, target=options.target, source=self.source or options.source, bundle=snapshot.bundle
        )
        track = read_track(self.track, layout=snapshot.layout, target=options.target)
        one = EmbeddedSegment(
            start_seconds=0.0, end_seconds=snapshot.spec.segment_seconds, tracks={source: track}
        )
        return of_segments([one], source=source, weight=self.weight)


class TextPart(_Part):
    """Words among several queries."""

    text: Annotated[str, TEXT]

    def resolve(self, options: SearchOptions, snapshot: Snapshot) -> Part:
        """Embed it."""
        words = WeightedText(text=self.text, weight=self.weight)
        return of_text(words, target=options.target, snapshot=snapshot)


def _kind_of_part(given: Any) -> str:
    fields = given if isinstance(given, dict) else {}
    return next((field for field in ("track", "text") if field in fields), "asset_id")


AnyPart = Annotated[
    Annotated[AssetPart, Tag("asset_id")]
    | Annotated[TrackPart, Tag("track")]
    | Annotated[TextPart, Tag("text")],
    Discriminator(_kind_of_part),
]


class MixedQuery(SearchFields):
    """Search with several queries together: the score is the weighted mean of their scores."""

    model_config = ConfigDict(strict=True)

    queries: list[AnyPart] = Field(
        min_length=1,
        max_length=MAX_QUERIES,
        description="Indexed assets, tracks and texts. One segment of each can be chosen in at most 60 ways.",
    )

    def answer(self, settings: Settings, snapshot: Snapshot) -> SearchAnswer:
        """Search a snapshot."""
        options = self.to_options(settings)
        check_options(options, snapshot.bundle)
        parts = []
        for number, part in enumerate(self.queries):
            with naming(f"queries.{number}"):
                parts.append(part.resolve(options, snapshot))
        return search_parts(parts, options, snapshot=snapshot)


Query = AssetQuery | TrackQuery | TextQuery | MixedQuery
KINDS: Mapping[str, type[Query]] = {"queries": MixedQuery, "track": TrackQuery, "text": TextQuery}
"""Kinds of a search by the field that tells them; any other is one with an asset."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say in an error which of several searches is at fault."""
    try:
        yield
    except (UnusableQuery, UnusableText, InvalidParameter) as exc:
        exc.errors = [{**error, "parameter": f"{place}.{error['parameter']}"} for error in exc.errors]
        raise
    except (NotCalibrated, NotEmbedded, NotComparable, NoStream) as exc:
        setattr(exc, "errors", [{"parameter": place, "message": str(exc)}])  # noqa: B010 - of none of the classes
        raise


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
    fields = document if isinstance(document, dict) else {}
    kind: type[Query] = next((KINDS[field] for field in KINDS if field in fields), AssetQuery)
    return check_body(kind, document, place=place)


def check_body(kind: type[Body], document: Any, *, place: tuple[int, ...] = ()) -> Body:
    """Check a JSON document as a body of this kind; raises `InvalidParameter`."""
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        raise InvalidParameter.of(
            [{**error, "loc": (*place, *_without_kind(error["loc"]))} for error in errors]
        ) from exc


def _without_kind(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The place of a fault without the kind of query that pydantic puts in: `queries`, 0, `text`, `weight`."""
    return (*place[:2], *place[3:]) if place[:1] == ("queries",) else place


def is_json(request: Request) -> bool:
    """Whether the body of a request is declared as JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def describe_query() -> dict[str, Any]:
    """The JSON schema of one search."""
    kinds: tuple[type[Query], ...] = (AssetQuery, *KINDS.values())
    return {"oneOf": [_inline(kind.model_json_schema(by_alias=True)) for kind in kinds]}


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that refers to none beside it: it stands in the description of a route."""
    parts = schema.pop("$defs", {})
    if "queries" in schema["properties"]:
        schema["properties"]["queries"]["items"] = {"oneOf": list(parts.values())}
    return schema


def describe_batch() -> dict[str, Any]:
    """FastAPI's `openapi_extra` of a route that takes a list of searches."""
    schema = {"type": "array", "items": describe_query(), "minItems": 1, "maxItems": MAX_LIMIT}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
