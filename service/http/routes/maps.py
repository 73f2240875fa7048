"""`GET /v1/map`, the library in two dimensions, and `POST /v1/similarity`, two segments moment by moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.to_thread
import numpy as np
import pydantic_core
from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, model_validator

from service.http.document import Document
from service.http.json_response import JsonResponse
from service.http.openapi import describe_problems
from service.http.queries import ASSET_ID as ASSET_FIELD
from service.http.queries import TRACK, read_track
from service.http.routes.media import matches_etag
from service.http.schemas import ASSET_ID, RELEASE_ID, RequestBody, example
from service.http.state import StateOf
from service.search.options import SearchOptions
from service.search.projection import Method, compare_moments, methods, project_library
from service.search.snapshot import Snapshot
from service.search.stored_query import read_asset
from service.system.modality import Modality, Track

router = APIRouter(tags=["assets"])

MAX_POINTS = 20_000
MAX_KEPT = 4  # maps


class MapPointBody(Document):
    """One modality of an asset on the map."""

    asset_id: str
    path: str = Field(description="Printable.")
    modality: Modality
    x: float = Field(ge=-1, le=1)
    y: float = Field(ge=-1, le=1)


class MapBody(Document):
    """The library in two dimensions."""

    model_config = example(
        {
            "points": [
                {"asset_id": ASSET_ID, "path": "/media/rain.wav", "modality": "audio", "x": 0.21, "y": -0.6}
            ],
            "method": "pca",
            "methods": ["pca"],
            "num_assets": 1,
            "release_id": RELEASE_ID,
        }
    )

    points: list[MapPointBody]
    method: Method
    methods: list[Method] = Field(description="What this installation can project with.")
    num_assets: int = Field(ge=0, description="Assets of the library; of more than `limit` some are shown.")
    release_id: str


class MapCache:
    """The last maps; one is made at a time, and those who wait for it hold no thread."""

    def __init__(self) -> None:
        self._making = anyio.Lock()
        self._kept: dict[str, bytes] = {}

    async def read(self, etag: str, make: Callable[[], bytes]) -> bytes:
        """The map of this tag as JSON; `make` is called in a thread if it is not kept."""
        async with self._making:
            if etag not in self._kept:
                self._kept[etag] = await anyio.to_thread.run_sync(make)
                while len(self._kept) > MAX_KEPT:
                    del self._kept[next(iter(self._kept))]
            return self._kept[etag]


@router.get(
    "/v1/map",
    summary="Show the library in two dimensions",
    description=(
        "The pooled vectors of assets, projected by principal components at once, or by UMAP if `umap-learn` is "
        "installed. What lies close together sounds or looks alike. Kept until assets come or go or a job ends; the "
        "entity tag tells whether it changed."
    ),
    responses={
        200: {"model": MapBody},
        304: {"description": "The client has this already."},
        **describe_problems(422, 500, 503),
    },
)
async def show_map(
    request: Request,
    state: StateOf,
    limit: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Maximum number of assets.")] = 5000,
    method: Annotated[Method, Query(description="How vectors are projected.")] = "pca",
) -> Response:
    """Answer with a map of the library."""
    kept: MapCache = request.app.state.maps
    with state.foley.lease(priority="bulk") as snapshot:

        def find_revision() -> tuple[Any, ...]:
            index = snapshot.index
            (jobs,) = state.jobs.ledger.read("SELECT max(ended_at) FROM jobs")
            return snapshot.release_id, index.count_assets(), index.count_segments(), *jobs

        revision = await anyio.to_thread.run_sync(find_revision)
        tag = hashlib.sha256(repr((revision, limit, method)).encode()).hexdigest()[:32]
        headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
        if matches_etag(request.headers.get("if-none-match"), headers["ETag"]):
            return Response(status_code=304, headers=headers)
        content = await kept.read(tag, partial(_make_map, snapshot, limit=limit, method=method))
    return Response(content, media_type="application/json", headers=headers)


def _make_map(snapshot: Snapshot, *, limit: int, method: Method) -> bytes:
    points = [asdict(one) for one in project_library(snapshot.index, limit=limit, method=method)]
    return pydantic_core.to_json(
        {
            "points": points,
            "method": method,
            "methods": methods(),
            "num_assets": snapshot.index.count_assets(),
            "release_id": snapshot.release_id,
        }
    )


class SegmentFields(RequestBody):
    """A segment of an indexed asset."""

    model_config = ConfigDict(strict=True)

    asset_id: str = ASSET_FIELD
    start_seconds: float = Field(0.0, ge=0, le=1e6, description="The segment that holds this time.")


class QuerySegment(RequestBody):
    """A segment of an indexed asset, or a track from `/v1/embeddings`."""

    model_config = ConfigDict(strict=True)

    asset_id: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="An asset.")
    start_seconds: float = Field(0.0, ge=0, le=1e6, description="Its segment that holds this time.")
    track: Annotated[str, TRACK] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> QuerySegment:
        if (self.asset_id is None) == (self.track is None):
            raise ValueError("give either asset_id or track")
        return self


class SimilarityRequest(RequestBody):
    """Two segments to compare."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "query": {"asset_id": ASSET_ID},
                    "result": {"asset_id": ASSET_ID, "start_seconds": 10.0},
                    "target": "audio",
                }
            ]
        },
    )

    query: QuerySegment
    result: SegmentFields
    target: Modality = Field(description="What of the result is compared.")
    source: Modality | None = Field(
        None,
        alias="from",
        description="What of the query. Default: the opposite of `target` if it has that.",
    )


class SimilarityBody(Document):
    """Every moment of a query against every moment of a result."""

    model_config = example(
        {"matrix": [[0.4, 0.1], [0.2, 0.6]], "query_times": [0.0, 5.0], "result_times": [10.0, 15.0]}
    )

    matrix: list[list[float]] = Field(
        description="A row for each moment of the query, a column for each of the result. The diagonal are `moments` "
        "of a search result."
    )
    query_times: list[float] = Field(description="Seconds in the query's file; in its segment for a track.")
    result_times: list[float] = Field(description="Seconds in the result's file.")


@router.post(
    "/v1/similarity",
    summary="Compare two segments moment by moment",
    responses={200: {"model": SimilarityBody}, **describe_problems(400, 408, 413, 422, 500, 503)},
)
async def compare_segments(body: SimilarityRequest, state: StateOf) -> Response:
    """Answer with the similarity of every moment of a query with every moment of a result."""

    def work() -> dict[str, Any]:
        with state.foley.lease() as snapshot:
            query, query_times = _read_query(body, snapshot)
            options = SearchOptions(target=body.target, source=body.target)
            result, result_times = _read_segment(
                body.result.asset_id, body.result.start_seconds, options, snapshot
            )
            is_cosine = snapshot.layout.similarity == "cosine"
            matrix = compare_moments(query, result, is_cosine=is_cosine)
        return {"matrix": matrix, "query_times": query_times, "result_times": result_times}

    return JsonResponse(await anyio.to_thread.run_sync(work))


def _read_query(body: SimilarityRequest, snapshot: Snapshot) -> tuple[Track, list[float]]:
    options = SearchOptions(target=body.target, source=body.source)
    if body.query.track is None:
        return _read_segment(body.query.asset_id or "", body.query.start_seconds, options, snapshot)
    track = read_track(body.query.track, layout=snapshot.layout, target=body.target)
    return track, _times(0.0, snapshot.spec.segment_seconds, len(track))


def _read_segment(
    asset_id: str, seconds: float, options: SearchOptions, snapshot: Snapshot
) -> tuple[Track, list[float]]:
    (segment, *_), source = read_asset(asset_id, options, start_seconds=seconds, snapshot=snapshot)
    track = segment.tracks[source]
    return track, _times(segment.start_seconds, segment.end_seconds, len(track))


def _times(start: float, end: float, num_moments: int) -> list[float]:
    times: list[float] = np.round(start + np.arange(num_moments) * (end - start) / num_moments, 3).tolist()
    return times
