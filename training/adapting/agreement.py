"""Which moments of a file's sound belong to its picture: weights that fold into the stored rows.

    logits = MomentAgreement(width)(audio, video)      # (B, T)
    stored = fold_weights(audio, moment_weights(logits))

A row's norm gives its weight back, and search stays one dot product a moment.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.bundle.moments import FLOOR


class MomentAgreement(nn.Module):
    """Says of each moment whether its sound belongs to its picture; CASTE's gate with one token a moment.

    Args:
        width: Width D of the tracks.
        hidden: Hidden units.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(2 * width + 3, hidden)
        self.second = nn.Linear(hidden, 1)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Unit rows (B, T, D) of both modalities to logits (B, T)."""
        width = audio.shape[-1]
        cosine = (audio * video).sum(-1)
        around = F.avg_pool1d(F.pad(cosine[:, None], (1, 1), mode="replicate"), 3, stride=1)[:, 0]
        whole = cosine.mean(1, keepdim=True).expand_as(cosine)
        features = torch.cat(
            [
                audio * video * width,
                (audio - video).abs() * math.sqrt(width),
                torch.stack([cosine, around, whole], dim=-1),
            ],
            dim=-1,
        )
        logits: Tensor = self.second(F.relu(self.first(features)))[..., 0]
        return logits


def moment_weights(logits: Tensor, *, floor: float = FLOOR) -> Tensor:
    """Weights of the moments of each clip, mean 1, (B, T): T ω_t / Σ ω with ω = σ + floor."""
    weights = logits.sigmoid() + floor
    return weights * weights.shape[1] / weights.sum(1, keepdim=True)


def fold_weights(tracks: Tensor, weights: Tensor) -> Tensor:
    """Scale the unit rows of tracks (B, T, D) by their weights (B, T)."""
    return tracks * weights[..., None]


def unfold_weights(stored: Tensor) -> tuple[Tensor, Tensor]:
    """The unit rows and their weights again, (B, T, D) and (B, T)."""
    weights = stored.norm(dim=-1)
    return stored / weights[..., None].clamp(min=1e-12), weights


def draw_foreign(
    audio: Tensor, *, share: float = 0.8, lengths: tuple[int, int] = (3, 12), generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Put runs of another clip's sound into clips: the negatives that the gate learns from.

    Args:
        audio: Tracks of at least two clips, shape (B, T, D).
        share: Share of the clips that get a run.
        lengths: Shortest and longest run, in moments.
        generator: Draws clips, runs and their sources.

    Returns:
        The tracks, and which moments are the clip's own, bool, shape (B, T).
    """
    batch, length, _ = audio.shape
    least, most = (min(bound, length - 1) for bound in lengths)
    sizes = torch.randint(least, most + 1, (batch,), generator=generator)
    firsts = (torch.rand(batch, generator=generator) * (length - sizes + 1)).long()
    moments = torch.arange(length)
    is_foreign = (moments >= firsts[:, None]) & (moments < (firsts + sizes)[:, None])
    is_foreign &= torch.rand(batch, 1, generator=generator) < share
    sources = (torch.arange(batch) + torch.randint(1, batch, (batch,), generator=generator)) % batch
    return torch.where(is_foreign[..., None], audio[sources], audio), ~is_foreign
