"""`foley-train agreement`: a network that weighs moments, learned from stored tracks, and its bundle."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from models.bundle.bundle import Bundle, load_bundle, starter_path, unit_rows
from service.index.codec import TrackCodec
from service.releases.deriving import ClaimFails, open_heads
from service.releases.trial import check_golden_tracks
from tests.support.index_contract import make_segment
from tests.support.interrupting import check_interrupted
from tests.support.stored_tracks import make_stream
from tests.support.tiny_bundles import make_tiny
from training.adapting.bundles import write_weighed
from training.adapting.moments import AgreementConfig, measure_agreement, mix_halves
from training.commands import agreement as command
from training.data.stored_tracks import StoredTracks, unpack_tracks


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> StoredTracks:
    folder = tmp_path_factory.mktemp("tracks")
    return unpack_tracks(io.BytesIO(make_stream(folder)), folder)


@pytest.fixture(scope="module")
def learned(tracks: StoredTracks, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Bundle]:
    output = tmp_path_factory.mktemp("bundles") / "weighed"
    request = command.AgreementRequest(config=AgreementConfig(num_epochs=10), max_drop=2)
    found = command.learn(request, tracks, load_bundle(starter_path()), output, Console(quiet=True))
    return found, load_bundle(output)


def test_weights_find_half_foreign_sound(learned: tuple[dict[str, Any], Bundle]) -> None:
    figures = learned[0]["agreement"]
    assert figures["weighted"] >= figures["uniform"] + 15
    assert figures["clean_weighted"] >= figures["clean"] - 2
    assert figures["auc"] > 0.9


def test_the_bundle_is_its_parents_but_for_the_weights(learned: tuple[dict[str, Any], Bundle]) -> None:
    bundle, parent = learned[1], load_bundle(starter_path())
    assert bundle.manifest.weighs_moments
    assert bundle.manifest.derived_from is not None
    assert (bundle.manifest.derived_from.bundle_id, bundle.manifest.derived_from.heads) == (
        parent.bundle_id,
        {},
    )
    same = parent.manifest.files
    assert {name: bundle.manifest.files[name] for name in same} == same
    check_golden_tracks(bundle)


def test_a_derived_release_scales_stored_sound(
    learned: tuple[dict[str, Any], Bundle], tracks: StoredTracks, second_bundle: Bundle
) -> None:
    bundle = learned[1]
    heads = open_heads(bundle, starter_path(), num_threads=1)
    audio, video = (tracks.read(name, np.arange(2)) for name in ("audio", "video"))
    both, alone = (
        make_segment("a", 0, audio_track=audio[0], video_track=video[0]),
        make_segment("b", 0, audio_track=audio[1]),
    )
    weighed, same = heads.adapt_segments([both, alone])
    moments = bundle.moments()
    assert moments is not None
    assert weighed.audio_track is not None
    np.testing.assert_allclose(weighed.audio_track, moments.fold(audio[:1], video[:1])[0], atol=1e-5)
    assert weighed.video_track is not None
    np.testing.assert_allclose(weighed.video_track, video[0], atol=1e-5)
    assert same.audio_track is not None
    np.testing.assert_allclose(same.audio_track, audio[1], atol=1e-5)
    codec = TrackCodec(num_moments=video.shape[1], width=video.shape[2], bits=8)
    (stored,) = codec.read(codec.encode(video[:1]))
    (kept,) = heads.adapt_segments([make_segment("c", 0, audio_track=audio[0], video_track=stored)])
    assert kept.video_track is stored, "a picture that is not adapted keeps its row"
    (again,) = heads.adapt_segments([weighed])
    np.testing.assert_allclose(
        again.audio_track, weighed.audio_track, atol=1e-5, err_msg="of a weighed parent"
    )
    with pytest.raises(ClaimFails, match="the golden track of audio differs"):
        open_heads(bundle, second_bundle.path, num_threads=1)


def test_what_cannot_be_weighed_is_refused(
    learned: tuple[dict[str, Any], Bundle], tracks: StoredTracks, tmp_path: Path
) -> None:
    shape = {"audio": (1, 24), "video": (1, 24)}
    request = command.AgreementRequest(config=AgreementConfig(num_epochs=1))
    for fields, reason in (({"similarity": "dot"}, "dot product"), ({}, "a single moment")):
        parent = make_tiny(tmp_path / reason, tracks=shape, **fields)
        with pytest.raises(ValueError, match=f"cannot be weighed: .*{reason}"):
            command.learn(request, tracks, parent, tmp_path / "none", Console(quiet=True))
    with pytest.raises(FileExistsError):
        write_weighed(load_bundle(starter_path()), {}, learned[1].path, name="again", training={})
    assert not (tmp_path / "none").exists()


def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(
    tracks: StoredTracks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "read_active", lambda *_: (tracks, load_bundle(starter_path())))
    request = command.AgreementRequest(config=AgreementConfig(num_epochs=1), max_drop=100)
    check_interrupted(
        lambda output: command.agreement(request, output, console=Console(quiet=True)), tmp_path, monkeypatch
    )


def test_foreign_halves_and_a_judge_that_knows_them() -> None:
    rng = np.random.default_rng(0)
    video = unit_rows(rng.standard_normal((60, 16, 32)).astype(np.float32))
    audio = unit_rows(video + rng.standard_normal(video.shape).astype(np.float32) / 4)
    mixed, is_own = mix_halves(audio, seed=3)
    assert np.array_equal((mixed == audio).all(axis=-1), is_own)
    assert 0.35 < 1 - is_own.mean() < 0.65

    def judge(sounds: np.ndarray[Any, Any], pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.where((sounds == audio).all(axis=-1), 9.0, -9.0).astype(np.float32)

    found = measure_agreement(judge, audio, video, seed=3)
    assert (found.auc, found.flagged, found.missed) == (1.0, 0.0, 0.0)
    assert found.clean == found.clean_weighted
    assert abs(found.weighted - found.true_mask) < 5
