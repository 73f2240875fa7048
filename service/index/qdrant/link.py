"""The connection to a Qdrant server: it repeats what may be repeated, and says in one line what went wrong.

    link = Link(config, open_client(config))
    info = link.run(lambda client: client.get_collection(name))

Every operation of the index may be repeated (points have fixed ids, payloads are set to fixed values). So a transient
failure is retried after a pause that doubles, with jitter so that many replicas do not come back at the same moment,
and at the next node if several are named.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from service.index.failure import IndexFailure, IndexFull, IndexUnavailable

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

OLDEST_SERVER = (1, 13)  # has_vector conditions
HTTP_PORT = 6333
PROBE_SECONDS = 1.0
NUM_ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
GRPC_OPTIONS: dict[str, Any] = {
    # By itself gRPC pauses up to two minutes before it connects again: a server that is back would seem away.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    # A connection whose other end vanished without a word is given up, and not kept for the quarter of an hour of TCP.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
}

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
TRANSIENT_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,  # a server whose own time for a write ran out, while another node is away
        grpc.StatusCode.INTERNAL,
    }
)
KEY_REFUSED = frozenset({401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
DISK_FULL = ("no space left on device", "available disk space")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where the server is and how a collection there is made.

    `url` is http:// or https://, host and port (default 6333); https holds for gRPC too, which is used if it is
    preferred and its port answers. Several nodes of one cluster are separated by commas: the first is asked, and the
    next if it is away. `ca_file` holds the certificates (PEM) that sign the server's; None for the usual ones.
    `api_key` is sent with every request, and is in no message. The server chooses `num_shards` if it is None. A write
    is acknowledged when `num_write_acknowledgements` of the `num_replicas` copies of a shard have it, None for half of
    them. A request is sent at most `num_attempts` times, each of `timeout_seconds`.

    Raises ValueError for a URL that is not one, or holds a key or password.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout_seconds: float = 10.0
    prefers_grpc: bool = True
    grpc_port: int = 6334
    num_shards: int | None = None
    num_replicas: int = 1
    num_write_acknowledgements: int | None = None
    num_attempts: int = NUM_ATTEMPTS

    def __post_init__(self) -> None:
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"the URL of a Qdrant server starts with http:// or https://, got {url!r}")
            if parts.username or parts.password or parts.query:
                raise ValueError(
                    "the URL of a Qdrant server holds no key: that goes into FOLEY_QDRANT_API_KEY"
                )

    @property
    def urls(self) -> tuple[str, ...]:
        """The URL of each node that is named."""
        return tuple(url.strip() for url in self.url.split(","))

    @property
    def write_consistency(self) -> int:
        """How many copies must have a write before it is acknowledged, by default half of them, rounded up.

        A server acknowledges it once those that lack it are out of use, by a vote of its nodes, until they have caught
        up. If more copies must have it than are left, every write fails until the others are back.
        """
        return self.num_write_acknowledgements or (self.num_replicas + 1) // 2


def open_client(config: ServerConfig, url: str | None = None) -> QdrantClient:
    """Make a client of a node, by default of the first; nothing but its ports is contacted.

    It uses HTTP where gRPC is not preferred, or HTTP alone answers.
    """
    url = url or config.urls[0]
    parts = urlsplit(url)
    uses_grpc = config.prefers_grpc
    if (
        uses_grpc
        and not _answers(parts.hostname, config.grpc_port)
        and _answers(parts.hostname, parts.port or HTTP_PORT)
    ):
        uses_grpc = False
        logger.warning(
            "%s does not answer on its gRPC port %d: using HTTP, which is slower", url, config.grpc_port
        )
    headers = None
    if config.api_key is not None:
        headers = {"api-key": config.api_key}  # not `api_key=`, which warns through `warnings`
        if parts.scheme == "http":
            logger.warning("the API key goes to %s unencrypted: use https:// outside a private network", url)
    grpc_options = dict(GRPC_OPTIONS)
    verify: ssl.SSLContext | bool = True
    if config.ca_file is not None:
        try:
            grpc_options["root_certificates"] = config.ca_file.read_bytes()
            verify = ssl.create_default_context(cafile=config.ca_file)
        except OSError as exc:
            raise IndexFailure(f"FOLEY_QDRANT_CA_FILE cannot be used: {config.ca_file}: {exc}") from exc
    return QdrantClient(
        url=url,
        grpc_port=config.grpc_port,
        prefer_grpc=uses_grpc,
        grpc_options=grpc_options,
        headers=headers,
        timeout=max(1, round(config.timeout_seconds)),
        check_compatibility=False,  # `Link.check_version` does, and in this thread
        limits=httpx.Limits(max_keepalive_connections=16),
        verify=verify,
    )


def _answers(host: str | None, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
        return True
    return False


class Link:
    """Runs operations on an open client, repeats them if that may help, and translates failures. Thread-safe.

    `client` is that of the first node; those of others are made when they are needed.
    """

    def __init__(self, config: ServerConfig, client: QdrantClient) -> None:
        self._config = config
        self._clients = {config.urls[0]: client}
        self._at = 0  # which node is asked
        self._lock = threading.Lock()  # guards the clients and which is asked
        self._is_closed = False

    @property
    def url(self) -> str:
        """The node that is asked now."""
        return self._config.urls[self._at]

    def run(self, operation: Callable[[QdrantClient], Answer]) -> Answer:
        """Run an operation that may be repeated, and return its result.

        Fails with `IndexUnavailable` if the server is away, overloaded or too slow, and stays so; with `IndexFull` if
        its disk is full; with `IndexFailure` if it refuses: a wrong key, a missing collection, a bad request.
        """
        deadline = time.monotonic() + 2 * self._config.timeout_seconds
        for attempt in range(1, self._config.num_attempts):
            try:
                return self._run_once(operation)
            except IndexUnavailable as exc:
                pause = _pause(exc.__cause__, attempt)
                if time.monotonic() + pause > deadline:
                    raise
                logger.info("%s; attempt %d follows in %.2f s", exc, attempt + 1, pause)
                time.sleep(pause)
        return self._run_once(operation)

    def _run_once(self, operation: Callable[[QdrantClient], Answer]) -> Answer:
        with self._lock:
            url = self.url
            if self._is_closed:
                raise IndexFailure(f"the index on {url} is closed")
            if url not in self._clients:
                self._clients[url] = open_client(self._config, url)
            client = self._clients[url]
        try:
            return operation(client)
        except Exception as exc:  # the boundary: whatever the client raises is translated
            failure = self._translate(exc, url)
            if failure is None:
                raise
            if isinstance(failure, IndexUnavailable):
                self._leave(url)
            raise failure from exc

    def _leave(self, url: str) -> None:
        """Ask the next node, unless another thread has turned away from this one already."""
        with self._lock:
            if url == self.url:
                self._at = (self._at + 1) % len(self._config.urls)

    def check_version(self) -> str:
        """The version of the server; raises `IndexFailure` if it is too old for the index."""
        found = self.run(lambda client: client.info()).version
        ours = version("qdrant-client")
        number = _parse(found)
        if number < OLDEST_SERVER:
            needed = ".".join(map(str, OLDEST_SERVER))
            raise IndexFailure(f"the Qdrant server on {self.url} is {found}; Foley needs {needed} or newer")
        major, minor = _parse(ours)
        if number[0] != major or abs(number[1] - minor) > 1:
            logger.warning(
                "the Qdrant server on %s is %s and the client %s: use neighbours", self.url, found, ours
            )
        return found

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        with self._lock:
            self._is_closed = True
            while self._clients:
                self._clients.popitem()[1].close()

    def _translate(self, exc: Exception, url: str) -> IndexFailure | None:
        """Our exception for one of the client's; None if it is no failure of the server."""
        if isinstance(exc, ResourceExhaustedResponse):
            return IndexUnavailable(f"the Qdrant server on {url} is overloaded")
        if isinstance(exc, json.JSONDecodeError | UnicodeDecodeError):
            return self._translate_transport(exc, url)
        if isinstance(exc, ResponseHandlingException):
            return self._translate_transport(exc.source, url)
        if isinstance(exc, UnexpectedResponse):
            text = exc.content.decode("utf-8", "replace")
            return self._judge(exc.status_code, text, url, is_transient=exc.status_code in TRANSIENT_STATUS)
        if isinstance(exc, grpc.RpcError):
            code, text = exc.code(), str(exc.details() or "")
            return self._judge(code, text, url, is_transient=code in TRANSIENT_CODES)
        return None

    def _translate_transport(self, source: Exception, url: str) -> IndexFailure:
        if isinstance(source, httpx.TimeoutException):
            seconds = self._config.timeout_seconds
            return IndexUnavailable(f"the Qdrant server on {url} did not answer in {seconds:g} s")
        if isinstance(source, httpx.TransportError):
            return IndexUnavailable(f"the Qdrant server on {url} cannot be reached: {source}")
        return IndexFailure(f"{url} answers, but not as a Qdrant server: {str(source)[:200]}")

    def _judge(
        self, status: int | grpc.StatusCode | None, text: str, url: str, *, is_transient: bool
    ) -> IndexFailure:
        """Our exception for an error that the server answered."""
        name = status.name if isinstance(status, grpc.StatusCode) else str(status)
        if status in KEY_REFUSED:
            how = "the API key" if self._config.api_key else "a request without API key"
            return IndexFailure(
                f"the Qdrant server on {url} refuses {how}: set FOLEY_QDRANT_API_KEY ({name})"
            )
        if any(sign in text.lower() for sign in DISK_FULL):
            return IndexFull(f"the disk of the Qdrant server on {url} is full")
        reason = " ".join(self._without_key(text).split())[:200]
        if is_transient:
            return IndexUnavailable(f"the Qdrant server on {url} is not available ({name}: {reason})")
        return IndexFailure(f"the Qdrant server on {url} refused a request ({name}: {reason})")

    def _without_key(self, text: str) -> str:
        key = self._config.api_key
        return text.replace(key, "***") if key else text


def status_of(exc: BaseException | None) -> int | grpc.StatusCode | None:
    """The status of an answer of the server, if this exception of the client has one."""
    if isinstance(exc, UnexpectedResponse):
        return exc.status_code
    return exc.code() if isinstance(exc, grpc.RpcError) else None


def _pause(exc: BaseException | None, attempt: int) -> float:
    """Seconds before the next attempt: at least what the server asks for; doubling, half of it at random."""
    asked: float = exc.retry_after_s if isinstance(exc, ResourceExhaustedResponse) else 0.0
    longest: float = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    jittered = longest * (0.5 + random.random() / 2)  # noqa: S311 - spreads load, guards nothing
    return max(min(asked, LONGEST_PAUSE_SECONDS), jittered)


def _parse(text: str) -> tuple[int, int]:
    """Major and minor version; (0, 0), which is too old for everything, if the text is no version."""
    try:
        major, minor, *_ = text.split(".")
        return int(major), int(minor)
    except ValueError:
        return 0, 0
