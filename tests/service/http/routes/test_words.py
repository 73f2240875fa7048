"""Words over HTTP: as JSON, in a form, in a batch, beside a clip, among several queries, and their embeddings."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from models.bundle.bundle import Bundle
from service.encode.text import TextEncoder
from service.system.settings import Settings
from tests.support.bundles import MAX_TOKENS
from tests.support.index_contract import make_id, make_segment, make_tracks
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread

NAMES = ("DOORWood_Squeak", "dog", "night_rain")
DOG = make_id("dog")


@pytest.fixture(scope="module")
def tracks() -> Any:
    return make_tracks(len(NAMES), seed=31, width=128)


@pytest.fixture(scope="module")
def running(
    worded_bundle: Bundle, tracks: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serve_in_thread]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data"), bundle=worded_bundle.path, device="cpu", min_free_bytes=0
    )
    with memory_indexes(), serve_in_thread(settings) as running:
        index = running.app.state.shared.foley.index
        for name, track in zip(NAMES, tracks, strict=True):
            segment = make_segment(name, audio_track=track, video_track=track, media={})
            index.write_asset([segment], is_last=True)
        yield running


@pytest.fixture
def client(running: serve_in_thread) -> httpx.Client:
    return running.client


def search(client: httpx.Client, **query: Any) -> Any:
    answer = client.post("/v1/search", json={"target": "audio", **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refuse(answer: httpx.Response) -> tuple[int, str, list[str]]:
    document = answer.json()
    return answer.status_code, document["code"], [e["parameter"] for e in document.get("errors", ())]


def found(answer: Any) -> list[str]:
    return [Path(result["path"]).stem for result in answer["results"]]


def test_a_text_is_answered_the_same_way_by_every_door(client: httpx.Client) -> None:
    answer = search(client, text="Night rain")
    assert (answer["from"], answer["probability_reason"]) == ("text", "no_captions")
    assert found(answer)[0] == "night_rain"
    assert answer["results"][0]["found_by"] == ["meaning", "words"]
    fields = {"text": "Night rain", "target": "audio"}
    form = client.post("/v1/search", files={"text": (None, "Night rain"), "target": (None, "audio")})
    assert form.json()["results"] == answer["results"]
    batch = client.post("/v1/search/batch", json=[fields, {**fields, "match": "words"}]).json()["answers"]
    assert batch[0]["results"] == answer["results"]
    assert found(batch[1]) == ["night_rain"]


def test_filters_and_pages(client: httpx.Client) -> None:
    assert found(search(client, text="dog", folder="/elsewhere")) == []
    first = search(client, text="dog", offset=0, limit=2)
    second = search(client, text="dog", offset=first["next_offset"], limit=2)
    assert found(first) + found(second) == found(search(client, text="dog"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"text": ""}, (422, "invalid_parameter", ["text"])),
        ({"text": "dog " * (MAX_TOKENS + 1)}, (422, "text_too_long", ["text"])),
        ({"text": "d" * 5000}, (422, "invalid_parameter", ["text"])),
        ({"text": "dog", "from": "audio"}, (422, "invalid_parameter", ["from"])),
        ({"text": "dog", "match": "magic"}, (422, "invalid_parameter", ["match"])),
        ({"text": "dog", "min_probability": 0.5}, (422, "not_calibrated", [])),
        ({"queries": []}, (422, "invalid_parameter", ["queries"])),
        ({"queries": [{"text": "dog"}] * 9}, (422, "invalid_parameter", ["queries"])),
        ({"queries": [{"text": "dog", "weight": 0}]}, (422, "invalid_parameter", ["queries.0.weight"])),
        ({"queries": [{"text": "dog"}, {"text": " "}]}, (422, "invalid_parameter", ["queries.1.text"])),
        ({"queries": [{"asset_id": "0" * 64}]}, (422, "unknown_asset", ["queries.0.asset_id"])),
        (
            {"queries": [{"asset_id": DOG, "start_seconds": 99}]},
            (422, "unknown_segment", ["queries.0.start_seconds"]),
        ),
        ({"queries": [{"track": "AAAA"}]}, (422, "invalid_parameter", ["queries.0.track"])),
    ],
    ids=str,
)
def test_what_is_refused(client: httpx.Client, body: dict[str, Any], expected: Any) -> None:
    assert refuse(client.post("/v1/search", json={"target": "audio", **body})) == expected


def test_a_form_needs_a_file_or_a_text(client: httpx.Client) -> None:
    answer = client.post("/v1/search", files={"target": (None, "audio")})
    assert refuse(answer) == (422, "missing_file", [])


def test_several_queries_with_weights(client: httpx.Client, tracks: Any) -> None:
    track = base64.b64encode(tracks[2].astype("<f2").tobytes()).decode()
    mostly = search(
        client, queries=[{"asset_id": DOG, "weight": 9}, {"track": track}, {"text": "door", "weight": 0.1}]
    )
    assert (mostly["from"], found(mostly)[0]) == ("mixed", "dog")
    other = search(client, queries=[{"asset_id": DOG}, {"track": track, "weight": 9}])
    assert found(other)[0] == "night_rain"
    dog, rain = (
        {Path(r["path"]).stem: r["score"] for r in search(client, **query)["results"]}
        for query in ({"asset_id": DOG}, {"track": track})
    )
    for result in other["results"]:
        name = Path(result["path"]).stem
        assert result["score"] == pytest.approx((dog[name] + 9 * rain[name]) / 10, abs=1e-3)


def test_a_clip_and_words(client: httpx.Client, library_files: Path) -> None:
    files = {"file": (library_files / "long.mp4").read_bytes()}
    answer = client.post(
        "/v1/search", files=files, data={"target": "audio", "text": "night", "text_weight": "2"}
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["from"], answer.json()["query"]["num_segments"]) == ("mixed", 3)
    long = client.post("/v1/search", files=files, data={"target": "audio", "text": "night " * 99})
    assert refuse(long) == (422, "text_too_long", ["text"])


def test_texts_that_wait_are_counted(client: httpx.Client) -> None:
    assert 'foley_queue_depth{queue="texts_query"} 0.0' in client.get("/metrics").text


def test_embeddings_of_texts(client: httpx.Client, worded_bundle: Bundle) -> None:
    encoder, texts = TextEncoder(worded_bundle, num_threads=1), ["dog barking", "rain"]
    expected = {to: np.stack([encoder.embed(text, target=to) for text in texts]) for to in ("audio", "video")}  # type: ignore[arg-type]
    plain = client.post("/v1/embeddings", json={"texts": texts}).json()
    for to, vectors in expected.items():
        np.testing.assert_allclose([text[to] for text in plain["texts"]], vectors, atol=1e-6)
    coded = client.post(
        "/v1/embeddings", json={"texts": texts, "encoding": "base64", "modality": "video"}
    ).json()
    assert coded["texts"][0]["audio"] is None
    numbers = np.frombuffer(base64.b64decode(coded["texts"][1]["video"]), "<f2")
    np.testing.assert_allclose(numbers, expected["video"][1], atol=2.5e-4)
    whole = client.post("/v1/embeddings", json={"texts": texts, "encoding": "safetensors"})
    np.testing.assert_array_equal(load(whole.content)["audio"], expected["audio"])
    refused = client.post("/v1/embeddings", json={"texts": ["dog", ""]})
    assert refuse(refused) == (422, "invalid_parameter", ["texts.1.text"])
