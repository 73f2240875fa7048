"""Running the application: uvicorn, with the deadlines and the manners it leaves out.

uvicorn has no deadline for the head of a request, no limit on its size, and answers a request it cannot
parse in plain text. `HttpProtocol` adds the first two and turns the third into a problem like every other
error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import uuid
from http import HTTPStatus
from typing import Any, NoReturn

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import create_app
from service.engine import Engine, open_engine
from service.settings import Settings

MAX_HEAD_BYTES = 64 * 1024


class HttpProtocol(HttpToolsProtocol):
    """One connection to a client.

    Attributes:
        head_seconds: Time to receive the head of a request once the connection is open or its first byte is
        there.
    """

    head_seconds = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._num_head_bytes = 0
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins: its head is due."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is there; the body has a deadline of its own."""
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and give up on a head without end."""
        super().data_received(data)
        if self._head_timer is not None:
            self._num_head_bytes += len(data)
            if self._num_head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    431, "head_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes"
                )

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP."""
        self._refuse(400, "malformed_request", msg)

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._num_head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._refuse(408, "head_timeout", f"the request's head did not arrive within {self.head_seconds:g} s")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        is_busy = cycle is not None and not cycle.response_complete
        if not (is_busy and cycle.response_started):  # else we would write into the middle of an answer
            self.transport.write(_write_problem(status, code, detail))
        if is_busy:  # the application learns that its client is gone
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


def _write_problem(status: int, code: str, detail: str) -> bytes:
    """A whole HTTP answer; the application never sees the request it is for."""
    title = HTTPStatus(status).phrase
    request_id = uuid.uuid4().hex
    document: dict[str, Any] = {
        "type": f"urn:foley:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": "",
        "request_id": request_id,
    }
    body = json.dumps(document).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def configure_server(settings: Settings, engine: Engine | None = None) -> uvicorn.Config:
    """Configure uvicorn for the application.

    Args:
        settings: Address, deadlines and everything the application needs.
        engine: What to answer with. Default: the application opens one when it starts.

    Returns:
        What `uvicorn.Server` takes. Logging is left as the caller set it up.
    """
    protocol = type("HttpProtocol", (HttpProtocol,), {"head_seconds": settings.header_timeout_seconds})
    return uvicorn.Config(
        create_app(settings, engine=engine),
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # `service.routes.log` writes one with the request's id
        server_header=False,
        timeout_keep_alive=round(settings.idle_timeout_seconds),
        timeout_graceful_shutdown=settings.graceful_stop_seconds,
    )


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that run are answered first.

    The engine is opened here and not by the application, so that an index in use or a damaged bundle reaches the
    caller as the error it is: uvicorn would log it and exit.

    Args:
        settings: Address, deadlines and everything the application needs.
    """
    # When it has stopped, uvicorn sends itself the signal again; the engine is still to be closed then.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.suppress(KeyboardInterrupt), open_engine(settings) as engine:
            uvicorn.Server(configure_server(settings, engine)).run()
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
