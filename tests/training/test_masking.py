from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.masking import count_visible, guided_visible, hidden_mask, random_visible


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_the_recorded_noise_hides_the_recorded_patches(golden, modality: str) -> None:
    noise = golden[f"noise_{modality}"]
    visible = random_visible(noise, count_visible(noise.shape[1], 0.75))
    assert (hidden_mask(visible, noise.shape[1]) == golden[f"hidden_mask_{modality}"]).all()


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_guidance_keeps_the_recorded_ranks(golden, modality: str) -> None:
    attention = golden[f"attention_patch_to_cls_{modality}"]
    assert (guided_visible(attention, 98) == golden[f"rank_{modality}"][:, :98]).all()


def test_published_counts() -> None:
    assert [count_visible(n, share) for n, share in ((208, 0.75), (196, 0.75), (208, 0.5), (196, 0.5))] == [
        52, 49, 104, 98,
    ]  # fmt: skip


@given(st.integers(1, 300), st.floats(0, 0.99), st.integers(0, 1000))
def test_a_mask_hides_what_is_not_visible(num_patches: int, share: float, seed: int) -> None:
    noise = torch.rand(2, num_patches, generator=torch.Generator().manual_seed(seed))
    num_visible = count_visible(num_patches, share)
    visible = random_visible(noise, num_visible)
    is_hidden = hidden_mask(visible, num_patches)
    assert (is_hidden.sum(dim=1) == num_patches - num_visible).all()
    assert (is_hidden.gather(1, visible) == 0).all()
    assert all(len(set(row.tolist())) == num_visible for row in visible)
