"""Running the application: uvicorn, with the deadlines and the manners it leaves out.

uvicorn has no deadline for the head of a request, no limit on its size, and answers a request it cannot
parse in plain text. `HttpProtocol` adds the first two and turns the third into a problem like every other
error. It serves a request that offers another protocol (`Upgrade: h2c`, as `curl --http2` and Java send it) as if it
had not: uvicorn's parser takes its body for the other protocol. And of requests that came together it tells the one
that is answered, not the last one, that its client is gone.
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
import threading
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NoReturn

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.foley import Foley, open_foley
from service.http.access import open_rules
from service.http.app import create_app
from service.system.settings import Settings

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
CLOSE_SECONDS = 5  # of the graceful stop, for the last flush and the end of the child processes
GIVE_UP_SECONDS = 2.0  # before requests are cut off, for the answers to those whose work is given up


class AddressTaken(OSError):
    """Nobody can listen where the service should, most of all since another does."""


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
        self._has_begun = False
        self._answered: RequestResponseCycle | None = None
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._leave()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins: its head is due."""
        super().on_message_begin()
        self._has_begun = True
        self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is there; the body has a deadline of its own."""
        self._stop_waiting()
        if not self.parser.should_upgrade():  # else its head is read again
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is there."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and give up on a head without end."""
        self._unset_keepalive_if_required()
        self._has_begun = False
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._head_timer is not None:
            self._num_head_bytes += (
                0 if self._has_begun else len(data)
            )  # what came before it is not of this head
            if self._num_head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    431, "head_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes"
                )

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP."""
        self._refuse(400, "malformed_request", msg)

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as exc:  # the parser stops behind the head
                rest = rest[exc.args[0] :]
            self.parser.feed_data(self._head_without_upgrade())

    def _head_without_upgrade(self) -> bytes:
        """The head of a request without what offers another protocol (RFC 9110, section 7.8).

        Returns:
            What the parser takes for a request like any other.

        Raises:
            httptools.HttpParserError: If it asks for a tunnel: without one, nothing is left of it.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("tunnels are for proxies")
        options = b", ".join(value for name, value in self.headers if name == b"connection").split(b",")
        kept = [option for option in options if option.strip().lower() not in (b"upgrade", b"http2-settings")]
        headers = [header for header in self.headers if header[0] not in (b"upgrade", b"connection")]
        if kept:
            headers.append((b"connection", b",".join(kept)))
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        return b"\r\n".join([*lines, *(b"%b: %b" % header for header in headers), b"", b""])

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _leave(self) -> None:
        """Tell the application that the client it answers is gone."""
        cycle = self._answered
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

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
        cycle = self._answered
        is_in_answer = cycle is not None and cycle.response_started and not cycle.response_complete
        if not is_in_answer:  # else we would write into the middle of it
            self.transport.write(_write_problem(status, code, detail))
        self._leave()
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


def configure_server(settings: Settings, foley: Foley | None = None) -> uvicorn.Config:
    """Configure uvicorn for the application.

    Args:
        settings: Address, deadlines and everything the application needs.
        foley: What to answer with. Default: the application opens one when it starts.

    Returns:
        What `uvicorn.Server` takes. Logging is left as the caller set it up.
    """
    protocol = type("HttpProtocol", (HttpProtocol,), {"head_seconds": settings.header_timeout_seconds})
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
    """uvicorn that is gone in time: jobs stop first, what still runs late is given up, nothing waits for ever.

    Of the seconds there are, `CLOSE_SECONDS` are kept to close the engine. Shortly before requests are cut off, the
    decoder and the encoder's queue are closed: what waits for them is answered with 503 and not broken off. Should
    something hang even so, the process ends: whatever was acknowledged is on the disk.

    Args:
        config: Of uvicorn.
        foley: What works for the requests.
        stop_seconds: From the signal to the end of the process.
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
        for stop in self.config.app.state.on_stop:  # type: ignore[union-attr]  # the application, not its name
            stop()
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
    """See whether the address can be listened on, before anything is loaded.

    Args:
        settings: Host and port.

    Raises:
        AddressTaken: If it cannot.
    """
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
            f"nobody can listen on {place}: {exc.strerror}; see FOLEY_HOST and FOLEY_PORT"
        ) from exc


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that run are answered first.

    The engine is opened here and not by the application, so that an index in use or a damaged bundle reaches the
    caller as the error it is: uvicorn would log it and exit.

    Args:
        settings: Address, deadlines and everything the application needs.

    Raises:
        KeysFailure: If requests need API keys and there are none.
        AddressTaken: If nobody can listen there.
    """  # noqa: DOC502 - raised where the keys are read
    open_rules(settings)  # says so before a model is loaded
    check_address(settings)
    # When it has stopped, uvicorn sends itself the signal again; the engine is still to be closed then.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    server: Server | None = None
    try:
        with contextlib.suppress(KeyboardInterrupt), open_foley(settings) as foley:
            config = configure_server(settings, foley)
            server = Server(config, foley=foley, stop_seconds=settings.graceful_stop_seconds)
            server.run()
    finally:
        if server is not None and server.watchdog is not None:
            server.watchdog.cancel()
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
