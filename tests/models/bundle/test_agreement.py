"""The figures of agreement against plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.agreement import Agreement, clip_similarity, compare_tracks, cosines, keeps_neighbour

GOOD = Agreement(
    cosine_mean=0.9999,
    cosine_min=0.999,
    neighbours=0.99,
    stressed_mean=0.9996,
    stressed_min=0.9985,
    num_embeddings=100,
    clips="25 clips",
)


def unit_tracks(rng: np.random.Generator, num_clips: int = 6, num_moments: int = 3) -> NDArray[np.float32]:
    rows = rng.standard_normal((num_clips, num_moments, 8))
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float32)


def test_figures_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    reference = {"audio": unit_tracks(rng), "video": unit_tracks(rng)}
    found = {name: t + 0.2 * rng.standard_normal(t.shape).astype(np.float32) for name, t in reference.items()}
    stressed = {
        name: t + 0.5 * rng.standard_normal(t.shape).astype(np.float32) for name, t in reference.items()
    }
    agreement = compare_tracks(reference, found, stressed, clips="noise")

    plain, noisy, same = [], [], []
    for name in ("audio", "video"):
        for clip in range(6):
            for moment in range(3):
                a = reference[name][clip, moment].astype(float)
                for rows, into in ((found, plain), (stressed, noisy)):
                    b = rows[name][clip, moment].astype(float)
                    into.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                nearest = []
                for rows in (reference, found):
                    units = rows[name] / np.linalg.norm(rows[name], axis=2, keepdims=True)
                    query = units[clip, moment]
                    others = [n for n in range(6) if n != clip]
                    nearest.append(max(others, key=lambda n: max(float(query @ row) for row in units[n])))
                same.append(nearest[0] == nearest[1])
    assert agreement.cosine_mean == pytest.approx(np.mean(plain), abs=1e-12)
    assert agreement.cosine_min == pytest.approx(min(plain), abs=1e-12)
    assert agreement.stressed_mean == pytest.approx(np.mean(noisy), abs=1e-12)
    assert agreement.stressed_min == pytest.approx(min(noisy), abs=1e-12)
    assert agreement.neighbours == pytest.approx(np.mean(same), abs=1e-12)
    assert 0.3 < agreement.neighbours < 1  # the noise is enough to tell
    assert (agreement.num_embeddings, agreement.clips) == (36, "noise")


def test_the_length_of_embeddings_changes_no_figure() -> None:
    rng = np.random.default_rng(0)
    reference = {"audio": unit_tracks(rng)}
    found = {"audio": reference["audio"] + 0.3 * rng.standard_normal((6, 3, 8)).astype(np.float32)}
    plain = compare_tracks(reference, found, found, clips="noise")
    longer = compare_tracks(*({"audio": 20 * t["audio"]} for t in (reference, found, found)), clips="noise")
    assert longer.neighbours == plain.neighbours < 1
    assert longer.cosine_min == pytest.approx(plain.cosine_min)


def test_equal_tracks_agree_wholly() -> None:
    tracks = {"video": unit_tracks(np.random.default_rng(1))}
    agreement = compare_tracks(tracks, tracks, tracks, clips="the same")
    assert agreement.cosine_min == pytest.approx(1, abs=1e-15)
    assert agreement.neighbours == 1
    assert not agreement.shortfalls()


def test_a_small_turn_is_not_lost_in_rounding() -> None:
    rows = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32)
    turned = np.array([[[1.0, 1e-4]], [[0.0, 1.0]]], np.float32)  # 1 - cosine = 5e-9, nothing in float32
    assert 1 - cosines({"video": rows}, {"video": turned})[0] == pytest.approx(5e-9, rel=1e-3)


def test_the_own_clip_is_no_neighbour() -> None:
    tracks = np.array([[[1.0, 0], [1, 0]], [[0.8, 0.6], [0, 1]], [[-1, 0], [0, -1]]], np.float32)
    np.testing.assert_allclose(
        clip_similarity(tracks)[[0, 2, 3, 4]],
        [[-np.inf, 0.8, 0], [0.8, -np.inf, -0.6], [0, -np.inf, 0], [-1, 0, -np.inf]],
        atol=1e-7,
    )


@pytest.mark.parametrize(("gap", "kept"), [(4e-4, True), (6e-4, False)])
def test_either_of_two_equally_near_is_right(gap: float, kept: bool) -> None:
    def track(angle: float) -> list[list[float]]:
        return [[float(np.cos(angle)), float(np.sin(angle))]]

    near, far = np.arccos(0.9), np.arccos(0.9 - gap)
    reference = np.array([track(0), track(near), track(-far)], np.float32)
    swapped = np.array([track(0), track(far), track(-near)], np.float32)
    assert keeps_neighbour(reference, swapped)[0] == kept
    assert keeps_neighbour(reference, reference).all()


def test_one_clip_has_no_neighbour() -> None:
    tracks = {"audio": unit_tracks(np.random.default_rng(0), num_clips=1)}
    with pytest.raises(ValueError, match="at least 2 clips"):
        compare_tracks(tracks, tracks, tracks, clips="one")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cosine_mean", 0.99949, "cosine_mean 0.999490 < 0.9995"),
        ("cosine_min", 0.9979, "cosine_min 0.997900 < 0.998"),
        ("neighbours", 0.979, "neighbours 0.979000 < 0.98"),
        ("stressed_mean", 0.98, "stressed_mean 0.980000 < 0.9995"),
        ("stressed_min", float("nan"), "stressed_min nan < 0.998"),
    ],
)
def test_each_figure_has_its_limit(name: str, value: float, said: str) -> None:
    assert not GOOD.shortfalls()
    assert Agreement(**{**vars(GOOD), name: value}).shortfalls() == [said]


def test_it_comes_back_from_json() -> None:
    assert Agreement(**json.loads(GOOD.to_json())) == GOOD
    assert str(GOOD) == (
        "1 - cosine 1.0e-04 mean, 1.0e-03 maximum; neighbours 99.0%; "
        "with outliers 4.0e-04 mean, 1.5e-03 maximum (100 embeddings of 25 clips)"
    )
