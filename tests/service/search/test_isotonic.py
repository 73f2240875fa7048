"""Isotonic regression beside scikit-learn's, with ties and weights."""

from __future__ import annotations

import numpy as np
import pytest

from service.search.isotonic import fit_isotonic


@pytest.mark.parametrize("seed", range(8))
def test_it_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 300))
    scores = rng.integers(-20, 20, count) / 20 if seed % 2 else rng.uniform(-1, 1, count)
    labels = (rng.random(count) < (scores + 1) / 2).astype(np.float64)
    weights = rng.uniform(0.1, 5, count) if seed % 4 < 2 else np.ones(count)
    from sklearn.isotonic import IsotonicRegression  # a second, which most workers need not spend

    model = IsotonicRegression(out_of_bounds="clip").fit(scores, labels, weights)
    at = np.linspace(-1.2, 1.2, 333)
    found = fit_isotonic(scores, labels, weights)
    assert np.allclose(np.interp(at, *found), model.predict(at), atol=1e-9)
    assert (np.diff(found[0]) > 0).all()
    assert (np.diff(found[1]) >= 0).all()


def test_by_hand() -> None:
    scores, values = fit_isotonic(np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.0, 1.0]))
    assert scores.tolist() == [0.1, 0.2, 0.3]
    assert values.tolist() == [0.5, 0.5, 1.0]
