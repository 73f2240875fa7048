"""The way to a Qdrant server that is away, slow, overloaded, locked or none at all: real sockets, scripted answers."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from qdrant_client import grpc as qdrant_grpc

from service.index.failure import IndexFailure, IndexFull, IndexUnavailable
from service.index.layout import VectorLayout
from service.index.qdrant import link as server_link
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import GRPC_OPTIONS, Link, ServerConfig, open_client
from tests.support.certificates import Certificates, make_certificates

KEY = "a-key-that-must-never-be-shown"
VERSION = {"title": "qdrant - vector search engine", "version": "1.20.0"}


class Stub:
    """A server whose answers a test writes down: status, body, headers and seconds of silence, one for each request.

    The last answer is given again for every request after it.
    """

    def __init__(self, *answers: dict[str, Any], tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, str | None]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                stub.seen.append((f"{self.command} {self.path}", self.headers.get("api-key")))
                answer = stub.answers.pop(0) if len(stub.answers) > 1 else stub.answers[0]
                time.sleep(answer.get("seconds", 0.0))
                body = answer.get("body", VERSION)
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(answer.get("status", 200))
                for name, value in {"Content-Length": len(text), **answer.get("headers", {})}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # of a client that gave up
                    self.wfile.write(text)

            do_GET = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.block_on_close = False
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def start() -> Iterator[Callable[..., Stub]]:
    stubs: list[Stub] = []

    def run(*answers: dict[str, Any], tls: ssl.SSLContext | None = None) -> Stub:
        stubs.append(Stub(*answers, tls=tls))
        return stubs[-1]

    yield run
    for stub in stubs:
        stub.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_link, "FIRST_PAUSE_SECONDS", 0.01)


def connect(url: str, **changes: Any) -> Link:
    config = ServerConfig(**{"url": url, "prefers_grpc": False, "timeout_seconds": 1.0, **changes})
    return Link(config, open_client(config))


def problem(text: str) -> dict[str, Any]:
    return {"status": {"error": text}, "time": 0.0}


def test_a_transient_failure_is_met_by_trying_again(start: Callable[..., Stub]) -> None:
    stub = start({"status": 503}, {"status": 502}, {"status": 429, "headers": {"Retry-After": "0"}}, {})
    assert connect(stub.url).check_version() == "1.20.0"
    assert len(stub.seen) == 4


def test_a_server_that_stays_unavailable_is_named(start: Callable[..., Stub]) -> None:
    stub = start({"status": 503, "body": problem("consensus is not\n established")})
    with pytest.raises(
        IndexUnavailable, match=rf"on {stub.url} is not available \(503: .*consensus is not.* established"
    ):
        connect(stub.url).check_version()
    assert len(stub.seen) == server_link.NUM_ATTEMPTS


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(IndexUnavailable, match=rf"on {url} cannot be reached: .*refused"):
        connect(url).check_version()


def test_a_server_that_comes_back_is_used_again(start: Callable[..., Stub]) -> None:
    """The connection breaks in mid-answer, then the server is there."""
    stub = start({"body": b"", "headers": {"Content-Length": 100}}, {})
    assert connect(stub.url).check_version() == "1.20.0"


@pytest.mark.parametrize("fault", ["away", "unavailable"])
def test_the_next_node_is_asked_where_one_fails(start: Callable[..., Stub], fault: str) -> None:
    """And that one is asked from then on, until it fails itself."""
    first, second = start({"status": 503}), start({}, {}, {"status": 503})
    if fault == "away":
        first.close()
    link = connect(f"{first.url}, {second.url}")
    assert [link.check_version() for _ in range(2)] == ["1.20.0"] * 2
    assert link.url == second.url
    assert (len(first.seen), len(second.seen)) == (int(fault != "away"), 2)
    with pytest.raises(IndexUnavailable):
        link.check_version()
    first.answers = [{}]
    if fault != "away":
        assert link.check_version() == "1.20.0"


def test_what_a_node_refuses_the_next_is_not_asked(start: Callable[..., Stub]) -> None:
    first, second = start({"status": 404, "body": problem("no such collection")}), start({})
    with pytest.raises(IndexFailure, match=f"on {first.url} refused"):
        connect(f"{first.url},{second.url}").check_version()
    assert second.seen == []


def test_a_slow_server_is_given_up(start: Callable[..., Stub]) -> None:
    stub = start({"seconds": 3.0})
    started = time.monotonic()
    with pytest.raises(IndexUnavailable, match=r"did not answer in 1 s"):
        connect(stub.url).check_version()
    assert time.monotonic() - started < 4.0
    assert len(stub.seen) == 2, "two time limits are spent, not five"


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_said_at_once_and_never_shown(
    start: Callable[..., Stub], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    stub = start({"status": status, "body": problem(f"Invalid API key: {KEY}")})
    with caplog.at_level(logging.DEBUG, logger="service"):
        link = connect(stub.url, api_key=KEY)
        with pytest.raises(IndexFailure, match="refuses the API key: set FOLEY_QDRANT_API_KEY") as caught:
            link.check_version()
    assert stub.seen == [("GET /", KEY)]
    assert not isinstance(caught.value, IndexUnavailable)
    assert "unencrypted" in caplog.text
    assert KEY not in str(caught.value) + repr(link._config) + caplog.text
    with pytest.raises(IndexFailure, match="refuses a request without API key"):
        connect(stub.url).check_version()


def test_a_key_is_taken_out_of_what_a_server_says(start: Callable[..., Stub]) -> None:
    stub = start({"status": 400, "body": problem(f"what is {KEY} supposed to mean?")})
    with pytest.raises(IndexFailure, match=r"refused a request \(400: .*what is \*\*\* supposed") as caught:
        connect(stub.url, api_key=KEY).check_version()
    assert KEY not in str(caught.value)
    assert len(stub.seen) == 1, "what is wrong stays wrong"


def test_a_full_disk_is_told_apart(start: Callable[..., Stub]) -> None:
    stub = start(
        {"status": 500, "body": problem("Service internal error: No space left on device: WAL buffer")}
    )
    with pytest.raises(IndexFull, match=r"the disk of the Qdrant server on .* is full"):
        connect(stub.url).check_version()
    assert len(stub.seen) == 1


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[1, 2]"])
def test_what_is_no_qdrant_is_said_so(start: Callable[..., Stub], body: bytes) -> None:
    stub = start({"body": body})
    with pytest.raises(IndexFailure, match="answers, but not as a Qdrant server"):
        connect(stub.url).check_version()


@pytest.mark.parametrize("found", ["1.12.6", "0.11.0", "unknown"])
def test_an_old_server_is_refused(start: Callable[..., Stub], found: str) -> None:
    stub = start({"body": {**VERSION, "version": found}})
    with pytest.raises(IndexFailure, match=rf"is {found}; Foley needs 1.13 or newer"):
        connect(stub.url).check_version()


def test_a_server_far_from_the_client_is_warned_of(
    start: Callable[..., Stub], caplog: pytest.LogCaptureFixture
) -> None:
    connect(start({"body": {**VERSION, "version": "1.14.0"}}).url).check_version()
    assert "is 1.14.0 and the client 1." in caplog.text


def test_a_collection_of_other_vectors_is_refused(start: Callable[..., Stub]) -> None:
    params = {"vectors": {"audio": {"size": 7, "distance": "Dot"}}}
    parts = {
        "params": params,
        "hnsw_config": {"m": 1, "ef_construct": 1, "full_scan_threshold": 1},
        "optimizer_config": {
            "deleted_threshold": 0.1,
            "vacuum_min_vector_number": 1,
            "default_segment_number": 0,
            "flush_interval_sec": 1,
        },
    }
    info = {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "config": parts,
        "payload_schema": {},
    }
    stub = start({}, {"body": {"result": {"exists": True}}}, {"body": {"result": info}})
    config = ServerConfig(url=stub.url, prefers_grpc=False)
    with pytest.raises(
        IndexFailure, match=r"collection x on .* holds vectors \{'audio': 7\}, asked for .*'audio': 8"
    ):
        ServerIndex.open(config, name="x", layout=VectorLayout.of_both(16, 8))


def test_a_closed_link_says_so(start: Callable[..., Stub]) -> None:
    link = connect(start({}).url)
    link.close()
    link.close()
    with pytest.raises(IndexFailure, match="is closed"):
        link.check_version()


def test_our_own_mistakes_are_not_hidden(start: Callable[..., Stub]) -> None:
    link = connect(start({}).url)
    with pytest.raises(ZeroDivisionError):
        link.run(lambda _: 1 / 0)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("qdrant:6333", "starts with http"),
        ("ftp://qdrant", "starts with http"),
        ("http://", "starts with http"),
        ("https://user:secret@qdrant", "holds no key"),
        ("https://qdrant?api-key=secret", "holds no key"),
        ("https://one,qdrant:6333", "starts with http"),
        ("https://one,", "starts with http"),
    ],
)
def test_a_url_is_checked(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(url=url)


def test_pauses_double_and_differ() -> None:
    exc = ConnectionError()
    first = [server_link._pause(exc, 1) for _ in range(50)]
    third = [server_link._pause(exc, 3) for _ in range(50)]
    assert 0.005 <= min(first) < max(first) <= 0.01
    assert 0.02 <= min(third) < max(third) <= 0.04
    assert server_link._pause(exc, 99) <= server_link.LONGEST_PAUSE_SECONDS


class _Service(qdrant_grpc.QdrantServicer):  # type: ignore[misc]
    """Unavailable, then too slow for another node, then there; a wrong key is refused."""

    def __init__(self) -> None:
        self.num_calls = 0

    def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.num_calls += 1
        if dict(context.invocation_metadata()).get("api-key") != KEY:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key")
        if self.num_calls == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if self.num_calls == 2:
            context.abort(grpc.StatusCode.CANCELLED, "Timeout expired")
        return qdrant_grpc.HealthCheckReply(title="qdrant", version="1.20.0")


@pytest.fixture
def grpc_service() -> Iterator[tuple[int, _Service]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service = _Service()
    qdrant_grpc.add_QdrantServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, service
    server.stop(None).wait()


def test_grpc_is_used_where_its_port_answers(
    grpc_service: tuple[int, _Service], start: Callable[..., Stub]
) -> None:
    port, service = grpc_service
    stub = start({"status": 500})
    link = connect(stub.url, prefers_grpc=True, grpc_port=port, api_key=KEY)
    assert link.check_version() == "1.20.0"
    assert (service.num_calls, stub.seen) == (3, [])
    with pytest.raises(IndexFailure, match=r"refuses the API key: .*\(UNAUTHENTICATED\)"):
        connect(stub.url, prefers_grpc=True, grpc_port=port, api_key="another").check_version()
    link.close()


def test_http_is_used_where_the_grpc_port_is_shut(
    start: Callable[..., Stub], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    stub = start({})
    assert connect(stub.url, prefers_grpc=True, grpc_port=port).check_version() == "1.20.0"
    assert f"does not answer on its gRPC port {port}: using HTTP" in caplog.text


def test_grpc_is_tried_where_nothing_answers_yet(caplog: pytest.LogCaptureFixture) -> None:
    """A server that starts later than the service is not asked over HTTP for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    link = connect(f"http://127.0.0.1:{port}", prefers_grpc=True, grpc_port=port, num_attempts=1)
    with pytest.raises(IndexUnavailable, match="UNAVAILABLE"):
        link.check_version()
    assert "using HTTP" not in caplog.text


def test_a_server_that_is_back_is_found_soon() -> None:
    """gRPC alone would pause for up to two minutes, and keep a connection that is dead for fifteen."""
    assert GRPC_OPTIONS["grpc.max_reconnect_backoff_ms"] <= 1000
    assert GRPC_OPTIONS["grpc.keepalive_time_ms"] + GRPC_OPTIONS["grpc.keepalive_timeout_ms"] <= 20_000
    client = open_client(ServerConfig(url="http://127.0.0.1:1", prefers_grpc=False))
    assert client._client._grpc_options.items() >= GRPC_OPTIONS.items()  # type: ignore[attr-defined]
    client.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("prefers_grpc", [True, False], ids=["grpc", "http"])
def test_a_certificate_of_an_own_authority(
    start: Callable[..., Stub], certificates: Certificates, prefers_grpc: bool
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.certificate, certificates.key)
    stub = start({}, tls=tls)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service = _Service()
    service.num_calls = 2
    qdrant_grpc.add_QdrantServicer_to_server(service, server)
    pair = (certificates.key.read_bytes(), certificates.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    options = {"prefers_grpc": prefers_grpc, "grpc_port": port, "api_key": KEY}
    assert connect(stub.url, ca_file=certificates.authority, **options).check_version() == "1.20.0"
    with pytest.raises(IndexUnavailable, match=r"certificate verify failed|UNAVAILABLE"):
        connect(stub.url, num_attempts=1, **options).check_version()
    server.stop(None).wait()
    assert service.num_calls == (3 if prefers_grpc else 2)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(IndexFailure, match=r"FOLEY_QDRANT_CA_FILE cannot be used: .*/gone"):
        connect("https://qdrant.invalid", ca_file=tmp_path / "gone")
    (tmp_path / "other").write_text("no certificate")
    with pytest.raises(IndexFailure, match=r"FOLEY_QDRANT_CA_FILE cannot be used: .*/other"):
        connect("https://qdrant.invalid", ca_file=tmp_path / "other")
