"""One line a request, an id that finds it again, and an answer even where a handler failed."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import answer_unexpected

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


class RequestLog:
    """ASGI middleware, the outermost: names each request, logs its outcome, turns a surprise into a 500.

    A client may choose the id with the header `X-Request-ID`; one with other characters than letters, digits,
    dots, dashes and underscores is replaced. The answer carries the id in the same header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Args:
            scope: The request.
            receive: Its messages.
            send: Takes the answer.

        Raises:
            Exception: If the application fails after its answer began: the server then cuts the connection.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = choose_request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, send_named)
        except Exception as exc:
            if status:
                raise
            response = answer_unexpected(Request(scope), exc)
            await response(scope, receive, send_named)
        finally:
            logger.info(
                "%s %s %d %.1f ms %s",
                scope["method"],
                scope["path"],
                status,
                (time.perf_counter() - began) * 1000,
                request_id,
            )


def choose_request_id(offered: str | None) -> str:
    """The client's id for a request where it is harmless, else a new one."""
    if offered and REQUEST_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex
