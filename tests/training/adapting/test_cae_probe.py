"""The head of CAE-AV as a probe: clips and moments, captions where there are, AVE's lists as manifests."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle.bundle import starter_path
from training.adapting.cae_probe import probe_cae, to_seconds
from training.data.listing import list_items
from training.evaluation.ave import BadAve, write_manifests
from training.evaluation.embedder import open_patches
from training.evaluation.embedding import EmbeddedMedia
from training.evaluation.evaluate import unit_tracks
from training.evaluation.probe import list_classes
from training.evaluation.probe_head import ProbeConfig
from training.evaluation.spans import read_seconds, split_span

CLASSES = ("bell", "rain", "saw")
DIRECTIONS = np.random.default_rng(99).normal(size=(3, 16))


def make_media(seed: int, *, count: int = 60) -> EmbeddedMedia:
    """Clips in which sound and picture hold the direction of the one class while it lasts, beside noise."""
    rng = np.random.default_rng(seed)
    tracks = {name: rng.normal(size=(count, 16, 16)) for name in ("audio", "video")}
    labels = []
    for row in range(count):
        start, end = sorted(rng.choice(11, 2, replace=False))
        name = CLASSES[row % 3]
        middles = (np.arange(16) + 0.5) * 10 / 16
        for rows in tracks.values():
            rows[row, (middles >= start) & (middles < end)] += 2 * DIRECTIONS[row % 3]
        labels.append((f"{name}@{start}-{end}",))
    return EmbeddedMedia(
        audio=unit_tracks(tracks["audio"]),
        video=unit_tracks(tracks["video"]),
        names=tuple(f"{seed}-{row}.mp4" for row in range(count)),
        labels=tuple(labels),
        num_files=count,
        failed=(),
    )


def test_classes_of_clips_and_of_seconds_are_learned() -> None:
    config = ProbeConfig(num_epochs=8, batch_size=16, learning_rate=3e-3)
    training, held_out = make_media(0), make_media(1)
    captions = {
        name: dict.fromkeys(("audio", "video"), row)
        for name, row in zip(training.names, _captions(training), strict=True)
        if name != "0-0.mp4"
    }
    found = probe_cae(training, held_out, config, num_heads=2, captions=captions)
    assert (found.classes, found.metric, found.num_validation) == ("one", "top-1", 60)
    assert found.percent > 85
    assert found.seconds_right is not None
    commonest = np.bincount(_seconds(held_out).ravel()).max() / _seconds(held_out).size * 100
    assert found.seconds_right > commonest + 15
    plain = replace(training, labels=tuple((split_span(one[0])[0],) for one in training.labels))
    without = probe_cae(plain, held_out, ProbeConfig(num_epochs=1), num_heads=2)
    assert without.seconds_right is None, "nobody said when"


def _captions(media: EmbeddedMedia) -> np.ndarray:
    rows = DIRECTIONS[[CLASSES.index(split_span(labels[0])[0]) for labels in media.labels]]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _seconds(media: EmbeddedMedia) -> np.ndarray:
    found = read_seconds(media.labels, list_classes(media))
    assert found is not None
    return found


def test_moments_become_seconds() -> None:
    """Of 16 moments each second has those whose middle is in it; of 4, the nearest."""
    moments = torch.arange(16.0)[None, :, None]
    middles = (np.arange(16) + 0.5) * 10 / 16
    expected = [np.arange(16)[(middles >= s) & (middles < s + 1)].mean() for s in range(10)]
    assert to_seconds(moments)[0, :, 0].tolist() == pytest.approx(expected)
    assert to_seconds(torch.arange(4.0)[None, :, None])[0, :, 0].tolist()[0] == 0
    assert read_seconds([("rain@2-4",), ("rain",), ()], ("rain",)).tolist() == [  # type: ignore[union-attr]
        [1, 1, 0, 0, 1, 1, 1, 1, 1, 1],
        [0] * 10,
        [1] * 10,
    ]
    assert read_seconds([("rain",)], ("rain",)) is None
    assert split_span("a@b") == ("a@b", None)


def test_patches_of_a_bundle_are_tokens() -> None:
    embedder = open_patches(starter_path())
    samples = np.zeros((1, 16_000 * 10), np.float32)
    ends = np.array([160_000])
    frames = np.zeros((1, 16, 224, 224, 3), np.uint8)
    audio, video = embedder.embed(samples, ends, ends, frames)
    assert audio.shape == video.shape == (1, 16, embedder.num_tokens * 128)
    assert embedder.num_tokens == 49


def test_the_lists_of_ave_become_manifests(tmp_path: Path) -> None:
    (tmp_path / "AVE").mkdir()
    for name in ("a", "c"):
        (tmp_path / "AVE" / f"{name}.mp4").touch()
    (tmp_path / "trainSet.txt").write_text("Church bell&a&good&0&10\nMale speech, man&b&good&2&7\n")
    (tmp_path / "testSet.txt").write_text("Church bell&c&good&3&8\n")
    found = write_manifests(tmp_path, tmp_path / "out")
    assert {split: missing for split, (_, missing) in found.items()} == {"train": 1, "test": 0}
    (item,) = list_items([found["test"][0]])
    assert item.labels == ("Church bell@3-8",)
    with found["train"][0].open(newline="") as opened:
        assert [row["labels"] for row in csv.DictReader(opened)] == ["Church bell@0-10"]
    # As in the published lists: 45 clips have two lines of one span, one event has no length.
    twice = "Male speech, man speaking&-a_b&good&1&4\nFemale speech, woman speaking&-a_b&good&1&4\n"
    (tmp_path / "testSet.txt").write_text(f"{twice}Church bell&c&good&0&0\n")
    (tmp_path / "AVE" / "-a_b.mp4").touch()
    names = ("Church bell", "Female speech, woman speaking", "Male speech, man speaking")
    items = list_items([write_manifests(tmp_path, tmp_path / "out")["test"][0]])
    assert [item.labels for item in items] == [
        ("Male speech, man speaking@1-4",),
        ("Female speech, woman speaking@1-4",),
        ("Church bell@0-0",),
    ]
    seconds = read_seconds([item.labels for item in items], names)
    assert seconds is not None
    assert seconds[:, :5].tolist() == [[3, 2, 2, 2, 3], [3, 1, 1, 1, 3], [3] * 5]
    (tmp_path / "testSet.txt").write_text("something else\n")
    with pytest.raises(BadAve, match="must have lines class&id&quality&start&end, got 'something else'"):
        write_manifests(tmp_path, tmp_path / "out")
    with pytest.raises(BadAve, match="is no AVE_Dataset"):
        write_manifests(tmp_path / "nowhere", tmp_path / "out")
