"""One step of the student: two passes, each with its own view, and the losses of both.

    teacher sees everything             → a target embedding, and which patches tell most
    alignment: half of the patches      → embeddings; contrastive loss, distillation loss
    reconstruction: a random quarter    → the hidden patches; reconstruction loss

With `single_pass` one random quarter serves both, as in CAV-MAE Sync (https://arxiv.org/abs/2505.01237): the baseline.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.network.geometry import MODALITIES, Modality
from models.network.tgdp import FullView, Tgdp, take_tokens
from training.data.draws import Draws
from training.pretraining.config import Guidance, PretrainConfig
from training.pretraining.losses import (
    contrastive_loss,
    cut_patches,
    distillation_loss,
    normalise_patches,
    reconstruction_loss,
)
from training.pretraining.masking import (
    count_visible,
    guided_visible,
    hidden_mask,
    random_visible,
    sampled_visible,
)
from training.pretraining.teacher import Teacher

Pictures = dict[Modality, Tensor]
BY_THEMSELVES: tuple[Guidance, ...] = ("random", "single_pass")
"""Guidance that does not ask the teacher."""


def keep_rows(rows: Tensor) -> Tensor:
    """Gather nothing: the rows of this process are all rows."""
    return rows


def visible_to_alignment(
    view: FullView | None, config: PretrainConfig, num_patches: int, draws: Draws
) -> Tensor:
    """Choose the patches of the alignment pass of one modality.

    Args:
        view: What the teacher saw; None where guidance is random.
        config: Says who chooses and how many are hidden.
        num_patches: Number of patches L.
        draws: Source of the random choice.

    Returns:
        Positions, int64, shape (B, K).
    """
    num_visible = count_visible(num_patches, config.hidden_share_alignment)
    if view is None or config.guidance == "random":
        return random_visible(draws.uniform(num_patches), num_visible)
    if config.guidance == "sampled":
        noise = draws.uniform(num_patches).to(view.patch_to_cls.device)
        return sampled_visible(view.patch_to_cls, noise, num_visible, temperature=config.guidance_temperature)
    attention = view.patch_to_cls if config.guidance == "patch_to_cls" else view.cls_to_patch
    return guided_visible(attention, num_visible)


def loss_of_hidden(predicted: Tensor, pictures: Tensor, visible: Tensor, patch_size: int) -> Tensor:
    """Return the reconstruction loss on the hidden patches; every patch is normalised by itself.

    Args:
        predicted: Predicted values of every patch, shape (B, L, V).
        pictures: What they were cut from, shape (B, C, H, W).
        visible: Positions that were visible, int64, shape (B, K).
        patch_size: Side of a patch.

    Returns:
        Scalar.
    """
    target = normalise_patches(cut_patches(pictures, patch_size))
    return reconstruction_loss(predicted.float(), target, hidden_mask(visible, target.shape[1]))


class Objective(nn.Module):
    """The losses of one micro-batch; a module so that data parallel training can wrap it.

    Args:
        student: The network in training.
        teacher: Its average; not one of this module's parts, so it gets no gradient and is not synchronised.
        config: Hidden shares, guidance, temperature.
        gather: Joins embeddings of all processes, with gradient.
    """

    def __init__(
        self,
        student: Tgdp,
        teacher: Teacher,
        config: PretrainConfig,
        *,
        gather: Callable[[Tensor], Tensor] = keep_rows,
    ) -> None:
        super().__init__()
        self.student = student
        self.config = config
        self._teacher = [teacher]
        self._gather = gather
        self._loss_of_hidden = (
            torch.compile(loss_of_hidden, dynamic=False) if config.compile else loss_of_hidden
        )

    def forward(self, pictures: Pictures, draws: Draws) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            pictures: Audio (B, 1, M, W) and video (B, 3, H, W) of the same moments.
            draws: Source of the masks.

        Returns:
            The three losses and their weighted sum `loss` by name, scalars with gradient.
        """
        views = self._teacher[0].view(pictures) if self.asks_the_teacher else {}
        tokens = {m: self.student.embed_patches(pictures[m], m) for m in MODALITIES}
        if self.config.guidance == "single_pass":
            embeddings, reconstruction = self._see_once(tokens, pictures, draws)
        else:
            embeddings = self._align(tokens, views, draws)
            reconstruction = self._reconstruct(tokens, pictures, draws)
        losses = {
            "reconstruction": reconstruction,
            "distillation": self._distil(embeddings, views),
            "contrastive": self._contrast(embeddings),
        }
        weights = self.config.loss_weights
        return losses | {"loss": torch.stack([weights[name] * value for name, value in losses.items()]).sum()}

    @property
    def asks_the_teacher(self) -> bool:
        """Whether a step needs the teacher's view at all."""
        return self.config.weight_distillation > 0 or self.config.guidance not in BY_THEMSELVES

    def _align(
        self, tokens: Pictures, views: dict[Modality, FullView], draws: Draws
    ) -> dict[Modality, Tensor]:
        """Alignment pass: each modality alone, the half of the patches that the teacher ranks highest."""
        embeddings: dict[Modality, Tensor] = {}
        for m in MODALITIES:
            visible = visible_to_alignment(views.get(m), self.config, tokens[m].shape[1], draws)
            visible = visible.to(tokens[m].device)
            embeddings[m] = self.student.embed(take_tokens(tokens[m], visible), m).float()
        return embeddings

    def _reconstruct(self, tokens: Pictures, pictures: Pictures, draws: Draws) -> Tensor:
        """Reconstruction: both modalities together, a random quarter of each."""
        visible = self._visible_to_reconstruction(tokens, draws)
        predictions = self.student.reconstruct(
            tokens["audio"], tokens["video"], visible["audio"], visible["video"]
        )
        return self._reconstruction_loss(predictions, pictures, visible)

    def _see_once(
        self, tokens: Pictures, pictures: Pictures, draws: Draws
    ) -> tuple[dict[Modality, Tensor], Tensor]:
        """Single pass: one random quarter for both purposes."""
        visible = self._visible_to_reconstruction(tokens, draws)
        (audio, video), predictions = self.student.see_once(
            tokens["audio"], tokens["video"], visible["audio"], visible["video"]
        )
        loss = self._reconstruction_loss(predictions, pictures, visible)
        return {"audio": audio.float(), "video": video.float()}, loss

    def _visible_to_reconstruction(self, tokens: Pictures, draws: Draws) -> Pictures:
        share = self.config.hidden_share_reconstruction
        visible: Pictures = {}
        for m in MODALITIES:
            num_patches = tokens[m].shape[1]
            noise = draws.uniform(num_patches).to(tokens[m].device)
            visible[m] = random_visible(noise, count_visible(num_patches, share))
        return visible

    def _reconstruction_loss(
        self, predictions: tuple[Tensor, Tensor], pictures: Pictures, visible: Pictures
    ) -> Tensor:
        geometry = self.student.config
        losses = []
        for m, predicted in zip(MODALITIES, predictions, strict=True):
            patch_size = geometry.audio_patch if m == "audio" else geometry.video_patch
            losses.append(self._loss_of_hidden(predicted, pictures[m], visible[m], patch_size))
        return torch.stack(losses).sum()

    def _contrast(self, embeddings: dict[Modality, Tensor]) -> Tensor:
        audio, video = (self._gather(embeddings[m]) for m in MODALITIES)
        # In bfloat16 cosines near 1 are 0.004 apart: 0.08 of a logit at temperature 0.05.
        with torch.autocast(audio.device.type, enabled=False):
            return contrastive_loss(audio, video, temperature=self.config.temperature)

    def _distil(self, embeddings: dict[Modality, Tensor], views: dict[Modality, FullView]) -> Tensor:
        if self.config.weight_distillation == 0:
            return embeddings["audio"].new_zeros(())
        distances = [distillation_loss(embeddings[m], views[m].embedding.float()) for m in MODALITIES]
        return torch.stack(distances).sum()
