"""Cost of each form of an embeddings answer, compared with FastAPI's own: a part of `benchmarks.request_speed`."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import FastAPI, Response

from models.media.clip import MediaInfo
from service.encode.embedding import EmbeddedSegment
from service.http.embedding_schemas import EmbeddingsBody
from service.http.encodings import write_base64, write_json, write_safetensors
from service.search.file_query import EmbeddedFile


def make_embeddings(width: int = 768) -> EmbeddedFile:
    """Return random unit vectors for one segment with both streams."""
    rng = np.random.default_rng(0)
    tracks: dict[Any, Any] = {}
    for modality in ("audio", "video"):
        rows = rng.standard_normal((16, width))
        tracks[modality] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    media = MediaInfo(
        container="mp4", size_bytes=1, modified_ns=1, duration_seconds=10.0, has_audio=True, has_video=True
    )
    segment = EmbeddedSegment(start_seconds=0.0, end_seconds=10.0, tracks=tracks)
    return EmbeddedFile(media=media, segments=(segment,), is_partial=False, bundle_id="b")


def describe_plainly(embedded: EmbeddedFile) -> dict[str, Any]:
    """Return the answer as a simple handler would: lists of numbers."""
    segments = []
    for segment in embedded.segments:
        described: dict[str, Any] = {
            "start_seconds": segment.start_seconds,
            "end_seconds": segment.end_seconds,
        }
        for modality, track in segment.tracks.items():
            mean = track.mean(axis=0)
            described[modality] = {"pooled": (mean / np.linalg.norm(mean)).tolist(), "track": track.tolist()}
        segments.append(described)
    return {
        "bundle_id": embedded.bundle_id,
        "media": asdict(embedded.media),
        "is_partial": embedded.is_partial,
        "segments": segments,
    }


def make_forms(embedded: EmbeddedFile) -> FastAPI:
    """Return an application with one route for each form, so that all have the same framework cost."""
    app = FastAPI()

    @app.get("/plain", response_model=None)  # the handler declares no type of its answer
    async def plain() -> Any:
        return describe_plainly(embedded)

    @app.get("/model", response_model=EmbeddingsBody)
    async def model() -> Any:
        return describe_plainly(embedded)

    def add(name: str, write: Callable[[EmbeddedFile], bytes]) -> None:
        async def handler() -> Response:
            return Response(write(embedded))

        app.add_api_route(f"/{name}", handler)

    add("json", write_json)
    add("base64", write_base64)
    add("safetensors", write_safetensors)
    return app


async def call(app: FastAPI, path: str) -> int:
    """Send one request without a network and return the size of the answer."""
    size = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal size
        size += len(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "app": app}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("x", 80), "root_path": "", "raw_path": b""}
    await app(scope, receive, send)
    return size


async def measure_forms(rounds: int) -> None:
    """Print processor milliseconds of each form; the forms take turns."""
    app = make_forms(make_embeddings())
    names = ("plain", "model", "json", "base64", "safetensors")
    costs: dict[str, list[float]] = {name: [] for name in names}
    sizes = {name: await call(app, f"/{name}") for name in names}
    for _, name in itertools.product(range(rounds), names):
        began = time.process_time()
        await call(app, f"/{name}")
        costs[name].append(time.process_time() - began)
    middle = {name: statistics.median(cost) * 1000 for name, cost in costs.items()}
    labels = {"plain": "FastAPI, lists", "model": "FastAPI, lists, response_model"}
    for name in names:
        print(
            f"{labels.get(name, name):32} {middle[name]:7.3f} core-ms {sizes[name] / 1000:6.0f} kB   "
            f"FastAPI's lists take {middle['plain'] / middle[name]:.1f} x as long, with response_model "
            f"{middle['model'] / middle[name]:.1f} x"
        )
