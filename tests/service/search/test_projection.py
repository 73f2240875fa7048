"""The map's projection, beside scikit-learn's, and the similarity of moments."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest

from service.index.contract import Segment
from service.index.layout import VectorLayout
from service.search.audit import Audit, Finding
from service.search.projection import compare_moments, pca, project_library
from service.search.separation import Separation
from service.system.modality import MODALITIES
from tests.support.memory_index import MemoryIndex


def test_pca_is_that_of_scikit_learn_but_for_signs() -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32) * np.arange(1, 8)
    from sklearn.decomposition import PCA  # a second, which most workers need not spend

    own, theirs = pca(vectors.astype(np.float32)), PCA(n_components=2).fit_transform(vectors)
    assert np.abs(own) == pytest.approx(np.abs(theirs), abs=1e-3)
    assert pca(vectors[:1, :1].astype(np.float32)).shape == (1, 2)


def test_a_map_of_a_large_library_reads_only_what_it_shows(tmp_path: Path) -> None:
    """In few calls, however many assets there are: the middle segment, or the first if that lacks the modality."""
    layout = VectorLayout(tracks={"audio": (1, 4), "video": (1, 4)})
    numbers = np.random.default_rng(0).standard_normal((700, 1, 4)).astype(np.float32)
    tracks = numbers / np.linalg.norm(numbers, axis=2, keepdims=True)
    with MemoryIndex.open(tmp_path, layout=layout) as index:
        for number, track in enumerate(tracks):
            place = {"asset_id": f"{number:064x}", "path": f"/{number}", "audio_track": track}
            index.write_asset(
                [
                    Segment(**place, index=0, start_seconds=0, end_seconds=1, video_track=track),
                    Segment(**place, index=1, start_seconds=1, end_seconds=2),
                ],
                is_last=True,
            )
        listed = [asset.asset_id for asset in index.list_assets(limit=300).assets]
        with patch.multiple(
            index,
            list_assets=Mock(wraps=index.list_assets),
            read_pooled=Mock(wraps=index.read_pooled),
            get_asset=None,
        ):
            points = project_library(index, limit=300)
            assert index.list_assets.call_count == 2
            assert index.read_pooled.call_count == 2 * 3
    assert {(one.asset_id, one.modality) for one in points} == {(i, m) for i in listed for m in MODALITIES}
    assert len(points) == 600


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
