"""The map's projection, beside scikit-learn's, and the similarity of moments."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from service.search.audit import Audit, Finding
from service.search.projection import compare_moments, pca
from service.search.separation import Separation


def test_pca_is_that_of_scikit_learn_but_for_signs() -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32) * np.arange(1, 8)
    own, theirs = pca(vectors.astype(np.float32)), PCA(n_components=2).fit_transform(vectors)
    assert np.abs(own) == pytest.approx(np.abs(theirs), abs=1e-3)
    assert pca(vectors[:1, :1].astype(np.float32)).shape == (1, 2)


def test_moments_are_compared_as_cosines_or_dot_products() -> None:
    query, result = np.float32([[2, 0], [0, 1]]), np.float32([[3, 0], [1, 1], [0, 0]])
    assert compare_moments(query, result, is_cosine=False) == [[6, 2, 0], [0, 1, 0]]
    half = pytest.approx(0.5**0.5, abs=1e-5)
    assert compare_moments(query, result, is_cosine=True) == [[1, half, 0], [0, half, 0]]


def test_marked_findings_are_left_out_unless_asked_for() -> None:
    plain = {"path": "/a", "verdict": "silent", "match_probability": None, "score": 0.0, "rank": 1.0}
    findings = [Finding(asset_id=name, offset_seconds=0, score_at_offset=0, **plain) for name in "abc"]
    separation = Separation(auc=1, low=1, high=1, num_files=3)
    audit = Audit(
        findings=findings, num_files=3, verdicts={"silent": 3}, separation=separation, release_id="r"
    )
    marks = {"b": "fixed", "gone": "not_a_fault"}
    assert [one.asset_id for one in audit.with_marks(marks).findings] == ["a", "c"]
    everything = audit.with_marks(marks, shows_marked=True)
    assert [one.mark for one in everything.findings] == [None, "fixed", None]
    assert everything.num_marked == 1
