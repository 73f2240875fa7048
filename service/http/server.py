"""Running the application: uvicorn, with the deadlines and the manners it leaves out.

uvicorn has no deadline for the head of a request, and answers a request it cannot parse in plain text. `HttpProtocol`
adds the first and turns the second into a problem like every other error.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import ClassVar, NoReturn

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.foley import Foley, open_foley
from service.http.access import open_rules
from service.http.app import create_app
from service.http.request_log import GUARDS
from service.http.state import State
from service.jobs.documents import LEDGER_NAME
from service.jobs.ledger import Ledger
from service.system.child import raise_open_files
from service.system.settings import Settings

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
CLOSE_SECONDS = 5  # of the graceful stop, for the last flush and the end of the child processes
CONNECTIONS_SHARE = 0.5  # of the files that the process may open; the others are for work
GIVE_UP_SECONDS = 2.0  # before requests are cut off, for the answers to those whose work is given up


class AddressTaken(OSError):
    """The service cannot listen on its address, usually because another program does."""


class Connection(h11.Connection):
    """Refuses tunnels, which the application would take for a path, and large heads and trailers that arrive at once.

    h11 itself counts only what has not arrived whole.
    """

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event; raises `h11.RemoteProtocolError`."""
        event = super().next_event()
        if isinstance(event, h11.Request) and event.method == b"CONNECT":
            raise h11.RemoteProtocolError("tunnels are for proxies")
        if isinstance(event, h11.Request | h11.EndOfMessage):
            fields = sum(len(name) + len(value) + len(b": \r\n") for name, value in event.headers.raw_items())
            if fields + len(getattr(event, "target", b"")) > MAX_HEAD_BYTES:
                raise h11.RemoteProtocolError("too much", error_status_hint=431)
        return event


class HttpProtocol(H11Protocol):
    """One connection to a client. `head_seconds` is the time for a head, from the connection or its first byte."""

    head_seconds = 10.0
    max_connections = 1000
    idle: ClassVar[
        dict[HttpProtocol, None]
    ] = {}  # connections of the server without a request, the oldest first
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self.conn = Connection(h11.SERVER, MAX_HEAD_BYTES)
        self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)
        self.idle[self] = None
        if len(self.connections) > self.max_connections:
            oldest = next(iter(self.idle))
            oldest._refuse(
                503, "too_many_connections", f"more than {self.max_connections} connections are open"
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self.idle.pop(self, None)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Parse what has arrived; the head of the next request is due once its first byte is here."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
            self.idle.pop(self, None)
        elif self._head_timer is None and self.conn.trailing_data[0]:
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.idle.setdefault(self)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, or whose head is too large; uvicorn calls this as it catches the error."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(431, "head_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
        else:
            self._refuse(400, "malformed_request", msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: `curl --http2` and Java's client offer another protocol with every first request."""

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._refuse(408, "head_timeout", f"the request's head did not arrive within {self.head_seconds:g} s")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._stop_waiting()
        self.idle.pop(self, None)
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_write_problem(status, code, detail))  # else it stands inside the answer
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def _write_problem(status: int, code: str, detail: str) -> bytes:
    """A whole HTTP answer; the application never sees the request it is for."""
    title = HTTPStatus(status).phrase
    request_id = uuid.uuid4().hex
    document = {
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
        f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n"
    )
    return head.encode() + b"".join(b"%s: %s\r\n" % guard for guard in GUARDS) + b"\r\n" + body


def configure_server(settings: Settings, foley: Foley | None = None) -> uvicorn.Config:
    """Configure uvicorn for the application, which opens a `Foley` if none is given; logging stays as it is."""
    facts = {
        "head_seconds": settings.header_timeout_seconds,
        "max_connections": min(settings.max_connections, int(raise_open_files() * CONNECTIONS_SHARE)),
        "idle": {},
    }
    protocol = type("HttpProtocol", (HttpProtocol,), facts)
    return uvicorn.Config(
        create_app(settings, foley=foley),
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # `service.http.request_log` writes one with the request's id
        server_header=False,
        timeout_keep_alive=max(1, round(settings.idle_timeout_seconds)),
        timeout_graceful_shutdown=max(1, settings.graceful_stop_seconds - CLOSE_SECONDS),
    )


class Server(uvicorn.Server):
    """uvicorn that ends in time, `stop_seconds` after the signal, whatever still runs.

    Jobs stop first. Shortly before requests are cut off, the decoder and the encoder's queue are closed: what waits
    for them is answered with 503. `CLOSE_SECONDS` are kept to close everything. If something hangs even then, the
    process ends: whatever was acknowledged is on the disk.
    """

    def __init__(self, config: uvicorn.Config, *, foley: Foley, stop_seconds: float) -> None:
        super().__init__(config)
        self._foley = foley
        self._stop_seconds = stop_seconds
        self._cutoff_seconds = config.timeout_graceful_shutdown or 0
        self.watchdog: threading.Timer | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking requests and end those that run; see above."""
        self.watchdog = _start_timer(self._stop_seconds, self._end)
        # They never end by themselves. There are none yet if the application did not start.
        state: State | None = getattr(self.config.app.state, "shared", None)  # type: ignore[union-attr]
        if state is not None:
            state.jobs.stop_soon()
        give_up = _start_timer(max(0.0, self._cutoff_seconds - GIVE_UP_SECONDS), self._give_up)
        try:
            await super().shutdown(sockets)
        finally:
            give_up.cancel()

    def _give_up(self) -> None:
        logger.warning("requests still run: closing decoder and encoder")
        self._foley.decoder.close()
        self._foley.batcher.close(timeout_seconds=1.0)

    def _end(self) -> None:
        logger.error("the service did not stop within %g s: ending it", self._stop_seconds)
        os._exit(1)


def _start_timer(seconds: float, call: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer


def check_address(settings: Settings) -> None:
    """Raise `AddressTaken` if the service could not listen, before anything is loaded."""
    place = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn's does
                listener.bind(address)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise AddressTaken(
                f"{place} is in use: choose another port with --port or FOLEY_PORT, 0 for any that is free"
            ) from exc
        raise AddressTaken(
            f"cannot listen on {place}: {exc.strerror}; see FOLEY_HOST and FOLEY_PORT"
        ) from exc


def run_server(settings: Settings, *, on_open: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that run are answered first. `on_open` is called if it can start.

    Everything is opened here and not by the application, so that an index in use, missing keys (`KeysFailure`) or a
    damaged bundle reach the caller as the error they are: uvicorn would log it and exit.
    """
    open_rules(settings)  # fails before a model is loaded
    check_address(settings)
    with Ledger.open(settings.data / LEDGER_NAME, is_worker=False) as ledger:
        ledger.check()
    # Once stopped, uvicorn sends itself the signal again; `foley` is still to be closed then.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    server: Server | None = None
    try:
        with contextlib.suppress(KeyboardInterrupt), open_foley(settings) as foley:
            config = configure_server(settings, foley)
            on_open()
            server = Server(config, foley=foley, stop_seconds=settings.graceful_stop_seconds)
            server.run()
    finally:
        if server is not None and server.watchdog is not None:
            server.watchdog.cancel()
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
