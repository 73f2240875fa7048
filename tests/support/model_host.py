"""A host of models on this machine, in the form of Hugging Face, with the faults of real ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ModelHost:
    """What is served, how it fails, and the range of each request of a file."""

    files: dict[str, bytes]
    repository: str
    published: dict[str, dict[str, Any]] = field(default_factory=dict)  # in place of what is true
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    redirects: dict[str, str] = field(default_factory=dict)  # path → location
    knows_ranges: bool = True
    says_length: bool = True
    stalls: threading.Event | None = None  # waits for it after half of a file
    half_sent: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
            if not name.endswith(".json"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            siblings.append({**entry, **self.published.get(name, {})})
        return {"sha": REVISION, "siblings": siblings}


class _Handler(BaseHTTPRequestHandler):
    host: ModelHost
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if location := self.host.redirects.get(path):
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == f"/api/models/{self.host.repository}/revision/main":
            self._send(json.dumps(self.host.listing()).encode(), 0)
        elif (name := path.rpartition("/")[2]) in self.host.files:
            self._send_file(self.host.files[name])
        else:
            self.send_error(404)

    def _send_file(self, content: bytes) -> None:
        wanted = self.headers.get("Range")
        self.host.asked.append((self.path.rpartition("/")[2], wanted))
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.host.knows_ranges else 0  # type: ignore[index]
        self._send(content, start, cut=self.host.cuts.pop(0) if self.host.cuts else None)

    def _send(self, content: bytes, start: int, cut: int | None = None) -> None:
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.host.says_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:] if cut is None else content[start : start + cut]
        if self.host.stalls is not None and self.path.endswith(".safetensors"):
            self.wfile.write(rest[: len(rest) // 2])
            self.host.half_sent.set()
            self.host.stalls.wait(60)
            rest = rest[len(rest) // 2 :]
        with contextlib.suppress(OSError):
            self.wfile.write(rest)
        self.close_connection = cut is not None or not self.host.says_length


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what is tested."""


@contextlib.contextmanager
def serve_models(host: ModelHost) -> Iterator[ModelHost]:
    """Serve until the end of the block."""

    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"host": host}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield host
    finally:
        if host.stalls is not None:
            host.stalls.set()
        server.shutdown()
        server.server_close()
        thread.join()
