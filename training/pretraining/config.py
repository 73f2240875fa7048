"""The configuration of a training run: network, objective, schedule. A named run is a function that returns one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from models.network.geometry import TgdpConfig
from training.data.augment import Augmentation

ABLATION_STEPS = 300
"""Few enough for three seeds of each variant on a laptop."""

Guidance = Literal["patch_to_cls", "cls_to_patch", "sampled", "random", "single_pass"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    name: str
    """Name of the run."""
    network: TgdpConfig
    """Geometry of the network."""
    num_steps: int
    """Optimiser steps."""
    batch_size: int
    """Segments that see each other as negatives, over all processes; each gives one random moment."""
    num_accumulated: int = 1
    """Batches whose gradients are added up to one step; negatives come from one's own batch."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up; cosine to 0 afterwards."""
    warmup_steps: int
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay of the first and second moment."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    weight_reconstruction: float = 1.0
    """λ1 of the paper."""
    weight_distillation: float = 0.1
    """λ2 of the paper."""
    weight_contrastive: float = 1.0
    """λ3 of the paper."""
    temperature: float = 0.05
    """Divides the cosines of the contrastive loss."""
    hidden_share_reconstruction: float = 0.75
    """Share of the patches hidden from the reconstruction pass, at random."""
    hidden_share_alignment: float = 0.5
    """Share of the patches hidden from the alignment pass, those the teacher ranks lowest."""
    guidance: Guidance = "patch_to_cls"
    """Who chooses the visible patches of the alignment pass.

    patch_to_cls  the teacher's attention from every patch to CLS, the highest half
    cls_to_patch  the other reading: from CLS to every patch
    sampled       drawn without replacement, likelier with more patch_to_cls attention
    random        at random, a pass of its own
    single_pass   the reconstruction pass serves both (CAV-MAE Sync): the baseline
    """
    guidance_temperature: float = 1.0
    """Of `sampled`, over standardised attention."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of a batch; none by default."""
    momentum: float = 0.996
    """Momentum of the teacher at the start; cosine to 1."""
    bf16: bool = False
    """Whether matrix products run in bfloat16."""
    compile: bool = False
    """Whether torch.compile fuses the passes: about half the processor time a step, needs a C++ compiler."""
    seed: int = 0
    """Seed of weights, data order, moments and masks."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.num_steps, self.batch_size, self.num_accumulated) < 1:
            raise ValueError(
                "num_steps, batch_size and num_accumulated must be at least 1, got "
                f"{self.num_steps}, {self.batch_size} and {self.num_accumulated}"
            )
        if not (0 < self.hidden_share_reconstruction < 1 and 0 <= self.hidden_share_alignment < 1):
            raise ValueError(
                "hidden_share_reconstruction must be in (0, 1) and hidden_share_alignment in [0, 1), got "
                f"{self.hidden_share_reconstruction} and {self.hidden_share_alignment}"
            )
        if not 0 <= self.momentum <= 1 or min(self.temperature, self.guidance_temperature) <= 0:
            raise ValueError(
                "momentum must be in [0, 1] and temperature and guidance_temperature above 0, got "
                f"{self.momentum}, {self.temperature} and {self.guidance_temperature}"
            )

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the losses by name."""
        return {
            "reconstruction": self.weight_reconstruction,
            "distillation": self.weight_distillation,
            "contrastive": self.weight_contrastive,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def starter() -> PretrainConfig:
    """Return the small run that makes the bundle shipped with the project: a laptop's CPU, the synthetic corpus.

    Left and right mean nothing in that corpus, so pictures are mirrored.
    """
    return PretrainConfig(
        name="starter",
        network=TgdpConfig.starter(),
        num_steps=3000,
        batch_size=96,
        learning_rate=1e-3,
        warmup_steps=100,
        weight_reconstruction=0.3,
        weight_distillation=0.02,
        augmentation=Augmentation(mirror_share=0.5),
        bf16=True,
    )


def base() -> PretrainConfig:
    """Return the published size with the weights and schedule of its ancestors; needs a GPU."""
    return PretrainConfig(
        name="base",
        network=TgdpConfig.published(),
        num_steps=100_000,
        batch_size=64,
        learning_rate=1e-4,
        warmup_steps=4_000,
        betas=(0.95, 0.999),
        weight_contrastive=0.01,
        bf16=True,
    )


def ablation() -> PretrainConfig:
    """Return the base of every ablation run: a smaller network and budget, with the whole method."""
    return replace(
        starter(),
        name="ablation",
        network=replace(
            TgdpConfig.starter(),
            width=96,
            num_heads=3,
            depth=2,
            decoder_width=64,
            decoder_heads=2,
            decoder_depth=1,
        ),
        num_steps=ABLATION_STEPS,
        batch_size=64,
        warmup_steps=40,
    )


def ablation_undistilled() -> PretrainConfig:
    """Return the ablation with guidance and without distillation."""
    return replace(ablation(), name="ablation_undistilled", weight_distillation=0.0)


def ablation_cls_to_patch() -> PretrainConfig:
    """Return the ablation with the other reading of the attention."""
    return replace(ablation(), name="ablation_cls_to_patch", guidance="cls_to_patch")


def ablation_sampled() -> PretrainConfig:
    """Return the ablation with guidance as a draw."""
    return replace(ablation(), name="ablation_sampled", guidance="sampled")


def ablation_random() -> PretrainConfig:
    """Return the ablation with two passes and distillation, without guidance."""
    return replace(ablation(), name="ablation_random", guidance="random")


def ablation_random_undistilled() -> PretrainConfig:
    """Return the ablation with two passes and no teacher at all."""
    return replace(ablation_random(), name="ablation_random_undistilled", weight_distillation=0.0)


def ablation_single_pass() -> PretrainConfig:
    """Return the baseline: one pass for both losses, no teacher (CAV-MAE Sync); the contrastive loss stays ours."""
    return replace(ablation(), name="ablation_single_pass", guidance="single_pass", weight_distillation=0.0)


ABLATIONS: tuple[Callable[[], PretrainConfig], ...] = (
    ablation_single_pass,
    ablation_random_undistilled,
    ablation_random,
    ablation_undistilled,
    ablation,
    ablation_cls_to_patch,
    ablation_sampled,
)
"""Runs that differ in one idea each."""

RUNS: dict[str, Callable[[], PretrainConfig]] = {make.__name__: make for make in (starter, base, *ABLATIONS)}
"""Every named run."""
