"""Average precision against plain loops and by hand, chance against draws."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.accuracy import (
    RankedClips,
    chance_average_precisions,
    is_top_1,
    map_interval,
    mean_average_precision,
)


def plain_average_precision(scores: list[float], is_true: list[bool]) -> float:
    """Σ (R_n − R_{n−1}) P_n over the thresholds, as scikit-learn's documentation writes it."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = [true for score, true in zip(scores, is_true, strict=True) if score >= threshold]
        recall, precision = sum(above) / sum(is_true), sum(above) / len(above)
        total, before = total + (recall - before) * precision, recall
    return total


def test_the_example_of_scikit_learn() -> None:
    # its documentation: y_true [0, 0, 1, 1], y_scores [0.1, 0.4, 0.35, 0.8] → 0.83;  by hand (1/1 + 2/3) / 2
    scores, is_true = np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([[0], [0], [1], [1]], bool)
    assert RankedClips(scores, is_true).average_precisions() == pytest.approx([5 / 6])


def test_equal_scores_stand_at_the_last_rank_of_theirs() -> None:
    # by hand: of four equal scores one is true: 1/4, wherever it stands in the list
    for position in range(4):
        is_true = np.arange(4)[:, None] == position
        assert RankedClips(np.ones((4, 1)), is_true).average_precisions() == pytest.approx([0.25])


@pytest.mark.parametrize("num_levels", [3, 1000])  # many ties, hardly any
def test_against_a_plain_loop(num_levels: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, num_levels, (40, 6)) / 7
    is_true = rng.random((40, 6)) < 0.3
    counts = rng.integers(0, 4, 40)
    found = RankedClips(scores, is_true).average_precisions()
    counted = RankedClips(scores, is_true).average_precisions(counts)
    repeated = np.repeat(np.arange(40), counts)
    for column in range(6):
        expected = plain_average_precision(scores[:, column].tolist(), is_true[:, column].tolist())
        assert found[column] == pytest.approx(expected)
        again = plain_average_precision(scores[repeated, column].tolist(), is_true[repeated, column].tolist())
        assert counted[column] == pytest.approx(again)
    assert mean_average_precision(scores, is_true) == pytest.approx(found.mean() * 100)


def test_a_class_without_a_clip_is_left_out_of_the_mean() -> None:
    scores = np.array([[0.9, 0.5], [0.1, 0.6]])
    assert mean_average_precision(scores, np.array([[True, False], [False, False]])) == 100.0


def test_chance_is_what_random_scores_have_on_average() -> None:
    rng = np.random.default_rng(0)
    is_true = np.zeros((12, 3), bool)
    is_true[:1, 0] = is_true[:5, 1] = True
    drawn = np.mean(
        [RankedClips(rng.random((12, 3)), is_true).average_precisions() for _ in range(4000)], axis=0
    )
    chance = chance_average_precisions(is_true)
    assert chance[:2] == pytest.approx(drawn[:2], abs=0.01)
    assert np.isnan(chance[2])
    assert chance_average_precisions(np.ones((7, 1), bool)) == pytest.approx([1.0])


def test_the_interval_is_that_of_resampled_clips() -> None:
    rng = np.random.default_rng(1)
    is_true = rng.random((60, 3)) < 0.4
    scores = is_true + rng.normal(size=(60, 3))
    drawn = []
    for _ in range(300):
        rows = rng.integers(0, 60, 60)
        by_class = [
            plain_average_precision(scores[rows, c].tolist(), is_true[rows, c].tolist()) for c in range(3)
        ]
        drawn.append(np.mean(by_class) * 100)
    low, high = map_interval(scores, is_true)
    assert (low, high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=2.5)
    assert low < mean_average_precision(scores, is_true) < high
    assert map_interval(scores, is_true) == (low, high)


def test_top_1_does_not_take_a_tie() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [2.0, 2.0, 0.0], [0.0, 1.0, 2.0]])
    is_true = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    assert is_top_1(scores, is_true).tolist() == [True, False, False]


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \(N, C\), got \(2, 3\) and \(2, 2\)"):
        mean_average_precision(np.ones((2, 3)), np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="scores must be finite"):
        mean_average_precision(np.array([[np.nan]]), np.ones((1, 1), bool))
