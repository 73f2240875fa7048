"""Mean average precision of alike clips against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.classes import measure_alike


def test_four_clips_by_hand() -> None:
    angles = np.radians([0, 10, 40, 90])
    audio = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None]
    turned = np.radians([30, 0, 95, 70])
    video = np.stack([np.cos(turned), np.sin(turned)], axis=1)[:, None]
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    # Angles between sound (rows) and picture (columns), and what is relevant:
    #   30   0  95  70 | 0 1      order 1 0 3 2   → ranks 1 2       AP 1         first 1
    #   20  10  85  60 | 0 1 2    order 1 0 3 2   → ranks 1 2 4     AP 11/12     first 1
    #   10  40  55  30 | 1 2      order 0 3 1 2   → ranks 3 4       AP 5/12      first 3
    #   60  90   5  20 | 3        order 2 3 0 1   → rank  2         AP 1/2       first 2
    found = measure_alike(audio, video, truth)
    forth = found["audio_to_video"]
    assert forth.mean_average_precision == pytest.approx(100 * (1 + 11 / 12 + 5 / 12 + 1 / 2) / 4, abs=1e-3)
    assert (forth.first.at_1, forth.first.at_5, forth.first.median_rank) == (50, 100, 1.5)
    assert forth.chance == pytest.approx(100 * 8 / 16)
    # Columns: picture 0: 30 20 10 60 → order 2 1 0 3, relevant 0 1   → ranks 2 3   AP 7/12   first 2
    #          picture 1:  0 10 40 90 → order 0 1 2 3, relevant 0 1 2 →             AP 1      first 1
    #          picture 2: 95 85 55  5 → order 3 2 1 0, relevant 1 2   → ranks 2 3   AP 7/12   first 2
    #          picture 3: 70 60 30 20 → order 3 2 1 0, relevant 3     →             AP 1      first 1
    back = found["video_to_audio"]
    assert back.mean_average_precision == pytest.approx(100 * (7 / 12 + 1 + 7 / 12 + 1) / 4, abs=1e-3)
    assert (back.first.at_1, back.first.median_rank) == (50, 1.5)


def test_equal_scores_count_against_us() -> None:
    audio = video = np.ones((4, 2, 3))
    found = measure_alike(audio, video, np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool))["audio_to_video"]
    assert found.mean_average_precision == pytest.approx(50)  # two relevant of four, all at the last place
    assert (found.first.at_1, found.first.median_rank) == (0, 3)
