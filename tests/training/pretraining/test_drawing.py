"""Pictures for people: shapes, known pixels, and the way back from normalised patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.network.frontend import IMAGE_MEAN, IMAGE_STD, Pixels
from training.pretraining.drawing import (
    GREY,
    HEAT,
    draw_guidance,
    draw_hidden,
    draw_reconstruction,
    heat_colours,
    lay_out,
    paste_patches,
    spread_patches,
    to_images,
)
from training.pretraining.losses import cut_patches, normalise_patches


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def test_patches_are_put_back_where_they_were(pictures) -> None:
    assert torch.equal(paste_patches(cut_patches(pictures, 4), (2, 3), 4), pictures)
    sound = pictures[:, :1]
    assert torch.equal(paste_patches(cut_patches(sound, 2), (4, 6), 2), sound)


def test_a_value_is_spread_over_its_patch() -> None:
    spread = spread_patches(torch.arange(6.0).reshape(1, 6), (2, 3), 2)
    expected = np.kron(np.arange(6).reshape(2, 3), np.ones((2, 2)))
    assert spread.shape == (1, 1, 4, 6)
    assert np.array_equal(spread[0, 0].numpy(), expected)


def test_hidden_patches_are_grey_and_the_others_untouched(pictures) -> None:
    visible = torch.tensor([[0, 5], [2, 1]])
    drawn = draw_hidden(pictures, visible, 4)
    for clip in range(2):
        for patch in range(6):
            rows = slice(patch // 3 * 4, patch // 3 * 4 + 4)
            columns = slice(patch % 3 * 4, patch % 3 * 4 + 4)
            found = drawn[clip, :, rows, columns]
            if patch in visible[clip]:
                assert torch.equal(found, pictures[clip, :, rows, columns])
            else:
                assert (found == GREY).all()


def test_a_perfect_prediction_rebuilds_the_picture(pictures) -> None:
    pictures = pictures * 3 + 5
    perfect = normalise_patches(cut_patches(pictures, 4))
    visible = torch.tensor([[0], [3]])
    assert torch.allclose(draw_reconstruction(pictures, perfect, visible, 4), pictures, atol=1e-5)
    wrong = draw_reconstruction(pictures, perfect + 1, visible, 4)
    deviation = pictures[0, :, 4:8, 8:12].std()  # unbiased, over the patch's three channels
    assert torch.allclose(wrong[0, :, 4:8, 8:12], pictures[0, :, 4:8, 8:12] + deviation, atol=1e-4)
    assert torch.equal(wrong[0, :, :4, :4], pictures[0, :, :4, :4])


def test_frames_get_their_colours_back() -> None:
    frames = torch.randint(0, 256, (2, 4, 6, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images = to_images(Pixels()(frames), "video")
    assert torch.allclose(images, frames.permute(0, 3, 1, 2) / 255, atol=1e-6)
    far = to_images(torch.full((1, 3, 2, 2), 99.0), "video")
    assert torch.equal(far, torch.ones(1, 3, 2, 2))
    assert torch.allclose(
        to_images(torch.zeros(1, 3, 1, 1), "video").flatten(), torch.tensor(IMAGE_MEAN), atol=1e-6
    )
    assert len(IMAGE_STD) == 3


def test_sound_is_dark_where_it_is_quiet() -> None:
    levels = torch.tensor([-9.0, -2.5, 0.0, 2.5, 9.0]).reshape(1, 1, 1, 5)
    image = to_images(levels, "audio")
    assert image.shape == (1, 3, 1, 5)
    expected = torch.tensor([HEAT[0], HEAT[0], HEAT[2], HEAT[4], HEAT[4]])
    assert torch.allclose(image[0, :, 0].T, expected, atol=1e-6)
    brightness = heat_colours(torch.linspace(0, 1, 50).reshape(1, 1, 1, 50)).sum(dim=1).flatten()
    assert (brightness.diff() > 0).all()


def test_guidance_is_brightest_where_attention_is_highest(pictures) -> None:
    images = torch.zeros_like(pictures)
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.2, 0.1, 0.2], [1e-3] * 6])
    drawn = draw_guidance(images, attention, 4)
    assert drawn.shape == pictures.shape
    assert torch.allclose(drawn[0, :, 0, 8], 0.6 * torch.tensor(HEAT[4]), atol=1e-6)
    assert torch.allclose(drawn[0, :, 7, 7], 0.6 * torch.tensor(HEAT[0]), atol=1e-6)
    assert torch.isfinite(drawn).all()  # the same attention everywhere is no attention


def test_images_are_laid_out_by_clip_and_column() -> None:
    first, second = torch.zeros(2, 3, 5, 7), torch.full((2, 3, 5, 7), 0.25)
    image = lay_out([first, second])
    assert image.shape == (3, 2 * 9 - 4, 2 * 11 - 4)
    assert (image[:, :5, :7] == 0).all()
    assert (image[:, 9:, 11:] == 0.25).all()
    assert (image[:, 5:9] == 1).all()
    assert (image[:, :, 7:11] == 1).all()
