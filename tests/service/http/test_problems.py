"""Every way a request can be wrong, over HTTP: one status, one stable code, and never a 500."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from service.system.settings import Settings
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread

TARGET = {"target": "audio"}


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:foley:problem:{code}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    for field in ("title", "detail", "instance"):
        assert problem[field]
    assert "/uploads/" not in answer.text
    assert "Traceback" not in answer.text
    return problem


def write_wav(num_seconds: float, *, bits: int = 16, rate: int = 8000) -> bytes:
    data = bytes(int(num_seconds * rate * bits // 8))
    kind = 3 if bits == 32 else 1
    header = struct.pack("<HHIIHH", kind, 1, rate, rate * bits // 8, bits // 8, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.fixture(scope="module")
def sound() -> bytes:
    """Two seconds of silence."""
    return write_wav(2)


@pytest.fixture(scope="module")
def subtitles_only(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A Matroska file whose only stream is text."""
    path = tmp_path_factory.mktemp("subtitles") / "text.mkv"
    with av.open(str(path), "w", format="matroska") as container:
        packet = av.Packet(b"0,0,Default,,0,0,0,,hello")
        packet.stream, packet.time_base = container.add_stream("ass"), Fraction(1, 1000)
        packet.pts, packet.dts, packet.duration = 0, 0, 1000
        container.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize("path", ["/v1/search", "/v1/embeddings"])
@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"x", 415, "not_media"),
        (b"<html><body>hello</body></html>", 415, "not_media"),
        (b'{"a": 1}' * 100, 415, "not_media"),
        (bytes(100_000), 415, "not_media"),
        (np.random.default_rng(0).bytes(100_000), 415, "not_media"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", 415, "not_media"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "not_media"),
        (write_wav(61), 422, "too_long"),
        (write_wav(0), 422, "broken_media"),
    ],
    ids=["empty", "byte", "html", "json", "zeros", "random", "m3u8", "ffconcat", "too-long", "no-samples"],
)
def test_files(client: httpx.Client, path: str, content: bytes, status: int, code: str) -> None:
    data = TARGET if path == "/v1/search" else {}
    assert_problem(client.post(path, files={"file": content}, data=data), status, code)


def test_subtitles_are_no_media_stream(client: httpx.Client, subtitles_only: bytes) -> None:
    answer = client.post("/v1/search", files={"file": subtitles_only}, data=TARGET)
    assert_problem(answer, 422, "no_stream")


def test_stream_that_the_file_lacks(client: httpx.Client, sound: bytes) -> None:
    answer = client.post("/v1/search", files={"file": sound}, data={**TARGET, "from": "video"})
    assert_problem(answer, 422, "no_stream")
    answer = client.post("/v1/embeddings", files={"file": sound}, data={"modality": "video"})
    assert_problem(answer, 422, "no_stream")


def test_silence_is_an_answer(client: httpx.Client, sound: bytes) -> None:
    assert client.post("/v1/search", files={"file": sound}, data=TARGET).status_code == 200


def test_samples_that_are_no_numbers(client: httpx.Client) -> None:
    wav = bytearray(write_wav(2, bits=32))
    wav[-4000:] = struct.pack("<f", float("nan")) * 1000
    answer = client.post("/v1/search", files={"file": bytes(wav)}, data=TARGET)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({}, "target"),
        ({"target": "smell"}, "target"),
        ({"target": ""}, "target"),
        ({"target": "audio", "from": "nose"}, "from"),
        ({"target": "audio", "limit": "0"}, "limit"),
        ({"target": "audio", "limit": "1001"}, "limit"),
        ({"target": "audio", "limit": "-1"}, "limit"),
        ({"target": "audio", "limit": "ten"}, "limit"),
        ({"target": "audio", "limit": "9" * 400}, "limit"),
        ({"target": "audio", "traget": "audio"}, "traget"),
        ({"target": "audio", "\u00e9": "\u0000"}, "\u00e9"),
    ],
)
def test_parameters(client: httpx.Client, sound: bytes, fields: dict[str, str], parameter: str) -> None:
    problem = assert_problem(
        client.post("/v1/search", files={"file": sound}, data=fields), 422, "invalid_parameter"
    )
    assert [error["parameter"] for error in problem["errors"]] == [parameter]  # type: ignore[attr-defined]


def test_parameter_given_twice(client: httpx.Client, sound: bytes) -> None:
    answer = client.post("/v1/search", params=TARGET, files={"file": sound}, data=TARGET)
    assert_problem(answer, 422, "invalid_parameter")


def test_missing_file(client: httpx.Client) -> None:
    answer = client.post("/v1/search", files={"fiel": b"x"}, data=TARGET)
    assert_problem(answer, 422, "missing_file")


def test_two_files(client: httpx.Client, sound: bytes) -> None:
    answer = client.post("/v1/search", files=[("file", sound), ("file", sound)], data=TARGET)
    assert_problem(answer, 422, "invalid_parameter")


def test_json_that_is_no_search(client: httpx.Client) -> None:
    answer = client.post("/v1/search", content=b"{}", headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "invalid_parameter")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "video/mp4", ""])
def test_body_that_is_no_form(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/search", params=TARGET, content=b"{}", headers={"Content-Type": kind})
    assert_problem(answer, 415, "unsupported_content_type")


def test_no_body(client: httpx.Client) -> None:
    assert_problem(client.post("/v1/search"), 415, "unsupported_content_type")


@pytest.mark.parametrize("asset_id", ["nope", "0" * 64, "F" * 64, "..%2f..%2fetc", "%00", "x" * 5000])
@pytest.mark.parametrize("suffix", ["", "/media"])
def test_unknown_asset(client: httpx.Client, asset_id: str, suffix: str) -> None:
    answer = client.get(f"/v1/assets/{asset_id}{suffix}")
    # An encoded slash makes another path of it, which has no route.
    assert_problem(answer, 404, "not_found" if "%2f" in asset_id else "asset_not_found")


def test_deleting_an_unknown_asset(client: httpx.Client) -> None:
    assert_problem(client.delete(f"/v1/assets/{'0' * 64}"), 404, "asset_not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=nope", f"cursor={'a' * 300}"])
def test_pages_that_do_not_exist(client: httpx.Client, query: str) -> None:
    assert_problem(client.get(f"/v1/assets?{query}"), 422, "invalid_parameter")


def test_routes_that_do_not_exist(client: httpx.Client) -> None:
    assert_problem(client.get("/v2/search"), 404, "not_found")
    answer = client.get("/v1/search")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.fixture(scope="module")
def broken(indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve_in_thread]:
    """A service over an empty index, to be broken; its disk has no room for uploads."""
    settings = indexed_settings.replace(
        data=tmp_path_factory.mktemp("broken"), upload_reserve_bytes=2**60, readiness_cache_seconds=0
    )
    with memory_indexes(), serve_in_thread(settings) as running:
        yield running


def test_full_disk(broken: serve_in_thread, sound: bytes) -> None:
    answer = broken.client.post("/v1/search", files={"file": sound}, data=TARGET)
    assert_problem(answer, 507, "disk_full")


def test_service_with_a_wrong_encoder_is_not_ready(broken: serve_in_thread) -> None:
    encoder = broken.app.state.shared.foley.encoder
    assert broken.client.get("/readyz").status_code == 200
    golden = encoder.bundle.golden()
    wrong = dataclasses.replace(golden, tracks={**golden.tracks, "audio": -golden.audio_track})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(encoder.bundle), "golden", lambda bundle: wrong)
        answer = broken.client.get("/readyz")
    assert_problem(answer, 503, "not_ready")
    assert answer.headers["retry-after"]
    assert broken.client.get("/readyz").status_code == 200


def test_surprise_is_a_500_without_details(broken: serve_in_thread) -> None:
    async def fail() -> None:
        raise RuntimeError("the password is hunter2")

    broken.app.add_api_route("/surprise", fail)
    answer = broken.client.get("/surprise")
    assert_problem(answer, 500, "internal_error")
    assert "hunter2" not in answer.text


def test_closed_index(indexed_settings: Settings, tmp_path: Path, sound: bytes) -> None:
    settings = indexed_settings.replace(data=tmp_path, readiness_cache_seconds=0)
    with memory_indexes(), serve_in_thread(settings) as running:
        client = running.client
        assert client.get("/v1/assets").json() == {"assets": [], "next_cursor": None, "num_assets": None}
        running.app.state.shared.foley.index.close()
        for answer in (
            client.get("/v1/assets"),
            client.delete(f"/v1/assets/{'0' * 64}"),
            client.post("/v1/search", files={"file": sound}, data=TARGET),
            client.get("/readyz"),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"query_timeout_seconds": 1e-4}, {"decode_timed_out"}),
        ({"worker_memory_bytes": 4096}, {"decoder_crashed", "too_complex"}),  # by what asks for memory first
    ],
)
def test_file_that_is_too_much_for_a_worker(
    indexed_settings: Settings,
    library_files: Path,
    tmp_path: Path,
    changes: dict[str, float],
    codes: set[str],
) -> None:
    content = (library_files / "long.mp4").read_bytes()
    with memory_indexes(), serve_in_thread(indexed_settings.replace(data=tmp_path, **changes)) as running:
        answer = running.client.post("/v1/search", files={"file": content}, data=TARGET)
        assert answer.json()["code"] in codes
        assert_problem(answer, 422, answer.json()["code"])
        assert running.client.get("/readyz").status_code == 200
