"""Searches without a file: by an indexed asset, by a track, several at once, filtered, in pages."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image


def post(client: httpx.Client, path: str = "/v1/search", **query: Any) -> httpx.Response:
    return client.post(path, json=query)


@pytest.fixture
def assets(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """The assets by the name of their file."""
    found = client.get("/v1/assets", params={"limit": 100}).json()["assets"]
    return {Path(asset["path"]).name: asset for asset in found}


@pytest.fixture
def long(assets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return assets["long.mp4"]


@pytest.fixture
def said(client: httpx.Client, assets: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """Ids of two assets about which something is said, for as long as the test takes."""
    chosen = sorted(asset["asset_id"] for asset in assets.values() if "audio" in asset["modalities"])[:2]
    for take, asset_id in enumerate(chosen):
        client.patch(f"/v1/assets/{asset_id}", json={"metadata": {"take": take, "ok": True}})
    yield chosen
    for asset_id in chosen:
        client.patch(f"/v1/assets/{asset_id}", json={"metadata": {"take": None, "ok": None}})


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [result["asset_id"] for result in answer.json()["results"]]


def problem(answer: httpx.Response) -> tuple[int, str, list[str]]:
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    return answer.status_code, found["code"], [error["parameter"] for error in found.get("errors", [])]


def test_an_asset_is_a_query_like_its_file(
    client: httpx.Client, library_files: Path, long: dict[str, Any]
) -> None:
    by_file = client.post(
        "/v1/search", files={"file": (library_files / "long.mp4").read_bytes()}, data={"target": "audio"}
    ).json()
    by_id = post(client, asset_id=long["asset_id"], target="audio").json()
    assert (by_id["from"], by_id["query"]) == (by_file["from"], by_file["query"])
    assert [r["asset_id"] for r in by_id["results"]] == [r["asset_id"] for r in by_file["results"]]
    for stored, embedded in zip(by_id["results"], by_file["results"], strict=True):
        assert stored["score"] == pytest.approx(embedded["score"], abs=2e-3)  # stored as float16


def test_a_still_picture_is_a_query_and_nothing_for_the_library(client: httpx.Client) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    files = {"file": content.getvalue()}
    answer = client.post("/v1/search", files=files, data={"target": "audio"}).json()
    assert (answer["from"], answer["query"]) == ("video", {"num_segments": 1, "is_partial": False})
    assert answer["results"]
    embedded = client.post("/v1/embeddings", files=files).json()
    (segment,) = embedded["segments"]
    assert (embedded["media"]["container"], embedded["media"]["duration_seconds"]) == ("png", None)
    assert segment["audio"] is None
    assert np.ptp(segment["video"]["track"], axis=0).max() < 0.2, "moments differ by their place alone"
    answer = client.post("/v1/search", files=files, data={"target": "video", "from": "audio"})
    assert problem(answer)[:2] == (422, "no_stream")
    cut = {"file": content.getvalue()[:500]}
    assert problem(client.post("/v1/search", files=cut, data={"target": "audio"}))[:2] == (
        422,
        "broken_media",
    )


def test_one_segment_of_an_asset(client: httpx.Client, long: dict[str, Any]) -> None:
    query = {"asset_id": long["asset_id"], "target": "video", "from": "video"}
    for seconds, start in ((0.0, 0.0), (9.99, 0.0), (10.0, 10.0), (23, 20.0)):
        answer = post(client, **query, start_seconds=seconds).json()
        assert answer["query"]["num_segments"] == 1
        best = answer["results"][0]
        assert (best["asset_id"], best["start_seconds"]) == (long["asset_id"], start)
        assert best["query_start_seconds"] == start
        assert best["score"] == pytest.approx(1.0, abs=2e-3)
    assert problem(post(client, **query, start_seconds=24.5)) == (422, "unknown_segment", ["start_seconds"])


def test_a_track_is_a_query(client: httpx.Client, library_files: Path, long: dict[str, Any]) -> None:
    files = {"file": (library_files / "long.mp4").read_bytes()}
    embedded = client.post("/v1/embeddings", files=files, data={"encoding": "base64"}).json()
    track = embedded["segments"][1]["video"]["track"]
    answer = post(client, track=track, target="video", limit=3).json()
    best = answer["results"][0]
    assert (best["asset_id"], best["start_seconds"]) == (long["asset_id"], 10.0)
    assert best["score"] == pytest.approx(1.0, abs=2e-3)
    assert answer["from"] == "audio"  # the caller said nothing, and a track says nothing itself
    assert post(client, track=track, target="video", **{"from": "video"}).json()["from"] == "video"
    one = post(
        client, asset_id=long["asset_id"], start_seconds=10, target="video", **{"from": "video"}, limit=3
    )
    assert ids(one) == [result["asset_id"] for result in answer["results"]]


def bad_tracks() -> dict[str, tuple[str, str]]:
    good = np.zeros((16, 128), dtype="<f2")
    good[:, 0] = 1
    nan, short = good.copy(), good[:-1]
    nan[3, 3] = np.nan
    return {
        "no base64": ("?" * 40, "base64"),
        "too short": (base64.b64encode(short.tobytes()).decode(), "bytes"),
        "zero": (base64.b64encode(np.zeros_like(good).tobytes()).decode(), "cancel out"),
        "long": (base64.b64encode((good * 2).tobytes()).decode(), "at most unit length"),
        "nan": (base64.b64encode(nan.tobytes()).decode(), "finite"),
    }


@pytest.mark.parametrize("kind", sorted(bad_tracks()))
def test_a_bad_track_is_refused(client: httpx.Client, kind: str) -> None:
    track, message = bad_tracks()[kind]
    answer = post(client, track=track, target="audio")
    assert problem(answer) == (422, "invalid_parameter", ["track"])
    assert message in answer.text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"asset_id": "0" * 64}, (422, "unknown_asset", ["asset_id"])),
        ({"asset_id": "x"}, (422, "invalid_parameter", ["asset_id"])),
        ({}, (422, "invalid_parameter", ["asset_id"])),
        ({"asset_id": "0" * 64, "track": ""}, (422, "invalid_parameter", ["asset_id"])),
        ({"asset_id": "0" * 64, "limit": "3"}, (422, "invalid_parameter", ["limit"])),
        ({"asset_id": "0" * 64, "limit": 600, "offset": 600}, (422, "invalid_parameter", ["offset"])),
        ({"asset_id": "0" * 64, "min_score": 1.5}, (422, "invalid_parameter", ["min_score"])),
        ({"asset_id": "0" * 64, "folder": "rain"}, (422, "invalid_parameter", ["folder"])),
        ({"asset_id": "0" * 64, "start_seconds": -1}, (422, "invalid_parameter", ["start_seconds"])),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(
    client: httpx.Client, query: dict[str, Any], expected: tuple[int, str, list[str]]
) -> None:
    assert problem(post(client, target="audio", **query)) == expected


def test_what_is_no_json_query_is_refused(client: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    for body in (b"", b"{", b"[]", b'"x"', b'{"min_score": NaN}', b"\xff"):
        answer = client.post("/v1/search", content=body, headers=json_type)
        assert answer.status_code == 422, body
        assert answer.json()["code"] == "invalid_parameter"
    answer = client.post("/v1/search?target=audio", json={"asset_id": "0" * 64, "target": "audio"})
    assert "no query string" in answer.text
    large = json.dumps({"target": "audio", "track": "A" * 1_100_000}).encode()
    assert problem(client.post("/v1/search", content=large, headers=json_type))[:2] == (413, "too_large")


def test_a_batch_answers_each_query_in_its_place(
    client: httpx.Client, assets: dict[str, dict[str, Any]]
) -> None:
    queries = [
        {"asset_id": asset["asset_id"], "target": target, "limit": 2}
        for asset in assets.values()
        for target in ("audio", "video")
    ]
    answer = client.post("/v1/search/batch", json=queries)
    assert answer.status_code == 200, answer.text
    assert answer.json()["answers"] == [post(client, **query).json() for query in queries]


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        ([], (422, "invalid_parameter", ["request"])),
        ({}, (422, "invalid_parameter", ["request"])),
        ([{"asset_id": "0" * 64, "target": "audio"}] * 25, (422, "invalid_parameter", ["request"])),
        ([{"asset_id": "0" * 64, "target": "smell"}], (422, "invalid_parameter", ["0.target"])),
        (["x"], (422, "invalid_parameter", ["0"])),
        ([{"asset_id": "0" * 64, "target": "audio"}], (422, "unknown_asset", ["0.asset_id"])),
    ],
)
def test_a_batch_with_a_fault_is_refused(
    client: httpx.Client, queries: Any, expected: tuple[int, str, list[str]]
) -> None:
    assert problem(client.post("/v1/search/batch", json=queries)) == expected


def test_the_fault_of_a_batch_names_its_query(client: httpx.Client, long: dict[str, Any]) -> None:
    good = {"asset_id": long["asset_id"], "target": "audio"}
    answer = client.post("/v1/search/batch", json=[good, {**good, "start_seconds": 1000}])
    assert problem(answer) == (422, "unknown_segment", ["1.start_seconds"])


def test_filters_hold_for_every_kind_of_search(
    client: httpx.Client, library_files: Path, long: dict[str, Any], said: list[str]
) -> None:
    everything = ids(post(client, asset_id=long["asset_id"], target="audio", limit=100))
    assert len(everything) > 2
    assert sorted(ids(post(client, asset_id=long["asset_id"], target="audio", metadata={"ok": True}))) == said
    form = {"target": "audio", "metadata": '{"take": [0, 7]}'}
    answer = client.post("/v1/search", files={"file": (library_files / "long.mp4").read_bytes()}, data=form)
    assert ids(answer) == said[:1]
    assert answer.json()["results"][0]["metadata"] == {"take": 0, "ok": True}
    assert ids(post(client, asset_id=long["asset_id"], target="audio", min_duration_seconds=20)) == [
        long["asset_id"]
    ]
    assert ids(post(client, asset_id=long["asset_id"], target="audio", folder="/nowhere")) == []
    assert ids(
        post(client, asset_id=long["asset_id"], target="audio", folder=str(library_files), limit=100)
    ) == (everything)
    contradiction = post(
        client, asset_id=long["asset_id"], target="audio", min_duration_seconds=2, max_duration_seconds=1
    )
    assert problem(contradiction)[:2] == (422, "invalid_parameter")


def test_lists_take_the_same_filters(
    client: httpx.Client, assets: dict[str, dict[str, Any]], said: list[str]
) -> None:
    def listed(**filters: object) -> list[str]:
        answer = client.get("/v1/assets", params={"limit": 100, **filters})  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return sorted(asset["asset_id"] for asset in answer.json()["assets"])

    by_id = {asset["asset_id"]: asset for asset in assets.values()}
    assert listed(metadata='{"take": 1}') == said[1:]
    assert listed(metadata='{"take": "1"}') == []
    assert listed(min_duration_seconds=20) == [assets["long.mp4"]["asset_id"]]
    silent = sorted(a["asset_id"] for a in assets.values() if "audio" not in a["modalities"])
    assert sorted(set(listed()) - set(listed(modality="audio"))) == silent
    assert listed(folder="/nowhere") == []
    for fact in ("is_silent", "is_static"):
        for value in (True, False):
            have = sorted(name for name, asset in by_id.items() if asset["media"][fact] is value)
            assert listed(**{fact: value}) == have
    modified = assets["long.mp4"]["media"]["modified_ns"] / 1e9
    assert assets["long.mp4"]["asset_id"] in listed(modified_after=modified - 1, modified_before=modified + 1)
    assert listed(modified_before=modified - 3600) == []
    assert listed(metadata='{"take": 1.0}') == said[1:]
    assert listed(metadata='{"take": {"at_least": 0.5}}') == said[1:]
    assert listed(metadata='{"take": {"at_most": 0, "at_least": null}}') == said[:1]
    for wrong in ({"metadata": "{"}, {"metadata": '{"x": NaN}'}, {"modality": "smell"}, {"folder": "x"}):
        answer = client.get("/v1/assets", params=wrong)
        assert problem(answer)[:2] == (422, "invalid_parameter"), answer.text


def test_pages_hold_each_result_once(client: httpx.Client, long: dict[str, Any]) -> None:
    query = {"asset_id": long["asset_id"], "target": "audio"}
    whole = ids(post(client, **query, limit=1000, offset=0))
    paged: list[str] = []
    offset: int | None = 0
    while offset is not None:
        answer = post(client, **query, limit=2, offset=offset)
        paged += ids(answer)
        offset = answer.json()["next_offset"]
    assert paged == whole
    assert len(whole) > 2
    scores = [result["score"] for result in post(client, **query, limit=100).json()["results"]]
    least = (scores[0] + scores[1]) / 2
    assert ids(post(client, **query, limit=100, min_score=least)) == whole[:1]
    assert ids(post(client, **query, min_score=1)) == []
