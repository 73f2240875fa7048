"""Heads, losses and teacher against the recorded numbers of `tests/golden/adapt/psd.safetensors`."""

from __future__ import annotations

import pytest
import torch

from tests.training.adapting.golden import Golden
from training.adapting import losses
from training.adapting.heads import Classifier, TrackHead, pool_tracks, stay_loss
from training.adapting.teaching import Schedule, choose_annotated, targets_of, trust_of

MODALITIES = ("audio", "video")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("psd")


class Batch:
    """The golden batch after the heads, in float32, its tracks with gradients."""

    def __init__(self, golden: Golden, kind: str) -> None:
        self.has_many = kind == "many"
        constants = golden.constants
        self.tracks, self.pooled, self.logits, self.adapted = {}, {}, {}, {}
        for name in MODALITIES:
            head = TrackHead(16, 12)
            head.load_state_dict(golden.weights(f"w.{name}."))
            self.tracks[name] = golden[f"in.{name}_tracks"].clone().requires_grad_()
            self.adapted[name] = head(self.tracks[name])
            self.pooled[name] = pool_tracks(self.adapted[name])
            classifier = Classifier(16, 6, scale=constants["logit_scale"])
            classifier.load_state_dict(golden.weights("in.classifier."))
            self.logits[name] = classifier(self.pooled[name])
        self.truth = golden[f"in.truth_{kind}"]
        self.is_annotated = choose_annotated(golden["in.has_label"], golden["in.draws"], constants["share"])
        self.trust = trust_of(
            self.is_annotated, Schedule(num_steps=constants["schedule_num_steps"]).trust(constants["share"])
        )
        self.targets = {
            name: targets_of(
                self.logits[name],
                self.truth,
                self.is_annotated,
                has_many=self.has_many,
                temperature=constants["temperature"],
            )
            for name in MODALITIES
        }
        self.similarity = losses.alignment(
            self.targets["audio"], self.targets["video"], has_many=self.has_many
        )

    def triplets(self) -> torch.Tensor:
        audio, video = self.pooled["audio"], self.pooled["video"]
        forth = losses.triplet_loss(audio, video, self.similarity, self.trust)
        back = losses.triplet_loss(video, audio, self.similarity.T, self.trust)
        return (forth + back) / 2

    def labels(self) -> torch.Tensor:
        return sum(
            losses.label_loss(self.logits[name], self.truth, self.is_annotated, has_many=self.has_many)
            for name in MODALITIES
        )


def test_the_schedule_falls_from_all_to_a_fifth(golden: Golden) -> None:
    schedule = Schedule(num_steps=golden.constants["schedule_num_steps"])
    found = torch.tensor([schedule.share(int(step)) for step in golden["in.schedule_steps"]])
    assert golden.meets(found, "out.schedule")
    assert (schedule.trust(1.0), schedule.trust(0.2)) == (0.0, 1.0)


@pytest.mark.parametrize("kind", ["one", "many"])
def test_heads_targets_and_losses(golden: Golden, kind: str) -> None:
    batch = Batch(golden, kind)
    for name in MODALITIES:
        assert golden.meets(batch.adapted[name], f"out.{name}_adapted")
        assert golden.meets(batch.pooled[name], f"out.{name}_pooled")
        assert golden.meets(batch.logits[name], f"out.{name}_logits")
        assert golden.meets(batch.targets[name], f"out.{kind}.{name}_targets")
    assert torch.equal(batch.is_annotated, golden["out.is_annotated"])
    assert golden.meets(batch.trust, "out.trust")
    assert golden.meets(batch.similarity, f"out.{kind}.alignment")
    assert golden.meets(batch.labels(), f"out.{kind}.label_loss")
    assert golden.meets(batch.triplets(), f"out.{kind}.triplet_loss")


@pytest.mark.parametrize("loss", ["triplet", "label", "decorrelation"])
def test_gradients_reach_the_tracks(golden: Golden, loss: str) -> None:
    batch = Batch(golden, "one")
    if loss == "decorrelation":
        value = losses.decorrelation_loss(batch.pooled["audio"], batch.pooled["video"])
        assert golden.meets(value, "out.decorrelation_loss", tolerance=1e-4)
    else:
        value = batch.triplets() if loss == "triplet" else batch.labels()
    value.backward()
    where = f"out.grad_of_{loss}" if loss == "decorrelation" else f"out.one.grad_of_{loss}"
    for name in MODALITIES:
        assert golden.meets(batch.tracks[name].grad, f"{where}.{name}_tracks", tolerance=1e-4)


def test_weights_pairs_and_staying(golden: Golden) -> None:
    batch = Batch(golden, "one")
    positive, negative = losses.triplet_weights(batch.similarity, batch.trust)
    weights = batch.trust[0] * positive[0][:, None] * negative[0][None]
    assert golden.meets(weights, "out.one.triplet_weights_of_anchor_0")
    audio, video = batch.pooled["audio"], batch.pooled["video"]
    sampled = losses.sampled_triplet_loss(audio, video, batch.similarity, batch.trust, golden["in.positives"])
    assert golden.meets(sampled, "out.one.sampled_triplet_loss")
    assert golden.meets(losses.pair_loss(audio, video), "out.pair_loss")
    stay = sum(stay_loss(batch.adapted[name], batch.tracks[name]) for name in MODALITIES)
    assert golden.meets(stay, "out.stay_loss")
