"""A disk that fills up: writes are refused, reads go on, and writes go on by themselves when there is room again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.bundle.bundle import load_bundle
from service.index.contract import VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.embedded.messages import ShardConfig
from service.index.failure import IndexFailure, IndexFull
from service.index.layout import VectorLayout
from service.index.opening import index_folder
from service.system.settings import Settings
from tests.support.index_contract import NUM_MOMENTS, WIDTH, make_asset, make_id, make_tracks
from tests.support.serving import serve_in_thread
from tests.support.small_disk import MIB, fill, small_disk

FLOOR = 128 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", num_bytes=768 * MIB) as disk:
        yield disk


def open_on(disk: Path, *, min_free_bytes: int) -> EmbeddedIndex:
    config = ShardConfig(
        folder=disk / "index", layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH), min_free_bytes=min_free_bytes
    )
    return EmbeddedIndex(config)


def write_until_refused(index: EmbeddedIndex, *, num_assets: int) -> int:
    tracks = make_tracks(200, seed=1)
    for number in range(num_assets):
        try:
            index.write_asset(make_asset(number, tracks), is_last=True)
        except IndexFull:
            return number
    return num_assets


def test_a_full_disk_is_refused_and_not_fatal(disk: Path) -> None:
    with open_on(disk, min_free_bytes=FLOOR) as index:
        pid = index.shard_pid
        (query,) = make_tracks(1, seed=2)
        index.write_asset(make_asset("first", make_tracks(3, seed=3)), is_last=True)
        ballast = fill(disk, leaving_bytes=FLOOR + 4 * MIB)
        num_written = write_until_refused(index, num_assets=100)
        assert num_written < 100, "the floor was never reached"
        for _ in range(3):
            with pytest.raises(IndexFull, match=rf"bytes free, writing needs {FLOOR}"):
                index.write_asset(make_asset("refused", make_tracks(1, seed=4)), is_last=True)
            with pytest.raises(IndexFull, match="bytes free"):
                index.set_metadata(make_id("first"), {"take": 1})
            with pytest.raises(IndexFull, match="bytes free"):
                index.set_paths(make_id("first"), paths=["/x"], media={})
            assert index.count_segments() == 3 + 200 * num_written
            assert index.get_asset(make_id("refused")) is None
            assert len(index.search(VectorQuery(track=query, target="audio", limit=500))) == min(
                500, 3 + 200 * num_written
            )
        ballast.unlink()
        index.write_asset(make_asset("refused", make_tracks(1, seed=4)), is_last=True)
        assert index.set_metadata(make_id("first"), {"take": 1})
        assert index.shard_pid == pid, "the shard process died on the way"
    with open_on(disk, min_free_bytes=FLOOR) as index:
        assert index.count_segments() == 4 + 200 * num_written


def test_without_the_floor_a_full_disk_kills_the_process(disk: Path) -> None:
    """The control: what the floor is for. Reads and what was acknowledged survive even that."""
    with open_on(disk, min_free_bytes=0) as index:
        index.write_asset(make_asset("first", make_tracks(3, seed=3)), is_last=True)
        pid = index.shard_pid
        ballast = fill(disk, leaving_bytes=MIB // 4)
        with pytest.raises(IndexFailure, match=f"ended with code -{signal.SIGBUS}"):
            write_until_refused(index, num_assets=20)
        ballast.unlink()
        assert index.get_asset(make_id("first")) is not None
        assert index.shard_pid != pid


def test_a_full_disk_over_http(disk: Path, indexed_settings: Settings) -> None:
    settings = indexed_settings.replace(data=disk / "data", min_free_bytes=FLOOR, upload_reserve_bytes=0)
    folder = index_folder(settings, load_bundle(settings.bundle).bundle_id)
    folder.parent.mkdir(parents=True)
    layout = VectorLayout.of(load_bundle(settings.bundle).manifest)
    with EmbeddedIndex.open(folder, layout=layout, min_free_bytes=0) as index:
        track = make_tracks(1, seed=6, width=layout.tracks["video"][1])[0]
        index.write_asset(make_asset("a", track[None]), is_last=True)
    with serve_in_thread(settings) as server:
        url, change = f"/v1/assets/{make_id('a')}", {"metadata": {"take": 1}}
        ballast = fill(disk, leaving_bytes=FLOOR - MIB)
        for _ in range(2):
            refused = server.client.patch(url, json=change)
            assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
            assert server.client.get(url).json()["metadata"] == {}
            found: httpx.Response = server.client.post(
                "/v1/search", json={"asset_id": make_id("a"), "target": "audio"}
            )
            assert [result["asset_id"] for result in found.json()["results"]] == [make_id("a")]
        ballast.unlink()
        assert server.client.patch(url, json=change).json()["metadata"] == {"take": 1}
