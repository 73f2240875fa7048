"""Our names beside those of released code: CAV-MAE, CAV-MAE Sync and TG-DP share one set, a plain MAE ViT has another.

Each table goes from our name to theirs, since one tensor of theirs may fill several of ours: the registers of both
modalities are one tensor, and one block of a plain ViT fills both streams.

    published_names(counts)["streams.audio.3.attention.qkv.weight"]   # "blocks_a.3.attn.qkv.weight"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from models.network.geometry import MODALITIES

_LETTERS = {"audio": "a", "video": "v"}
_HEADS = {"audio": "constrative_head_audio", "video": "constrative_head_visual"}  # the released spelling
_KINDS = ("weight", "bias")

DECODER = re.compile(r"decoder_.+|mask_token")
"""Names of the reconstruction path's decoder, theirs and ours."""
CONTRASTIVE_HEADS = re.compile(r"constrative_head_(audio|visual)\..+")
CLS_AND_REGISTERS = frozenset({"cls_token_a", "cls_token_v", "register_tokens"})
"""What TG-DP and CAV-MAE Sync have and CAV-MAE has not."""
UNUSED_NORMS = re.compile(
    r"(blocks_[av]|decoder_blocks|constrative_head_(audio|visual))\.\d+\.norm[12]_[av]\.(weight|bias)"
)
"""Every released block carries three sets of LayerNorms; only the joint block uses more than the plain one."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many of each part a set of names has.

    Attributes:
        depth: Blocks of each modality before the joint block.
        head_depth: Blocks of each modality after it.
        decoder_depth: Blocks of the decoder; None for no decoder at all.
        has_cls: Whether there are CLS tokens.
        has_registers: Whether there are registers.
    """

    depth: int
    head_depth: int
    decoder_depth: int | None
    has_cls: bool
    has_registers: bool


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """Count the blocks of a stack by the highest number in use.

    A number that is not below the number of names is no block's: a stack of so many has more names than that.

    Args:
        names: Names of tensors.
        prefix: Regular expression of what stands before the number.

    Returns:
        1 more than the highest number, 0 where there is none.
    """
    names = list(names)
    found = (re.match(rf"(?:{prefix})\.(\d{{1,9}})\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match and int(match[1]) < len(names)), default=0)


def count_published(names: Iterable[str]) -> Counts:
    """Count the parts of a released checkpoint.

    Args:
        names: Names of its tensors without `module.`.

    Returns:
        The counts; a decoder is there when any of its names is.
    """
    names = list(names)
    has_decoder = any(DECODER.fullmatch(name) for name in names)
    return Counts(
        depth=count_blocks(names, "blocks_[av]"),
        head_depth=count_blocks(names, "constrative_head_(?:audio|visual)"),
        decoder_depth=count_blocks(names, "decoder_blocks") if has_decoder else None,
        has_cls="cls_token_a" in names or "cls_token_v" in names,
        has_registers="register_tokens" in names,
    )


def published_names(counts: Counts) -> dict[str, str]:
    """Name every tensor of a CAV-MAE, CAV-MAE Sync or TG-DP checkpoint.

    Args:
        counts: Which parts it has.

    Returns:
        Published names by ours.
    """
    names: dict[str, str] = {}
    for m in MODALITIES:
        letter = _LETTERS[m]
        names |= {f"modality_vectors.{m}": f"modality_{letter}", f"positions_{m}": f"pos_embed_{letter}"}
        names |= _affine(f"patch_embeddings.{m}.projection", f"patch_embed_{letter}.proj")
        names |= _affine(f"norms.{m}", f"norm_{letter}")
        if counts.has_cls:
            names[f"cls_tokens.{m}"] = f"cls_token_{letter}"
        if counts.has_registers:
            names[f"registers.{m}"] = "register_tokens"
        for n in range(counts.depth):
            names |= _block(f"streams.{m}.{n}", f"blocks_{letter}.{n}", {m: ""})
        for n in range(counts.head_depth):
            names |= _block(f"heads.{m}.{n}", f"{_HEADS[m]}.{n}", {m: ""})
    # The released code does not chain its joint blocks; no checkpoint has a second one.
    names |= _block("joint_block", "blocks_u.0", {"joint": "", "audio": "_a", "video": "_v"})
    names |= _affine("norms.joint", "norm")
    if counts.decoder_depth is not None:
        names |= _decoder(counts.decoder_depth)
        for m in MODALITIES:
            letter = _LETTERS[m]
            names |= _affine(f"decoder_heads.{m}", f"decoder_pred_{letter}")
            names[f"decoder_modality_vectors.{m}"] = f"decoder_modality_{letter}"
            names[f"decoder_positions_{m}"] = f"decoder_pos_embed_{letter}"
    return names


def vit_names(names: Iterable[str]) -> dict[str, str]:
    """Name where every tensor comes from when a plain MAE ViT fills the network, as CAV-MAE's authors did it.

    All blocks but the last fill both streams, the last one the joint block with its three sets of norms. Positions are
    left out: both networks have the same fixed ones.

    Args:
        names: Names of the ViT's tensors.

    Returns:
        Names of the ViT by ours.
    """
    names = set(names)
    last = count_blocks(names, "blocks") - 1
    table: dict[str, str] = {}
    for m in MODALITIES:
        table |= _affine(f"patch_embeddings.{m}.projection", "patch_embed.proj")
        table |= _affine(f"norms.{m}", "norm")
        if "cls_token" in names:
            table[f"cls_tokens.{m}"] = "cls_token"
        for n in range(last):
            table |= _block(f"streams.{m}.{n}", f"blocks.{n}", {m: ""})
    table |= _block("joint_block", f"blocks.{last}", {"joint": "", "audio": "", "video": ""})
    table |= _affine("norms.joint", "norm")
    if "decoder_pred.weight" in names:
        table |= _decoder(count_blocks(names, "decoder_blocks"))
        for m in MODALITIES:
            table |= _affine(f"decoder_heads.{m}", "decoder_pred")
    return table


def take_tensors(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Give published tensors our names and our shapes.

    Args:
        tensors: By their published names; every one that `names` asks for.
        names: Published names by ours.

    Returns:
        float32 tensors by our names.
    """
    ours: dict[str, Tensor] = {}
    for name, theirs in names.items():
        tensor = tensors[theirs].float()
        if "positions_" in name and tensor.ndim == 3:
            tensor = tensor.flatten(0, 1)  # (1, L, D) → (L, D)
        elif theirs == "register_tokens":  # (2 R, D): the first half is audio's
            half = len(tensor) // 2
            tensor = (tensor[:half] if name.endswith("audio") else tensor[half:]).unsqueeze(0)
        ours[name] = tensor
    return ours


def _affine(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in _KINDS}


def _block(ours: str, theirs: str, norms: dict[str, str]) -> dict[str, str]:
    """Name the tensors of one block; `norms` gives the suffix of their LayerNorms for each of our streams."""
    names: dict[str, str] = {}
    for our_part, their_part in (
        ("attention.qkv", "attn.qkv"),
        ("attention.projection", "attn.proj"),
        ("mlp.0", "mlp.fc1"),
        ("mlp.2", "mlp.fc2"),
    ):
        names |= _affine(f"{ours}.{our_part}", f"{theirs}.{their_part}")
    for stream, suffix in norms.items():
        names |= _affine(f"{ours}.attention_norms.{stream}", f"{theirs}.norm1{suffix}")
        names |= _affine(f"{ours}.mlp_norms.{stream}", f"{theirs}.norm2{suffix}")
    return names


def _decoder(depth: int) -> dict[str, str]:
    names = {"mask_token": "mask_token"}
    names |= _affine("decoder_embedding", "decoder_embed")
    names |= _affine("decoder_norm", "decoder_norm")
    for n in range(depth):
        names |= _block(f"decoder_blocks.{n}", f"decoder_blocks.{n}", {"joint": ""})
    return names
