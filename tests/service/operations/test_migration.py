"""Copying an index between a folder and a server (qdrant-client's local mode), both ways, cut off, and broken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle
from service.cli import app
from service.commands.terminal import FAILED, WRONG_USAGE
from service.index import iteration
from service.index.codec import encoding_of
from service.index.contract import Index, Segment, VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.failure import IndexFailure
from service.index.layout import VectorLayout
from service.index.opening import index_place
from service.index.points import point_id
from service.index.qdrant import index as server
from service.index.qdrant import place
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import ServerConfig
from service.operations.migration import (
    Migration,
    MigrationFailed,
    change_storage,
    compare,
    migrate,
    migrate_places,
)
from service.system.modality import Track
from service.system.settings import Settings
from tests.support.index_contract import make_id, make_segment, make_tracks
from tests.support.qdrant_local import open_local

WIDTH = 32
NAME = "foley-starter-0"
URL = "http://qdrant.invalid:6333"
NUM_ASSETS = 12


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = open_local()
    yield client
    client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    with EmbeddedIndex.open(
        tmp_path / "index", layout=VectorLayout.of_both(16, WIDTH), min_free_bytes=0
    ) as index:
        yield index


@pytest.fixture
def remote(client: QdrantClient) -> ServerIndex:
    return ServerIndex.open(
        ServerConfig(url=URL), name=NAME, layout=VectorLayout.of_both(16, WIDTH), client=client
    )


@pytest.fixture
def source() -> Iterator[ServerIndex]:
    """Where a folder would only take its time: another collection in local mode."""
    client = open_local()
    yield ServerIndex.open(
        ServerConfig(url=URL), name=NAME, layout=VectorLayout.of_both(16, WIDTH), client=client
    )
    client.close()


def fill(index: Index) -> None:
    """Assets of one to five segments, with sound, picture or both, several paths, facts and metadata."""
    tracks = make_tracks(NUM_ASSETS * 5, seed=1, width=WIDTH)
    for number in range(NUM_ASSETS):
        segments = []
        for position in range(number % 5 + 1):
            track: Track = tracks[number * 5 + position]
            kinds = (["audio_track"], ["video_track"], ["audio_track", "video_track"])[number % 3]
            segments.append(
                make_segment(
                    number,
                    2 * position,
                    paths=(f"/copies/{number}.mp4",) if number % 2 else (),
                    metadata={"take": number, "tags": ["a", "b"]},
                    **dict.fromkeys(kinds, track),
                )
            )
        index.write_asset(segments, is_last=True)


def contents(index: Index) -> dict[str, tuple[Any, list[dict[str, Any]]]]:
    """All there is to read of every asset, tracks as the bytes of their float16."""
    found = {}
    for asset in index.list_assets(limit=1000).assets:
        segments = []
        for segment in index.read_segments(asset.asset_id, limit=100):
            facts = {field.name: getattr(segment, field.name) for field in dataclasses.fields(segment)}
            for name in ("audio_track", "video_track"):
                facts[name] = None if facts[name] is None else facts[name].astype(np.float16).tobytes()
            segments.append(facts)
        found[asset.asset_id] = (asset, segments)
    return found


def test_a_copy_is_like_its_source_both_ways(
    folder: EmbeddedIndex, remote: ServerIndex, tmp_path: Path
) -> None:
    fill(folder)
    done: list[tuple[int, int]] = []
    result = migrate(folder, remote, on_copied=lambda *counts: done.append(counts))
    assert (result.num_copied, result.num_present) == (NUM_ASSETS, 0)
    assert result.num_segments == folder.count_segments() == remote.count_segments()
    assert result.num_compared >= 2 * NUM_ASSETS
    assert done[-1] == (NUM_ASSETS, NUM_ASSETS)
    assert contents(remote) == contents(folder)
    with EmbeddedIndex.open(
        tmp_path / "back", layout=VectorLayout.of_both(16, WIDTH), min_free_bytes=0
    ) as back:
        assert migrate(remote, back).num_copied == NUM_ASSETS
        assert contents(back) == contents(folder)
        query = make_tracks(1, seed=1, width=WIDTH)[0]
        found = [
            [
                (m.asset_id, m.start_seconds)
                for m in index.search(VectorQuery(track=query, target="audio", limit=5))
            ]
            for index in (folder, remote, back)
        ]
        assert found[0] == found[1] == found[2]


class Killed(BaseException):
    """What ends a copy in the middle."""


class Dying:
    """An index that ends with its n-th write, half of which it may have done."""

    def __init__(self, index: Index, num_writes: int) -> None:
        self._index = index
        self._writes_left = num_writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def write_asset(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        self._writes_left -= 1
        if self._writes_left < 0:
            if len(segments) > 1:
                self._index.write_asset(segments[:1], is_last=False)
            raise Killed
        self._index.write_asset(segments, is_last=is_last)


def test_a_copy_that_was_cut_off_goes_on(source: ServerIndex, remote: ServerIndex) -> None:
    fill(source)
    with pytest.raises(Killed):
        migrate(source, Dying(remote, 5))  # type: ignore[arg-type]
    there = remote.info().num_assets
    assert 0 < there <= 5
    result = migrate(source, remote)
    assert (result.num_copied, result.num_present) == (NUM_ASSETS - there, there)
    assert contents(remote) == contents(source)
    assert migrate(source, remote) == dataclasses.replace(result, num_copied=0, num_present=NUM_ASSETS)


def test_an_asset_that_changed_is_copied_again(source: ServerIndex, remote: ServerIndex) -> None:
    fill(source)
    migrate(source, remote)
    source.set_metadata(make_id(3), {"take": 99})
    assert migrate(source, remote).num_copied == 1
    asset = remote.get_asset(make_id(3))
    assert asset is not None
    assert asset.metadata == {"take": 99}


def test_long_assets_are_read_in_parts(
    source: ServerIndex, remote: ServerIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration, "SEGMENTS_PER_CALL", 2)
    monkeypatch.setattr(iteration, "ASSETS_PER_PAGE", 5)
    fill(source)
    assert migrate(source, remote).num_copied == NUM_ASSETS
    assert contents(remote) == contents(source)


@pytest.mark.parametrize(
    "damage", ["one number", "pooled", "missing vector", "missing asset", "more", "facts"]
)
def test_a_copy_that_is_damaged_is_found(
    source: ServerIndex, remote: ServerIndex, client: QdrantClient, damage: str
) -> None:
    """The control of the comparison: each kind of damage is noticed, and without damage there is none."""
    fill(source)
    migrate(source, remote)
    assert compare(source, remote) > 0
    for number in range(
        0, NUM_ASSETS, 3
    ):  # those with sound alone, every segment: which ones are drawn is left open
        for position in range(number % 5 + 1):
            point = point_id(make_id(number), 20.0 * position)
            message = damage_point(client, remote, point, number, damage)
    with pytest.raises(MigrationFailed, match=message):
        compare(source, remote)


def damage_point(client: QdrantClient, remote: ServerIndex, point: str, number: int, damage: str) -> str:
    (record,) = client.retrieve(NAME, [point], with_vectors=True) or [None]
    vector: dict[str, Any] = record.vector if record is not None else {}  # type: ignore[assignment]
    if damage == "one number":
        track = np.asarray(vector["audio_track"], dtype=np.float16)
        track[7] = np.nextafter(track[7], np.float16(2))
        client.update_vectors(NAME, [models.PointVectors(id=point, vector={"audio_track": track.tolist()})])
        return "the audio track of segment .* differs"
    if damage == "pooled":
        pooled = np.asarray(vector["audio"]) + 1e-5
        client.update_vectors(NAME, [models.PointVectors(id=point, vector={"audio": pooled.tolist()})])
        return "the pooled audio vector of segment .* differs by 1.0e-05"
    if damage == "missing vector":
        client.delete_vectors(NAME, ["audio"], [point])
        return r"the source has \d+ segments with audio, the target \d+"
    if damage == "missing asset":
        remote.delete_asset(make_id(number))
        return "the source has 12 assets, the target"
    if damage == "more":
        track = make_tracks(1, seed=9, width=WIDTH)[0]
        remote.write_asset([make_segment("more", audio_track=track)], is_last=True)
        return "the source has 12 assets, the target 13"
    client.set_payload(NAME, {"media": {"size_bytes": 0}}, [point])
    return "is described differently at the target"


@pytest.fixture
def settings(tmp_path: Path, client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a folder; every server is the one in local mode."""

    class Shared:
        """The client of several indexes, which each of them closes."""

        def __getattr__(self, name: str) -> Any:
            return (lambda: None) if name == "close" else getattr(client, name)

    for module in (place, server):
        monkeypatch.setattr(module, "open_client", lambda _: Shared())
    return Settings(data=tmp_path / "data", min_free_bytes=0)


def fill_starter(settings: Settings) -> None:
    bundle = load_bundle(settings.bundle)
    track = make_tracks(1, seed=2, width=bundle.manifest.embedding_width)[0]
    index = index_place(settings).open(bundle, release_id=bundle.bundle_id)
    index.write_asset([make_segment("a", audio_track=track)], is_last=True)
    index.close()


def test_places_are_a_url_or_a_folder(settings: Settings, tmp_path: Path, client: QdrantClient) -> None:
    fill_starter(settings)
    assert migrate_places(settings, target=URL) == Migration(
        num_copied=1, num_present=0, num_segments=1, num_compared=2
    )
    bundle = load_bundle(settings.bundle)
    assert client.count(f"foley-{bundle.bundle_id}").count == 1
    assert client.count("foley").count == 1, "the library's alias names its first collection"
    other = tmp_path / "other"
    assert migrate_places(settings.replace(qdrant_url=URL), target=str(other)).num_copied == 1
    assert migrate_places(settings, source=URL).num_present == 1
    copy = index_place(settings.replace(data=other)).find(bundle, release_id=bundle.bundle_id)
    assert copy is not None
    assert copy.count_segments() == 1
    copy.close()


def test_what_cannot_be_copied_is_refused(settings: Settings, tmp_path: Path, client: QdrantClient) -> None:
    with pytest.raises(
        MigrationFailed, match=r"there is no index of release starter-.* to copy: .*/data/index/"
    ):
        migrate_places(settings, target=URL)
    with pytest.raises(MigrationFailed, match="there is no index of release starter-"):
        migrate_places(settings, source=URL)
    assert not (tmp_path / "data").exists(), "asking makes nothing"
    fill_starter(settings)
    with pytest.raises(MigrationFailed, match="source and target are the same"):
        migrate_places(settings, target=str(settings.data))
    name = f"foley-{load_bundle(settings.bundle).bundle_id}"
    ServerIndex.open(ServerConfig(url=URL), name=name, layout=VectorLayout.of_both(16, 7), client=client)
    with pytest.raises(IndexFailure, match=r"holds vectors \{'audio': 7.*asked for \{'audio': 128"):
        migrate_places(settings, target=URL)


def test_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_starter(settings)
    monkeypatch.setenv("FOLEY_DATA", str(settings.data))
    monkeypatch.setenv("FOLEY_MIN_FREE_BYTES", "0")
    result = CliRunner().invoke(app, ["migrate", "--to", URL, "--json"])
    assert result.exit_code == 0, result.output
    assert '"num_copied": 1' in result.stdout
    result = CliRunner().invoke(app, ["migrate", "--from", URL])
    assert (
        "0 assets copied, 1 already there; both sides have 1 segment; 2 vectors compared and equal"
        in result.stderr
    )
    assert CliRunner().invoke(app, ["migrate"]).exit_code == WRONG_USAGE
    result = CliRunner().invoke(app, ["migrate", "--to", str(settings.data)])
    assert (result.exit_code, "are the same" in result.stderr) == (FAILED, True)


def read_row(index: Index) -> bytes:
    track = index.get_track(make_id(3), index=0, modality="video")
    assert track is not None
    encoding = encoding_of(track)
    assert encoding is not None
    return encoding[1].tobytes()


def test_tracks_are_stored_in_fewer_bytes_and_what_that_costs_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(settings.bundle)
    tracks = make_tracks(6, seed=2, width=bundle.manifest.embedding_width)
    exact = index_place(settings.replace(storage="float16"))
    with closing(exact.open(bundle, release_id=bundle.bundle_id)) as index:
        for name, track in enumerate(tracks):
            index.write_asset([make_segment(name, audio_track=track, video_track=track)], is_last=True)
    monkeypatch.setenv("FOLEY_DATA", str(settings.data))
    monkeypatch.setenv("FOLEY_MIN_FREE_BYTES", "0")
    result = CliRunner().invoke(app, ["migrate", "--storage", "fine", "--json"])
    assert result.exit_code == 0, result.output
    change = json.loads(result.stdout)
    assert (change["storage"], change["num_segments"]) == ("fine", 6)
    assert 0 < change["score_error"] < change["largest_error"] < 3e-4
    with closing(index_place(settings).open(bundle, release_id=bundle.bundle_id)) as index:
        assert index.storage == "fine"
        best = index.search(VectorQuery(track=tracks[3], target="video", limit=1))[0]
        assert best.asset_id == make_id(3)
    again = CliRunner().invoke(app, ["migrate", "--storage", "fine"])
    assert "6 segments stored as fine: " in again.stderr
    assert "differ by 0.0e+00 in the mean" in again.stderr
    assert migrate_places(settings, target=URL).num_compared == 24, "rows are compared within their loss"
    beside = settings.replace(data=settings.data.with_name("beside"), storage="float16")
    assert migrate_places(beside, source=str(settings.data)).num_copied == 6
    both = [index_place(one).open(bundle, release_id=bundle.bundle_id) for one in (settings, beside)]
    with closing(both[0]), closing(both[1]):
        rows = [read_row(index) for index in both]
    assert rows[0] == rows[1], "a copy stores tracks as its source, and carries them as they are"
    assert CliRunner().invoke(app, ["migrate", "--storage", "fine", "--to", URL]).exit_code == WRONG_USAGE
    with pytest.raises(MigrationFailed, match="on a Qdrant server stores tracks as float16"):
        change_storage(settings.replace(qdrant_url=URL), "fine")
