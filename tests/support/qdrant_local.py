"""qdrant-client's local mode as a server for tests: the same methods, in this process.

What it is not: it compares with every point (no HNSW, no `hnsw_ef`), ignores quantization and rescoring, keeps
float32 where a server keeps float16, has no shards and replicas, and one thread at a time may use it, which the lock
here sees to. So it shows that requests and their order are right; recall, speed and what a server rounds are shown on
a real one: where FOLEY_TEST_QDRANT names its binary, all of this opens real servers.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from qdrant_client import QdrantClient

from service.index.failure import IndexUnavailable
from service.index.qdrant import index as server_index
from service.index.qdrant import place
from tests.support.qdrant_server import BINARY, QdrantServer


class LockedClient:
    """A client whose methods run one at a time."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of what local mode ignores
                return method(*args, **kwargs)

        return call


class OwnServer:
    """A client of a real server that is empty and nobody else's until it is closed."""

    _idle: ClassVar[list[QdrantServer]] = []

    def __init__(self) -> None:
        if not self._idle:
            folder = Path(tempfile.mkdtemp(prefix="qdrant-"))
            self._idle.append(QdrantServer(folder))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            atexit.register(self._idle[0].kill)  # before its folder goes: the last one registered comes first
            self._idle[0].start()
        self._server: QdrantServer | None = self._idle.pop()
        self._client = self._server.open_client()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def close(self) -> None:
        """Leave the server to others."""
        if self._server is not None:
            self._client.close()
            self._server.clear()
            self._idle.append(self._server)
            self._server = None


def open_local(path: Path | None = None) -> QdrantClient:
    """A client in local mode, in memory or in a folder; without a folder of a real server, if there is its binary."""
    if path is None and BINARY is not None:
        return OwnServer()  # type: ignore[return-value]
    local = (
        QdrantClient(":memory:")
        if path is None
        else QdrantClient(path=str(path), force_disable_check_same_thread=True)
    )
    return LockedClient(local)  # type: ignore[return-value]


class Shared:
    """One client for all who open the index, which outlives each of them.

    Attributes:
        is_away: Set it, and every call fails as if the server were away.
    """

    def __init__(self, client: QdrantClient) -> None:
        self._client = client
        self.is_away = False

    def __getattr__(self, name: str) -> Any:
        if self.is_away:
            raise IndexUnavailable("the Qdrant server is away")
        return (lambda: None) if name == "close" else getattr(self._client, name)


def serve_local(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    """Let everything in this process that opens a Qdrant server get one local client instead.

    Or one client of a real server, whose data lie at `path` too.
    """
    server = None if BINARY is None else QdrantServer(path)
    if server is not None:
        server.start()
    client = open_local(path) if server is None else server.open_client()
    shared = Shared(client)
    for module in (place, server_index):
        monkeypatch.setattr(module, "open_client", lambda _: shared)
    yield shared
    client.close()
    if server is not None:
        server.end()
