from __future__ import annotations

import numpy as np
import pytest

from training.evaluate import diagonal_mean, recall, retrieval


def test_matrices_and_recalls_match_the_recorded_ones(golden_retrieval) -> None:
    audio, video = golden_retrieval["audio"].numpy(), golden_retrieval["video"].numpy()
    for queries, items, name in ((audio, video, "audio_to_video"), (video, audio, "video_to_audio")):
        scores = diagonal_mean(queries, items)
        expected = golden_retrieval[f"similarity_{name}_diagonal_mean"].numpy()
        assert np.abs(scores - expected).max() < 1e-5
        at_1, at_5, at_10, median = golden_retrieval[f"recall_{name}_diagonal_mean"].tolist()
        found = recall(scores)
        scale = 100 if max(at_1, at_5, at_10) <= 1 else 1
        assert found.at_1 == pytest.approx(at_1 * scale, abs=1e-4)
        assert found.at_5 == pytest.approx(at_5 * scale, abs=1e-4)
        assert found.at_10 == pytest.approx(at_10 * scale, abs=1e-4)
        assert found.median_rank == pytest.approx(median)


def test_a_tie_counts_against_us() -> None:
    found = recall(np.ones((4, 4), np.float32))
    assert (found.at_1, found.at_5, found.median_rank) == (0.0, 100.0, 4.0)


def test_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    audio, video = rng.normal(size=(6, 16, 8)), rng.normal(size=(6, 16, 8))
    scores = diagonal_mean(audio, video)
    for i in range(6):
        for j in range(6):
            cosines = [
                audio[i, m] @ video[j, m] / np.linalg.norm(audio[i, m]) / np.linalg.norm(video[j, m])
                for m in range(16)
            ]
            assert scores[i, j] == pytest.approx(np.mean(cosines), abs=1e-6)


def test_the_same_tracks_are_found_in_both_directions() -> None:
    tracks = np.random.default_rng(0).normal(size=(30, 16, 8)).astype(np.float32)
    found = retrieval(tracks, tracks)
    assert found.audio_to_video.at_1 == found.video_to_audio.at_1 == 100.0
    assert found.num_segments == 30
