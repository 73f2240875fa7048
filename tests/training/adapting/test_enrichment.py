"""CASTE, CASE and the moments' agreement against `tests/golden/adapt/caste.safetensors` and `case.safetensors`."""

from __future__ import annotations

import pytest
import torch

from tests.training.adapting.golden import Golden
from training.adapting.agreement import (
    MomentAgreement,
    draw_foreign,
    fold_weights,
    moment_weights,
    unfold_weights,
)
from training.adapting.enrichment import (
    Case,
    Caste,
    caption_loss,
    choice_entropy,
    consistency_loss,
    loudest,
)

MODALITIES = ("audio", "video")


@pytest.fixture(scope="module")
def caste() -> Golden:
    return Golden("caste")


@pytest.fixture(scope="module")
def case() -> Golden:
    return Golden("case")


def test_caste(caste: Golden) -> None:
    module = Caste(16, 12, projected=10, hidden=5)
    unused = {"gamma_spatial", "gamma_temporal"}  # of the published residual
    state = {key: array for key, array in caste.weights("w.").items() if key not in unused}
    module.load_state_dict({key: array for key, array in state.items() if not key.startswith("moment.")})
    tokens, others = (caste[f"in.{name}"].clone().requires_grad_() for name in ("tokens", "others"))
    weights, agreement = module.gate(tokens, others)
    assert caste.meets(weights, "out.gate_weights")
    assert caste.meets(agreement, "out.agreement")
    assert caste.meets(module.spatial(tokens), "out.spatial")
    assert caste.meets(module.temporal(tokens), "out.temporal")
    assert caste.meets(loudest(tokens.square().sum(-1)), "out.mask")
    residual = module.residual(tokens, others)
    assert caste.meets(residual, "out.ours.residual")
    (residual * caste["in.cotangent"]).sum().backward()
    for name, found in (("tokens", tokens.grad), ("others", others.grad), ("gamma", module.gamma.grad)):
        assert caste.meets(found, f"out.ours.grad.{name}", tolerance=1e-4)


def test_agreement_of_moments(caste: Golden) -> None:
    gate = MomentAgreement(16, 8)
    gate.load_state_dict(caste.weights("w.moment."))
    audio, video = caste["in.moment.audio"], caste["in.moment.video"]
    logits = gate(audio, video)
    assert caste.meets(logits, "out.moment.logits")
    stored = fold_weights(video, moment_weights(logits, floor=0.0))
    scores = torch.einsum("qtd,itd->qi", audio, stored) / audio.shape[1]
    assert caste.meets(scores, "out.moment.weighted_score")
    rows, weights = unfold_weights(stored)
    assert torch.allclose(rows, video, atol=1e-5)
    assert torch.allclose(weights, moment_weights(logits, floor=0.0), atol=1e-5)


def test_foreign_sound_is_marked() -> None:
    generator = torch.Generator().manual_seed(0)
    audio = torch.arange(6.0)[:, None, None].expand(6, 16, 2)
    mixed, is_own = draw_foreign(audio, generator=generator)
    assert torch.equal(mixed[..., 0] == audio[..., 0], is_own)
    assert 0 < (~is_own).sum(1).max() <= 12


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_case(case: Golden, mode: str) -> None:
    module = Case({"audio": 8, "video": 16}, num_heads=4, projected=10, num_moments=3, dropout=(0.0, 0.0))
    module.load_state_dict(case.weights("w."))
    tokens = {name: case[f"in.tokens.{name}"].clone().requires_grad_() for name in MODALITIES}
    captions = {name: case[f"in.captions.{name}"] for name in MODALITIES}
    noise = {name: case[f"in.noise.{name}"] for name in MODALITIES} if mode == "training" else None
    found = module(tokens, captions, noise)
    for name in MODALITIES:
        for part, value in found[name].items():
            assert case.meets(value, f"out.ours.{mode}.{name}.{part}", tolerance=1e-4), (name, part)
    sum((found[name]["tokens"] * case[f"in.cotangent.{name}"]).sum() for name in MODALITIES).backward()
    for name in MODALITIES:
        assert case.meets(tokens[name].grad, f"out.ours.{mode}.grad.{name}", tolerance=1e-4)


def test_losses_of_captions(case: Golden) -> None:
    audio, video, captions = (
        case[f"in.loss.{name}"].clone().requires_grad_() for name in ("audio", "video", "captions")
    )
    is_same, temperature = case["in.loss.same"], case.constants["temperature"]
    loss = sum(caption_loss(one, captions, is_same, temperature=temperature) for one in (audio, video)) / 2
    assert case.meets(loss, "out.loss.caption")
    loss.backward()
    for name, given in (("audio", audio), ("video", video), ("captions", captions)):
        assert case.meets(given.grad, f"out.loss.caption_grad.{name}", tolerance=1e-4)
    moments = [case[f"in.loss.{name}_moments"] for name in MODALITIES]
    assert case.meets(consistency_loss(*moments), "out.loss.consistency")
    assert case.meets(consistency_loss(*moments, case["in.loss.weights"]), "out.loss.consistency_weighted")
    assert case.meets(choice_entropy(case["in.loss.probabilities"]), "out.loss.entropy")
