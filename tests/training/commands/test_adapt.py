"""`foley-train adapt`: heads fitted to stored tracks whose modalities carry noise of their own, in seconds."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle, starter_path
from service.cli import app
from service.system.settings import Settings
from tests.support.interrupting import check_interrupted
from tests.support.stored_tracks import KINDS, make_stream
from tests.support.tiny_bundles import make_tiny
from training.adapting.fitting import FitConfig
from training.adapting.labels import UnknownLabels, read_labels
from training.commands import adapt as command
from training.commands.held_back import AdaptRequest, Refused, beside
from training.commands.stored_library import StoredLibrary
from training.data.library import LibraryUnavailable
from training.data.stored_tracks import StoredAsset, StoredTracks, load_tracks, unpack_tracks


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_stream(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def tracks(stream: bytes, tmp_path_factory: pytest.TempPathFactory) -> StoredTracks:
    return unpack_tracks(io.BytesIO(stream), tmp_path_factory.mktemp("tracks"))


def test_pairs_alone_find_more_of_the_held_back_files(tracks: StoredTracks, tmp_path: Path) -> None:
    request = AdaptRequest(config=FitConfig(method="pair"))
    found = command._adapt(
        request, tracks, load_bundle(starter_path()), tmp_path / "mine", Console(quiet=True)
    )
    for direction in ("audio_to_video", "video_to_audio"):
        before = found["retrieval"]["frozen"][direction]["at_1"]
        assert found["retrieval"]["pair"][direction]["at_1"] >= before + 5
    manifest = load_bundle(tmp_path / "mine").manifest
    assert manifest.derived_from is not None
    assert manifest.training["method"] == "pair"
    assert json.dumps(found)


def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(
    tracks: StoredTracks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = load_bundle(starter_path())
    monkeypatch.setattr(command, "read_library", lambda *_: StoredLibrary(tracks, starter, starter))
    request = AdaptRequest(config=FitConfig(method="pair", num_epochs=1), max_drop=100)
    check_interrupted(
        lambda output: command.adapt(request, output, console=Console(quiet=True)), tmp_path, monkeypatch
    )
    output, said = tmp_path / "other", Console(record=True, width=300)
    with beside(output, said), pytest.raises(typer.Exit), beside(output, said):
        pass
    assert "another process is working in" in said.export_text()


def test_modalities_of_two_spaces_are_brought_into_one(tmp_path: Path) -> None:
    """Widths and moments differ, nothing compares before: two projections are learned from pairs alone."""
    tracks = {"audio": (1, 24), "video": (4, 20)}
    parent = make_tiny(tmp_path / "apart", tracks=tracks, shares_space=False, similarity="dot")
    stored = unpack_tracks(io.BytesIO(make_stream(tmp_path, parent)), tmp_path / "tracks")
    request = AdaptRequest(config=FitConfig(method="pair", common_width=32))
    found = command._adapt(request, stored, parent, tmp_path / "joined", Console(quiet=True))
    assert found["retrieval"]["frozen"] is None
    chance = 100 / found["library"]["num_held_back"]
    for direction in ("audio_to_video", "video_to_audio"):
        assert found["retrieval"]["pair"][direction]["at_1"] >= 10 * chance
    manifest = load_bundle(tmp_path / "joined").manifest
    assert manifest.compares
    assert manifest.similarity == "cosine"
    assert manifest.tracks == {"audio": (4, 32), "video": (4, 32)}
    assert max(manifest.agreement.values()) < 1e-5


def test_labels_are_used_and_reported(tracks: StoredTracks, tmp_path: Path) -> None:
    config = FitConfig(method="distill", num_epochs=10)
    request = AdaptRequest(config=config, sources=["metadata:tags"], max_drop=100)
    found = command._adapt(
        request, tracks, load_bundle(starter_path()), tmp_path / "mine", Console(quiet=True)
    )
    assert set(found["retrieval"]) == {"frozen", "triplet", "distill"}
    assert found["labels"]["names"] == sorted(KINDS)
    frozen, distilled = (found["retrieval"][name]["mean_average_precision"] for name in ("frozen", "distill"))
    assert min(distilled) > max(frozen)


def test_a_kill_leaves_no_bundle_without_its_tags(
    tracks: StoredTracks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FitConfig(method="pair", num_epochs=1)
    request, mine = AdaptRequest(config=config, sources=["metadata:tags"], max_drop=100), tmp_path / "mine"
    rename, learn, there = Path.rename, command._learn_tags, list[bool]()

    def run() -> None:
        command._adapt(request, tracks, load_bundle(starter_path()), mine, Console(quiet=True))

    def appear(path: Path, target: Path) -> Path:
        if target == mine:
            there.append(mine.with_name("mine.tags.npz").exists())
        return rename(path, target)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_learn_tags", stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(command, "_learn_tags", learn)
    monkeypatch.setattr(Path, "rename", appear)
    run()
    assert there == [True]
    assert load_bundle(mine).manifest.derived_from is not None


def test_heads_that_lose_pairs_are_refused(tracks: StoredTracks, tmp_path: Path) -> None:
    config = FitConfig(method="triplet", weight_pair=0.0, weight_stay=0.0)
    request = AdaptRequest(config=config, sources=["folder"])
    with pytest.raises(Refused, match=r"R@1 of .* falls from .* points are allowed"):
        command._adapt(request, tracks, load_bundle(starter_path()), tmp_path / "mine", Console(quiet=True))
    assert not (tmp_path / "mine").exists()


def test_where_labels_come_from(tmp_path: Path) -> None:
    def asset(number: int, path: str, **metadata: Any) -> StoredAsset:
        return StoredAsset(
            asset_id=f"{number:064x}", paths=(path,), metadata=metadata, first_segment=number, num_segments=1
        )

    assets = [
        asset(0, "/a/rain/DOORWood_Squeak_AB_Lib.wav", tags=["wet", "loud"]),
        asset(1, "/a/rain/DOORWood_Slam_AB_Lib.wav", tags="wet"),
        asset(2, "/a/dog/ANMLDog_Bark_AB_Lib.wav"),
        asset(3, "/a/dog/ANMLDog_Growl_AB_Lib.wav", tags=["loud"]),
    ]
    tags = read_labels(assets, ["metadata:tags"])
    assert (tags.names, tags.has_many) == (("loud", "wet"), True)
    assert tags.has_label.tolist() == [True, True, False, True]
    assert read_labels(assets, ["ucs"]).names == ("ANMLDog", "DOORWood")
    folders = read_labels(assets, ["folder"])
    assert (folders.names, folders.has_many) == (("dog", "rain"), False)
    (tmp_path / "labels.csv").write_text("path,label\n/a/dog/ANMLDog_Bark_AB_Lib.wav,wet; dry\n0,x\n")
    first = read_labels(assets, ["metadata:tags", f"csv:{tmp_path / 'labels.csv'}"])
    assert first.truth[2].tolist() == [False, True], "a file without tags takes the next source"
    for sources in (["smell"], ["metadata:nothing"], [f"csv:{tmp_path / 'missing.csv'}"]):
        with pytest.raises(UnknownLabels):
            read_labels(assets, sources)


def test_a_stream_that_breaks_off_is_noticed(stream: bytes, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"broke off|unexpected end"):
        unpack_tracks(io.BytesIO(stream[: len(stream) // 2]), tmp_path)
    with pytest.raises(LibraryUnavailable, match="did not print whole tracks"):
        load_tracks(tmp_path, command=("printf", "nonsense"))


def test_the_command_streams_what_is_stored(
    indexed_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"  # a copy: the server of other tests may have the index open
    shutil.copytree(indexed_settings.data, data, ignore=shutil.ignore_patterns("lock"))
    monkeypatch.setenv("FOLEY_DATA", str(data))
    monkeypatch.setenv("FOLEY_MIN_FREE_BYTES", "0")
    answer = CliRunner().invoke(app, ["assets", "tracks"])
    assert answer.exit_code == 0
    found = unpack_tracks(io.BytesIO(answer.stdout_bytes), tmp_path)
    assert found.shapes == {"audio": (16, 128), "video": (16, 128)}
    assert len(found.pairs())
    rows = found.read("video", found.pairs()[:1])
    assert np.allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-3)
    unknown = CliRunner().invoke(app, ["assets", "tracks", "--release", "nothing"])
    assert unknown.exit_code != 0
    shown = CliRunner().invoke(app, ["releases", "path"])
    assert Path(shown.stdout.strip()) == indexed_settings.bundle
