from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.network.geometry import TgdpConfig
from models.network.published import load_tgdp
from models.network.tgdp import Tgdp
from training.pretraining.losses import (
    contrastive_loss,
    cut_patches,
    distillation_loss,
    normalise_patches,
    reconstruction_loss,
)


@pytest.fixture(scope="module")
def reconstructed(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every patch of both modalities as our network predicts it from the recorded visible quarter."""
    from safetensors.torch import load_file

    from tests.training.conftest import GOLDEN

    config = TgdpConfig(
        width=48, num_heads=4, mlp_ratio=2, decoder_width=32, decoder_depth=2, decoder_heads=4
    )
    network: Tgdp = load_tgdp(load_file(GOLDEN / "tgdp_small_weights.safetensors"), config)
    with torch.no_grad():
        audio = network.embed_patches(network.audio_pictures(golden["audio_windows"]), "audio")
        video = network.embed_patches(golden["video_frames"], "video")
        visible = [
            golden[f"noise_{m}"].argsort(dim=1)[:, : n // 4] for m, n in (("audio", 208), ("video", 196))
        ]
        predicted = network.reconstruct(audio, video, *visible)
    return dict(zip(("audio", "video"), predicted, strict=True))


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_reconstruction_loss_matches(golden, reconstructed, modality: str) -> None:
    pictures = (
        golden["audio_windows"].transpose(1, 2).unsqueeze(1)
        if modality == "audio"
        else golden["video_frames"]
    )
    patches = cut_patches(pictures, 16)
    is_hidden = golden[f"hidden_mask_{modality}"]
    normalised = reconstruction_loss(reconstructed[modality], normalise_patches(patches), is_hidden)
    raw = reconstruction_loss(reconstructed[modality], patches, is_hidden)
    assert normalised.item() == pytest.approx(golden[f"loss_reconstruction_{modality}"].item(), abs=1e-4)
    assert raw.item() == pytest.approx(golden[f"loss_reconstruction_{modality}_raw"].item(), abs=1e-4)


def test_contrastive_loss_matches_both_directions(golden) -> None:
    loss = contrastive_loss(golden["contrastive_audio"], golden["contrastive_video"])
    assert loss.item() == pytest.approx(golden["loss_contrastive_bidirectional"].item(), abs=1e-4)
    assert golden["loss_contrastive_one_direction"].item() != pytest.approx(loss.item(), abs=1e-3)


def test_contrastive_loss_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    audio, video = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    total = 0.0
    for i in range(5):
        forward = torch.stack([F.cosine_similarity(audio[i], video[j], dim=0) for j in range(5)]) / 0.05
        backward = torch.stack([F.cosine_similarity(audio[j], video[i], dim=0) for j in range(5)]) / 0.05
        total -= (forward.log_softmax(0)[i] + backward.log_softmax(0)[i]).item() / 2
    assert contrastive_loss(audio, video).item() == pytest.approx(total / 5, rel=1e-5)


def test_distillation_pulls_the_student_only() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 1.0]], requires_grad=True)
    loss = distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == 5.0  # (9 + 1) / 2
    assert teacher.grad is None
    assert student.grad is not None


def test_patches_are_cut_row_by_row_with_channels_last() -> None:
    picture = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    patches = cut_patches(picture, 2)
    assert patches.shape == (1, 4, 8)
    assert patches[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]
