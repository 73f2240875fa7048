"""`foley-train graph`: labels that come together, as a file, a page and labels to review."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from models.bundle.bundle import load_bundle, starter_path
from tests.support.stored_tracks import KINDS, make_stream
from training.adapting.folding import judge_out_of_fold, precise_threshold
from training.commands.graph import GraphRequest, render, search
from training.data.stored_tracks import StoredTracks, unpack_tracks


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> StoredTracks:
    folder = tmp_path_factory.mktemp("library")
    return unpack_tracks(io.BytesIO(make_stream(folder)), folder / "tracks")


def test_edges_suggestions_and_the_page(tracks: StoredTracks) -> None:
    pytest.importorskip("causallearn")
    request = GraphRequest(sources=["metadata:tags"], num_runs=3)
    document, learned = search(request, tracks, load_bundle(starter_path()), Console(quiet=True))
    assert document["nodes"] == [f"{kind} {name}" for kind in ("sound", "picture") for name in sorted(KINDS)]
    for edge in document["edges"]:
        assert edge["from"].split()[1] != edge["to"].split()[1], "one label with itself is no news"
        assert edge["frequency"] >= 0.6
        assert len(edge["clips"]) == 3
    page = render(document)
    assert page.count("<tr><td>") == len(document["edges"])
    assert "script" not in page
    assert json.dumps(document)
    assert learned.num_suggested == len(KINDS)


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    clip = {"path": "/a/<img src=x>.mp4", "start_seconds": 0.0, "end_seconds": 10.0}
    edge = {"from": "sound <b>", "to": "picture x", "is_directed": True, "frequency": 1.0, "lift": None}
    facts = {"num_clips": 1, "num_labelled": 1, "num_runs": 1, "least": 0.6}
    page = render({"nodes": ["sound <b>", "picture x"], "edges": [{**edge, "clips": [clip] * 3}], **facts})
    assert "<b>" not in page
    assert "<img" not in page


def test_no_teacher_has_seen_what_it_judges() -> None:
    """Labels that are noise cannot be told out of fold; in fold a linear teacher of this width knows them by heart."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 128)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    truth = np.eye(2, dtype=bool)[rng.integers(0, 2, 60)]
    folds = np.repeat(np.arange(30), 2) % 5
    judged = judge_out_of_fold({"audio": rows, "video": rows}, truth, folds, has_many=False)
    assert abs((judged.of_clips.argmax(axis=1) == truth.argmax(axis=1)).mean() - 0.5) < 0.25


def test_a_threshold_is_one_that_was_right_often_enough() -> None:
    said = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    truth = np.array([1, 1, 1, 1, 1, 0], bool)
    assert precise_threshold(said, truth, precision=0.9) == 0.5
    assert precise_threshold(said, truth, precision=0.8) == 0.4
    assert precise_threshold(said, ~truth, precision=0.9) is None
