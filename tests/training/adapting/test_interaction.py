"""The graph's losses against `tests/golden/adapt/ili.safetensors`, and properties that must hold for any numbers."""

from __future__ import annotations

import pytest
import torch

from tests.training.adapting.golden import Golden
from training.adapting.interaction import (
    interaction_loss,
    link_weights,
    linked_negatives,
    soft_labels,
    symmetric_kl,
    teacher_loss,
)
from training.adapting.losses import alignment, triplet_loss


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("ili")


def teacher_labels(golden: Golden) -> dict[str, torch.Tensor]:
    return {name: soft_labels(golden[f"in.{name}_logits"], has_many=False) for name in ("audio", "video")}


@pytest.mark.parametrize("kind", ["one", "many"])
def test_the_teacher(golden: Golden, kind: str) -> None:
    logits = [golden[f"in.{name}_logits"].clone().requires_grad_() for name in ("audio", "video")]
    has_many = kind == "many"
    loss = teacher_loss(*logits, golden[f"in.truth_{kind}"], golden["in.has_label"], has_many=has_many)
    assert golden.meets(loss, f"out.{kind}.av_sal")
    assert golden.meets(symmetric_kl(*logits, has_many=has_many), f"out.{kind}.symmetric_kl")
    loss.backward()
    for name, given in zip(("audio", "video"), logits, strict=True):
        assert golden.meets(given.grad, f"out.{kind}.grad.{name}_logits")


def test_the_graph_pulls_clips_together(golden: Golden) -> None:
    vectors = [golden[f"in.{name}_embeddings"].clone().requires_grad_() for name in ("audio", "video")]
    soft, graph = teacher_labels(golden), golden["in.graph"]
    loss = interaction_loss(*vectors, soft["audio"], soft["video"], graph)
    assert golden.meets(loss, "out.lir")
    loss.backward()
    for name, given in zip(("audio", "video"), vectors, strict=True):
        assert golden.meets(given.grad, f"out.lir_grad.{name}_embeddings", tolerance=1e-4)
    turned = interaction_loss(*vectors, soft["audio"], soft["video"], graph.T)
    assert torch.isclose(turned, loss, rtol=1e-5), "the direction of edges cannot matter"
    assert interaction_loss(*vectors, soft["audio"], soft["video"], torch.zeros_like(graph)) == 0


def test_links_and_doubtful_negatives(golden: Golden) -> None:
    soft, graph = teacher_labels(golden), golden["in.graph"]
    for row, first in (("audio", 0), ("video", 5)):
        for column, second in (("audio", 0), ("video", 5)):
            block = graph[first : first + 5, second : second + 5]
            assert golden.meets(link_weights(soft[row], soft[column], block), f"out.link.{row}_{column}")
    assert golden.meets(linked_negatives(soft, graph, anchors="audio"), "out.linked_sound_to_picture")
    assert golden.meets(linked_negatives(soft, graph, anchors="video"), "out.linked_picture_to_sound")
    audio, video = golden["in.audio_embeddings"], golden["in.video_embeddings"]
    similarity = alignment(soft["audio"], soft["video"], has_many=False)
    trust = torch.ones(len(audio))
    forth = triplet_loss(
        audio, video, similarity, trust, linked=linked_negatives(soft, graph, anchors="audio")
    )
    back = triplet_loss(
        video, audio, similarity.T, trust, linked=linked_negatives(soft, graph, anchors="video")
    )
    assert golden.meets((forth + back) / 2, "out.triplet_with_links")
