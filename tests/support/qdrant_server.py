"""Real Qdrant servers for tests, as processes: started, killed, started again on what they left.

FOLEY_TEST_QDRANT=/path/to/qdrant pytest ...      runs them; without it such tests are skipped

With the binary, everything in the tests that opens qdrant-client's local mode opens a real server
(`tests.support.qdrant_local`), over gRPC, or over HTTP if FOLEY_TEST_QDRANT_HTTP is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from service.index.qdrant.link import ServerConfig, open_client
from tests.support.serving import find_free_port
from tests.support.waiting import wait_until

BINARY = os.environ.get("FOLEY_TEST_QDRANT")
PREFERS_GRPC = "FOLEY_TEST_QDRANT_HTTP" not in os.environ
needs_qdrant = pytest.mark.skipif(BINARY is None, reason="FOLEY_TEST_QDRANT names no Qdrant binary")


class QdrantServer:
    """A server on ports of its own whose data lie in `folder`.

    `settings` are those of its configuration, like `{"SERVICE__API_KEY": "x"}`; `before` is what runs it, like `ip
    netns exec`, on the address `host`; `authority` signs its certificate.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object] | None = None,
        *,
        arguments: Sequence[str] = (),
        before: Sequence[str] = (),
        host: str = "127.0.0.1",
        ports: tuple[int, int] | None = None,
        authority: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.http_port, self.grpc_port = ports or (find_free_port(), find_free_port())
        self.settings: dict[str, object] = {
            "SERVICE__HOST": host,
            "SERVICE__HTTP_PORT": self.http_port,
            "SERVICE__GRPC_PORT": self.grpc_port,
            "STORAGE__STORAGE_PATH": folder / "storage",
            "STORAGE__SNAPSHOTS_PATH": folder / "snapshots",
            "TELEMETRY_DISABLED": "true",
            "LOG_LEVEL": "WARN",
            **(settings or {}),
        }
        self.host = host
        self._tls = None if authority is None else ssl.create_default_context(cafile=authority)
        self._command = [*before, BINARY or "qdrant", "--disable-telemetry", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers over HTTP."""
        scheme = "https" if self.settings.get("SERVICE__ENABLE_TLS") == "true" else "http"
        return f"{scheme}://{self.host}:{self.http_port}"

    @property
    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text(errors="replace")

    def config(self, **changes: Any) -> ServerConfig:
        """How Foley reaches it."""
        facts = {"url": self.url, "grpc_port": self.grpc_port, "prefers_grpc": PREFERS_GRPC}
        return ServerConfig(**{**facts, **changes})

    def start(self, *, waits: bool = True) -> None:
        """Start it on what is in its folder, and wait until it is ready."""
        environment = {
            **os.environ,
            **{f"QDRANT__{name}": str(value) for name, value in self.settings.items()},
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        if waits:
            wait_until(self.is_ready, every=0.02)

    def is_ready(self) -> bool:
        """Whether it takes requests; fails if it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self.log[-3000:]
        with contextlib.suppress(OSError):
            self.ask("GET", "/readyz")
            return True
        return False

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A request of its HTTP API; raises OSError if it is refused."""
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json",
            "api-key": str(self.settings.get("SERVICE__API_KEY", "")),
        }
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30, context=self._tls) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it with a signal and wait for its end; SIGKILL ends it as a crash would."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        self.end(signal.SIGKILL)

    def open_client(self) -> QdrantClient:
        """A client of its own."""
        return open_client(self.config())

    def clear(self) -> None:
        """Delete all collections."""
        for collection in self.ask("GET", "/collections")["result"]["collections"]:
            self.ask("DELETE", f"/collections/{collection['name']}")


@contextlib.contextmanager
def run_qdrant(
    folder: Path, settings: Mapping[str, object] | None = None, **options: Any
) -> Iterator[QdrantServer]:
    """A server that is ready, until the block ends; skips without a binary."""
    if BINARY is None:
        pytest.skip("FOLEY_TEST_QDRANT names no Qdrant binary")
    server = QdrantServer(folder, settings, **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
