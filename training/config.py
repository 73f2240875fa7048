"""What a training run is: its network, its objective, its schedule. A named run is a function that returns one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.geometry import TgdpConfig

Guidance = Literal["patch_to_cls", "cls_to_patch", "random"]


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
    """Segments in a step; each gives one random moment."""
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
    """How patches are ranked: the teacher's attention in one of two readings, or at random."""
    momentum: float = 0.996
    """Momentum of the teacher at the start; cosine to 1."""
    bf16: bool = False
    """Whether matrix products run in bfloat16."""
    compile: bool = False
    """Whether torch.compile fuses the passes: about half the processor time a step, needs a C++ compiler."""
    seed: int = 0
    """Seed of weights, data order, moments and masks."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def starter() -> PretrainConfig:
    """Return the small run that makes the bundle shipped with the project: a laptop's CPU, the synthetic corpus."""
    return PretrainConfig(
        name="starter",
        network=TgdpConfig.starter(),
        num_steps=1800,
        batch_size=96,
        learning_rate=1e-3,
        warmup_steps=60,
        weight_reconstruction=0.3,
        weight_distillation=0.02,
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


RUNS: dict[str, Callable[[], PretrainConfig]] = {"starter": starter, "base": base}
"""Every named run."""
