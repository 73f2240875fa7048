"""Attention with rotary places, as inference engines run it fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def can_rotate(attention: Any) -> bool:
    """Say whether `RotaryAttention` gives what this attention of timm gives."""
    return attention.qkv is not None and attention.gate is None and not attention.rotate_half


class RotaryAttention(nn.Module):
    """The attention of the picture tower with its rotation as a product of matrices.

    The sums are those of timm's class; there each pair of numbers is cut out and put back in, which on a processor
    takes as long as half of all large products (`python -m benchmarks.pe_av_speed`).

    Args:
        attention: timm's `AttentionRope` with one projection for query, key and value.
    """

    turn: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention
        even = torch.arange(0, attention.head_dim, 2)
        turn = torch.zeros(attention.head_dim, attention.head_dim)
        turn[even + 1, even], turn[even, even + 1] = -1.0, 1.0
        self.register_buffer("turn", turn, persistent=False)

    def forward(
        self, tokens: Tensor, *, rope: Tensor, attn_mask: None = None, is_causal: bool = False
    ) -> Tensor:
        """Attend to all tokens of a frame.

        Args:
            tokens: float32, shape (B, N, C).
            rope: Sines, then cosines of the N - P patches that follow P tokens without a place, shape (N - P, 2 · D).
            attn_mask: Not used by this tower.
            is_causal: Not used by this tower.

        Returns:
            float32, shape (B, N, C).
        """
        own = self.attention
        parts = own.qkv(tokens).unflatten(2, (3, own.num_heads, own.head_dim))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D)
        query, key = own.q_norm(query), own.k_norm(key)
        still = (0, 0, own.num_prefix_tokens, 0)
        sine, cosine = rope.chunk(2, dim=-1)
        sine, cosine = F.pad(sine, still), F.pad(cosine, still, value=1.0)
        query, key = (part * cosine + (part @ self.turn) * sine for part in (query, key))
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        attended: Tensor = own.proj(own.norm(seen))
        return attended
