"""What scores mean: curves beside scikit-learn used by itself, errors beside a plain loop, no leak over the split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from service.index.contract import Asset, AssetPage, Filter, Index, SegmentMatch, VectorQuery
from service.index.layout import VectorLayout
from service.search.calibration import (
    MIN_ASSETS,
    Calibration,
    Pairs,
    TooFewPairs,
    calibration_error,
    choose_queries,
    fit_curve,
    fit_direction,
    is_held_out,
    sample_pairs,
)
from service.search.separation import Separation
from tests.support.calibrations import CALIBRATION, make_asset, make_curve


def make_pairs(scores: NDArray[np.float64], matches: NDArray[np.bool_], *, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    return Pairs(
        target="audio",
        scores=scores,
        matches=matches,
        is_first=rng.random(len(scores)) < 0.5,
        is_held_out=rng.random(len(scores)) < 0.3,
        num_queries=3,
        ranks=np.array([1, 4, 0]),
    )


def draw_pairs(count: int, *, seed: int = 1) -> Pairs:
    """Scores whose probability of a match is known: (score + 1) / 2."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-1, 1, count)
    return make_pairs(scores, rng.random(count) < (scores + 1) / 2, seed=seed + 100)


# Curves


def test_a_curve_is_isotonic_regression() -> None:
    pairs = draw_pairs(400)
    curve = fit_curve(pairs, pairs.is_first)
    taught = pairs.is_first & ~pairs.is_held_out
    from sklearn.isotonic import IsotonicRegression  # a second, which most workers need not spend

    model = IsotonicRegression(out_of_bounds="clip").fit(pairs.scores[taught], pairs.matches[taught])
    at = np.linspace(-1.2, 1.2, 200)
    ours = [curve.probability(score) for score in at]
    assert np.allclose(ours, model.predict(at), atol=1e-9)  # float64 on both sides
    assert (np.diff(ours) >= 0).all()


def test_a_curve_pools_what_contradicts_itself() -> None:
    # By hand: 1 below 0 is averaged with its neighbour, (1 + 0) / 2.
    pairs = replace(
        make_pairs(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([False, True, False, True, True])),
        is_first=np.ones(5, bool),
        is_held_out=np.array([False, False, False, False, True]),
    )
    curve = fit_curve(pairs, pairs.is_first)
    assert [curve.probability(score) for score in (0.0, 0.1, 0.2, 0.3, 0.4, 0.9)] == [
        0.0,
        0.0,
        0.5,
        0.5,
        1.0,
        1.0,
    ]


def test_known_probabilities_are_found() -> None:
    pairs = draw_pairs(20_000)
    direction = fit_direction(pairs)
    for score in (-0.8, -0.4, 0.0, 0.4, 0.8):
        for curve in (direction.best, direction.further):
            assert curve.probability(score) == pytest.approx((score + 1) / 2, abs=0.06)
    assert direction.error <= 0.05


def test_scores_that_say_nothing_are_found_out() -> None:
    """The control of the held-out error: where sound and picture of held-out assets never match, it is large."""
    pairs = draw_pairs(5_000)
    liar = replace(pairs, matches=np.where(pairs.is_held_out, ~pairs.matches, pairs.matches))
    assert fit_direction(liar).error > 0.2


def test_the_held_out_teach_nothing() -> None:
    pairs = draw_pairs(300)
    other = replace(pairs, matches=np.where(pairs.is_held_out, ~pairs.matches, pairs.matches))
    first, second = (fit_curve(found, found.is_first) for found in (pairs, other))
    assert (first.scores, first.probabilities) == (second.scores, second.probabilities)
    assert first.error != second.error


def test_too_few_pairs() -> None:
    pairs = draw_pairs(20)
    with pytest.raises(TooFewPairs, match="none to learn from, or none to test with"):
        fit_direction(replace(pairs, is_held_out=np.zeros(20, bool)))
    with pytest.raises(TooFewPairs, match="none to learn from, or none to test with"):
        fit_direction(replace(pairs, is_held_out=np.ones(20, bool)))


# Tables


@pytest.mark.parametrize(
    ("scores", "probabilities", "message"),
    [
        ([], [], "rising scores"),
        ([0.1, 0.1], [0.2, 0.3], "rising scores"),
        ([0.2, 0.1], [0.2, 0.3], "rising scores"),
        ([0.1], [0.2, 0.3], "rising scores"),
        ([0.1, 0.2], [0.3, 0.2], "never fall"),
        ([0.1, 0.2], [0.3, 1.2], r"in \[0, 1\]"),
        ([0.1, 0.2], [0.3, float("nan")], r"in \[0, 1\]"),
    ],
)
def test_a_table_that_is_no_curve(scores: list[float], probabilities: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_curve(scores, probabilities)


def test_json_and_back() -> None:
    calibration = Calibration(directions={"audio": fit_direction(draw_pairs(200))}, num_assets=40)
    text = json.dumps(calibration.to_json(), allow_nan=False)
    assert Calibration.from_json(json.loads(text)) == calibration


def test_best_and_further_results_have_curves_of_their_own() -> None:
    direction = replace(
        fit_direction(draw_pairs(200)), best=make_curve([0.0], [0.9]), further=make_curve([0.0], [0.1])
    )
    calibration = Calibration(directions={"audio": direction}, num_assets=40)
    assert calibration.probability(0.5, target="audio", is_best=True) == 0.9
    assert calibration.probability(0.5, target="audio", is_best=False) == 0.1
    assert calibration.probability(0.5, target="video", is_best=True) is None


def test_a_release_that_cannot_tell_gives_no_probability() -> None:
    separation = Separation(auc=0.51, low=0.44, high=0.58, num_files=94)
    chance, better = (replace(CALIBRATION, separation=replace(separation, low=low)) for low in (0.5, 0.501))
    assert chance.probability(0.3, target="audio", is_best=True) is None
    assert better.probability(0.3, target="audio", is_best=True) == CALIBRATION.directions[
        "audio"
    ].best.probability(0.3)
    assert Calibration.from_json(json.loads(json.dumps(chance.to_json()))) == chance


def test_calibrations_of_before_say_what_they_said() -> None:
    fields = json.loads(json.dumps(CALIBRATION.to_json()))
    del fields["separation"]
    old = Calibration.from_json(fields)
    assert old == CALIBRATION
    assert old.probability(0.3, target="audio", is_best=True) == pytest.approx(0.55)


def test_what_says_nothing_teaches_nothing() -> None:
    assets = [make_asset(n) for n in range(MIN_ASSETS)]
    mute = [
        replace(make_asset(50), media={"is_silent": True}),
        replace(make_asset(51), media={"is_static": True}),
    ]
    queries = choose_queries(as_index(PlainIndex([*assets, *mute])), num_queries=100, seed=0)
    assert {asset.asset_id for asset, _ in queries} == {asset.asset_id for asset in assets}


@pytest.mark.parametrize("damage", ["no directions", "no curve", "not a mapping", "falling"])
def test_json_that_is_no_calibration(damage: str) -> None:
    fields: dict[str, Any] = Calibration(
        directions={"audio": fit_direction(draw_pairs(200))}, num_assets=40
    ).to_json()
    if damage == "no directions":
        del fields["directions"]
    elif damage == "no curve":
        del fields["directions"]["audio"]["best"]
    elif damage == "not a mapping":
        fields["directions"] = [1]
    else:
        fields["directions"]["audio"]["best"] |= {"scores": [0.1, 0.2], "probabilities": [0.5, 0.4]}
    with pytest.raises(ValueError, match=r"for Calibration"):
        Calibration.from_json(fields)


# Expected calibration error


def test_the_calibration_error_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(4)
    probabilities = np.concatenate([rng.random(500), [0.0, 1.0, 1.0]])
    matches = rng.random(503) < probabilities**2
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [
            (p, m)
            for p, m in zip(probabilities, matches, strict=True)
            if low <= p and (p < high or number == 14)
        ]
        if inside:
            mean = sum(p for p, _ in inside) / len(inside)
            share = sum(bool(m) for _, m in inside) / len(inside)
            error += len(inside) / 503 * abs(mean - share)
    assert calibration_error(probabilities, matches) == pytest.approx(error, abs=1e-12)
    assert calibration_error(np.empty(0), np.empty(0, bool)) == 0.0
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1.0


# Queries


class PlainIndex:
    """Assets in a list; every search finds the three that were told to it, whatever it is asked."""

    def __init__(self, assets: Sequence[Asset], found: Sequence[tuple[int, float]] = ()) -> None:
        self.assets = list(assets)
        self.found = found

    def list_assets(
        self, *, limit: int, cursor: str | None = None, filter: Filter | None = None
    ) -> AssetPage:
        assert filter == Filter(modality="audio")
        first = int(cursor or 0)
        page = [asset for asset in self.assets if "audio" in asset.modalities][first : first + 7]
        more = first + 7 < len(self.assets)
        return AssetPage(assets=tuple(page), next_cursor=str(first + 7) if more else None)

    layout = VectorLayout.of_both(16, 4)

    def get_track(self, asset_id: str, *, index: int, modality: str) -> Any:
        return None if asset_id == f"{99:064x}" else np.zeros((16, 4), np.float32)

    def search_assets(self, query: VectorQuery) -> list[SegmentMatch]:
        return [
            SegmentMatch(
                asset_id=f"{number:064x}",
                path="",
                start_seconds=0,
                end_seconds=1,
                score=score,
                moments=(),
                media={},
            )
            for number, score in self.found
        ][: query.limit]


def as_index(index: PlainIndex) -> Index:
    return cast(Index, index)


def test_queries_are_assets_with_both_modalities_each_once() -> None:
    assets = [make_asset(n) for n in range(MIN_ASSETS + 5)] + [make_asset(77, modalities=("audio",))]
    queries = choose_queries(as_index(PlainIndex(assets)), num_queries=20, seed=0)
    names = [asset.asset_id for asset, _ in queries]
    assert len(set(names)) == len(names) == 20
    assert all("video" in asset.modalities and 0 <= number < 2 for asset, number in queries)
    again = choose_queries(as_index(PlainIndex(assets[::-1])), num_queries=20, seed=0)
    assert again == queries, "the draw hangs on the order of the index"


def test_silence_and_pictures_that_never_change_teach_nothing() -> None:
    told = [make_asset(n) for n in range(MIN_ASSETS)]
    quiet = [replace(make_asset(100 + n), media={"is_silent": True, "is_static": False}) for n in range(9)]
    still = [replace(make_asset(200 + n), media={"is_silent": False, "is_static": True}) for n in range(9)]
    queries = choose_queries(as_index(PlainIndex([*quiet, *told, *still])), num_queries=100, seed=0)
    assert {asset.asset_id for asset, _ in queries} == {asset.asset_id for asset in told}
    with pytest.raises(TooFewPairs, match=r"29 assets have sound and picture, .* static ones do not count"):
        choose_queries(as_index(PlainIndex([*quiet, *told[1:], *still])), num_queries=100, seed=0)


def test_a_library_that_is_too_small() -> None:
    index = as_index(PlainIndex([make_asset(n) for n in range(MIN_ASSETS - 1)]))
    with pytest.raises(TooFewPairs, match="29 assets have sound and picture, 30 are needed"):
        choose_queries(index, num_queries=20, seed=0)


def test_pairs_of_a_query_with_and_without_its_own_asset() -> None:
    index = as_index(PlainIndex([], [(5, 0.9), (1, 0.7), (6, 0.2)]))
    pairs = sample_pairs(index, [(make_asset(1), 0), (make_asset(99), 0), (make_asset(8), 1)], target="audio")
    assert pairs.num_queries == 2, "one has no track"
    assert pairs.ranks.tolist() == [2, -1, 0]
    assert [pairs.recall(k) for k in (1, 2, 5)] == [0.0, 0.5, 0.5]
    rows = list(zip(pairs.scores, pairs.matches, pairs.is_first, strict=True))
    present, absent = rows[:3], rows[3:5]
    assert present == [(0.9, False, True), (0.7, True, False), (0.2, False, False)]
    assert absent == [(0.9, False, True), (0.2, False, False)]
    assert len(rows) == 3 + 2 + 3 + 3  # the second query's own asset is never found


def test_no_asset_teaches_and_tests() -> None:
    """Every pair lies on the side of its query's asset, and the side hangs on nothing but its id."""
    assets = [make_asset(n) for n in range(300)]
    for asset in assets[:40]:
        pairs = sample_pairs(as_index(PlainIndex([], [(5, 0.9), (1, 0.7)])), [(asset, 0)], target="video")
        assert set(pairs.is_held_out.tolist()) == {is_held_out(asset.asset_id)}
    share = np.mean([is_held_out(asset.asset_id) for asset in assets])
    assert 0.25 < share < 0.42  # a third, of 300


def test_no_queries_no_pairs() -> None:
    pairs = sample_pairs(as_index(PlainIndex([])), [], target="audio")
    assert pairs.recall(1) == 0.0
    assert len(pairs.scores) == 0
