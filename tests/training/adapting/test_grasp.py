"""The search for a graph against `tests/golden/adapt/ili.safetensors`: 10 edges of a linear model are known."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest

from tests.training.adapting.golden import Golden
from training.adapting.grasp import (
    GraphUnavailable,
    bic_score,
    find_graph,
    label_lift,
    partial_correlations,
    standardise,
)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("ili")


def test_the_true_edges_are_found_and_no_false_one(golden: Golden) -> None:
    pytest.importorskip("causallearn")
    random.seed(3)
    before = random.getstate()
    found = find_graph(golden["in.grasp.rows"].double().numpy(), seed=golden.constants["seed"])
    assert random.getstate() == before, "Python's global random state is as it was"
    for name in ("directed", "undirected"):
        expected = golden[f"out.grasp.{name}_frequency"].numpy()
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-9)
    true = golden["in.grasp.truth"].numpy() != 0
    assert (found.skeleton() == (true | true.T)).all()
    arrows = found.arrows()
    assert arrows.sum() == 4
    assert not (arrows & ~true).any(), "no arrow the wrong way round"
    assert (arrows == (golden["out.grasp.kept"].numpy() > 0)).all()


def test_scores_and_rivals(golden: Golden) -> None:
    rows = golden["in.grasp.rows"].double().numpy()
    covariance = standardise(rows).T @ standardise(rows) / len(rows)
    np.testing.assert_allclose(covariance, golden["out.grasp.covariance"].numpy(), atol=1e-6)
    given = [bic_score(golden["out.grasp.covariance"].numpy(), len(rows), node, list(parents))
             for node, parents in golden.constants["bic_sets"]]  # fmt: skip
    assert golden.meets(golden["out.grasp.bic"].new_tensor(given), "out.grasp.bic")
    strongest = np.sort(np.triu(partial_correlations(rows)).ravel())[-10]
    kept = partial_correlations(rows) >= max(strongest, 1e-12)
    assert (kept == (golden["out.partial_graph"].numpy() != 0)).all()


def test_lift_tells_what_comes_with_a_label() -> None:
    truth = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], bool)
    soft = np.array([[0.9, 0.1, 0.9, 0.8], [0.9, 0.1, 0.9, 0.8], [0.1, 0.9, 0.1, 0.9], [0.1, 0.1, 0.1, 0.2]])
    lift = label_lift(soft, truth)
    assert lift[0, 3] == pytest.approx(4.0)  # picture of class 1 where class 0 is annotated


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "causallearn.search.PermutationBased.GRaSP", None)
    with pytest.raises(GraphUnavailable, match=r"pip install 'foley-av\[graph\]'"):
        find_graph(np.zeros((4, 2)))
