"""The published probe head, and how it learns from frozen embeddings.

    tokens = [class token, 16 audio embeddings, 16 video embeddings]           (B, 33, D)
    scores = linear(norm(two transformer blocks(tokens))[class token])         (B, C)

Binary cross-entropy where several classes may be true of a clip, cross-entropy where one is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.network.layers import Block
from training.evaluation.accuracy import Truth
from training.evaluation.embedder import Tracks

Classes = Literal["one", "many"]
Heard = Literal["both", "audio", "video"]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How the head learns."""

    modality: Heard = "both"
    """Which embeddings it sees."""
    num_epochs: int = 40
    """Times it sees every training clip."""
    batch_size: int = 64
    """Clips in a step."""
    learning_rate: float = 1e-3
    """Highest learning rate of AdamW, after a tenth of the steps; cosine to 0 afterwards."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""
    num_layers: int = 2
    """Transformer blocks."""
    seed: int = 0
    """Of weights and order."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if min(self.num_epochs, self.batch_size, self.num_layers) < 1 or self.learning_rate <= 0:
            raise ValueError(
                f"epochs, batch size and layers must be at least 1 and the learning rate above 0, got {self}"
            )


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Clips with tracks and classes.

    Attributes:
        tokens: The embeddings of the moments, norm √D, float32, shape (N, L, D).
        is_true: Which classes are true of which clip, shape (N, C).
    """

    tokens: Tracks
    is_true: Truth


class ProbeHead(nn.Module):
    """The published probe head.

    Args:
        width: Width D of the embeddings.
        num_classes: Number of classes C.
        num_heads: Attention heads; divides the width.
        num_layers: Transformer blocks.
    """

    def __init__(self, width: int, num_classes: int, *, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, num_heads, 4.0, ["probe"]) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the classes.

        Args:
            tokens: Embeddings of the moments, shape (B, L, D).

        Returns:
            Logits, shape (B, C).
        """
        x = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)  # (B, 1 + L, D)
        for block in self.blocks:
            x = block(x, "probe")
        scores: Tensor = self.linear(self.norm(x[:, 0]))
        return scores


def train_head(
    training: Labelled,
    config: ProbeConfig,
    *,
    classes: Classes,
    num_heads: int,
    on_epoch: Callable[[int, float], None] | None = None,
) -> ProbeHead:
    """Train the head on frozen embeddings; the same seed gives the same head on a CPU.

    Args:
        training: Clips.
        config: How it learns.
        classes: Whether one class is true of a clip, or several may be.
        num_heads: Attention heads of the head.
        on_epoch: Called after every epoch with its number and mean loss.

    Returns:
        The trained head, on the GPU where there is one.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width, num_classes = training.tokens.shape[2], training.is_true.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = ProbeHead(width, num_classes, num_heads=num_heads, num_layers=config.num_layers)
    head = head.to(device).train()
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    num_clips = len(training.tokens)
    num_steps = config.num_epochs * -(-num_clips // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=num_steps, pct_start=0.1, cycle_momentum=False
    )
    tokens, truth = torch.from_numpy(training.tokens), torch.from_numpy(training.is_true)
    draw = torch.Generator().manual_seed(config.seed)
    for epoch in range(config.num_epochs):
        total = 0.0
        order = torch.randperm(num_clips, generator=draw)
        for first in range(0, num_clips, config.batch_size):
            rows = order[first : first + config.batch_size]
            loss = classification_loss(head(tokens[rows].to(device)), truth[rows].to(device), classes)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        if on_epoch:
            on_epoch(epoch + 1, total / num_clips)
    return head.eval()


def classification_loss(scores: Tensor, is_true: Tensor, classes: Classes) -> Tensor:
    """Cross-entropy if a clip has one class, otherwise the mean of C binary cross-entropies.

    Args:
        scores: Logits, shape (B, C).
        is_true: Shape (B, C).
        classes: Which of the two.

    Returns:
        Scalar.
    """
    if classes == "one":
        return F.cross_entropy(scores, is_true.float().argmax(dim=1))
    return F.binary_cross_entropy_with_logits(scores, is_true.float())


@torch.no_grad()
def score_clips(head: ProbeHead, tokens: Tracks, *, batch_size: int = 256) -> NDArray[np.float32]:
    """Score clips with a trained head.

    Args:
        head: In evaluation mode.
        tokens: Shape (N, L, D).
        batch_size: Clips at a time.

    Returns:
        Logits, float32, shape (N, C).
    """
    device = head.class_token.device
    parts = [
        head(torch.from_numpy(tokens[first : first + batch_size]).to(device)).float().cpu().numpy()
        for first in range(0, len(tokens), batch_size)
    ]
    return np.concatenate(parts)
