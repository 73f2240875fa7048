"""What must hold of the losses for any clips, by hypothesis, and their gradients by finite differences in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from training.adapting.enrichment import caption_loss
from training.adapting.heads import TrackHead
from training.adapting.interaction import interaction_loss, symmetric_kl
from training.adapting.losses import (
    alignment,
    draw_positives,
    sampled_triplet_loss,
    triplet_loss,
    triplet_weights,
)

SEEDS = st.integers(0, 2**31 - 1)
quick = settings(max_examples=20, deadline=None, derandomize=True)


def unit(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@quick
@given(SEEDS, st.integers(2, 12), st.integers(1, 20))
def test_an_untrained_head_is_the_identity(seed: int, width: int, hidden: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = unit(generator, 3, 4, width)
    assert torch.allclose(TrackHead(width, hidden).double()(rows), rows, atol=1e-12)


@quick
@given(SEEDS, st.integers(2, 7), st.integers(1, 5), st.booleans())
def test_alignment_is_a_share_and_one_with_oneself(
    seed: int, batch: int, classes: int, has_many: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    audio, video = (torch.rand(batch, classes, generator=generator) for _ in range(2))
    if not has_many:
        audio, video = audio.softmax(1), video.softmax(1)
    found = alignment(audio, video, has_many=has_many)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (found.diagonal() == 1).all()


@quick
@given(SEEDS, st.integers(2, 6), st.integers(1, 4))
def test_hard_labels_make_the_batch_all_triplets(seed: int, batch: int, classes: int) -> None:
    """Mean over the active triplets, counted one by one."""
    generator = torch.Generator().manual_seed(seed)
    anchors, others = unit(generator, batch, 8), unit(generator, batch, 8)
    labels = torch.randint(classes, (batch,), generator=generator)
    same = (labels[:, None] == labels[None]).double()
    cosine = anchors @ others.T
    hinges = [
        float(0.3 - cosine[i, p] + cosine[i, n])
        for i, p, n in itertools.product(range(batch), repeat=3)
        if same[i, p] and not same[i, n]
    ]
    active = [hinge for hinge in hinges if hinge > 0]
    expected = sum(active) / len(active) if active else 0.0
    found = triplet_loss(anchors, others, same, torch.ones(batch, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_drawn_positives_are_exact_in_expectation() -> None:
    """Weighted hinges over all ways to draw one positive an anchor, each as likely as it is drawn."""
    generator = torch.Generator().manual_seed(3)
    batch = 5
    anchors, others = unit(generator, batch, 6), unit(generator, batch, 6)
    similarity = torch.rand(batch, batch, generator=generator, dtype=torch.float64).fill_diagonal_(1)
    trust = torch.rand(batch, generator=generator, dtype=torch.float64)
    positive, negative = triplet_weights(similarity, trust)
    hinge = (0.3 - (anchors @ others.T)[:, :, None] + (anchors @ others.T)[:, None, :]).clamp(min=0)
    exact = (trust[:, None, None] * positive[:, :, None] * negative[:, None, :] * hinge).sum()
    share = positive / positive.sum(1, keepdim=True)
    weight = (trust * positive.sum(1))[:, None, None] * negative[:, None, :]
    drawn = (share[:, :, None] * weight * hinge).sum()
    assert float(drawn) == pytest.approx(float(exact), rel=1e-12)
    # and the draws follow these shares
    many = draw_positives(similarity, trust, num_positives=4000, generator=generator)
    counts = torch.stack([torch.bincount(row, minlength=batch) for row in many]) / 4000
    assert torch.allclose(counts.double(), share, atol=0.04)
    whole = sampled_triplet_loss(anchors, others, similarity, trust, many)
    assert float(whole) == pytest.approx(float(triplet_loss(anchors, others, similarity, trust)), rel=0.05)


@quick
@given(SEEDS, st.integers(2, 6), st.integers(1, 4))
def test_arrows_may_be_turned(seed: int, batch: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    audio, video = unit(generator, batch, 5), unit(generator, batch, 5)
    soft = [torch.rand(batch, classes, generator=generator, dtype=torch.float64) for _ in range(2)]
    graph = torch.rand(2 * classes, 2 * classes, generator=generator, dtype=torch.float64)
    forth = interaction_loss(audio, video, soft[0], soft[1], graph)
    assert float(interaction_loss(audio, video, soft[0], soft[1], graph.T)) == pytest.approx(float(forth))


@quick
@given(SEEDS)
def test_equal_captions_are_no_negatives(seed: int) -> None:
    """Two clips with one caption: swapping their vectors changes nothing, and all equal captions leave only chance."""
    generator = torch.Generator().manual_seed(seed)
    vectors = unit(generator, 4, 6)
    captions = unit(generator, 4, 6)
    captions[1] = captions[0]
    same = (captions[:, None] == captions[None]).all(2)
    swapped = vectors[[1, 0, 2, 3]]
    assert float(caption_loss(vectors, captions, same)) == pytest.approx(
        float(caption_loss(swapped, captions, same))
    )
    alike = captions[:1].expand(4, -1)
    everyone = torch.ones(4, 4, dtype=torch.bool)
    own = vectors[:1].expand(4, -1)
    assert float(caption_loss(own, alike, everyone)) == pytest.approx(np.log(4))


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(5)
    audio, video, logits, others = (
        torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)
    )
    similarity = torch.rand(4, 4, generator=generator, dtype=torch.float64).fill_diagonal_(1)
    trust = torch.rand(4, generator=generator, dtype=torch.float64)
    soft = torch.rand(2, 4, 2, generator=generator, dtype=torch.float64)
    graph = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    same = torch.eye(4, dtype=torch.bool)
    checks = (
        (
            lambda a, v: triplet_loss(F.normalize(a, dim=1), F.normalize(v, dim=1), similarity, trust),
            (audio, video),
        ),
        (lambda a, v: interaction_loss(a, v, soft[0], soft[1], graph), (audio, video)),
        (lambda a, v: symmetric_kl(a, v, has_many=False), (logits, others)),
        (lambda a, v: symmetric_kl(a, v, has_many=True), (logits, others)),
        (lambda a, v: caption_loss(a, v, same), (audio, video)),
    )
    for function, inputs in checks:
        assert torch.autograd.gradcheck(function, inputs, atol=1e-6)
