"""The HTTP application. `foley serve` runs it; so does `uvicorn --factory service.http.app:create_app`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.foley import Foley, open_foley
from service.http.access import AccessGuard, open_rules
from service.http.admission import Admission
from service.http.body import BodyGuard, BodyLimits
from service.http.events import EventStreams
from service.http.gauges import FoleyCollector, JobsCollector
from service.http.loop_lag import watch_loop
from service.http.metrics import Metrics
from service.http.openapi import describe_app
from service.http.problems import add_error_handlers, answer_own_error
from service.http.readiness import Readiness
from service.http.request_log import RequestLog
from service.http.routes import (
    agents,
    assets,
    audit,
    backup,
    collections,
    embeddings,
    exports,
    health,
    jobs,
    library,
    maps,
    metrics,
    pages,
    previews,
    releases,
    search,
    segments,
    tags,
    tracks,
)
from service.http.state import State
from service.http.upload import UploadFolder
from service.jobs.opening import Jobs, open_jobs
from service.system.settings import Settings

logger = logging.getLogger(__name__)

DESCRIPTION = (
    "Finds the sound for a picture and the picture for a sound in a library of media files.\n\n"
    "Errors are `application/problem+json` (RFC 9457) with a stable `code`."
)
TAGS = [
    {"name": "search", "description": "Find media by media."},
    {"name": "embeddings", "description": "Use the encoder alone."},
    {"name": "assets", "description": "Files of the library."},
    {"name": "collections", "description": "What people collect to use elsewhere."},
    {"name": "jobs", "description": "Index and synchronise the library."},
    {"name": "operations", "description": "For operators."},
    {"name": "releases", "description": "Change the encoders while the service runs."},
    {"name": "health", "description": "For orchestrators."},
]


def create_app(settings: Settings | None = None, *, foley: Foley | None = None) -> FastAPI:
    """Build the ASGI application; raises `KeysFailure` if the settings ask for API keys and there are none.

    Without `settings` they are read from the environment, for servers that call this function as their entry point.
    Without `foley` one is opened when the application starts and closed when it ends.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="Foley",
        version=version("foley-av"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,  # ours are in `service.http.routes.pages`
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=_operation_id,
        lifespan=_lifespan(settings, foley),
    )
    app.state.metrics = Metrics()
    app.state.maps = maps.MapCache()
    for module in (
        search,
        embeddings,
        library,
        assets,
        previews,
        segments,
        collections,
        exports,
        tags,
        audit,
        maps,
        jobs,
        releases,
        health,
        metrics,
        backup,
        tracks,
        agents,
        pages,
    ):
        app.include_router(module.router)
    add_error_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(AccessGuard, rules=open_rules(settings))
    app.add_middleware(BodyGuard, limits=_body_limits(settings), refuse=answer_own_error)
    app.add_middleware(RequestLog, metrics=app.state.metrics)
    app.openapi = lambda: describe_app(app)  # type: ignore[method-assign]
    for route in (
        app.routes
    ):  # FastAPI completes routes at the first request; Python 3.11 may fail at that in a thread
        route.matches({"type": "http", "method": "GET", "path": "/livez", "root_path": "", "headers": []})
    return app


def _lifespan(settings: Settings, foley: Foley | None) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            opened = foley
            if opened is None:
                opening = open_foley(settings)
                opened = await anyio.to_thread.run_sync(opening.__enter__)
                stack.push_async_callback(anyio.to_thread.run_sync, opening.__exit__, None, None, None)
            uploads = UploadFolder(settings.data / "uploads", reserve_bytes=settings.upload_reserve_bytes)
            stack.callback(uploads.close)
            opening_jobs = open_jobs(opened)
            opened_jobs = await anyio.to_thread.run_sync(opening_jobs.__enter__)
            stack.push_async_callback(anyio.to_thread.run_sync, opening_jobs.__exit__, None, None, None)
            app.state.shared = _state(settings, opened, uploads, app.state.metrics, opened_jobs)
            opened_jobs.start()
            watch = asyncio.create_task(watch_loop(app.state.metrics.observe_lag))
            stack.callback(watch.cancel)
            logger.info("serving bundle %s on %s", opened.bundle.bundle_id, opened.encoder.provider)
            yield

    return lifespan


def _state(
    settings: Settings, foley: Foley, uploads: UploadFolder, metrics: Metrics, opened_jobs: Jobs
) -> State:
    admission = Admission(
        num_workers=settings.search_workers,
        max_waiting=settings.waiting_per_worker * settings.search_workers,
        max_wait_seconds=settings.max_wait_seconds,
        max_work_seconds=settings.max_work_seconds,
    )
    readiness = Readiness(cache_seconds=settings.readiness_cache_seconds)
    metrics.add_collector(FoleyCollector(foley, admission))
    metrics.add_collector(JobsCollector(opened_jobs.ledger))
    return State(
        foley=foley,
        admission=admission,
        uploads=uploads,
        readiness=readiness,
        metrics=metrics,
        jobs=opened_jobs,
        streams=EventStreams(opened_jobs, max_streams=settings.max_event_streams),
        releases=opened_jobs.releases.manager,
    )


def _body_limits(settings: Settings) -> BodyLimits:
    return BodyLimits(
        max_bytes=settings.max_json_bytes,
        max_bytes_of=dict.fromkeys((search.PATH, embeddings.PATH), settings.max_upload_bytes),
        grace_seconds=settings.body_grace_seconds,
        bytes_per_second=settings.min_body_bytes_per_second,
    )


def _operation_id(route: APIRoute) -> str:
    """Name an operation by its function: a generated client has `search`, not `search_v1_search_post`."""
    return route.name
