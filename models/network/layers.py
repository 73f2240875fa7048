"""The parts TG-DP is built of: patch embedding, fixed positions, and a pre-norm block with one norm set per stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sincos_positions(width: int, num_rows: int, num_columns: int) -> Tensor:
    """Fixed two-dimensional sine-cosine positions of a grid of patches (as in the masked autoencoder).

    The first half of the width encodes the column, the second half the row; each half is sines, then cosines, of
    position / 10000^(k / (width / 4)).

    Args:
        width: Width D of the tokens, a multiple of 4.
        num_rows: Patches from top to bottom.
        num_columns: Patches from left to right.

    Returns:
        float32 of shape (num_rows * num_columns, D), row by row.
    """
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(
        torch.arange(num_rows, dtype=torch.float64),
        torch.arange(num_columns, dtype=torch.float64),
        indexing="ij",
    )
    parts = []
    for position in (columns, rows):
        angles = position.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).float()


class PatchEmbedding(nn.Module):
    """Cut a picture into square patches and project each to the token width.

    Args:
        num_channels: Channels C of the picture.
        patch_size: Side P of a patch.
        width: Width D of a token.
    """

    def __init__(self, num_channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(num_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, picture: Tensor) -> Tensor:
        """Embed every patch.

        Args:
            picture: Shape (B, C, H, W); H and W are multiples of P.

        Returns:
            Tokens row by row, shape (B, H/P * W/P, D).
        """
        tokens: Tensor = self.projection(picture)  # (B, D, H/P, W/P)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with biased query, key and value.

    Args:
        width: Width D of the tokens.
        num_heads: Number of heads; divides the width.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """Attend from the first tokens to all of them.

        Args:
            x: Tokens, shape (B, L, D).
            num_queries: How many leading tokens ask (Q); None for all. The others only serve as keys and values,
                which gives the same numbers for the first Q at a fraction of the work.

        Returns:
            Shape (B, Q, D).
        """
        if num_queries is None:
            query, key, value = self.qkv(x).chunk(3, dim=2)
        else:
            width = x.shape[2]
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(x[:, :num_queries], weight[:width], bias[:width])
            key, value = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=2)
        mixed = attend(self._heads(query), self._heads(key), self._heads(value))
        output: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return output

    def weights(self, x: Tensor) -> Tensor:
        """How much every token looks at every other, averaged over the heads.

        Args:
            x: Tokens, shape (B, L, D).

        Returns:
            Softmax over keys, shape (B, L, L): entry [b, i, j] is what token i takes from token j.
        """
        query, key, _ = self.qkv(x).chunk(3, dim=2)
        query, key = self._heads(query), self._heads(key)
        logits = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        # On a CPU autocast leaves a softmax in bfloat16, where a fifth of the patches share their score with another.
        weights: Tensor = logits.softmax(dim=3, dtype=torch.float32)  # (B, heads, L, L)
        return weights.mean(dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query · keyᵀ / √d) · value.

    Where a CPU needs the gradient it is written out: the backward pass of the fused kernel takes a third of a training
    step at some dozen tokens, the plain products a tenth of that.

    Args:
        query: Shape (B, heads, Q, d).
        key: Shape (B, heads, L, d).
        value: Shape (B, heads, L, d).

    Returns:
        Shape (B, heads, Q, d).
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        weights = torch.softmax((query * query.shape[3] ** -0.5) @ key.transpose(2, 3), dim=3)
        return weights @ value
    return F.scaled_dot_product_attention(query, key, value)


class Block(nn.Module):
    """Pre-norm transformer block; its weights are shared by streams, its LayerNorms are not.

    Args:
        width: Width D of the tokens.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over D.
        streams: Names of the streams; each has its own pair of LayerNorms.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, streams: Sequence[str]) -> None:
        super().__init__()
        self.attention_norms = nn.ModuleDict({stream: nn.LayerNorm(width) for stream in streams})
        self.attention = Attention(width, num_heads)
        self.mlp_norms = nn.ModuleDict({stream: nn.LayerNorm(width) for stream in streams})
        hidden_width = round(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, width))

    def forward(self, x: Tensor, stream: str, num_queries: int | None = None) -> Tensor:
        """Mix the tokens of one stream.

        Args:
            x: Tokens, shape (B, L, D).
            stream: Whose norms to use.
            num_queries: Compute only the first Q tokens (see `Attention.forward`); None for all.

        Returns:
            Shape (B, Q, D).
        """
        mixed = self.attention(self.attention_norms[stream](x), num_queries)
        x = x[:, :num_queries] + mixed
        changed: Tensor = self.mlp(self.mlp_norms[stream](x))
        return x + changed

    def attention_weights(self, x: Tensor, stream: str) -> Tensor:
        """Attention of this block over its input, shape (B, L, L) (see `Attention.weights`).

        Args:
            x: Tokens, shape (B, L, D).
            stream: Whose norms to use.

        Returns:
            Softmax over keys, mean over heads.
        """
        return self.attention.weights(self.attention_norms[stream](x))
