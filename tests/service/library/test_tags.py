"""Suggested tags: never written unasked, decided once, and always known as suggested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.index.contract import Index, WordQuery
from service.index.layout import VectorLayout
from service.library.metadata import merge_metadata
from service.library.tags import (
    NoClassifier,
    NotSuggested,
    TagClassifier,
    decide,
    iter_suggestions,
    keep_classifier,
    load_classifier,
    suggest,
)
from tests.support.index_contract import make_id, make_segment
from tests.support.memory_index import MemoryIndex
from tests.support.tags import write_classifier

RAIN, BARE = make_id("rain"), make_id("bare")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Two files: the vectors of one are those of the tags rain and wet, in sound alone; the other is like nothing."""
    with MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of_both(16, 4)) as index:
        for name, row in (("rain", (1, 1, 0, 0)), ("bare", (0, 0, 0, 1))):
            track = np.tile(np.array(row, np.float32) / np.linalg.norm(row), (16, 1))
            segment = make_segment(name, audio_track=track, video_track=None, media={})
            index.write_asset([segment], is_last=True)
        yield index


@pytest.fixture
def classifier(tmp_path: Path) -> TagClassifier:
    keep_classifier(tmp_path, write_classifier(tmp_path / "tags.npz", names=("rain", "wet", "sea")))
    return load_classifier(tmp_path, "tiny-0")


def metadata(index: Index) -> dict[str, Any]:
    asset = index.get_asset(RAIN)
    assert asset is not None
    return dict(asset.metadata)


def test_decisions_are_metadata_and_stay_known(index: Index, classifier: TagClassifier) -> None:
    (found,) = iter_suggestions(index, classifier)
    assert found.asset.asset_id == RAIN
    assert list(found.probabilities) == ["rain", "wet"]
    assert metadata(index) == {}, "looking writes nothing"

    merge_metadata(index, RAIN, {"tags": "mine", "take": 3})  # one value that is no list
    decide(index, RAIN, classifier, accept=["rain"], decline=["wet"])
    said = {"take": 3, "tags": ["mine", "rain"], "tags:accepted": ["rain"], "tags:declined": ["wet"]}
    assert metadata(index) == said
    assert not list(iter_suggestions(index, classifier)), "neither is offered again"
    assert found_by_words(index, "rain") == [RAIN]
    assert found_by_words(index, "wet") == [], "it is what the file is not"

    now = decide(index, RAIN, classifier, accept=["wet"], decline=["rain"])  # turned round
    assert now is not None
    assert (now.accepted, now.declined) == (("wet",), ("rain",))
    assert metadata(index)["tags"] == ["mine", "wet"]

    merge_metadata(index, RAIN, {"tags": ["mine"]})  # taken away by hand
    asset = index.get_asset(RAIN)
    assert asset is not None
    assert not suggest(index, asset, classifier).probabilities
    assert suggest(index, asset, classifier).accepted == ()


def found_by_words(index: Index, word: str) -> list[str]:
    query = WordQuery(words=(word,), target="audio", limit=5, filter=None)
    return [match.asset_id for match in index.search_words(query)]


def test_what_was_not_suggested_is_refused(index: Index, classifier: TagClassifier) -> None:
    for accept, decline in ((["sea"], []), (["nothing"], []), ([], ["sea"]), (["rain"], ["rain"])):
        with pytest.raises(NotSuggested):
            decide(index, RAIN, classifier, accept=accept, decline=decline)
    assert metadata(index) == {}
    assert decide(index, make_id("gone"), classifier, accept=["rain"]) is None


def test_a_tag_of_their_own_is_all_that_files_of_one_tag_have(index: Index, tmp_path: Path) -> None:
    file = write_classifier(tmp_path / "one.npz", names=("rain", "wet", "sea"), has_many=False)
    one = keep_classifier(tmp_path, file)
    (found,) = iter_suggestions(index, one)
    assert sum(found.probabilities.values()) <= 1 + 1e-3
    merge_metadata(index, RAIN, {"tags": ["mine"]})
    assert not list(iter_suggestions(index, one))


def test_what_is_no_classifier_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoClassifier, match="nothing has learned tags for tiny-1: foley-train adapt"):
        load_classifier(tmp_path, "tiny-1")
    (tmp_path / "junk.npz").write_bytes(b"PK junk")
    with pytest.raises(NoClassifier, match="is no classifier of tags"):
        keep_classifier(tmp_path, tmp_path / "junk.npz")
    file = write_classifier(tmp_path / "short.npz", names=("rain", "wet"), num_thresholds=3)
    with pytest.raises(NoClassifier, match="do not fit"):
        keep_classifier(tmp_path, file)
    outside = write_classifier(tmp_path / "out.npz", names=("rain", "wet"), bundle_id="../x")
    with pytest.raises(NoClassifier, match="is no bundle"):
        keep_classifier(tmp_path, outside)
