"""The connection to a Qdrant server: it repeats what may be repeated, and says in one line what went wrong.

    link = Link(config, open_client(config))
    info = link.run(lambda client: client.get_collection(name))

Every operation of the index may be repeated (points have fixed ids, payloads are set to fixed values). So a transient
failure is retried after a pause that doubles, with jitter so that many replicas do not come back at the same moment.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeVar
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
PROBE_SECONDS = 1.0
NUM_ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
TRANSIENT_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
    }
)
KEY_REFUSED = frozenset({401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
DISK_FULL = ("no space left on device", "available disk space")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where the server is and how a collection there is made.

    `url` is http:// or https://, host and port (default 6333); https holds for gRPC too, which is used if it is
    preferred and its port answers. `api_key` is sent with every request, and is in no message. The server chooses
    `num_shards` if it is None. A write is acknowledged when `num_write_acknowledgements` of the `num_replicas` copies
    of a shard have it, None for a majority. A request is sent at most `num_attempts` times, each of `timeout_seconds`.

    Raises ValueError for a URL that is not one, or holds a key or password.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 10.0
    prefers_grpc: bool = True
    grpc_port: int = 6334
    num_shards: int | None = None
    num_replicas: int = 1
    num_write_acknowledgements: int | None = None
    num_attempts: int = NUM_ATTEMPTS

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the URL of a Qdrant server starts with http:// or https://, got {self.url!r}")
        if parts.username or parts.password or parts.query:
            raise ValueError("the URL of a Qdrant server holds no key: that goes into FOLEY_QDRANT_API_KEY")

    @property
    def write_consistency(self) -> int:
        """How many copies must have a write before it is acknowledged."""
        return self.num_write_acknowledgements or self.num_replicas // 2 + 1


def open_client(config: ServerConfig) -> QdrantClient:
    """Make a client, on gRPC if that is preferred and its port answers; nothing else is contacted."""
    uses_grpc = config.prefers_grpc and _answers(config)
    if config.prefers_grpc and not uses_grpc:
        logger.warning(
            "%s does not answer on its gRPC port %d: using HTTP, which is slower",
            config.url,
            config.grpc_port,
        )
    headers = None
    if config.api_key is not None:
        headers = {"api-key": config.api_key}  # not `api_key=`, which warns through `warnings`
        if urlsplit(config.url).scheme == "http":
            logger.warning(
                "the API key goes to %s unencrypted: use https:// outside a private network", config.url
            )
    return QdrantClient(
        url=config.url,
        grpc_port=config.grpc_port,
        prefer_grpc=uses_grpc,
        headers=headers,
        timeout=max(1, round(config.timeout_seconds)),
        check_compatibility=False,  # `Link.check_version` does, and in this thread
        limits=httpx.Limits(max_keepalive_connections=16),
    )


def _answers(config: ServerConfig) -> bool:
    host = urlsplit(config.url).hostname
    with contextlib.suppress(OSError):
        socket.create_connection((host, config.grpc_port), timeout=PROBE_SECONDS).close()
        return True
    return False


class Link:
    """Runs operations on an open client, repeats them if that may help, and translates failures. Thread-safe."""

    def __init__(self, config: ServerConfig, client: QdrantClient) -> None:
        self._config = config
        self._client = client
        self._is_closed = False

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._config.url

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
        if self._is_closed:
            raise IndexFailure(f"the index on {self.url} is closed")
        try:
            return operation(self._client)
        except Exception as exc:  # the boundary: whatever the client raises is translated
            failure = self._translate(exc)
            if failure is None:
                raise
            raise failure from exc

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
        if not self._is_closed:
            self._is_closed = True
            self._client.close()

    def _translate(self, exc: Exception) -> IndexFailure | None:
        """Our exception for one of the client's; None if it is no failure of the server."""
        if isinstance(exc, ResourceExhaustedResponse):
            return IndexUnavailable(f"the Qdrant server on {self.url} is overloaded")
        if isinstance(exc, json.JSONDecodeError | UnicodeDecodeError):
            return self._translate_transport(exc)
        if isinstance(exc, ResponseHandlingException):
            return self._translate_transport(exc.source)
        if isinstance(exc, UnexpectedResponse):
            text = exc.content.decode("utf-8", "replace")
            return self._judge(exc.status_code, text, is_transient=exc.status_code in TRANSIENT_STATUS)
        if isinstance(exc, grpc.RpcError):
            code, text = exc.code(), str(exc.details() or "")
            return self._judge(code, text, is_transient=code in TRANSIENT_CODES)
        return None

    def _translate_transport(self, source: Exception) -> IndexFailure:
        if isinstance(source, httpx.TimeoutException):
            seconds = self._config.timeout_seconds
            return IndexUnavailable(f"the Qdrant server on {self.url} did not answer in {seconds:g} s")
        if isinstance(source, httpx.TransportError):
            return IndexUnavailable(f"the Qdrant server on {self.url} cannot be reached: {source}")
        return IndexFailure(f"{self.url} answers, but not as a Qdrant server: {str(source)[:200]}")

    def _judge(self, status: int | grpc.StatusCode | None, text: str, *, is_transient: bool) -> IndexFailure:
        """Our exception for an error that the server answered."""
        name = status.name if isinstance(status, grpc.StatusCode) else str(status)
        if status in KEY_REFUSED:
            how = "the API key" if self._config.api_key else "a request without API key"
            return IndexFailure(
                f"the Qdrant server on {self.url} refuses {how}: set FOLEY_QDRANT_API_KEY ({name})"
            )
        if any(sign in text.lower() for sign in DISK_FULL):
            return IndexFull(f"the disk of the Qdrant server on {self.url} is full")
        reason = " ".join(self._without_key(text).split())[:200]
        if is_transient:
            return IndexUnavailable(f"the Qdrant server on {self.url} is not available ({name}: {reason})")
        return IndexFailure(f"the Qdrant server on {self.url} refused a request ({name}: {reason})")

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
