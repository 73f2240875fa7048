from __future__ import annotations

import pytest
import torch

from training.data.augment import Augmentation, augment, blank_stretch, crop_and_resize, random_boxes
from training.data.draws import Draws


def draws(num_rows: int = 8, rows: slice = slice(None), seed: int = 0) -> Draws:
    return Draws(generator=torch.Generator().manual_seed(seed), num_rows=num_rows, rows=rows)


def test_nothing_changes_by_default() -> None:
    windows, frames = torch.randn(8, 416, 128), torch.randn(8, 3, 32, 32)
    same = augment(windows, frames, Augmentation(), draws())
    assert same[0] is windows
    assert same[1] is frames


@pytest.mark.parametrize(("axis", "longest"), [(1, 100), (2, 24)])
def test_a_stretch_is_blanked_and_the_rest_is_kept(axis: int, longest: int) -> None:
    windows = torch.randn(256, 416, 128)
    blanked = blank_stretch(windows, axis, longest, draws(256))
    is_blank = (blanked == 0).all(dim=3 - axis)  # (B, size)
    lengths = is_blank.sum(dim=1)
    assert lengths.max() == longest
    assert lengths.min() < longest / 10
    jumps = is_blank.int().diff(dim=1).abs().sum(dim=1)
    assert jumps.max() <= 2  # one stretch: in at most once, out at most once
    kept = ~is_blank.unsqueeze(3 - axis).expand_as(windows)
    assert torch.equal(blanked[kept], windows[kept])
    assert is_blank.float().mean(dim=0).min() > 0  # no place is safe


def test_a_share_of_the_frames_is_mirrored() -> None:
    frames = torch.randn(400, 3, 4, 6)
    _, changed = augment(torch.zeros(400, 1, 1), frames, Augmentation(mirror_share=0.25), draws(400))
    is_mirrored = torch.tensor(
        [torch.equal(new, old.flip(2)) for new, old in zip(changed, frames, strict=True)]
    )
    is_same = torch.tensor([torch.equal(new, old) for new, old in zip(changed, frames, strict=True)])
    assert (is_mirrored ^ is_same).all()
    assert 0.15 < is_mirrored.float().mean() < 0.35


def test_a_crop_is_the_part_of_the_frame_enlarged() -> None:
    """Against torch's own bilinear resize of the cut part, away from its border."""
    frames = torch.rand(2, 3, 32, 32)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.25]])
    whole, part = crop_and_resize(frames, boxes)
    torch.testing.assert_close(whole, frames[0], atol=1e-5, rtol=0)
    cut = frames[1:, :, 16:24, 8:24]
    expected = torch.nn.functional.interpolate(cut, (32, 32), mode="bilinear")[0]
    torch.testing.assert_close(part[:, 4:-4, 2:-2], expected[:, 4:-4, 2:-2], atol=1e-5, rtol=0)


def test_boxes_keep_the_area_and_stay_inside() -> None:
    boxes = random_boxes(Augmentation(min_crop_area=0.5), draws(2000))
    left, top, width, height = boxes.unbind(1)
    assert boxes.min() >= 0
    assert (left + width).max() <= 1 + 1e-6
    assert (top + height).max() <= 1 + 1e-6
    assert (width * height).min() > 0.5 * 0.75  # a side that would leave the frame is cut to it
    assert (width / height).max() <= 4 / 3 + 1e-5


def test_rows_of_one_process_change_as_in_the_whole_batch() -> None:
    how = Augmentation(max_time_frames=50, max_mel_bins=10, min_crop_area=0.5, mirror_share=0.5)
    windows, frames = torch.randn(8, 416, 128), torch.randn(8, 3, 32, 32)
    whole = augment(windows, frames, how, draws(8))
    mine = slice(4, 8)
    part = augment(windows[mine], frames[mine], how, draws(8, mine))
    assert torch.equal(whole[0][mine], part[0])
    torch.testing.assert_close(whole[1][mine], part[1])


@pytest.mark.parametrize("wrong", [{"min_crop_area": 0.0}, {"max_crop_aspect": 0.5}, {"mirror_share": 2.0}])
def test_impossible_crops_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="min_crop_area must be"):
        Augmentation(**wrong)  # type: ignore[arg-type]


def test_negative_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="masks must not be negative, got -1 frames"):
        Augmentation(max_time_frames=-1)
