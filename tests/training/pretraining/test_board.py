"""What a run leaves for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.network.geometry import MODALITIES, TgdpConfig
from models.network.tgdp import Tgdp
from training.pretraining.board import COLUMNS, Board, draw_clips
from training.pretraining.config import PretrainConfig
from training.pretraining.drawing import GREY, HEAT_SHARE

NETWORK = TgdpConfig(
    width=16,
    num_heads=2,
    depth=1,
    decoder_width=16,
    decoder_heads=2,
    decoder_depth=1,
    window_frames=64,
    num_mel_bins=32,
    frame_size=32,
    num_registers=2,
)


def make_config(guidance="patch_to_cls", network: TgdpConfig = NETWORK) -> PretrainConfig:
    return PretrainConfig(
        name="tiny",
        network=network,
        num_steps=9,
        batch_size=2,
        learning_rate=1e-3,
        warmup_steps=1,
        guidance=guidance,
    )


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(2, 64, 32, generator=generator)
    return windows, torch.randint(0, 256, (2, 32, 32, 3), generator=generator).to(torch.uint8)


@pytest.fixture
def networks() -> tuple[Tgdp, Tgdp]:
    torch.manual_seed(0)
    return Tgdp(NETWORK), Tgdp(NETWORK)


def read_events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def curve(events, name: str) -> list[tuple[int, float]]:
    return [(point.step, pytest.approx(point.value)) for point in events.Scalars(name)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what tensorboard itself imports
def test_numbers_become_curves_and_clips_pictures(tmp_path: Path, networks, clips) -> None:
    board = Board(tmp_path / "board")
    board.numbers(1, {"loss": 2.5, "momentum": 0.996})
    board.numbers(2, {"loss": 2.0, "student/audio_to_video/at_1": 12.5})
    board.pictures(2, *networks, *clips, make_config())
    board.close()
    events = read_events(tmp_path / "board")
    assert curve(events, "loss") == [(1, 2.5), (2, 2.0)]
    assert curve(events, "student/audio_to_video/at_1") == [(2, 12.5)]
    assert sorted(events.Tags()["images"]) == ["frames", "sounds"]
    columns = draw_clips(*networks, *clips, make_config())
    for tag, modality, height, width in (("frames", "video", 32, 32), ("sounds", "audio", 32, 64)):
        (event,) = events.Images(tag)
        image = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert event.step == 2
        assert image.shape == (2 * (height + 4) - 4, len(COLUMNS) * (width + 4) - 4, 3)
        first = columns[modality][0][0].flip(1) if modality == "audio" else columns[modality][0][0]
        shown = image[:height, :width].astype(float) / 255
        assert np.abs(shown - first.permute(1, 2, 0).numpy()).max() < 1 / 254


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_goes_on_leaves_each_step_once(tmp_path: Path, networks, clips) -> None:
    def write(board: Board, steps: range, loss: float) -> None:
        for step in steps:
            board.numbers(step, {"loss": loss})
        board.pictures(steps[-1], *networks, *clips, make_config())
        board.close()

    write(Board(tmp_path), range(1, 6), 1.0)  # killed after step 5, the checkpoint is of step 3
    write(Board(tmp_path, purge_step=3), range(4, 8), 2.0)
    events = read_events(tmp_path)
    assert curve(events, "loss") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0), (7, 2.0)]
    assert [event.step for event in events.Images("frames")] == [7]
    write(Board(tmp_path), range(1, 3), 3.0)  # begun again: there was no checkpoint
    assert curve(read_events(tmp_path), "loss") == [(1, 3.0), (2, 3.0)]


@pytest.mark.parametrize("guidance", ["patch_to_cls", "cls_to_patch", "sampled", "random", "single_pass"])
def test_what_is_drawn_hides_what_the_run_hides(guidance, networks, clips) -> None:
    config = make_config(guidance)
    drawn = draw_clips(*networks, *clips, config)
    for m in MODALITIES:
        as_it_is, seen, rebuilt, _, kept = drawn[m]
        assert {column.shape for column in drawn[m]} == {(2, 3, 32, 32 if m == "video" else 64)}
        assert grey_share(seen) == 0.75
        assert grey_share(kept) == (0.75 if guidance == "single_pass" else 0.5)
        is_seen = (seen != GREY).any(dim=1, keepdim=True).expand_as(seen)
        assert torch.equal(rebuilt[is_seen], as_it_is[is_seen])
        assert not torch.equal(rebuilt[~is_seen], as_it_is[~is_seen])
    again = draw_clips(*networks, *clips, config)
    assert all(torch.equal(a, b) for m in MODALITIES for a, b in zip(drawn[m], again[m], strict=True))


def test_the_teacher_looks_where_its_own_attention_says(networks, clips) -> None:
    student, teacher = networks
    view = teacher.full_view(teacher.embed_patches(student.pixels(clips[1]), "video"), "video")
    for guidance, attention in (("patch_to_cls", view.patch_to_cls), ("cls_to_patch", view.cls_to_patch)):
        as_it_is, _, _, laid_over, kept = draw_clips(student, teacher, *clips, make_config(guidance))["video"]
        heat = (laid_over - (1 - HEAT_SHARE) * as_it_is.mean(dim=1, keepdim=True)).sum(dim=1)
        for clip in range(2):
            best = int(attention[clip].argmax())
            top, left = best // 2 * 16, best % 2 * 16
            assert (kept[clip, :, top : top + 16, left : left + 16] != GREY).any()
            brightness = heat[clip].reshape(2, 16, 2, 16).mean(dim=(1, 3)).flatten()
            assert int(brightness.argmax()) == best


def test_without_a_cls_token_nobody_looks_anywhere(clips) -> None:
    network = TgdpConfig(**{**NETWORK.to_json(), "pooling": "patch_mean", "num_registers": 0})
    torch.manual_seed(0)
    student = Tgdp(network)
    drawn = draw_clips(student, student, *clips, make_config("single_pass", network))
    assert {m: len(columns) for m, columns in drawn.items()} == {"audio": 3, "video": 3}


def test_tensorboard_is_loaded_by_a_board_only() -> None:
    script = "import sys, training.pretraining.board; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def grey_share(images: torch.Tensor) -> float:
    return float((images == GREY).all(dim=1).float().mean())
