"""The client of a running server: what it sends, when it sends again, and what it says when that fails."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.client import client as client_module
from service.client.client import Client, ServerGone, ServerRefused
from service.library.report import Progress
from tests.support.serving import find_free_port

PROGRESS = Progress(
    num_files=2, num_done=1, num_failed=0, num_segments=1, segments_per_second=1.0, left_seconds=None
)
JOB = {"job_id": "8f14", "state": "running", "progress": PROGRESS.to_json()}


class _Answering(http.server.BaseHTTPRequestHandler):
    """Answers by path: a job that runs, no JSON, an echo, no answer at first, or a refusal."""

    seen: list[tuple[str, str, Any]]  # method, path, Idempotency-Key

    def do_GET(self) -> None:
        self.seen.append((self.command, self.path, self.headers["Idempotency-Key"]))
        if "/breaks" in self.path and len(self.seen) < 3:
            self.close_connection = True
        elif "8f14" in self.path:
            self._answer(200, json.dumps(JOB).encode())
        elif "/text" in self.path:
            self._answer(502, b"<html>")
        elif "/echo" in self.path or "/breaks" in self.path:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._answer(200, json.dumps({"path": self.path, "body": body.decode()}).encode())
        else:
            self._answer(401, json.dumps({"detail": "no key", "code": "unauthorized"}).encode())

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    monkeypatch.setattr(client_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(_Answering, "seen", [], raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), _Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(server: http.server.HTTPServer) -> Iterator[Client]:
    with Client("127.0.0.1", server.server_port, headers={}) as client:
        yield client


def test_a_server_that_goes_away_keeps_the_job(server: http.server.HTTPServer, client: Client) -> None:
    def end(_: object) -> None:
        server.shutdown()
        server.socket.close()

    with pytest.raises(
        ServerGone, match=r"does not answer: .*; job 8f14 is kept and is resumed when `foley serve`"
    ):
        client.follow("8f14", end)


def test_a_key_that_is_missing_is_asked_for(client: Client) -> None:
    with pytest.raises(ServerRefused, match=r"refused: no key \(unauthorized\): set FOLEY_API_KEY") as raised:
        client.ask("GET", "/v1/jobs/other")
    assert raised.value.status == 401


def test_an_answer_that_is_not_ours_is_named(client: Client) -> None:
    with pytest.raises(ServerRefused, match="something other than JSON: status 502"):
        client.ask("GET", "/text")


def test_what_does_no_harm_is_sent_again(client: Client) -> None:
    assert client.ask("GET", "/breaks")["path"] == "/breaks"
    assert len(_Answering.seen) == 3
    _Answering.seen.clear()
    assert client.ask("POST", "/breaks", body={}, is_keyed=True)["body"] == "{}"
    (key,) = {key for _, _, key in _Answering.seen}
    assert len(_Answering.seen) == 3
    assert key
    _Answering.seen.clear()
    with pytest.raises(ServerGone, match="does not answer"):
        client.ask("POST", "/breaks", body={})
    assert len(_Answering.seen) == 1


def test_a_query_leaves_out_what_is_none(client: Client) -> None:
    asked = client.ask("GET", "/echo", query={"a": 1, "b": None, "c": ("x", "y")})
    assert asked["path"] == "/echo?a=1&c=x&c=y"


def test_a_file_is_sent_without_its_name(client: Client, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_text("sound")
    sent = client.upload("/echo", tmp_path / "secret.wav", query={}, timeout_seconds=5)["body"]
    assert "sound" in sent
    assert 'name="file"' in sent
    assert "secret" not in sent


def test_nobody_answers(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("sound")
    port = find_free_port()
    with (
        Client("127.0.0.1", port, headers={}) as client,
        pytest.raises(ServerGone, match=rf"the server on 127\.0\.0\.1:{port} does not answer"),
    ):
        client.upload("/v1/search", tmp_path / "a.wav", query={}, timeout_seconds=5)


def test_an_address_of_version_6_is_written_as_a_url_wants_it() -> None:
    with Client("::1", 8000, headers={}) as client:
        assert client.address == "[::1]:8000"
