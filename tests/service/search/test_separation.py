"""How well own and foreign pairs are told apart: against a plain loop, with an interval that holds what it promises."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.index.contract import Segment
from service.index.layout import VectorLayout
from service.search.separation import Separation, draw_foreign, measure_separation, separate
from tests.support.memory_index import MemoryIndex

Scores = NDArray[np.float64]


def draw_scores(rng: np.random.Generator, num_files: int, shift: float) -> tuple[Scores, Scores]:
    """Scores of own and foreign pairs: every sound and every picture is liked more or less by all others."""
    pictures, sounds = rng.normal(size=(2, num_files))
    pairs = draw_foreign(num_files)
    own = pictures + sounds + rng.normal(size=num_files) + shift
    return own, pictures[pairs[:, 0]] + sounds[pairs[:, 1]] + rng.normal(size=len(pairs))


def test_the_share_is_that_of_a_plain_loop() -> None:
    own, foreign = np.array([0.1, 0.5, 0.5]), np.array([0.5, 0.2, 0.0, 0.1, 0.3, 0.1])
    pairs = draw_foreign(3)
    assert len(pairs) == 6, "all that there are"
    found = separate(own, foreign, pairs)
    wins = [(a > b) + (a == b) / 2 for a in own for b in foreign]
    assert found.auc == pytest.approx(sum(wins) / len(wins), abs=1e-4)  # four digits are kept
    assert found.num_files == 3


def test_no_file_is_compared_with_itself_and_each_equally_often() -> None:
    for num_files, num_others in ((2, 1), (50, 49), (100, 40), (5000, 4)):
        pairs = draw_foreign(num_files)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        for side in pairs.T:
            assert (np.bincount(side) == num_others).all()
        assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
        assert (pairs == draw_foreign(num_files)).all()


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_interval_holds_the_true_value_as_often_as_it_says(shift: float) -> None:
    rng = np.random.default_rng(1)
    # Own less foreign score is normal with a deviation of sqrt(2 · 3).
    true = 0.5 * (1 + math.erf(shift / math.sqrt(6) / math.sqrt(2)))
    pairs = draw_foreign(94)
    drawn = [draw_scores(rng, 94, shift) for _ in range(400)]
    found = [separate(own, foreign, pairs) for own, foreign in drawn]
    held = np.mean([one.low <= true <= one.high for one in found])
    assert 0.92 < held < 0.98  # 95 % of 400, three standard errors
    # The control: if nobody knew who shares a file, the interval would be another: a liked sound is in both kinds.
    shuffled = np.random.default_rng(0).permutation(pairs.ravel()).reshape(-1, 2)
    found = [separate(own, foreign, shuffled) for own, foreign in drawn]
    assert np.mean([one.low <= true <= one.high for one in found]) > 0.98


def test_chance_and_perfection() -> None:
    pairs = draw_foreign(40)
    rng = np.random.default_rng(2)
    chance = separate(rng.normal(size=40), rng.normal(size=40 * 39), pairs)
    assert not chance.can_tell
    assert chance.low < 0.5 < chance.high
    perfect = separate(np.ones(40), np.zeros(40 * 39), pairs)
    assert (perfect.auc, perfect.low, perfect.high, perfect.can_tell) == (1.0, 1.0, 1.0, True)
    assert not separate(np.zeros(40), np.ones(40 * 39), pairs).can_tell, (
        "worse than chance tells nothing either"
    )
    assert str(Separation(auc=0.5, low=0.44, high=0.58, num_files=94)).startswith(
        "AUC 0.50, 95 % interval 0.44 to 0.58, 94 files"
    )


@pytest.mark.parametrize("is_related", [True, False])
def test_what_is_stored_is_measured(tmp_path: Path, is_related: bool) -> None:
    rng = np.random.default_rng(3)
    with MemoryIndex.open(tmp_path, layout=VectorLayout.of_both(16, 16)) as index:
        for number in range(40):
            sound, other = rng.normal(size=(2, 16, 16)).astype(np.float32)
            picture = sound + other if is_related else other
            tracks = {
                name: track / np.linalg.norm(track, axis=1, keepdims=True)
                for name, track in (("audio_track", sound), ("video_track", picture))
            }
            segment = Segment(
                asset_id=f"{number:064x}",
                path=f"/{number}",
                index=0,
                start_seconds=0,
                end_seconds=10,
                **tracks,
            )
            index.write_asset([segment], is_last=True)
        assets = index.list_assets(limit=100).assets
        found = measure_separation(index, [(asset, 0) for asset in assets])
        assert found is not None
        assert found.can_tell == is_related
        assert measure_separation(index, [(assets[0], 0)]) is None
