"""Thumbnails, filmstrips, waveforms and segments over HTTP, of the file that is checked."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from service.library.indexing import index_paths
from service.library.options import RunOptions
from service.system.settings import Settings
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread


@pytest.fixture(scope="module")
def library(
    library_files: Path, indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[serve_in_thread, dict[str, Any], Path]]:
    """A service over a long clip with both streams; the asset and its file."""
    path = tmp_path_factory.mktemp("own") / "long.mp4"
    shutil.copy(library_files / "long.mp4", path)
    settings = indexed_settings.replace(data=tmp_path_factory.mktemp("data"), library_roots=str(path.parent))
    with memory_indexes(), serve_in_thread(settings) as running:
        foley = running.app.state.shared.foley
        index_paths(
            [path, *sorted(library_files.glob("*.wav"))[:1]],
            snapshot=foley.snapshot(),
            decoder=foley.decoder,
            options=RunOptions(previews=foley.previews),
        )
        assets = running.client.get("/v1/assets").json()["assets"]
        yield running, next(asset for asset in assets if asset["path"] == str(path)), path


def test_indexing_makes_them_and_they_are_made_again(
    library: tuple[serve_in_thread, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, asset, _ = library
    foley, client = running.app.state.shared.foley, running.client
    url = f"/v1/assets/{asset['asset_id']}"
    names = ("thumbnail", "filmstrip", "waveform?pixels=50")
    with monkeypatch.context() as patch:
        patch.setattr(type(foley.decoder), "read", None)  # nothing is decoded for them
        first = {name: client.get(f"{url}/{name}") for name in names}
    foley.previews.remove(asset["asset_id"])
    again = {name: client.get(f"{url}/{name}") for name in names}
    for name in names[:2]:
        assert first[name].headers["content-type"] == "image/jpeg"
        assert first[name].headers["etag"] == again[name].headers["etag"]
        assert first[name].content == again[name].content
        same = client.get(f"{url}/{name}", headers={"If-None-Match": first[name].headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
    strip, headers = Image.open(io.BytesIO(first["filmstrip"].content)), first["filmstrip"].headers
    assert strip.width == int(headers["foley-frames"]) * int(headers["foley-frame-width"])
    assert float(headers["foley-duration"]) == asset["media"]["duration_seconds"]
    drawn = first["waveform?pixels=50"].json()
    assert (drawn["start"], drawn["end"], drawn["pixels"]) == (0, asset["media"]["duration_seconds"], 50)
    for end in ("min", "max"):
        assert np.abs(np.subtract(drawn[end], again["waveform?pixels=50"].json()[end])).max() <= 1


def test_parts_at_other_times(library: tuple[serve_in_thread, dict[str, Any], Path]) -> None:
    running, asset, _ = library
    url = f"/v1/assets/{asset['asset_id']}"
    early, late = (running.client.get(f"{url}/thumbnail?t={t}") for t in (0.5, 20))
    assert early.status_code == late.status_code == 200
    assert early.content != late.content
    assert early.headers["etag"] != late.headers["etag"]
    fine = running.client.get(f"{url}/waveform?pixels=100&start=2&end=2.01")
    raw = running.client.get(
        f"{url}/waveform?pixels=100&start=2&end=2.01", headers={"Accept": "application/octet-stream"}
    )
    pairs = np.frombuffer(raw.content, np.int8).reshape(100, 2)
    assert (fine.json()["min"], fine.json()["max"]) == (pairs[:, 0].tolist(), pairs[:, 1].tolist())
    assert len(set(fine.json()["max"])) > 10  # finer than what is stored: 0.1 ms a pixel


@pytest.mark.parametrize(
    "query",
    [
        "waveform?pixels=0",
        "waveform?pixels=5000",
        "waveform?start=3&end=2",
        "waveform?start=9e9",
        "waveform?start=nan",
        "thumbnail?t=-1",
        "thumbnail?t=inf",
    ],
)
def test_wrong_numbers_are_refused(library: tuple[serve_in_thread, dict[str, Any], Path], query: str) -> None:
    running, asset, _ = library
    answer = running.client.get(f"/v1/assets/{asset['asset_id']}/{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


def test_what_an_asset_lacks(library: tuple[serve_in_thread, dict[str, Any], Path]) -> None:
    running, _, _ = library
    assets = running.client.get("/v1/assets").json()["assets"]
    deaf = [asset for asset in assets if asset["modalities"] == ["audio"]]
    for asset in deaf:
        for name in ("thumbnail", "filmstrip", "segment?start=0&end=0.5&modality=video"):
            answer = running.client.get(f"/v1/assets/{asset['asset_id']}/{name}")
            assert (answer.status_code, answer.json()["code"]) == (422, "no_stream")
    for name in ("thumbnail", "filmstrip", "waveform", "segment?start=0&end=1"):
        assert running.client.get(f"/v1/assets/{'0' * 64}/{name}").json()["code"] == "asset_not_found"


def test_another_file_at_the_path_is_not_shown(
    library: tuple[serve_in_thread, dict[str, Any], Path], tmp_path: Path, library_files: Path
) -> None:
    running, asset, path = library
    running.app.state.shared.foley.previews.remove(asset["asset_id"])
    aside = path.with_name("aside.mp4")
    path.rename(aside)
    try:
        path.symlink_to(library_files / "long.mp4")
        for name in ("thumbnail", "filmstrip", "waveform", "thumbnail?t=1", "segment?start=0&end=1"):
            answer = running.client.get(f"/v1/assets/{asset['asset_id']}/{name}")
            assert (answer.status_code, answer.json()["code"]) == (404, "media_missing")
    finally:
        path.unlink()
        aside.rename(path)


def test_a_segment_is_a_file(library: tuple[serve_in_thread, dict[str, Any], Path]) -> None:
    running, asset, _ = library
    url = f"/v1/assets/{asset['asset_id']}/segment"
    copied = running.client.get(url, params={"start": 3.3, "end": 5})
    assert (copied.status_code, copied.headers["content-type"]) == (200, "video/mp4")
    start, end = (float(copied.headers[name]) for name in ("foley-start", "foley-end"))
    assert copied.headers["foley-copied"] == "true"
    assert copied.headers["content-disposition"].startswith(f'attachment; filename="long {start:.3f}-')
    with av.open(io.BytesIO(copied.content)) as container:
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(end - start, abs=0.05)
        assert start <= 3.3
    exact = running.client.get(url, params={"start": 3.3, "end": 5, "exact": True})
    assert (exact.headers["foley-start"], exact.headers["foley-copied"]) == ("3.300000", "false")
    sound = running.client.get(url, params={"start": 3, "end": 5, "modality": "audio", "moment": 4})
    assert sound.headers["content-type"] == "audio/wav"
    assert b"cue " in sound.content
    with av.open(io.BytesIO(sound.content)) as container:
        assert container.streams.audio[0].duration == 2 * container.streams.audio[0].rate


@pytest.mark.parametrize(
    "query",
    [
        "start=3&end=3",
        "start=3&end=3.00001",
        "start=0&end=601",
        "start=1&end=500",
        "start=490&end=500",
        "start=0&end=nan",
        "start=0",
    ],
)
def test_segments_that_are_none(library: tuple[serve_in_thread, dict[str, Any], Path], query: str) -> None:
    running, asset, _ = library
    answer = running.client.get(f"/v1/assets/{asset['asset_id']}/segment?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
