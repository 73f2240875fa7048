"""Start a network from weights that exist: a plain MAE ViT, a released checkpoint, a checkpoint or bundle of ours.

    done = initialise(network, Path("mae_pretrain_vit_base.pth"))
    done.fresh    # ("modality_vectors.audio", ..., "registers.video"): what stayed at its random start

A plain ViT enters as CAV-MAE's authors let it: all blocks but the last into both streams, the last one into the joint
block with all three sets of norms, CLS into both. The audio patch embedding is the **sum** over the three colours: a
grey picture, the same values in all three, then makes the same token as before; the mean would make a third of it. A
decoder predicts grey as the mean of the colours it predicted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.bundle.bundle import MANIFEST, load_bundle
from models.network.graph_weights import is_bundle, is_unused, recover_network
from models.network.layers import sincos_positions
from models.network.published_geometry import RELEASED_DECODER_HEADS, RELEASED_HEADS
from models.network.published_names import (
    DECODER,
    UNUSED_NORMS,
    count_blocks,
    count_published,
    published_names,
    take_tensors,
    vit_names,
)
from models.network.tgdp import Tgdp
from models.network.weights import WrongStateDict, read_weights

Origin = Literal["foley", "bundle", "tgdp or cavmae-sync", "cavmae", "mae"]

_POSITIONS = re.compile(r"(decoder_)?(positions_(audio|video)|pos_embed(_[av])?)")
_OPTIONAL = re.compile(r"(cls_tokens|registers|heads)\..+")
_LACKING_IN_VIT = re.compile(r"(decoder_)?modality_vectors\..+")
_LEFTOVER = re.compile(r"cls_token_av|head\.(weight|bias)")
"""CAV-MAE's own start carries a third CLS token that its network never had; ViTs carry their classifier."""
FIXED_TOLERANCE = 1e-3
"""How far released sine-cosine positions, computed in float32, may be from ours."""


@dataclass(frozen=True, kw_only=True)
class Initialised:
    """What `initialise` did.

    Attributes:
        origin: What the file is: "foley" for a checkpoint of ours, "bundle" for graphs, "mae" for a plain ViT.
        taken: Our names of the tensors that came out of the file.
        fresh: Our names of those that stayed as they were.
        unused: Names in the file that went nowhere.
    """

    origin: Origin
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Source:
    origin: Origin
    tensors: dict[str, Tensor]  # by our names
    leftover: dict[str, Tensor]  # by the names of the file


def find_weights(path: Path) -> Path:
    """Return the file of weights at a path.

    Args:
        path: A file, or the folder of a checkpoint or bundle of ours.

    Returns:
        The file itself, the student's in the folder, or the manifest of the bundle, which has the hashes of its graphs.
    """
    if is_bundle(path):
        return path / MANIFEST
    return path / "student.safetensors" if path.is_dir() else path


def initialise(network: Tgdp, path: Path) -> Initialised:
    """Fill a network with the weights of a file as far as they reach.

    CLS tokens, registers, contrastive heads and a decoder that the file lacks stay as they are; so do positions, which
    both sides compute from the same formula. Everything else must be there and fit.

    Args:
        network: Filled in place; unchanged if it raises.
        path: `.safetensors`, a file of `torch.save`, the folder of a checkpoint of ours, whose student is taken, or
            that of a bundle, whose graphs hold all but the decoder.

    Returns:
        What was taken and what was not.

    Raises:
        WrongStateDict: If the file is none of the kinds, is of another geometry (the message names both sizes), or has
            a tensor too few or too many.
    """
    if is_bundle(path):
        source = _read_bundle(path)
    else:
        path = find_weights(path)
        source = _read_source(read_weights(path))
    state = network.state_dict()
    problems = _compare_sizes(source, network, path)
    if not problems:  # in another geometry every tensor has another shape: the sizes say it shorter
        problems = _compare_tensors(source, state)
    if problems:
        raise WrongStateDict("\n".join([f"{path} does not fit the network", *problems]))
    taken = {name: tensor for name, tensor in source.tensors.items() if _fits(tensor, state.get(name))}
    network.load_state_dict(state | taken)
    unused = [name for name in source.tensors if name not in taken] + list(source.leftover)
    return Initialised(
        origin=source.origin,
        taken=tuple(sorted(taken)),
        fresh=tuple(sorted(state.keys() - taken.keys())),
        unused=tuple(sorted(unused)),
    )


def _read_bundle(path: Path) -> _Source:
    weights = recover_network(load_bundle(path)).state_dict()
    return _Source(
        origin="bundle", tensors={n: t for n, t in weights.items() if not is_unused(n)}, leftover={}
    )


def _read_source(tensors: Mapping[str, Tensor]) -> _Source:
    """Recognise the kind of file by its tensor names, and give the tensors our names."""
    if any(name.startswith("streams.") for name in tensors):
        return _Source(origin="foley", tensors={n: t.float() for n, t in tensors.items()}, leftover={})
    if any(name.startswith("blocks_a.") for name in tensors):
        names = published_names(count_published(tensors))
        origin: Origin = "tgdp or cavmae-sync" if "register_tokens" in tensors else "cavmae"
    elif any(name.startswith("blocks.0.") for name in tensors):
        names, origin = vit_names(tensors), "mae"
    else:
        some = ", ".join(sorted(tensors)[:5])
        raise WrongStateDict(
            f"neither a plain ViT nor a released checkpoint nor one of ours; it holds {some}, ..."
        )
    there = {ours: theirs for ours, theirs in names.items() if theirs in tensors}
    ours = take_tensors(tensors, there)
    if origin == "mae":
        _mix_colours(ours)
    leftover = {name: tensor for name, tensor in tensors.items() if name not in there.values()}
    return _Source(origin=origin, tensors=ours, leftover=leftover)


def _mix_colours(ours: dict[str, Tensor]) -> None:
    """Make a plain ViT's layers of RGB patches ones of a single channel for audio."""
    first = "patch_embeddings.audio.projection.weight"
    if first in ours and ours[first].ndim == 4:
        ours[first] = ours[first].sum(dim=1, keepdim=True)  # (D, 3, P, P) → (D, 1, P, P)
    for name in ("decoder_heads.audio.weight", "decoder_heads.audio.bias"):
        if name in ours and len(ours[name]) % 3 == 0:  # values of a patch: pixel by pixel, three colours each
            ours[name] = ours[name].reshape(-1, 3, *ours[name].shape[1:]).mean(dim=1)


def _compare_sizes(source: _Source, network: Tgdp, path: Path) -> list[str]:
    theirs, ours = _sizes(source.tensors), _sizes(network.state_dict())
    theirs |= _read_heads(source, path)
    ours |= {
        "attention heads": network.config.num_heads,
        "heads of the decoder": network.config.decoder_heads,
    }
    return [
        f"{name}: {theirs[name]} in the file, {ours[name]} in the network"
        for name in ours
        if name in theirs and theirs[name] != ours[name]
    ]


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes that must be equal on both sides, if tensors with our names show them."""
    sizes = {}
    for size, name, axis in (
        ("width", "norms.joint.weight", 0),
        ("hidden width of the MLPs", "joint_block.mlp.0.bias", 0),
        ("side of an audio patch", "patch_embeddings.audio.projection.weight", -1),
        ("side of a video patch", "patch_embeddings.video.projection.weight", -1),
        ("width of the decoder", "decoder_norm.weight", 0),
    ):
        if name in tensors and tensors[name].ndim:
            sizes[size] = tensors[name].shape[axis]
    sizes["blocks before the joint block"] = count_blocks(tensors, "streams.(?:audio|video)")
    if "decoder_norm.weight" in tensors:
        sizes["blocks of the decoder"] = count_blocks(tensors, "decoder_blocks")
    return sizes


def _read_heads(source: _Source, path: Path) -> dict[str, int]:
    """Return the attention heads if known: from a checkpoint of ours, or the released number at released widths."""
    run = path.parent / "run.json"
    found: dict[str, int | None] = {}
    if source.origin == "bundle":
        found = {"attention heads": load_bundle(path).manifest.network["num_heads"]}
    elif source.origin != "foley":
        sizes = _sizes(source.tensors)
        found = {
            "attention heads": RELEASED_HEADS.get(sizes.get("width", 0)),
            "heads of the decoder": RELEASED_DECODER_HEADS.get(sizes.get("width of the decoder", 0)),
        }
    elif run.exists():
        config = json.loads(run.read_text()).get("config", {}).get("network", {})
        found = {
            "attention heads": config.get("num_heads"),
            "heads of the decoder": config.get("decoder_heads"),
        }
    return {name: number for name, number in found.items() if number is not None}


def _compare_tensors(source: _Source, state: Mapping[str, Tensor]) -> list[str]:
    unexpected = [n for n in source.leftover if not (_POSITIONS.fullmatch(n) or _may_be_left(n))]
    unexpected += [n for n in source.tensors.keys() - state.keys() if not _OPTIONAL.fullmatch(n)]
    missing = [name for name in state.keys() - source.tensors.keys() if not _may_stay(name, source)]
    problems = [
        f"{title} ({len(names)}): {', '.join(sorted(names))}"
        for title, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    for name, tensor in {**source.tensors, **source.leftover}.items():
        wanted = state.get(name)
        if _POSITIONS.fullmatch(name):
            if not _fits(tensor, wanted) and not _is_fixed(tensor):
                problems.append(
                    f"{name}: not sine-cosine in the file, sine-cosine of another grid in the network"
                )
        elif wanted is not None and not _fits(tensor, wanted):
            problems.append(
                f"{name}: {tuple(tensor.shape)} in the file, {tuple(wanted.shape)} in the network"
            )
    return problems


def _may_be_left(name: str) -> bool:
    return bool(UNUSED_NORMS.fullmatch(name) or _LEFTOVER.fullmatch(name))


def _may_stay(name: str, source: _Source) -> bool:
    """Whether a tensor of the network may keep its start where the file has none."""
    has_decoder = any(DECODER.fullmatch(there) for there in source.tensors)
    return bool(
        _OPTIONAL.fullmatch(name)
        or _POSITIONS.fullmatch(name)
        or (DECODER.fullmatch(name) and not has_decoder)
        or (source.origin == "mae" and _LACKING_IN_VIT.fullmatch(name))
        or (source.origin == "bundle" and is_unused(name))
    )


def _fits(tensor: Tensor, wanted: Tensor | None) -> bool:
    return wanted is not None and tensor.shape == wanted.shape


def _is_fixed(positions: Tensor) -> bool:
    """Whether positions are the sine-cosine ones of some grid, after a first row of zeros for CLS or without it."""
    if positions.ndim < 2 or positions.shape[-1] % 4:
        return False
    table = positions.float().reshape(-1, positions.shape[-1])
    if not table[:1].any():
        table = table[1:]
    num_tokens, width = table.shape
    grids = [(rows, num_tokens // rows) for rows in range(1, num_tokens + 1) if num_tokens % rows == 0]
    candidates = (sincos_positions(width, *grid) for grid in grids)
    return any(torch.allclose(table, grid, rtol=0, atol=FIXED_TOLERANCE) for grid in candidates)
