"""The released forward pass, written plainly on the published names: what imported networks are held to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

LETTERS = {"audio": "a", "video": "v"}
HEADS = {"audio": "constrative_head_audio", "video": "constrative_head_visual"}


def run_block(w: Mapping[str, Tensor], name: str, x: Tensor, *, heads: int, suffix: str = "") -> Tensor:
    """One pre-norm block over tokens (B, L, D)."""

    def norm(which: str, values: Tensor) -> Tensor:
        part = f"{name}.norm{which}{suffix}"
        return F.layer_norm(values, values.shape[-1:], w[f"{part}.weight"], w[f"{part}.bias"])

    def linear(part: str, values: Tensor) -> Tensor:
        return values @ w[f"{name}.{part}.weight"].T + w[f"{name}.{part}.bias"]

    batch, length, width = x.shape
    query, key, value = linear("attn.qkv", norm("1", x)).split(width, dim=2)
    outputs = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / (width // heads) ** 0.5
        outputs.append(scores.softmax(dim=2) @ value[..., part])
    x = x + linear("attn.proj", torch.cat(outputs, dim=2))
    assert x.shape == (batch, length, width)
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("2", x))))


def embed(
    w: Mapping[str, Tensor], pictures: Tensor, modality: str, *, heads: int, with_heads: bool = True
) -> Tensor:
    """Pictures (B, C, H, W) to embeddings: CLS where there is one, else the mean of the patches."""
    letter = LETTERS[modality]
    kernel = w[f"patch_embed_{letter}.proj.weight"]
    x = F.conv2d(pictures, kernel, w[f"patch_embed_{letter}.proj.bias"], stride=kernel.shape[-1])
    x = x.flatten(2).transpose(1, 2) + w[f"pos_embed_{letter}"] + w[f"modality_{letter}"]
    has_cls = f"cls_token_{letter}" in w
    if has_cls:
        x = torch.cat([w[f"cls_token_{letter}"].expand(len(x), -1, -1), x], dim=1)
    num_tokens = x.shape[1]
    if "register_tokens" in w:
        half = len(w["register_tokens"]) // 2
        own = w["register_tokens"][:half] if modality == "audio" else w["register_tokens"][half:]
        x = torch.cat([x, own.expand(len(x), -1, -1)], dim=1)
    number = 0
    while f"blocks_{letter}.{number}.attn.qkv.weight" in w:
        x = run_block(w, f"blocks_{letter}.{number}", x, heads=heads)
        number += 1
    x = run_block(w, "blocks_u.0", x[:, :num_tokens], heads=heads, suffix=f"_{letter}")
    number = 0
    while with_heads and f"{HEADS[modality]}.{number}.attn.qkv.weight" in w:
        x = run_block(w, f"{HEADS[modality]}.{number}", x, heads=heads)
        number += 1
    x = F.layer_norm(x, x.shape[-1:], w[f"norm_{letter}.weight"], w[f"norm_{letter}.bias"])
    return x[:, 0] if has_cls else x.mean(dim=1)


def random_blocks(prefix: str, like: Mapping[str, Tensor], number: int, *, seed: int) -> dict[str, Tensor]:
    """Random tensors of one more block, shaped like `blocks_a.0`, under another name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{prefix}.{number}.{name.removeprefix('blocks_a.0.')}": torch.randn(t.shape, generator=generator)
        * 0.1
        for name, t in like.items()
        if name.startswith("blocks_a.0.")
    }
