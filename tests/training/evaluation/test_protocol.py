"""Published protocols on a few made-up clips: every direction, captions, missing files, bundles of other kinds."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.bundle.bundle import Bundle, load_bundle, starter_path
from tests.support.tiny_bundles import make_tiny
from training.cli import app
from training.data.listing import BadListing, Item, list_items
from training.evaluation.evaluate import true_ranks
from training.evaluation.protocol import (
    PROTOCOLS,
    embed_texts,
    measure_protocol,
    rank_captions,
    rank_owners,
)


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def manifest(corpus: Path) -> Path:
    """The clips of the corpus with two captions each, and two files that are not there."""
    path = corpus.parent / "protocol.csv"
    files = sorted(corpus.rglob("*.mp4"))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption_1", "caption_2"])
        writer.writerows([str(found), "dog barking in the rain", "door"] for found in files)
        writer.writerows([f"gone-{number}.mp4", "a dog", ""] for number in range(2))
    return path


def test_the_command_measures_every_direction_beside_published_figures(
    manifest: Path, worded_bundle: Bundle
) -> None:
    arguments = [
        "evaluate",
        worded_bundle.path,
        "--data",
        manifest,
        "--protocol",
        "vggsound",
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["retrieval"]) == {
        "audio_to_video",
        "video_to_audio",
        "text_to_audio",
        "audio_to_text",
        "text_to_video",
        "video_to_text",
    }
    assert (found["num_expected"], found["is_complete"]) == (1545, False)
    assert found["num_captions"] == 2 * found["num_clips"]
    assert found["num_listed"] == found["num_clips"] + len(found["failed"]) + 2
    assert [Path(path).name for path in found["missing"]] == ["gone-0.mp4", "gone-1.mp4"]
    for direction in ("audio_to_video", "video_to_audio"):
        assert found["retrieval"][direction]["at_1"] > found["chance_at_1"]
        assert found["retrieval"][direction]["at_10"] == 100
    assert {one["encoder"]: one["video_to_audio"] for one in found["published"]}["TG-DP"] == 31.3
    said = " ".join(result.stderr.split())
    for words in ("the protocol has 1545", "2 of", "gone-0.mp4", "broken.mp4: not_media", "TG-DP", "only"):
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{starter}", "--data", "{tmp}/none.csv"], "does not exist"),
        (["{tmp}", "--data", "{manifest}"], "is not a bundle"),
        (["{starter}", "--data", "{manifest}", "--weights", "teacher"], "--protocol takes a bundle"),
    ],
)
def test_what_cannot_be_done_is_code_2(
    manifest: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    filled = [one.format(starter=starter_path(), tmp=tmp_path, manifest=manifest) for one in arguments]
    result = CliRunner().invoke(app, ["evaluate", *filled, "--protocol", "mteb"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_bundle_of_two_spaces_says_what_it_cannot(corpus: Path, tmp_path: Path) -> None:
    bundle = make_tiny(
        tmp_path / "bundle", tracks={"audio": (1, 24), "video": (4, 20)}, shares_space=False, similarity="dot"
    )
    listed = [
        item for item in list_items([corpus]) if item.name.endswith(".mp4") and "broken" not in item.name
    ]
    items = [replace(item, captions=("a dog",)) for item in listed[:2]]
    found = measure_protocol(bundle, items, num_workers=1)
    assert (found.num_captions, found.recalls) == (found.num_clips, {})
    assert len(found.left_out) == 2
    assert "does not compare sound with picture" in found.left_out[0]
    assert "embeds no words" in found.left_out[1]


def test_ranks_of_captions_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(3)
    owners = np.array([0, 0, 1, 3, 3, 3])  # clip 2 has none
    scores = rng.integers(0, 6, (6, 4)).astype(np.float32)  # with ties
    expected = [
        1 + sum(scores[c, n] >= scores[c, own] for n in range(4) if n != own) for c, own in enumerate(owners)
    ]
    assert rank_owners(scores, owners).tolist() == expected
    by_clip = scores.T
    expected = []
    for clip in (0, 1, 3):
        best = max(by_clip[clip, c] for c in range(6) if owners[c] == clip)
        expected.append(1 + sum(by_clip[clip, c] >= best for c in range(6) if owners[c] != clip))
    assert rank_captions(by_clip, owners).tolist() == expected
    square = rng.standard_normal((5, 5)).astype(np.float32)
    assert rank_owners(square, np.arange(5)).tolist() == true_ranks(square).tolist()


def test_long_captions_are_cut(worded_bundle: Bundle) -> None:
    spec = worded_bundle.manifest.text
    assert spec is not None
    long = ["dog " * (spec.max_tokens + 5), "dog " * spec.max_tokens]
    vectors = embed_texts(worded_bundle, long)
    np.testing.assert_array_equal(vectors["audio"][0], vectors["audio"][1])


def test_captions_of_a_json_manifest(tmp_path: Path) -> None:
    entries = [
        {"path": "a.mp4", "caption": "a dog"},
        {"path": "b.mp4", "captions": ["x", "y"]},
        {"path": "c.mp4"},
    ]
    (tmp_path / "m.json").write_text(json.dumps(entries))
    items = list_items([tmp_path / "m.json"])
    assert [item.captions for item in items] == [("a dog",), ("x", "y"), ()]
    assert [Item.from_json(item.to_json()) for item in items] == items
    (tmp_path / "m.json").write_text(json.dumps([{"path": "a.mp4", "captions": [1]}]))
    with pytest.raises(BadListing, match="captions must be text or a list of texts"):
        list_items([tmp_path / "m.json"])


def test_protocols_are_those_that_are_published() -> None:
    assert {name: one.num_clips for name, one in PROTOCOLS.items()} == {
        "vggsound": 1545,
        "audioset": 1725,
        "mteb": 696,
    }
    assert load_bundle(starter_path()).manifest.compares
