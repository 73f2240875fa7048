"""qdrant-client's local mode as a server for tests: the same methods, in this process.

What it is not: it compares with every point (no HNSW, no `hnsw_ef`), ignores quantization and rescoring, keeps
float32 where a server keeps float16, has no shards and replicas, and one thread at a time may use it, which the lock
here sees to. So it shows that requests and their order are right; recall, speed and what a server rounds are shown on
a real one (`FOLEY_TEST_QDRANT_URL`).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from service.index.failure import IndexUnavailable
from service.index.qdrant import index as server
from service.index.qdrant import place


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


def open_local(path: Path | None = None) -> QdrantClient:
    """A client in local mode, in memory or in a folder."""
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
    """Let everything in this process that opens a Qdrant server get one local client instead."""
    client = open_local(path)
    shared = Shared(client)
    for module in (place, server):
        monkeypatch.setattr(module, "open_client", lambda _: shared)
    yield shared
    client.close()
