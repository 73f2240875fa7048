"""The TensorBoard files of a run: its metrics, and a few clips as student and teacher see them.

    tensorboard --logdir runs/starter/board

Each row of `frames` and `sounds` is a clip, the same ones for the whole run; a window of sound has low pitch at the
bottom. The columns are those of `COLUMNS`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.network.geometry import MODALITIES, Modality
from models.network.tgdp import FullView, Tgdp
from training.data.batches import MASKS, step_generator
from training.data.draws import Draws
from training.pretraining.config import PretrainConfig
from training.pretraining.drawing import draw_guidance, draw_hidden, draw_reconstruction, lay_out, to_images
from training.pretraining.masking import count_visible, random_visible
from training.pretraining.objective import Pictures, visible_to_alignment

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = (
    "as it is",
    "what reconstruction sees",
    "reconstructed",
    "where the teacher looks",
    "what alignment sees",
)
TAGS: dict[Modality, str] = {"audio": "sounds", "video": "frames"}


class Board:
    """TensorBoard files of one run.

    Args:
        folder: Where they are written; an earlier start of the run may have left its own there.
        purge_step: Steps done before this start of the run. What an earlier start wrote after it is forgotten.
    """

    def __init__(self, folder: Path, *, purge_step: int = 0) -> None:
        self._writer = _open_writer(folder, first_step=purge_step + 1)
        if purge_step == 0:
            self._writer.add_text("columns of frames and sounds", " · ".join(COLUMNS), 0)

    def numbers(self, step: int, numbers: dict[str, float]) -> None:
        """Add a point to the curves.

        Args:
            step: Steps done.
            numbers: Values by the name of their curve; a slash makes a group.
        """
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def pictures(
        self,
        step: int,
        student: Tgdp,
        teacher: Tgdp,
        windows: Tensor,
        frames: Tensor,
        config: PretrainConfig,
    ) -> None:
        """Write pictures of the hidden, rebuilt and attended patches.

        Args:
            step: Steps done.
            student: The network in training.
            teacher: Its average.
            windows: Normalised log-mel of a few clips, shape (B, W, M).
            frames: Their frames, uint8, shape (B, H, W, 3).
            config: The run.
        """
        for modality, columns in draw_clips(student, teacher, windows, frames, config).items():
            image = lay_out([column.flip(2) if modality == "audio" else column for column in columns])
            self._writer.add_image(TAGS[modality], image.clamp(0, 1).cpu().numpy(), step)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def _open_writer(folder: Path, *, first_step: int) -> SummaryWriter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what tensorboard itself imports
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - seconds that only a run with a board pays

    return SummaryWriter(str(folder), purge_step=first_step)


@torch.no_grad()
def draw_clips(
    student: Tgdp, teacher: Tgdp, windows: Tensor, frames: Tensor, config: PretrainConfig
) -> dict[Modality, list[Tensor]]:
    """Draw a few clips in every way.

    The masks are the same at every step. Methods are taken from the class: what a run compiled knows one batch size.

    Args:
        student: The network in training.
        teacher: Its average.
        windows: Normalised log-mel, shape (B, W, M).
        frames: uint8, shape (B, H, W, 3).
        config: The run.

    Returns:
        For each modality one batch of images (B, 3, H, W) per entry of `COLUMNS`; the last two are missing in a
        network without a CLS token, which looks nowhere.
    """
    device = next(student.parameters()).device
    pictures: Pictures = {
        "audio": student.audio_pictures(windows.to(device)),
        "video": student.pixels(frames.to(device)),
    }
    draws = Draws(
        generator=step_generator(config.seed, MASKS, 0), num_rows=len(windows), rows=slice(0, len(windows))
    )
    visible = _visible_to_reconstruction(pictures, config, draws)
    tokens = {m: Tgdp.embed_patches(student, pictures[m], m) for m in MODALITIES}
    predictions = Tgdp.reconstruct(
        student, tokens["audio"], tokens["video"], visible["audio"], visible["video"]
    )
    columns: dict[Modality, list[Tensor]] = {}
    for m, predicted in zip(MODALITIES, predictions, strict=True):
        patch_size = _patch_size(config, m)
        images = to_images(pictures[m], m)
        rebuilt = draw_reconstruction(pictures[m], predicted.float(), visible[m], patch_size)
        columns[m] = [images, draw_hidden(images, visible[m], patch_size), to_images(rebuilt, m)]
        if config.network.pooling == "cls":
            view = Tgdp.full_view(teacher, Tgdp.embed_patches(teacher, pictures[m], m), m)
            columns[m] += _draw_view(images, view, visible[m], config, draws, patch_size)
    return columns


def _patch_size(config: PretrainConfig, modality: Modality) -> int:
    return config.network.audio_patch if modality == "audio" else config.network.video_patch


def _visible_to_reconstruction(pictures: Pictures, config: PretrainConfig, draws: Draws) -> Pictures:
    visible: Pictures = {}
    for m in MODALITIES:
        num_patches = config.network.num_patches(m)
        num_visible = count_visible(num_patches, config.hidden_share_reconstruction)
        visible[m] = random_visible(draws.uniform(num_patches), num_visible).to(pictures[m].device)
    return visible


def _draw_view(
    images: Tensor,
    view: FullView,
    visible: Tensor,
    config: PretrainConfig,
    draws: Draws,
    patch_size: int,
) -> list[Tensor]:
    """Return the teacher's attention and the mask of the alignment pass (with `single_pass` that of reconstruction)."""
    attention = view.cls_to_patch if config.guidance == "cls_to_patch" else view.patch_to_cls
    if config.guidance != "single_pass":
        visible = visible_to_alignment(view, config, attention.shape[1], draws).to(images.device)
    return [draw_guidance(images, attention, patch_size), draw_hidden(images, visible, patch_size)]
