from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.evaluate import (
    COMBINATIONS,
    BadTracks,
    bootstrap_interval,
    recall,
    retrieval,
    similarity,
    true_ranks,
)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_matrices_and_recalls_match_the_recorded_ones(golden_retrieval, combine) -> None:
    audio, video = golden_retrieval["audio"].numpy(), golden_retrieval["video"].numpy()
    for queries, items, name in ((audio, video, "audio_to_video"), (video, audio, "video_to_audio")):
        scores = similarity(queries, items, combine=combine)
        assert np.abs(scores - golden_retrieval[f"similarity_{name}_{combine}"].numpy()).max() < 1e-5
        found = recall(scores)
        shares = [found.at_1 / 100, found.at_5 / 100, found.at_10 / 100]
        assert [*shares, found.median_rank] == pytest.approx(
            golden_retrieval[f"recall_{name}_{combine}"].tolist()
        )


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_against_a_plain_loop(combine) -> None:
    rng = np.random.default_rng(0)
    audio, video = rng.normal(size=(5, 4, 8)), rng.normal(size=(7, 4, 8))
    scores = similarity(audio, video, combine=combine)
    assert scores.shape == (5, 7)
    for i in range(5):
        for j in range(7):
            cosines = np.array(
                [[a @ v / np.linalg.norm(a) / np.linalg.norm(v) for v in video[j]] for a in audio[i]]
            )
            values = np.diagonal(cosines) if combine.startswith("diagonal") else cosines
            expected = values.mean() if combine.endswith("mean") else values.max()
            assert scores[i, j] == pytest.approx(expected, abs=1e-6)


def test_a_tie_counts_against_us_and_so_does_a_score_that_is_no_number() -> None:
    found = recall(np.ones((4, 4), np.float32))
    assert (found.at_1, found.at_5, found.median_rank) == (0.0, 100.0, 4.0)
    assert true_ranks(np.full((3, 3), np.nan, np.float32)).tolist() == [3, 3, 3]


def test_the_same_tracks_are_found_in_both_directions() -> None:
    tracks = np.random.default_rng(0).normal(size=(30, 16, 8)).astype(np.float32)
    found = retrieval(tracks, tracks)
    assert found.audio_to_video.at_1 == found.video_to_audio.at_1 == 100.0
    assert found.audio_to_video.at_1_interval == (100.0, 100.0)
    assert found.num_segments == 30


def test_each_direction_has_its_own_queries() -> None:
    angles = np.deg2rad(np.array([0.0, 10.0, 20.0]))
    sounds = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None]
    pictures = np.stack([np.cos(angles * 3), np.sin(angles * 3)], axis=1)[:, None]  # 0, 30 and 60 degrees
    found = retrieval(sounds, pictures)
    assert found.audio_to_video.at_1 == pytest.approx(
        100 / 3, abs=1e-3
    )  # 10 and 20 degrees are nearer to 0 and 30
    assert found.video_to_audio.at_1 == pytest.approx(200 / 3, abs=1e-3)  # 30 is nearer to 20


def test_the_interval_is_that_of_resampled_queries() -> None:
    is_hit = np.arange(200) < 70
    rng = np.random.default_rng(1)
    shares = [is_hit[rng.integers(0, 200, 200)].mean() * 100 for _ in range(4000)]
    assert bootstrap_interval(is_hit) == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.8)


@pytest.mark.parametrize(
    ("audio", "video", "message"),
    [
        ((2, 16, 8), (2, 16, 9), "T and D must agree"),
        ((2, 16), (2, 16), r"tracks must be \(N, T, D\), got \(2, 16\)"),
    ],
)
def test_tracks_that_do_not_belong_together_are_refused(audio, video, message: str) -> None:
    with pytest.raises(BadTracks, match=message):
        similarity(np.ones(audio), np.ones(video))
    with pytest.raises(BadTracks, match="finite and not zero"):
        similarity(np.zeros((2, 16, 8)), np.ones((2, 16, 8)))
