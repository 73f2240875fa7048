"""What clients should not send: only problems come back, and the server still answers afterwards."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.system.settings import Settings
from tests.support.serving import run_server

BOUNDARY = "frontier"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def strict(indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one worker and hardly any patience, over an empty index."""
    folder = tmp_path_factory.mktemp("strict")
    settings = {
        "DATA": folder,
        "BUNDLE": indexed_settings.bundle,
        "DEVICE": "cpu",
        "MIN_FREE_BYTES": 0,
        "MAX_UPLOAD_BYTES": 4 * MIB,
        "BODY_GRACE_SECONDS": 1,
        "HEADER_TIMEOUT_SECONDS": 1,
        "SEARCH_WORKERS": 1,
        "WAITING_PER_WORKER": 1,
        "MAX_WAIT_SECONDS": 0.2,
        "ALLOWED_HOSTS": "x",
    }
    with run_server(settings, folder / "server.log") as address:
        yield address
    log = (folder / "server.log").read_text()
    assert "Traceback" not in log
    assert not list(folder.glob("uploads/*/*"))


@pytest.fixture(autouse=True)
def still_alive(strict: str) -> Iterator[None]:
    """After each of these tests the server answers, and no uploaded file is left."""
    yield
    assert httpx.get(f"{strict}/readyz", timeout=30).status_code == 200


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def read_problem(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    response = http.client.HTTPResponse(connection)
    with response:
        response.begin()
        assert response.getheader("content-type") == "application/problem+json"
        assert response.getheader("cross-origin-resource-policy") == "same-origin"
        assert response.getheader("x-content-type-options") == "nosniff"
        problem = json.loads(response.read())
    assert problem["status"] == response.status
    return response.status, problem


def exchange(address: str, request: bytes) -> tuple[int, dict[str, Any]]:
    with connect(address) as connection:
        connection.sendall(request)
        return read_problem(connection)


def form_request(
    body: bytes, *, extra: str = "", kind: str = f"multipart/form-data; boundary={BOUNDARY}"
) -> bytes:
    head = f"POST /v1/search?target=audio HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{extra}"
    if "transfer-encoding" not in extra.lower():
        head += f"Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def part(name: str, content: bytes, *, file_name: str | None = None, headers: bytes = b"") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if file_name is not None:
        disposition += f'; filename="{file_name}"'
    return f"--{BOUNDARY}\r\n{disposition}\r\n".encode() + headers + b"\r\n" + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (part("file", b"x") + END, "multipart/form-data", 400, "malformed_body"),
        (part("file", b"x") + END, "multipart/form-data; boundary=", 400, "malformed_body"),
        (part("file", b"x") + END, f"multipart/form-data; boundary={'b' * 300}", 400, "malformed_body"),
        (part("file", b"x") + END, "multipart/form-data; boundary=other", 400, "malformed_body"),
        (part("file", b"x"), None, 400, "malformed_body"),
        (part("file", b"x") + END[:-5], None, 400, "malformed_body"),
        (b"", None, 400, "malformed_body"),
        (b"--", None, 400, "malformed_body"),
        (END, None, 422, "missing_file"),
        (b"garbage" * 1000, None, 400, "malformed_body"),
        (b"".join(part(f"f{i}", b"x") for i in range(2000)) + END, None, 400, "too_many_fields"),
        (part("limit", b"9" * 100_000) + END, None, 400, "too_many_fields"),
        (part("file", b"x", headers=b"X: " + b"h" * 2 * MIB + b"\r\n") + END, None, 400, "malformed_body"),
        (part("file", b"x", headers=b"X: y\r\n" * 100) + END, None, 400, "malformed_body"),
        (part("file", b"x", headers=b"no colon\r\n") + END, None, 400, "malformed_body"),
        (f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + END, None, 400, "malformed_body"),
        (part("", b"x") + END, None, 400, "malformed_body"),
        (part("file", b"x", file_name="../../etc/passwd\0.mp4") + END, None, 415, "not_media"),
        (part("file", b"", file_name="empty.mp4") + END, None, 422, "empty"),
        (part("f\0\xff", b"\xff\xfe") + part("file", b"x") + END, None, 422, "invalid_parameter"),
    ],
)
def test_malformed_forms(strict: str, body: bytes, kind: str | None, status: int, code: str) -> None:
    request = form_request(body) if kind is None else form_request(body, kind=kind)
    found, problem = exchange(strict, request)
    assert (found, problem["code"]) == (status, code), problem


@pytest.mark.parametrize(
    "request_bytes",
    [
        form_request(
            b"5\r\nhello\r\n0\r\n\r\n", extra="Content-Length: 10\r\nTransfer-Encoding: chunked\r\n"
        ),
        form_request(b"hello", extra="Transfer-Encoding: banana\r\n"),
        form_request(b"zz\r\nhello\r\n", extra="Transfer-Encoding: chunked\r\n"),
        b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ],
    ids=["both", "coding", "chunk", "negative", "two", "garbage", "tls", "header"],
)
def test_malformed_http(strict: str, request_bytes: bytes) -> None:
    status, _ = exchange(strict, request_bytes)
    assert status in (400, 415)


def test_a_large_head_that_arrives_at_once(strict: str) -> None:
    """h11 counts only what has not arrived whole."""
    fields = "".join(f"X-{number}: {'x' * 1000}\r\n" for number in range(70))
    status, problem = exchange(strict, f"GET /livez HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
    assert (status, problem["code"]) == (431, "head_too_large")


def test_head_without_end(strict: str) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        try:
            for _ in range(40):
                connection.sendall(b"X-Fill: " + b"x" * 8000 + b"\r\n")
                time.sleep(0.005)
        except OSError:
            pass
        status, problem = read_problem(connection)
    assert (status, problem["code"]) == (431, "head_too_large")


def test_slow_head(strict: str) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost:")
        began = time.monotonic()
        status, problem = read_problem(connection)
    assert (status, problem["code"]) == (408, "head_timeout")
    assert time.monotonic() - began < 5


def test_slow_body(strict: str) -> None:
    with connect(strict) as connection:
        connection.sendall(form_request(part("file", b"x" * 1000) + END)[:-100])
        began = time.monotonic()
        status, problem = read_problem(connection)
    assert (status, problem["code"]) == (408, "body_timeout")
    assert time.monotonic() - began < 5


def test_declared_too_large(strict: str) -> None:
    with connect(strict) as connection:
        # Not one byte of the body: the answer must not wait for it.
        head = form_request(b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
        connection.sendall(head)
        status, problem = read_problem(connection)
    assert (status, problem["code"]) == (413, "too_large")


def test_too_large_with_a_length(strict: str) -> None:
    content = bytes(5 * MIB)
    answer = httpx.post(f"{strict}/v1/search", files={"file": content}, data={"target": "audio"}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/jobs"), ("PATCH", f"/v1/assets/{'0' * 64}"), ("POST", "/v1/backup"), ("GET", "/livez")],
)
def test_declared_too_large_for_any_route(strict: str, method: str, path: str) -> None:
    """Whether the route reads its body with FastAPI, or not at all."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n"
    status, problem = exchange(strict, head.encode() + b"\r\n")
    assert (status, problem["code"]) == (413, "too_large")


JSON_HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_json_too_large_without_a_length(strict: str) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connect(strict) as connection:
        connection.sendall(JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17)
        status, problem = read_problem(connection)
    assert (status, problem["code"]) == (413, "too_large")


def test_slow_json(strict: str) -> None:
    status, problem = exchange(strict, JSON_HEAD + b'Content-Length: 100\r\n\r\n{"kind":')
    assert (status, problem["code"]) == (408, "body_timeout")


def test_too_large_without_a_length(strict: str) -> None:
    def stream() -> Iterator[bytes]:
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
        for _ in range(5 * 16):
            yield bytes(MIB // 16)
        yield b"\r\n" + END

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = httpx.post(f"{strict}/v1/search", content=stream(), headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("pause_seconds", [0.0, 0.1], ids=["together", "apart"])
@pytest.mark.parametrize(
    "coding", ["", "Transfer-Encoding: chunked\r\n"], ids=["with_a_length", "without_a_length"]
)
def test_an_offer_of_another_protocol_is_passed_over(strict: str, coding: str, pause_seconds: float) -> None:
    """`curl --http2` and Java's client send it with every first request, those with a body too."""
    body = part("file", b"not media") + END
    request = form_request(
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if coding else body, extra=UPGRADE + coding
    )
    head, _, content = request.partition(b"\r\n\r\n")
    with connect(strict) as connection:
        for _ in range(2):  # the connection goes on
            connection.sendall(head + b"\r\n\r\n")
            time.sleep(pause_seconds)
            connection.sendall(content)
            status, problem = read_problem(connection)
            assert (status, problem["code"]) == (415, "not_media")


def test_many_offers_at_once(strict: str) -> None:
    request = f"GET /livez HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode()
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall(request * 1500 + last)
        with connection.makefile("rb") as answers:
            assert answers.read().count(b"HTTP/1.1 200 OK") == 1501


def test_the_next_head_is_not_as_long_as_the_body_before_it(strict: str) -> None:
    first = form_request(part("file", bytes(100_000)) + END)
    with connect(strict) as connection:
        connection.sendall(first + b"GET /livez HT")
        assert read_problem(connection)[1]["code"] == "not_media"
        connection.sendall(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answers:
            assert answers.read().startswith(b"HTTP/1.1 200 OK")


def test_a_tunnel(strict: str) -> None:
    status, problem = exchange(strict, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, problem["code"]) == (400, "malformed_request")


def test_endless_body(strict: str) -> None:
    """A client that never stops gets its answer and is cut off, not drained for ever."""
    with connect(strict) as connection:
        connection.sendall(form_request(b"", extra="Transfer-Encoding: chunked\r\n"))
        num_sent = 0
        began = time.monotonic()
        try:
            while num_sent < 512 * MIB and time.monotonic() - began < 15:
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                num_sent += 0x10000
        except OSError:
            pass
    assert num_sent < 64 * MIB


def test_disconnect_in_mid_upload(strict: str) -> None:
    for _ in range(5):
        with connect(strict) as connection:
            connection.sendall(form_request(part("file", bytes(MIB)) + END)[: MIB // 2])


def test_overload(strict: str, library_files: Path) -> None:
    content = (library_files / "long.mp4").read_bytes()

    def search(_: int) -> httpx.Response:
        files = {"file": content}
        return httpx.post(f"{strict}/v1/search", files=files, data={"target": "audio"}, timeout=60)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(search, range(8)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert len(refused) < 8
    for answer in refused:
        assert answer.json()["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
