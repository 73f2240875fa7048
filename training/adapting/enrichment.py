"""Tokens of one modality enriched by the other and by captions (CASTE and CASE of CAE-AV, Hu, Li & Zhang 2026).

Letters: B clips, T moments, L tokens of a moment, D width; CASE sees each moment alone, N = B·T. Both mix what is seen
with what is heard, so their output never becomes a stored track: sound that has seen its own picture is found by it
trivially. They serve probes of classes. Where the released code's choice does nothing, ours differs: docs/adapting.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OTHER = {"audio": "video", "video": "audio"}
SHARE = 0.3
"""Share of a moment's tokens that are enriched."""


class Gate(nn.Module):
    """How far spatial and temporal context count, from how well sound and picture agree in a moment.

    Args:
        width: Width of the enriched tokens.
        other_width: Width of the other modality's.
        projected: Width in which both are compared.
        hidden: Hidden units.
    """

    def __init__(self, width: int, other_width: int, projected: int = 128, hidden: int = 64) -> None:
        super().__init__()
        self.own = nn.Linear(width, projected)
        self.other = nn.Linear(other_width, projected)
        self.first = nn.Linear(4 * projected, hidden)
        self.second = nn.Linear(hidden, 2)

    def forward(self, tokens: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, L, D) and (B, T, L', D') to weights (B, T, 2), spatial first, and cosines (B, T)."""
        own, other = self.own(tokens.mean(2)), self.other(others.mean(2))
        agreement = F.cosine_similarity(own, other, dim=-1)
        hidden = F.relu(self.first(torch.cat([own, other, own - other, own * other], dim=-1)))
        logits = self.second(hidden) + torch.stack([agreement, -agreement], dim=-1)
        return logits.softmax(-1), agreement


class SeparableAttention(nn.Module):
    """Attention of linear cost: every token of a moment gets the same context, o(v(x) ⊙ Σ_l softmax_l(i(x)) k(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)
        self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, L, D) to (…, L, D)."""
        context = (self.score(tokens).softmax(-2) * self.key(tokens)).sum(-2, keepdim=True)
        mixed: Tensor = self.out(self.value(tokens) * context)
        return mixed


class TemporalConvolution(nn.Module):
    """A depthwise convolution over 3 moments, then a mix of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv1d(width, width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, L, D) to (B, T, L, D): each token with those at its place in the moments before and after."""
        batch, length, places, width = tokens.shape
        rows = tokens.permute(0, 2, 3, 1).reshape(batch * places, width, length)
        mixed: Tensor = self.pointwise(self.depthwise(rows))
        return mixed.reshape(batch, places, width, length).permute(0, 3, 1, 2)


def loudest(scores: Tensor, share: float = SHARE) -> Tensor:
    """1 for the ⌊share · L⌋ highest scores (at least one) of the last dimension, 0 for the others."""
    count = max(1, int(share * scores.shape[-1]))
    return torch.zeros_like(scores).scatter(-1, scores.topk(count, dim=-1).indices, 1.0)


class Caste(nn.Module):
    """Enriches the loudest tokens with context of their moment and of those around, as far as both streams agree.

    x + γ · mask · [w_s LN(S(x)) + w_t LN(T(x))]

    Args:
        width: Width D of the tokens.
        other_width: Width of the other modality's.
        projected: Width in which the gate compares them.
        hidden: Hidden units of the gate.
    """

    def __init__(self, width: int, other_width: int, projected: int = 128, hidden: int = 64) -> None:
        super().__init__()
        self.gate = Gate(width, other_width, projected, hidden)
        self.spatial = SeparableAttention(width)
        self.temporal = TemporalConvolution(width)
        self.norm_spatial = nn.LayerNorm(width)
        self.norm_temporal = nn.LayerNorm(width)
        self.gamma = nn.Parameter(torch.zeros(1))

    def residual(self, tokens: Tensor, others: Tensor) -> Tensor:
        """What is added to the tokens, (B, T, L, D)."""
        weights, _ = self.gate(tokens, others)
        mask = loudest(tokens.square().sum(-1))
        spatial = weights[..., 0, None, None] * self.norm_spatial(self.spatial(tokens))
        temporal = weights[..., 1, None, None] * self.norm_temporal(self.temporal(tokens))
        added: Tensor = self.gamma * mask[..., None] * (spatial + temporal)
        return added

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        """Tokens (B, T, L, D) and those of the other modality (B, T, L', D') to (B, T, L, D)."""
        return tokens + self.residual(tokens, others)


class Attention(nn.Module):
    """Attention with its residual and norm: LN(x + o(softmax(q kᵀ) v))."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.num_heads, self.dropout = num_heads, dropout

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Tokens (N, L, D) that ask a memory (N, M, D), to (N, L, D)."""
        query, key, value = (
            rows.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for rows in (self.query(tokens), self.key(memory), self.value(memory))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        joined: Tensor = self.norm(tokens + self.out(mixed.transpose(1, 2).flatten(-2)))
        return joined


class Feed(nn.Module):
    """Two layers with their residual and norm."""

    def __init__(self, width: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, D) to (N, L, D)."""
        hidden = F.dropout(F.relu(self.first(tokens)), self.dropout, self.training)
        fed: Tensor = self.norm(tokens + self.second(hidden))
        return fed


class Case(nn.Module):
    """Enriches tokens of both modalities by captions and by each other, and chooses which of them to change.

    Args:
        widths: Width of the tokens of each modality; its captions have the same.
        num_heads: Heads of each attention.
        projected: Width of the projections that losses compare.
        num_moments: Moments T of a clip: rows n·T … n·T + T − 1 belong together.
        dropout: Of attention and of the hidden layers.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        num_heads: int = 8,
        projected: int = 512,
        num_moments: int = 16,
        dropout: tuple[float, float] = (0.1, 0.2),
    ) -> None:
        super().__init__()
        self.num_moments = num_moments
        attention, hidden = dropout

        def each(make: type[nn.Module], *args: float) -> nn.ModuleDict:
            return nn.ModuleDict({name: make(width, *args) for name, width in widths.items()})

        self.own, self.own_caption = (each(Attention, num_heads, attention) for _ in range(2))
        self.ask_caption, self.ask_other = (each(Attention, num_heads, attention) for _ in range(2))
        self.from_other = nn.ModuleDict(
            {name: nn.Linear(widths[OTHER[name]], width) for name, width in widths.items()}
        )
        self.feed, self.feed_caption = each(Feed, hidden), each(Feed, hidden)
        self.temporal = each(TemporalConvolution)
        self.norm_temporal, self.norm = each(nn.LayerNorm), each(nn.LayerNorm)
        self.project, self.project_caption = (
            nn.ModuleDict(
                {
                    name: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, projected))
                    for name, width in widths.items()
                }
            )
            for _ in range(2)
        )
        self.choice_temperature = nn.Parameter(torch.ones(1))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        captions: Mapping[str, Tensor],
        noise: Mapping[str, Tensor] | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """Enrich tokens.

        Args:
            tokens: By modality, shape (N, L, D).
            captions: Tokens of the caption, by modality, shape (N, M, D).
            noise: Gumbel noise for the choice, by modality, shape (N, L); None for none, as in evaluation.

        Returns:
            By modality: `tokens` (N, L, D), `projected` and `caption` (N, P), `agreement` (N,), `probabilities` (N, L).
        """
        own = {name: self.own[name](rows, rows) for name, rows in tokens.items()}
        caption = {name: self.own_caption[name](rows, rows) for name, rows in captions.items()}
        asked = {name: self.ask_caption[name](rows, caption[name]) for name, rows in own.items()}
        return {
            name: self._enrich(
                name,
                tokens[name],
                self.ask_other[name](rows, self.from_other[name](asked[OTHER[name]])),
                self.feed_caption[name](caption[name]).mean(1),
                None if noise is None else noise[name],
            )
            for name, rows in asked.items()
        }

    def _enrich(
        self, name: str, tokens: Tensor, asked: Tensor, caption: Tensor, noise: Tensor | None
    ) -> dict[str, Tensor]:
        fed = self.feed[name](asked).unflatten(0, (-1, self.num_moments))
        context: Tensor = self.norm_temporal[name](self.temporal[name](fed).flatten(0, 1))
        agreement = F.cosine_similarity(context.mean(1), caption, dim=-1).sigmoid().detach()
        scores = context.square().sum(-1)
        probabilities = ((scores if noise is None else scores + noise) / self.choice_temperature).softmax(-1)
        chosen = loudest(probabilities.detach())
        if noise is not None:  # the choice has a gradient: the chosen ones' shares, k in all
            shares = chosen * probabilities
            chosen = shares * chosen.sum(-1, keepdim=True) / shares.sum(-1, keepdim=True)
        enriched = self.norm[name](
            tokens + self.gamma * agreement[:, None, None] * chosen[..., None] * context
        )
        return {
            "tokens": enriched,
            "projected": self.project[name](enriched.mean(1)),
            "caption": self.project_caption[name](caption),
            "agreement": agreement,
            "probabilities": probabilities,
        }


def caption_loss(vectors: Tensor, captions: Tensor, is_same: Tensor, *, temperature: float = 0.2) -> Tensor:
    """InfoNCE of clips and their captions, both ways; equal captions share the target and are no negatives.

    Args:
        vectors: Shape (B, P), any norm.
        captions: Shape (B, P), one row a clip.
        is_same: Which captions are equal, bool, shape (B, B).
        temperature: Divides the cosines.

    Returns:
        Scalar.
    """
    logits = F.normalize(vectors, dim=1) @ F.normalize(captions, dim=1).T / temperature
    targets = is_same / is_same.sum(1, keepdim=True)
    forth, back = logits.log_softmax(1), logits.T.log_softmax(1)
    return -((targets * forth).sum(1).mean() + (targets.T * back).sum(1).mean()) / 2


def consistency_loss(audio: Tensor, video: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of 1 − cos of sound and picture of the same moments, shape (…, P) each, weights (…)."""
    distance = 1 - F.cosine_similarity(audio, video, dim=-1)
    return distance.mean() if weights is None else (weights * distance).sum() / weights.sum()


def choice_entropy(probabilities: Tensor) -> Tensor:
    """Mean of −Σ p ln p over rows, shape (N, L): low where the choice is sure."""
    entropy: Tensor = torch.special.entr(probabilities).sum(-1)
    return entropy.mean()
