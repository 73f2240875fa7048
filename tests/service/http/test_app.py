"""The service over HTTP: a real server process, a real library, and every answer as a client sees it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.foley import open_foley
from service.search.options import SearchOptions
from service.system.settings import Settings


@pytest.fixture(scope="module")
def pair(library_files: Path) -> Path:
    """A clip with sound and picture that is in the library."""
    return min(path for path in library_files.glob("*.mp4") if has_both(path) and path.name != "long.mp4")


def has_both(path: Path) -> bool:
    from models.media.clip import probe_media

    info = probe_media(path)
    return info.has_audio and info.has_video


def post_search(client: httpx.Client, path: Path, **fields: object) -> httpx.Response:
    data = {name.rstrip("_"): str(value) for name, value in fields.items()}
    return client.post("/v1/search", files={"file": (path.name, path.read_bytes())}, data=data)


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"target": "audio"}, "video"),
        ({"target": "video"}, "audio"),
        ({"target": "audio", "from_": "audio"}, "audio"),
        ({"target": "video", "from_": "video"}, "video"),
    ],
)
def test_search(client: httpx.Client, pair: Path, fields: dict[str, str], source: str) -> None:
    answer = post_search(client, pair, **fields, limit=3)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["target"], found["from"]) == (fields["target"], source)
    assert found["query"] == {"num_segments": 1, "is_partial": False}
    results = found["results"]
    assert 1 <= len(results) <= 3
    assert len({result["asset_id"] for result in results}) == len(results)
    assert [r["score"] for r in results] == sorted((r["score"] for r in results), reverse=True)
    for result in results:
        assert len(result["moments"]) == 16
        assert result["score"] == pytest.approx(np.mean(result["moments"]), abs=1e-6)
        best = result["best_moment"]
        assert best["similarity"] == max(result["moments"]) == result["moments"][best["index"]]
        length = result["end_seconds"] - result["start_seconds"]
        assert best["time_seconds"] == pytest.approx(result["start_seconds"] + best["index"] / 16 * length)
        assert 0 <= result["query_start_seconds"] < result["query_end_seconds"] <= 10


def test_a_file_finds_itself_by_its_own_modality(client: httpx.Client, pair: Path) -> None:
    best = post_search(client, pair, target="video", from_="video").json()["results"][0]
    assert best["asset_id"] == hashlib.sha256(pair.read_bytes()).hexdigest()
    assert best["path"] == str(pair)
    # The index stores tracks in float16.
    assert best["score"] == pytest.approx(1.0, abs=2e-3)


def test_parameters_may_stand_in_the_query_string(client: httpx.Client, pair: Path) -> None:
    in_form = post_search(client, pair, target="audio", limit=2)
    in_query = client.post(
        "/v1/search", params={"target": "audio", "limit": 2}, files={"file": pair.read_bytes()}
    )
    assert in_query.status_code == 200
    assert in_query.json() == in_form.json()


def test_every_segment_of_a_long_query_counts(client: httpx.Client, library_files: Path) -> None:
    found = post_search(client, library_files / "long.mp4", target="video", from_="video").json()
    assert found["query"]["num_segments"] == 3
    own = hashlib.sha256((library_files / "long.mp4").read_bytes()).hexdigest()
    (result,) = [result for result in found["results"] if result["asset_id"] == own]
    assert result["query_start_seconds"] == result["start_seconds"]
    assert result["query_end_seconds"] == pytest.approx(result["end_seconds"], abs=0.05)


def test_answers_over_http_and_in_python_are_the_same(
    indexed_settings: Settings, client: httpx.Client, pair: Path, tmp_path: Path
) -> None:
    over_http = post_search(client, pair, target="audio").json()
    # The index is open in the server: a second engine on an empty one gives the same form and the same names.
    with open_foley(indexed_settings.replace(data=tmp_path)) as foley:
        in_python = foley.search_file(pair, SearchOptions(target="audio")).to_json()
    assert in_python == {**over_http, "results": [], "reason": "nothing_to_search"}


def test_embeddings(client: httpx.Client, library_files: Path) -> None:
    path = library_files / "long.mp4"
    answer = client.post("/v1/embeddings", files={"file": path.read_bytes()})
    assert answer.status_code == 200, answer.text
    embedded = answer.json()
    assert embedded["media"]["video_codec"] == "h264"
    assert not embedded["is_partial"]
    starts = [segment["start_seconds"] for segment in embedded["segments"]]
    assert starts == [0, 10, 20]
    for segment in embedded["segments"]:
        for modality in ("audio", "video"):
            track = np.array(segment[modality]["track"])
            assert track.shape[0] == 16
            np.testing.assert_allclose(np.linalg.norm(track, axis=1), 1, atol=1e-5)
            pooled = track.mean(axis=0) / np.linalg.norm(track.mean(axis=0))
            np.testing.assert_allclose(segment[modality]["pooled"], pooled, atol=1e-5)


def test_embeddings_of_one_modality(client: httpx.Client, pair: Path) -> None:
    files = {"file": pair.read_bytes()}
    (segment,) = client.post("/v1/embeddings", files=files, data={"modality": "audio"}).json()["segments"]
    assert segment["video"] is None
    both = client.post("/v1/embeddings", files=files).json()["segments"][0]
    assert segment["audio"] == both["audio"]


def test_assets_come_in_pages(client: httpx.Client, library_files: Path) -> None:
    seen, cursor = [], None
    while True:
        page = client.get("/v1/assets", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += page["assets"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["assets"]) == 2
    ids = {hashlib.sha256(path.read_bytes()).hexdigest(): str(path) for path in library_files.glob("*.m*")}
    assert {asset["asset_id"]: asset["path"] for asset in seen} == ids
    for asset in seen:
        assert client.get(f"/v1/assets/{asset['asset_id']}").json() == asset
        assert asset["num_segments"] == (3 if asset["path"].endswith("long.mp4") else 1)


def test_health(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["provider"] in ("OpenVINO fp32", "CPUExecutionProvider")
    assert ready["num_segments"] >= 8


def test_request_ids(client: httpx.Client) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 129, "é".encode()):
        given = client.get("/livez", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert len(given) == 32
    problem = client.get("/v1/assets/nope", headers={"X-Request-ID": "find-me"}).json()
    assert problem["request_id"] == "find-me"
