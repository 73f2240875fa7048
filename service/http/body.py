"""How a request's body is let in: counted, timed, and never waited for in vain.

`BodyGuard` stands between the server and the application. It refuses a body that is too large, by its declared length
or by count, and one that comes too slowly. If an answer leaves before the body was read to its end, it closes the
connection instead of reading on, after a moment in which the client can take the answer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.system.failure import Failure

# A socket closed with unread data is reset, and a reset may overtake the answer on its way to the client.
LINGER_SECONDS = 2.0
LINGER_BYTES = 8 * 1024 * 1024

Refuse = Callable[[Request, Exception], Awaitable[Response]]


class BodyTooLarge(Failure):
    """The request body is larger than this route takes."""

    code = "too_large"


class BodyTooSlow(Failure):
    """The client did not send its body in the time its size allows."""

    code = "body_timeout"


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """What a request body may cost: `max_bytes`, or what `max_bytes_of` says for its path.

    The client may keep us waiting for `grace_seconds`, and a second more for each `bytes_per_second` it has sent.
    """

    max_bytes: int
    max_bytes_of: Mapping[str, int]
    grace_seconds: float
    bytes_per_second: int

    def max_bytes_at(self, path: str) -> int:
        """Largest body at a path."""
        return self.max_bytes_of.get(path, self.max_bytes)


class BodyGuard:
    """ASGI middleware that holds request bodies to `limits`; `refuse` answers one that is declared too large."""

    def __init__(self, app: ASGIApp, *, limits: BodyLimits, refuse: Refuse) -> None:
        self._app = app
        self._limits = limits
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever is wrong with its body is raised by `receive`, inside the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._limits)
        app: ASGIApp = self._app
        try:
            body.check_declared()
        except BodyTooLarge as exc:
            app = await self._refuse(Request(scope), exc)
        await app(scope, body.receive, body.send)


class _Body:
    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: BodyLimits) -> None:
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        self._declared_bytes = int(declared) if declared.isdecimal() else 0
        self._is_complete = "transfer-encoding" not in headers and self._declared_bytes == 0
        self._receive = receive
        self._send = send
        self._limits = limits
        self._max_bytes = limits.max_bytes_at(scope["path"])
        self._num_bytes = 0
        self._waited_seconds = 0.0
        self._is_slow = False
        self._is_answered = False

    def check_declared(self) -> None:
        """Raise `BodyTooLarge` if the declared length is above the limit."""
        if self._declared_bytes > self._max_bytes:
            raise BodyTooLarge(
                f"the body has {self._declared_bytes} bytes; this route takes {self._max_bytes}"
            )

    async def receive(self) -> Message:
        """The next message of the client; raises `BodyTooLarge` or `BodyTooSlow`."""
        if self._is_complete or self._is_answered:  # a reader now waits for the client to disconnect
            return await self._receive()
        message = await self._receive_in_time()
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._num_bytes > self._max_bytes:
                raise BodyTooLarge(f"the body has more than the {self._max_bytes} bytes this route takes")
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on, and close the connection after an answer that came before the body's end."""
        self._is_answered = True
        if self._is_complete:
            await self._send(message)
        elif message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            await self._send({**message, "headers": headers})
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            if not self._is_slow:  # it had its time
                await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    async def _receive_in_time(self) -> Message:
        # Earned by what has arrived, not by what is declared: a client that only promises cannot hold us.
        allowed_seconds = self._limits.grace_seconds + self._num_bytes / self._limits.bytes_per_second
        began = time.monotonic()
        with anyio.move_on_after(allowed_seconds - self._waited_seconds):
            message = await self._receive()
            self._waited_seconds += time.monotonic() - began
            return message
        self._is_slow = True
        raise BodyTooSlow(
            f"{self._num_bytes} bytes of the body arrived in {allowed_seconds:.0f} s of waiting"
        )

    async def _linger(self) -> None:
        num_bytes = 0
        with anyio.move_on_after(LINGER_SECONDS):
            while num_bytes < LINGER_BYTES:
                message = await self._receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                num_bytes += len(message.get("body", b""))
