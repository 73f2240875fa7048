"""What a command says of the server that does its job."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from service.client import following
from service.client.following import JobClient, ServerGone, ServerRefused
from service.library.report import Progress

PROGRESS = Progress(
    num_files=2, num_done=1, num_failed=0, num_segments=1, segments_per_second=1.0, left_seconds=None
)
JOB = {"job_id": "8f14", "state": "running", "progress": PROGRESS.to_json()}


class _Short(http.server.BaseHTTPRequestHandler):
    """Answers with a job that runs, or with a refusal; the test ends the server."""

    def do_GET(self) -> None:
        status, document = (
            (200, JOB) if "8f14" in self.path else (401, {"detail": "no key", "code": "unauthorized"})
        )
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Short)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_goes_away_keeps_the_job(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.01)

    def end(_: Progress) -> None:
        server.shutdown()
        server.socket.close()

    with (
        JobClient("127.0.0.1", server.server_port, headers={}) as client,
        pytest.raises(
            ServerGone, match=r"does not answer: .*; job 8f14 is kept and goes on when `foley serve`"
        ),
    ):
        client.follow("8f14", end)


def test_a_key_that_is_missing_is_asked_for(server: http.server.HTTPServer) -> None:
    with (
        JobClient("127.0.0.1", server.server_port, headers={}) as client,
        pytest.raises(ServerRefused, match=r"refused: no key \(unauthorized\): set FOLEY_API_KEY"),
    ):
        client.ask("GET", "/v1/jobs/other")
