"""The forms of `POST /v1/embeddings`: the same numbers in each, as near as each says, read by other libraries."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from models.media.clip import MediaInfo
from service.encode.embedding import EmbeddedSegment
from service.http.encodings import write_base64, write_embeddings, write_json, write_safetensors
from service.index.layout import VectorLayout
from service.search.file_query import EmbeddedFile

WIDTH = 24


def unit_track(seed: int) -> NDArray[np.float32]:
    track = np.random.default_rng(seed).standard_normal((16, WIDTH))
    return np.asarray(track / np.linalg.norm(track, axis=1, keepdims=True), np.float32)


def pool(track: NDArray[np.float32]) -> NDArray[np.float64]:
    mean = track.astype(np.float64).mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


@pytest.fixture
def embedded() -> EmbeddedFile:
    """Three segments: with both streams, with sound alone, with picture alone."""
    tracks: list[dict[Any, NDArray[np.float32]]] = [
        {"audio": unit_track(0), "video": unit_track(1)},
        {"audio": unit_track(2)},
        {"video": unit_track(3)},
    ]
    media = MediaInfo(
        container="wav",
        size_bytes=7,
        modified_ns=1,
        duration_seconds=float("inf"),
        has_audio=True,
        has_video=True,
    )
    segments = tuple(
        EmbeddedSegment(start_seconds=10.0 * number, end_seconds=10.0 * number + 10, tracks=found)
        for number, found in enumerate(tracks)
    )
    return EmbeddedFile(
        media=media,
        segments=segments,
        is_partial=True,
        bundle_id="café-1",
        layout=VectorLayout.of_both(16, WIDTH),
    )


def test_safetensors_are_exact_and_another_library_reads_them(embedded: EmbeddedFile, tmp_path: Path) -> None:
    content = write_safetensors(embedded)
    found = safetensors.numpy.load(content)
    assert {name: (value.dtype.name, value.shape) for name, value in found.items()} == {
        "start_seconds": ("float64", (3,)),
        "end_seconds": ("float64", (3,)),
        "audio_segment": ("int64", (2,)),
        "video_segment": ("int64", (2,)),
        "audio_track": ("float32", (2, 16, WIDTH)),
        "video_track": ("float32", (2, 16, WIDTH)),
        "audio_pooled": ("float32", (2, WIDTH)),
        "video_pooled": ("float32", (2, WIDTH)),
    }
    assert found["start_seconds"].tolist() == [0, 10, 20]
    assert found["end_seconds"].tolist() == [10, 20, 30]
    for modality, present in (("audio", [0, 1]), ("video", [0, 2])):
        assert found[f"{modality}_segment"].tolist() == present
        for row, number in enumerate(present):
            track = embedded.segments[number].tracks[modality]  # type: ignore[index]
            assert np.array_equal(found[f"{modality}_track"][row], track)
            np.testing.assert_allclose(found[f"{modality}_pooled"][row], pool(track), atol=1e-7)

    path = tmp_path / "embeddings.safetensors"
    path.write_bytes(content)
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["bundle_id"] == "café-1"
    assert json.loads(metadata["is_partial"]) is True
    assert json.loads(metadata["media"])["duration_seconds"] is None
    assert "modified_ns" not in metadata["media"]


def test_numbers_of_safetensors_are_aligned(embedded: EmbeddedFile) -> None:
    content = write_safetensors(embedded)
    num_head = int.from_bytes(content[:8], "little")
    assert num_head % 8 == 0
    head = json.loads(content[8 : 8 + num_head])
    for name, entry in head.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % (int(entry["dtype"][1:]) // 8) == 0
    # What a reader without the library does.
    start, end = head["audio_track"]["data_offsets"]
    track = np.frombuffer(content[8 + num_head :][start:end], "<f4").reshape(head["audio_track"]["shape"])
    assert np.array_equal(track[0], embedded.segments[0].tracks["audio"])


def read_base64(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float64)


def test_base64_is_as_near_as_it_says(embedded: EmbeddedFile) -> None:
    found = json.loads(write_base64(embedded))
    assert (found["dtype"], found["width"]) == ("float16", WIDTH)
    for segment, expected in zip(found["segments"], embedded.segments, strict=True):
        for modality in ("audio", "video"):
            track = expected.tracks.get(modality)  # type: ignore[call-overload]
            if track is None:
                assert segment[modality] is None
                continue
            read = read_base64(segment[modality]["track"]).reshape(-1, found["width"])
            assert np.array_equal(read, track.astype(np.float16))
            assert read_base64(segment[modality]["pooled"]).shape == (WIDTH,)
            np.testing.assert_allclose(read_base64(segment[modality]["pooled"]), pool(track), atol=2.5e-4)


@pytest.mark.parametrize("width", [2, 128, 768])
def test_error_of_float16(width: int) -> None:
    """The stated bounds hold for many vectors, peaked ones too, and they are not slack."""
    rng = np.random.default_rng(width)
    rows = rng.standard_normal((4000, width)) ** rng.choice([1, 3, 5], (4000, 1))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    rounded = rows.astype(np.float16).astype(np.float64)
    errors = np.abs(rounded - rows).max()
    cosines = (rows * rounded).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(rounded, axis=1)
    assert errors <= 2.5e-4
    assert cosines.min() > 1 - 1.2e-7
    if width == 2:
        assert errors > 2e-4


def test_json_is_as_near_as_it_says(embedded: EmbeddedFile) -> None:
    found = json.loads(write_json(embedded))
    assert found["media"]["duration_seconds"] is None
    assert found["segments"][1]["video"] is None
    for segment, expected in zip(found["segments"], embedded.segments, strict=True):
        for modality, track in expected.tracks.items():
            assert np.abs(np.array(segment[modality]["track"]) - track).max() <= 5e-8
            assert np.abs(np.array(segment[modality]["pooled"]) - pool(track)).max() <= 1.5e-7


def test_media_types(embedded: EmbeddedFile) -> None:
    kinds = {
        encoding: write_embeddings(embedded, encoding)[1] for encoding in ("json", "base64", "safetensors")
    }  # type: ignore[arg-type]
    assert kinds == {
        "json": "application/json",
        "base64": "application/json",
        "safetensors": "application/octet-stream",
    }


# Over HTTP


@pytest.mark.parametrize("place", ["form", "query"])
def test_forms_of_one_file_agree(client: httpx.Client, library_files: Path, place: str) -> None:
    files = {"file": (library_files / "long.mp4").read_bytes()}

    def ask(encoding: str) -> httpx.Response:
        fields = {"data" if place == "form" else "params": {"encoding": encoding}}
        answer = client.post("/v1/embeddings", files=files, **fields)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return answer

    lists, encoded, packed = ask("json").json(), ask("base64").json(), ask("safetensors")
    assert packed.headers["content-type"] == "application/octet-stream"
    tensors = safetensors.numpy.load(packed.content)
    assert tensors["audio_segment"].tolist() == tensors["video_segment"].tolist() == [0, 1, 2]
    for number, segment in enumerate(lists["segments"]):
        assert tensors["start_seconds"][number] == segment["start_seconds"]
        for modality in ("audio", "video"):
            track = np.array(segment[modality]["track"])
            np.testing.assert_allclose(tensors[f"{modality}_track"][number], track, atol=2e-6)
            read = read_base64(encoded["segments"][number][modality]["track"]).reshape(16, -1)
            np.testing.assert_allclose(read, track, atol=2.5e-4)


def test_lists_are_the_default(client: httpx.Client, library_files: Path) -> None:
    files = {"file": (library_files / "long.mp4").read_bytes()}
    answer = client.post("/v1/embeddings", files=files, data={"modality": "audio"})
    assert "dtype" not in answer.json()
    assert isinstance(answer.json()["segments"][0]["audio"]["pooled"], list)
    packed = client.post("/v1/embeddings", files=files, data={"modality": "audio", "encoding": "safetensors"})
    assert not [name for name in safetensors.numpy.load(packed.content) if name.startswith("video")]


@pytest.mark.parametrize("encoding", ["npz", "", "JSON", "float16"])
def test_form_that_does_not_exist(client: httpx.Client, encoding: str) -> None:
    answer = client.post("/v1/embeddings", files={"file": b"x"}, data={"encoding": encoding})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    (error,) = answer.json()["errors"]
    assert error["parameter"] == "encoding"
    assert "'json', 'base64' or 'safetensors'" in error["message"]


def test_description_names_the_forms(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/embeddings"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["encoding"]["enum"] == ["json", "base64", "safetensors"]
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"application/json", "application/octet-stream"}
    names = {choice["$ref"].rsplit("/", 1)[1] for choice in content["application/json"]["schema"]["anyOf"]}
    assert names == {"EmbeddingsBody", "EncodedEmbeddingsBody", "TextEmbeddingsBody"}
