"""Published state dicts to our network: names of the released TG-DP code to names of ours, and nothing left over."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from models.geometry import TgdpConfig
from models.tgdp import Tgdp

_LETTERS = {"a": "audio", "v": "video"}
_STREAM_OF_SUFFIX = {"": "joint", "_a": "audio", "_v": "video"}


class WrongStateDict(ValueError):
    """The state dict does not hold the tensors of the network. The message lists every missing and unexpected name."""


def tgdp_state_dict(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a released TG-DP checkpoint.

    The released blocks all carry three LayerNorm sets; the modality streams use the plain one and so does the decoder,
    so their unused sets are dropped by name.

    Args:
        published: Tensors by their published names, with or without the `module.` prefix.

    Returns:
        Tensors by our names.

    Raises:
        WrongStateDict: If a name is not one of a TG-DP checkpoint.
    """
    renamed: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for name, tensor in published.items():
        name = name.removeprefix("module.")
        if name == "register_tokens":
            half = tensor.shape[0] // 2
            renamed["registers.audio"], renamed["registers.video"] = tensor[None, :half], tensor[None, half:]
        elif re.match(r"(blocks_[av]|decoder_blocks)\.\d+\.norm[12]_[av]\.", name):
            continue
        elif (ours := _rename(name)) is not None:
            renamed[ours] = tensor[0] if "positions" in ours else tensor
        else:
            unexpected.append(name)
    if unexpected:
        raise WrongStateDict(f"not the names of a TG-DP checkpoint: {', '.join(sorted(unexpected))}")
    return renamed


def _rename(name: str) -> str | None:
    """Return our name of one published tensor, or None where it has none."""
    if match := re.fullmatch(r"(decoder_)?(pos_embed|modality|pred)_([av])(\..+)?", name):
        prefix, part, letter, rest = match.groups()
        modality = _LETTERS[letter]
        if part == "pos_embed":
            return f"{prefix or ''}positions_{modality}"
        if part == "modality":
            return f"{prefix or ''}modality_vectors.{modality}"
        return f"decoder_heads.{modality}{rest}"
    if match := re.fullmatch(r"(patch_embed|cls_token|norm)_([av])(?:\.(?:proj\.)?(.+))?", name):
        part, letter, rest = match.groups()
        ours = {"patch_embed": "patch_embeddings", "cls_token": "cls_tokens", "norm": "norms"}[part]
        middle = ".projection" if part == "patch_embed" else ""
        return f"{ours}.{_LETTERS[letter]}{middle}" + (f".{rest}" if rest else "")
    if match := re.fullmatch(r"(blocks_[avu]|decoder_blocks)\.(\d+)\.(.+)", name):
        group, number, rest = match.groups()
        return _rename_block(group, number, rest)
    if match := re.fullmatch(r"(norm|decoder_norm|decoder_embed)\.(.+)", name):
        return {"norm": "norms.joint", "decoder_norm": "decoder_norm", "decoder_embed": "decoder_embedding"}[
            match[1]
        ] + f".{match[2]}"
    return "mask_token" if name == "mask_token" else None


def _rename_block(group: str, number: str, rest: str) -> str | None:
    if group == "blocks_u":
        if number != "0":
            return None  # the released code does not chain its joint blocks; no checkpoint has a second one
        prefix, own_stream = "joint_block", "joint"
    elif group == "decoder_blocks":
        prefix, own_stream = f"decoder_blocks.{number}", "joint"
    else:
        own_stream = _LETTERS[group[-1]]
        prefix = f"streams.{own_stream}.{number}"
    if match := re.fullmatch(r"norm([12])(_[av])?\.(weight|bias)", rest):
        which, suffix, kind = match.groups()
        stream = _STREAM_OF_SUFFIX[suffix] if suffix else own_stream
        return f"{prefix}.{'attention_norms' if which == '1' else 'mlp_norms'}.{stream}.{kind}"
    if match := re.fullmatch(r"(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)", rest):
        ours = {
            "attn.qkv": "attention.qkv",
            "attn.proj": "attention.projection",
            "mlp.fc1": "mlp.0",
            "mlp.fc2": "mlp.2",
        }
        return f"{prefix}.{ours[match[1]]}.{match[2]}"
    return None


def load_tgdp(published: Mapping[str, Tensor], config: TgdpConfig) -> Tgdp:
    """Build the network and fill it with published tensors, every one of them and no other.

    Args:
        published: Tensors by their published names.
        config: Geometry of the checkpoint.

    Returns:
        The network in evaluation mode.

    Raises:
        WrongStateDict: If names are missing or unexpected, or a shape differs.
    """
    network = Tgdp(config)
    try:
        network.load_state_dict(tgdp_state_dict(published))
    except RuntimeError as exc:
        raise WrongStateDict(str(exc)) from exc
    return network.eval()
