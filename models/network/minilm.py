"""The sentence encoder all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0): BERT, the mean of its tokens, unit length.

Names of tensors are those of its model.safetensors, so its state is loaded as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_TOKENS = 256
EPSILON = 1e-12


class Minilm(nn.Module):
    """Words to unit vectors.

    Args:
        tensors: Of model.safetensors; they say width, layers and vocabulary.
        num_heads: Heads of attention.
    """

    def __init__(self, tensors: Mapping[str, Tensor], num_heads: int = 12) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_layers = sum(name.endswith("attention.self.query.weight") for name in tensors)
        self.width = tensors["embeddings.word_embeddings.weight"].shape[1]
        for name, tensor in tensors.items():
            if name.startswith(("embeddings.", "encoder.")) and tensor.is_floating_point():
                self.register_buffer(name.replace(".", "/"), tensor.float())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            input_ids: int64, shape (B, L).
            attention_mask: int64, shape (B, L).

        Returns:
            Unit vectors, float32, shape (B, D).
        """
        table = self._get("embeddings.word_embeddings.weight")
        places = self._get("embeddings.position_embeddings.weight")[: input_ids.shape[1]]
        kind = self._get("embeddings.token_type_embeddings.weight")[0]
        hidden = self._norm(table[input_ids] + places + kind, "embeddings.LayerNorm")
        hides = (1.0 - attention_mask[:, None, None, :].float()) * -1e9  # (B, 1, 1, L)
        for number in range(self.num_layers):
            hidden = self._layer(hidden, hides, f"encoder.layer.{number}")
        is_there = attention_mask.unsqueeze(2).float()
        mean = (hidden * is_there).sum(dim=1) / is_there.sum(dim=1)
        return F.normalize(mean, dim=1)

    def _get(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "/"))

    def _linear(self, values: Tensor, name: str) -> Tensor:
        return F.linear(values, self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _norm(self, values: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            values, (self.width,), self._get(f"{name}.weight"), self._get(f"{name}.bias"), EPSILON
        )

    def _layer(self, hidden: Tensor, hides: Tensor, name: str) -> Tensor:
        batch, length, width = hidden.shape
        query, key, value = (
            self._linear(hidden, f"{name}.attention.self.{part}")
            .reshape(batch, length, self.num_heads, width // self.num_heads)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )  # (B, heads, L, D / heads)
        scores = query @ key.transpose(2, 3) / (width // self.num_heads) ** 0.5 + hides
        mixed = (torch.softmax(scores, dim=3) @ value).transpose(1, 2).reshape(batch, length, width)
        found = self._linear(mixed, f"{name}.attention.output.dense")
        hidden = self._norm(hidden + found, f"{name}.attention.output.LayerNorm")
        wide = F.gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._norm(hidden + self._linear(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")
