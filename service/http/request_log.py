"""One log line for each request, an id to find it again, and an answer even if a handler fails.

The line has method, route, status, seconds, bytes in and out, and the time of each stage; a problem adds its code.
The route is a template (`/v1/assets/{asset_id}`): what a client put into the path is not logged.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.metrics import Metrics
from service.http.problems import answer_unexpected
from service.system.timing import Stage, collecting

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
UNKNOWN_ROUTE = "unknown"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# On every answer: no page of another site may embed it, no browser may take it for something else.
GUARDS = ((b"cross-origin-resource-policy", b"same-origin"), (b"x-content-type-options", b"nosniff"))
CLIENT_GONE = 499  # as nginx writes it: the client was gone before the answer


@dataclass(kw_only=True)
class _Record:
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    num_received_bytes: int = 0
    num_sent_bytes: int = 0
    stages: Counter[str] = field(default_factory=Counter)


class RequestLog:
    """ASGI middleware, the outermost: names each request, logs and counts it, answers unexpected errors with 500.

    A client may choose the id with the header `X-Request-ID`; an id with other characters than letters, digits, dots,
    dashes and underscores is replaced. The answer carries the id in the same header.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. An error after its answer began is raised: the server then cuts the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = choose_request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        record = _Record()

        def collect(stage: Stage, seconds: float) -> None:
            record.stages[stage] += seconds  # type: ignore[assignment]  # typeshed counts in whole numbers
            self._metrics.observe_stage(stage, seconds)

        # What the request's handlers and threads log carries its id, what they time is told to us.
        with structlog.contextvars.bound_contextvars(request_id=request_id), collecting(collect):
            send_named = _counting_send(send, record, request_id)
            try:
                await self._app(scope, _counting_receive(receive, record), send_named)
            except Exception as exc:
                if record.status:
                    raise
                response = answer_unexpected(Request(scope), exc)
                await response(scope, receive, send_named)
            finally:
                self._finish(scope, record)

    def _finish(self, scope: Scope, record: _Record) -> None:
        seconds = time.perf_counter() - record.began
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        status = record.status or CLIENT_GONE
        self._metrics.observe_request(
            method=method,
            route=route,
            status=status,
            seconds=seconds,
            num_received_bytes=record.num_received_bytes,
            num_sent_bytes=record.num_sent_bytes,
        )
        facts: dict[str, Any] = {
            "method": method,
            "route": route,
            "status": status,
            "duration_seconds": seconds,
            "received_bytes": record.num_received_bytes,
            "sent_bytes": record.num_sent_bytes,
        }
        facts |= {f"{stage}_seconds": spent for stage, spent in record.stages.items()}
        if code := scope["state"].get("problem_code"):
            facts["code"] = code
        if key_id := scope["state"].get("key_id"):
            facts["key_id"] = key_id
        logger.info("request", extra=facts)


def _counting_receive(receive: Receive, record: _Record) -> Receive:
    async def counting() -> Message:
        message = await receive()
        record.num_received_bytes += len(message.get("body", b""))
        return message

    return counting


def _counting_send(send: Send, record: _Record, request_id: str) -> Send:
    async def counting(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode()), *GUARDS]
            message = {**message, "headers": headers}
        record.num_sent_bytes += len(message.get("body", b""))
        await send(message)

    return counting


def choose_request_id(offered: str | None) -> str:
    """The client's id for a request if it is harmless, else a new one."""
    if offered and REQUEST_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex
