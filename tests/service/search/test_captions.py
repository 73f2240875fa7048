"""What scores of texts mean: learned from captions, as the pairs of one file teach it of sound and picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle.bundle import Bundle
from service.encode.text import TextTooLong
from service.index.contract import Asset, Segment
from service.index.layout import VectorLayout
from service.search.calibration import Calibration, TooFewPairs
from service.search.captions import caption_of, choose_captions, learn_captions
from service.search.matching import NotCalibrated
from service.search.options import SearchOptions
from service.search.snapshot import Snapshot
from service.search.text_query import search_text
from tests.support.calibrations import make_asset
from tests.support.index_contract import make_segment
from tests.support.memory_index import MemoryIndex

T, D = 16, 128
NUM_ASSETS = 48
AUDIO = SearchOptions(target="audio", match="meaning")


class Words:
    """Gives each text a vector of its own; longer ones than 20 characters are refused as an encoder would."""

    def embed(self, text: str, *, target: str) -> Any:
        if len(text) > 20:
            raise TextTooLong("too long")
        vector = np.random.default_rng(list(text.encode())).standard_normal(D)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_sound(name: int, *, alike: float, **said: Any) -> Segment:
    """A sound whose moments are like the vector of its number's name."""
    rng = np.random.default_rng(name)
    rows = alike * Words().embed(f"sound {name}", target="audio") + rng.standard_normal((T, D)) / D**0.5
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return make_segment(name, audio_track=rows, metadata=said)


def fill(index: MemoryIndex, *, alike: float) -> None:
    for name in range(NUM_ASSETS):
        index.write_asset([make_sound(name, alike=alike, caption=f"sound {name}")], is_last=True)
    index.write_asset([make_sound(99, alike=alike, caption="too long to be embedded")], is_last=True)
    index.write_asset([make_sound(100, alike=alike)], is_last=True)


@pytest.fixture
def snapshot(tmp_path: Path, worded_bundle: Bundle) -> Iterator[Snapshot]:
    with MemoryIndex.open(tmp_path, layout=VectorLayout.of(worded_bundle.manifest)) as index:
        yield Snapshot(encoder=None, index=index, bundle=worded_bundle, texts=Words())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ({"title": "A door", "Description": " It squeaks. "}, "It squeaks."),
        ({"caption": " ", "title": "A door"}, "A door"),
        ({"caption": ["a", "list"], "mood": "calm"}, None),
        ({}, None),
    ],
)
def test_the_caption_of_an_asset(said: dict[str, Any], caption: str | None) -> None:
    asset: Asset = replace(make_asset(1), metadata=said)
    assert caption_of(asset) == caption


def test_captions_teach_what_scores_of_a_text_mean(snapshot: Snapshot) -> None:
    fill(snapshot.index, alike=0.5)  # type: ignore[arg-type]
    learned = learn_captions(snapshot, num_queries=500)
    assert set(learned) == {"audio"}, "nothing has a picture"
    assert learned["audio"].direction.num_queries == NUM_ASSETS
    assert learned["audio"].separation.can_tell
    calibration = Calibration(directions={}, num_assets=NUM_ASSETS, texts=learned)
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    assert calibration.num_captions == {"audio": NUM_ASSETS}
    calibrated = replace(snapshot, calibration=calibration)
    answer = search_text("sound 7", AUDIO, snapshot=calibrated)
    assert answer.probability_reason is None
    first, second = answer.results[:2]
    assert first.match.path == "/library/7.mp4"
    assert first.match_probability is not None
    assert second.match_probability is not None
    assert first.match_probability > 0.8 > 0.2 > second.match_probability
    likely = search_text("sound 7", replace(AUDIO, min_probability=0.5), snapshot=calibrated)
    assert [result.match.path for result in likely.results] == ["/library/7.mp4"]


def test_captions_that_say_nothing_teach_nothing(snapshot: Snapshot) -> None:
    fill(snapshot.index, alike=0.0)  # type: ignore[arg-type]
    learned = learn_captions(snapshot, num_queries=500)
    calibration = Calibration(directions={}, num_assets=NUM_ASSETS, texts=learned)
    answer = search_text("sound 7", AUDIO, snapshot=replace(snapshot, calibration=calibration))
    assert answer.probability_reason == "cannot_tell"
    assert {result.match_probability for result in answer.results} == {None}
    with pytest.raises(NotCalibrated, match="more than chance"):
        search_text(
            "x", replace(AUDIO, min_probability=0.5), snapshot=replace(snapshot, calibration=calibration)
        )


def test_assets_with_the_same_caption_belong_to_it(snapshot: Snapshot) -> None:
    index: Any = snapshot.index
    for name in range(40):
        segment = make_sound(name // 2, alike=0.5, title=f"sound {name // 2}")
        index.write_asset([replace(segment, asset_id=f"{name:064x}")], is_last=True)
    (learned,) = learn_captions(snapshot, num_queries=500).values()
    assert learned.direction.best.probability(1.0) == pytest.approx(1.0)


def test_few_captions_are_not_enough(snapshot: Snapshot) -> None:
    index: Any = snapshot.index
    for name in range(29):
        index.write_asset([make_sound(name, alike=0.5, title=f"sound {name}")], is_last=True)
    with pytest.raises(TooFewPairs, match="29 assets with audio have captions, 30 are needed"):
        choose_captions(index, target="audio", num_queries=9, seed=0)
    assert learn_captions(snapshot, num_queries=9) == {}
