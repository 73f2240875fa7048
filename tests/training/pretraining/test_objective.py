from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from models.network.geometry import MODALITIES, TgdpConfig
from models.network.tgdp import FullView, Tgdp, take_tokens
from training.data.draws import Draws
from training.pretraining.config import PretrainConfig
from training.pretraining.losses import (
    contrastive_loss,
    cut_patches,
    distillation_loss,
    normalise_patches,
    reconstruction_loss,
)
from training.pretraining.masking import hidden_mask, random_visible
from training.pretraining.objective import Objective, visible_to_alignment
from training.pretraining.teacher import Teacher

TINY = TgdpConfig(
    width=32,
    num_heads=2,
    depth=1,
    decoder_width=16,
    decoder_heads=2,
    decoder_depth=1,
    audio_patch=32,
    video_patch=32,
)
CONFIG = PretrainConfig(
    name="tiny",
    network=TINY,
    num_steps=4,
    batch_size=3,
    learning_rate=1e-3,
    warmup_steps=2,
    weight_reconstruction=0.5,
    weight_distillation=0.25,
    weight_contrastive=2.0,
)


@pytest.fixture(autouse=True)
def same_random_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def draws(num_rows: int = 3, seed: int = 0) -> Draws:
    return Draws(generator=torch.Generator().manual_seed(seed), num_rows=num_rows, rows=slice(None))


def make_objective(**changes) -> tuple[Objective, Tgdp, Teacher]:
    config = dataclasses.replace(CONFIG, **changes)
    student = Tgdp(TINY)
    teacher = Teacher(student)
    for parameter in teacher.network.parameters():  # an average of other weights, as later in a run
        parameter.mul_(1.1)
    return Objective(student, teacher, config), student, teacher


def pictures() -> dict[str, Tensor]:
    return {"audio": torch.randn(3, 1, 128, 416), "video": torch.randn(3, 3, 224, 224)}


@pytest.mark.parametrize("guidance", ["patch_to_cls", "cls_to_patch"])
def test_the_dual_path_written_out(guidance: str) -> None:
    """The same step by hand: two passes with a view each, a teacher that sees everything."""
    objective, student, teacher = make_objective(guidance=guidance)
    seen = pictures()
    found = objective(seen, draws())

    noise = {m: torch.rand(3, n, generator=g) for g in [torch.Generator().manual_seed(0)]
             for m, n in (("audio", 52), ("video", 49))}  # fmt: skip
    embeddings, targets, quarter = {}, {}, {}
    for m, half, visible in (("audio", 26, 13), ("video", 24, 12)):
        tokens = student.embed_patches(seen[m], m)
        view = teacher.network.full_view(teacher.network.embed_patches(seen[m], m), m)
        order = getattr(view, guidance).argsort(dim=1, descending=True)[:, :half]
        embeddings[m], targets[m] = student.embed(take_tokens(tokens, order), m), view.embedding
        quarter[m] = random_visible(noise[m], visible)
    predicted = student.reconstruct(
        *(student.embed_patches(seen[m], m) for m in MODALITIES), quarter["audio"], quarter["video"]
    )
    reconstruction = sum(
        reconstruction_loss(p, t, hidden_mask(quarter[m], t.shape[1]))
        for p, m in zip(predicted, MODALITIES, strict=True)
        for t in [normalise_patches(cut_patches(seen[m], 32))]
    )
    distillation = sum(distillation_loss(embeddings[m], targets[m]) for m in MODALITIES)
    contrastive = contrastive_loss(embeddings["audio"], embeddings["video"], temperature=0.05)
    for name, expected in (
        ("reconstruction", reconstruction),
        ("distillation", distillation),
        ("contrastive", contrastive),
        ("loss", 0.5 * reconstruction + 0.25 * distillation + 2 * contrastive),
    ):
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6, msg=name)


def test_the_single_pass_uses_one_view_for_both_losses() -> None:
    objective, student, _ = make_objective(guidance="single_pass", weight_distillation=0.0)
    assert not objective.asks_the_teacher
    seen = pictures()
    found = objective(seen, draws())
    generator = torch.Generator().manual_seed(0)
    embeddings = []
    for m, num_patches, num_visible in (("audio", 52, 13), ("video", 49, 12)):
        visible = random_visible(torch.rand(3, num_patches, generator=generator), num_visible)
        embeddings.append(student.embed(take_tokens(student.embed_patches(seen[m], m), visible), m))
    torch.testing.assert_close(found["contrastive"], contrastive_loss(*embeddings), rtol=1e-5, atol=1e-6)
    assert found["distillation"] == 0
    dual, _, _ = make_objective(guidance="random", weight_distillation=0.0)
    assert dual(seen, draws())["contrastive"] != found["contrastive"]


def test_the_single_pass_reconstructs_like_the_pass_of_its_own() -> None:
    _, student, _ = make_objective()
    audio, video = torch.randn(2, 52, 32), torch.randn(2, 49, 32)
    visible = torch.arange(13).repeat(2, 1), torch.arange(12).repeat(2, 1)
    _, once = student.see_once(audio, video, *visible)
    assert all(
        torch.equal(a, b) for a, b in zip(once, student.reconstruct(audio, video, *visible), strict=True)
    )


@pytest.mark.parametrize("guidance", ["patch_to_cls", "cls_to_patch", "sampled", "random", "single_pass"])
def test_every_part_of_the_network_gets_a_gradient(guidance: str) -> None:
    objective, student, teacher = make_objective(guidance=guidance)
    objective(pictures(), draws())["loss"].backward()
    without = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert all(p.grad is None for p in teacher.network.parameters())
    assert {id(p) for p in objective.parameters()} == {id(p) for p in student.parameters()}


def test_the_teacher_is_asked_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Teacher, "view", lambda self, seen: asked.append(1) or {})
    for guidance in ("random", "single_pass"):
        objective, _, _ = make_objective(guidance=guidance, weight_distillation=0.0)
        objective(pictures(), draws())
    assert asked == []


@pytest.mark.parametrize(("guidance", "best"), [("patch_to_cls", [5, 4]), ("cls_to_patch", [0, 1])])
def test_guidance_follows_the_chosen_reading(guidance, best: list[int]) -> None:
    scores = torch.arange(6.0).repeat(2, 1)
    view = FullView(torch.zeros(2, 4), scores, scores.flip(1))
    config = dataclasses.replace(CONFIG, guidance=guidance, hidden_share_alignment=0.6)
    assert visible_to_alignment(view, config, 6, draws(2)).tolist() == [best, best]


def shares(guidance) -> np.ndarray:
    """How often each of 50 patches is visible where the last one has the most attention."""
    view = FullView(torch.zeros(64, 4), torch.arange(50.0).repeat(64, 1), torch.zeros(64, 50))
    visible = visible_to_alignment(view, dataclasses.replace(CONFIG, guidance=guidance), 50, draws(64))
    return np.bincount(visible.flatten(), minlength=50) / 64


def test_random_guidance_ignores_the_teacher() -> None:
    share = shares("random")
    assert 0.25 < share.min() < share.max() < 0.75


def test_sampled_guidance_leans_towards_the_teacher() -> None:
    share = shares("sampled")
    assert 0 < share[:10].mean() < 0.3 < 0.7 < share[-10:].mean() < 1


@pytest.mark.parametrize("guidance", ["patch_to_cls", "single_pass"])
def test_contrast_is_float32_where_the_passes_are_not(guidance) -> None:
    objective, _, _ = make_objective(guidance=guidance)
    gathered: list[Tensor] = []
    objective._gather = lambda rows: gathered.append(rows) or rows
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(pictures(), draws())["contrastive"]
        rough = contrastive_loss(*gathered)
    assert found == contrastive_loss(*gathered)
    assert found != rough
