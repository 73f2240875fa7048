"""The probe head learns what the embeddings tell, and nothing where they tell nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.evaluation.embedding import EmbeddedMedia
from training.evaluation.evaluate import unit_tracks
from training.evaluation.probe import BadLabels, count_classes, label_clips, list_classes, probe
from training.evaluation.probe_head import (
    ProbeConfig,
    ProbeHead,
    classification_loss,
    score_clips,
    train_head,
)

CLASSES = ("bell", "rain", "saw")
QUICK = ProbeConfig(num_epochs=12, batch_size=16)


def make_media(labels: list[tuple[str, ...]], *, seed: int, told_by: str = "audio") -> EmbeddedMedia:
    """Tracks in which one modality holds the direction of each of its labels, beside noise."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(len(CLASSES), 16))
    tracks = {m: rng.normal(size=(len(labels), 16, 16)) for m in ("audio", "video")}
    for row, names in enumerate(labels):
        for name in names:
            tracks[told_by][row] += 2 * directions[CLASSES.index(name)]
    return EmbeddedMedia(
        audio=unit_tracks(tracks["audio"]),
        video=unit_tracks(tracks["video"]),
        names=tuple(f"{row}.mp4" for row in range(len(labels))),
        labels=tuple(labels),
        num_files=len(labels),
        failed=(),
    )


def draw_labels(count: int, *, seed: int, most: int) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    return [
        tuple(rng.choice(CLASSES, rng.integers(1, most + 1), replace=False).tolist()) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def media() -> dict[str, EmbeddedMedia]:
    return {
        f"{name} {most}": make_media(draw_labels(count, seed=seed, most=most), seed=seed)
        for most in (1, 2)
        for name, count, seed in (("training", 96, 1), ("held out", 60, 2))
    }


def test_several_classes_are_measured_by_map_and_one_by_top_1(media) -> None:
    for most, metric, chance in ((2, "mAP", 50), (1, "top-1", 33)):
        found = probe(media[f"training {most}"], media[f"held out {most}"], QUICK, num_heads=2)
        assert (found.classes, found.metric) == ("many" if most == 2 else "one", metric)
        assert (found.num_training, found.num_validation) == (96, 60)
        assert found.percent > 90
        assert found.chance == pytest.approx(chance, abs=12)
        assert found.interval[0] <= found.percent <= found.interval[1]
        assert set(found.by_class) == set(CLASSES)


def test_embeddings_that_tell_nothing_stay_at_chance(media) -> None:
    config = ProbeConfig(num_epochs=12, batch_size=16, modality="video")
    found = probe(media["training 1"], media["held out 1"], config, num_heads=2)
    assert found.modality == "video"
    assert found.percent < 60
    told = probe(
        media["training 1"],
        media["held out 1"],
        ProbeConfig(num_epochs=12, batch_size=16, modality="audio"),
        num_heads=2,
    )
    assert told.percent > 90


def test_the_same_seed_gives_the_same_head_and_leaves_the_worlds_alone(media) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    runs = [
        probe(media["training 2"], media["held out 2"], ProbeConfig(num_epochs=2, seed=seed), num_heads=2)
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1]
    assert runs[0].percent != runs[2].percent
    assert torch.equal(torch.rand(3), expected)


def test_an_epoch_sees_every_clip_and_reports_its_mean_loss(media) -> None:
    learnt = label_clips(media["training 1"], CLASSES, classes="one", modality="both")
    losses: list[tuple[int, float]] = []
    config = ProbeConfig(num_epochs=3, batch_size=96, learning_rate=1e-9)  # a rate at which nothing moves
    head = train_head(
        learnt, config, classes="one", num_heads=2, on_epoch=lambda *found: losses.append(found)
    )
    scores = torch.from_numpy(score_clips(head, learnt.tokens, batch_size=7))
    loss = F.cross_entropy(scores, torch.from_numpy(learnt.is_true.argmax(axis=1)))
    assert losses == [(epoch, pytest.approx(float(loss), abs=1e-5)) for epoch in (1, 2, 3)]


def test_the_head_reads_every_moment_and_every_clip_alone() -> None:
    torch.manual_seed(0)
    head = ProbeHead(16, 3, num_heads=2, num_layers=2).eval()
    tokens = torch.randn(4, 32, 16)
    scores = head(tokens)
    assert scores.shape == (4, 3)
    assert torch.allclose(head(tokens[1:2]), scores[1:2], atol=1e-6)
    for moment in (0, 15, 16, 31):
        changed = tokens.clone()
        changed[0, moment, 0] += 1  # of one number only: a norm forgets what all have in common
        assert not torch.allclose(head(changed)[0], scores[0], atol=1e-4)
    parts = [name.split(".")[0] for name, _ in head.named_parameters()]
    assert set(parts) == {"class_token", "blocks", "norm", "linear"}


def test_losses_are_those_of_the_question() -> None:
    scores, is_true = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[True, False, True]])
    by_hand = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(-0.5))]
    assert float(classification_loss(scores, is_true, "many")) == pytest.approx(np.mean(by_hand), abs=1e-6)
    one = torch.tensor([[False, False, True]])
    by_hand_one = np.log(np.exp([2.0, -1.0, 0.5]).sum()) - 0.5
    assert float(classification_loss(scores, one, "one")) == pytest.approx(by_hand_one, abs=1e-6)


def test_clips_become_tokens_of_their_own_modality(media) -> None:
    part = media["held out 2"]
    shapes = {"both": 32, "audio": 16, "video": 16}
    for modality, length in shapes.items():
        labelled = label_clips(part, CLASSES, classes="many", modality=modality)
        assert labelled.tokens.shape == (60, length, 16)
        assert np.linalg.norm(labelled.tokens, axis=2) == pytest.approx(4.0, abs=1e-4)  # √16
    assert np.array_equal(label_clips(part, CLASSES, classes="many", modality="video").tokens / 4, part.video)
    for row, labels in enumerate(part.labels):
        assert {CLASSES[i] for i in np.flatnonzero(labelled.is_true[row])} == set(labels)


def test_clips_without_a_label_are_left_out() -> None:
    part = make_media([("bell",), (), ("saw",)], seed=0)
    assert len(label_clips(part, CLASSES, classes="one", modality="both").tokens) == 2
    assert list_classes(part) == ("bell", "saw")
    assert count_classes(part) == "one"
    assert count_classes(part, make_media([("bell", "rain")], seed=0)) == "many"


def test_labels_that_do_not_do_are_refused() -> None:
    unlabelled = make_media([(), ()], seed=0)
    with pytest.raises(BadLabels, match="at least 2 classes"):
        list_classes(unlabelled, make_media([("bell",)], seed=0))
    with pytest.raises(BadLabels, match="none of 2 clips has a label"):
        label_clips(unlabelled, CLASSES, classes="one", modality="both")
    with pytest.raises(BadLabels, match=r"one class is wanted, 0.mp4 has bell, rain"):
        label_clips(make_media([("bell", "rain")], seed=0), CLASSES, classes="one", modality="both")
    with pytest.raises(ValueError, match="must be at least 1"):
        ProbeConfig(num_epochs=0)
