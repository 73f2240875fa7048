"""What suggests tags: learned with torch, judged by the service without it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from models.bundle.bundle import load_bundle, starter_path
from service.index.iteration import iter_assets
from service.index.layout import VectorLayout
from service.library.tags import iter_suggestions, read_classifier
from service.operations.track_stream import stream_tracks
from tests.support.memory_index import MemoryIndex
from tests.support.stored_tracks import KINDS, fill_index
from training.adapting import folding
from training.adapting.folding import MODALITIES
from training.adapting.labels import Labels, read_labels
from training.adapting.tagging import key_of, learn_tags
from training.commands.stored_library import pooled
from training.data.stored_tracks import unpack_tracks


def test_the_service_says_what_training_measured(tmp_path: Path) -> None:
    """Suggestions are as often right as was asked for; numbers are those of the folds; nothing is written."""
    bundle, sources = load_bundle(starter_path()), ["folder", "metadata:tags"]
    with MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(bundle.manifest)) as index:
        fill_index(index, bundle)
        stream = b"".join(stream_tracks(index, release_id="r", bundle=bundle))
        tracks = unpack_tracks(io.BytesIO(stream), tmp_path / "tracks")
        labels = read_labels(tracks.assets, sources[1:])
        ids = [asset.asset_id for asset in tracks.assets]
        files, segments = tracks.asset_of_segments(), tracks.pairs()
        vectors = {name: pooled(tracks, name, segments) for name in MODALITIES}
        learned = learn_tags(vectors, labels, files, ids, sources=sources, precision=0.9)
        learned.write(tmp_path / "tags.npz", bundle_id=bundle.bundle_id)
        classifier = read_classifier(tmp_path / "tags.npz")
        before = list(iter_assets(index))
        found = list(iter_suggestions(index, classifier))
        assert list(iter_assets(index)) == before
    assert (classifier.key, classifier.names) == ("tags", tuple(sorted(KINDS)))
    said = {ids[file]: learned.judged.of_clips[clip] for clip, file in enumerate(files)}
    for one in found:
        for tag, probability in one.probabilities.items():
            expected = said[one.asset.asset_id][classifier.names.index(tag)]
            assert probability == pytest.approx(expected, abs=2e-4)
    assert not any(one.asset.metadata for one in found), "who has a tag has his one tag"
    right = [tag == one.asset.path.split("/")[2] for one in found for tag in one.probabilities]
    assert len(right) > 50
    assert np.mean(right) > 0.85


def test_files_that_heads_have_learned_from_set_no_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "NUM_STEPS", 2)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((40, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [f"{number:08x}{number:08x}" for number in range(40)]
    is_one = rows[:, 0] > 0
    labels = Labels(names=("one", "other"), truth=np.stack([is_one, ~is_one], 1), has_many=False)
    unseen = np.arange(40) < 4
    learned = learn_tags(
        {"audio": rows, "video": rows},
        labels,
        np.arange(40),
        ids,
        sources=["ucs"],
        precision=0.5,
        is_unseen=unseen,
    )
    assert learned.num_checked == 4
    assert learned.num_suggested == 0, "four files show nothing"
    assert key_of(["ucs", "metadata:mood"]) == "mood"
