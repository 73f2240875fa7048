from __future__ import annotations

import pytest
import torch

from models.network.geometry import MODALITIES, TgdpConfig
from models.network.tgdp import Tgdp
from training.pretraining.teacher import Teacher, momentum_at

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


def pictures() -> dict:
    generator = torch.Generator().manual_seed(3)
    return {
        "audio": torch.randn(2, 1, 128, 416, generator=generator),
        "video": torch.randn(2, 3, 224, 224, generator=generator),
    }


def test_momentum_rises_on_a_cosine_from_start_to_one() -> None:
    values = [momentum_at(step, 100, 0.99) for step in range(101)]
    assert values[0] == pytest.approx(0.99)
    assert values[50] == pytest.approx(0.995)
    assert values[100] == pytest.approx(1.0)
    assert values == sorted(values)


def test_the_teacher_is_the_moving_average_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    student = Tgdp(TINY)
    teacher = Teacher(student)
    before = [p.clone() for p in teacher.network.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += torch.randn_like(parameter)
    teacher.follow(student, 0.9)
    for old, new, theirs in zip(before, teacher.network.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * theirs.detach(), atol=1e-6, rtol=1e-5)
        assert not new.requires_grad


def test_guidance_is_repeatable_and_in_the_patches_own_order() -> None:
    """The released code shuffles the teacher's tokens, so two looks at one input disagree on half of the kept set."""
    torch.manual_seed(0)
    teacher = Teacher(Tgdp(TINY))
    first, second = teacher.view(pictures()), teacher.view(pictures())
    for m in MODALITIES:
        assert (first[m].patch_to_cls.argsort() == second[m].patch_to_cls.argsort()).all()
    tokens = teacher.network.embed_patches(pictures()["video"], "video")
    shuffled = teacher.network.full_view(tokens[:, torch.arange(48, -1, -1)], "video")
    torch.testing.assert_close(
        shuffled.patch_to_cls.flip(1), first["video"].patch_to_cls, atol=1e-6, rtol=1e-4
    )


def test_patches_are_ranked_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    teacher = Teacher(Tgdp(TINY))
    with torch.autocast("cpu", torch.bfloat16):
        views = teacher.view(pictures())
    for m in MODALITIES:
        for scores in (*views[m].patch_to_cls, *views[m].cls_to_patch):
            assert len(scores.unique()) == len(scores)
