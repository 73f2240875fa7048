from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.pretraining.masking import (
    count_visible,
    guided_visible,
    hidden_mask,
    random_visible,
    sampled_visible,
)


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


def test_sampling_draws_the_recorded_shares_of_gumbel_top_k() -> None:
    """With K = 1 the share of each patch is softmax(z / temperature) of the standardised scores."""
    attention = torch.tensor([0.001, 0.002, 0.003, 0.006])
    noise = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0))
    drawn = sampled_visible(attention.expand(20_000, 4), noise, 1, temperature=0.7)
    share = torch.bincount(drawn.flatten(), minlength=4) / 20_000
    scores = (attention - attention.mean()) / attention.std()
    torch.testing.assert_close(share, torch.softmax(scores / 0.7, dim=0), atol=0.015, rtol=0)
    naive = torch.softmax(attention / 0.7, dim=0)  # of the scores as they are: all but uniform
    assert naive.max() / naive.min() < 1.01 < share.max() / share.min()


def test_sampling_lies_between_the_best_and_any() -> None:
    attention = torch.rand(64, 50, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(64, 50, generator=torch.Generator().manual_seed(2))
    best = guided_visible(attention, 25).sort(dim=1).values
    cold = sampled_visible(attention, noise, 25, temperature=1e-7).sort(dim=1).values
    assert torch.equal(cold, best)
    hot = sampled_visible(attention, noise, 25, temperature=1e8)
    assert torch.equal(hot.sort(dim=1).values, random_visible(-noise, 25).sort(dim=1).values)
    warm = sampled_visible(attention, noise, 25)
    kept = (hidden_mask(warm, 50) == hidden_mask(best, 50)).float().mean()
    assert 0.55 < kept < 0.95
    assert all(len(set(row.tolist())) == 25 for row in warm)


def test_equal_attention_and_noise_of_zero_are_no_trouble() -> None:
    drawn = sampled_visible(torch.zeros(2, 6), torch.zeros(2, 6), 3)
    assert drawn.shape == (2, 3)
