"""Released weights into our network: TG-DP, CAV-MAE Sync and CAV-MAE, every tensor of them and nothing left over.

    network = import_network(read_weights(Path("audio_model.25.pth")), kind="tgdp")
    initialise(Tgdp(TgdpConfig()), Path("mae_pretrain_vit_base.pth"))   # a start for training

The three kinds share their names. TG-DP and CAV-MAE Sync have CLS and registers, and CLS is the embedding; CAV-MAE has
neither, one window of 1024 frames, and the mean of its patches. "Contrastive heads" are two more blocks of each
modality that the released code can be built with; it then embeds through them, and so does ours, unless they are left
out by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from models.network.geometry import PublishedKind, TgdpConfig
from models.network.initialisation import Initialised, initialise
from models.network.published_geometry import Heads, UnknownGeometry, read_geometry
from models.network.published_names import (
    CLS_AND_REGISTERS,
    CONTRASTIVE_HEADS,
    DECODER,
    UNUSED_NORMS,
    Counts,
    count_published,
    published_names,
    take_tensors,
)
from models.network.tgdp import Tgdp
from models.network.weights import WrongStateDict

__all__ = ["Heads", "Initialised", "WrongStateDict", "import_network", "initialise", "load_tgdp"]

RELEASED_DEPTH, RELEASED_DECODER_DEPTH = 11, 8


def import_network(
    published: Mapping[str, Tensor],
    *,
    kind: PublishedKind,
    heads: Heads | None = None,
    without_decoder: bool = False,
    without_contrastive_heads: bool = False,
) -> Tgdp:
    """Build the network that a released checkpoint belongs to, and fill it.

    The geometry comes from the shapes. The LayerNorms that released blocks carry and never use are dropped by name.

    Args:
        published: Tensors by their published names without `module.`.
        kind: What the checkpoint is.
        heads: Attention heads, needed at other widths than the released ones.
        without_decoder: Leave the decoder out, there or not; it takes no part in embedding.
        without_contrastive_heads: Leave the contrastive heads out and embed right after the joint block.

    Returns:
        The network in evaluation mode, float32. A decoder that was left out has no blocks and no trained tensor.

    Raises:
        WrongStateDict: If a name is missing or unexpected, a shape is another, a number is not finite, or the heads
            must be given.
    """  # noqa: DOC502 - `_fill` raises it
    left_out = [
        pattern
        for pattern, wanted in ((DECODER, without_decoder), (CONTRASTIVE_HEADS, without_contrastive_heads))
        if wanted
    ]
    tensors = {n: t for n, t in published.items() if not any(p.fullmatch(n) for p in left_out)}
    found = count_published(tensors)
    counts = replace(
        found,
        depth=found.depth or RELEASED_DEPTH,
        decoder_depth=None if without_decoder else found.decoder_depth or RELEASED_DECODER_DEPTH,
        has_cls=kind != "cavmae",
        has_registers=kind != "cavmae",
    )
    config, problems = _read_config(tensors, counts, heads or Heads())
    return _fill(tensors, counts, config, problems)


def _read_config(
    tensors: Mapping[str, Tensor], counts: Counts, heads: Heads
) -> tuple[TgdpConfig | None, list[str]]:
    """Read the geometry, or return why not. If only the heads are unknown, shapes are compared all the same."""
    problems: dict[str, None] = {}
    for given in (heads, Heads(encoder=1, decoder=1)):
        try:
            return read_geometry(tensors, counts, given), list(problems)
        except UnknownGeometry as exc:
            problems[str(exc)] = None
    return None, list(problems)


def load_tgdp(published: Mapping[str, Tensor], config: TgdpConfig) -> Tgdp:
    """Build a network of known geometry and fill it with published tensors.

    Args:
        published: Tensors by their published names without `module.`.
        config: Geometry of the checkpoint.

    Returns:
        The network in evaluation mode.

    Raises:
        WrongStateDict: If names are missing or unexpected, a shape differs, or a number is not finite.
    """  # noqa: DOC502 - `_fill` raises it
    counts = Counts(
        depth=config.depth,
        head_depth=config.head_depth,
        decoder_depth=config.decoder_depth,
        has_cls=config.num_cls_tokens > 0,
        has_registers=config.num_registers > 0,
    )
    return _fill(published, counts, config, [])


def _fill(
    tensors: Mapping[str, Tensor], counts: Counts, config: TgdpConfig | None, problems: list[str]
) -> Tgdp:
    """Compare names and shapes with those of the network; build and fill it if all fit."""
    names = published_names(counts)
    problems = [*problems, *_compare_names(tensors, set(names.values()))]
    if config is not None:
        problems += _compare_shapes(tensors, names, config)
    if not problems:  # of a shape that is wrong the numbers may not fit into memory
        problems = _find_not_finite(tensors, names)
    if problems or config is None:
        raise WrongStateDict("\n".join(problems))
    network = Tgdp(config)
    network.load_state_dict(network.state_dict() | take_tensors(tensors, names))
    return network.eval()


def _compare_names(tensors: Mapping[str, Tensor], wanted: set[str]) -> list[str]:
    missing = sorted(wanted - tensors.keys())
    unexpected = sorted(name for name in tensors.keys() - wanted if not UNUSED_NORMS.fullmatch(name))
    problems = []
    if missing:
        problems.append(f"missing ({len(missing)}): {', '.join(missing)}")
        if all(DECODER.fullmatch(name) for name in missing):
            problems.append(
                "only the decoder lacks tensors: the encoder alone is imported with --without-decoder"
            )
        if set(missing) == CLS_AND_REGISTERS:
            problems.append("all but CLS and registers is there: that is CAV-MAE, --kind cavmae")
    if unexpected:
        problems.append(f"unexpected ({len(unexpected)}): {', '.join(unexpected)}")
        if set(unexpected) == CLS_AND_REGISTERS:
            problems.append("CLS and registers are those of --kind tgdp or cavmae-sync")
    return problems


def _compare_shapes(tensors: Mapping[str, Tensor], names: Mapping[str, str], config: TgdpConfig) -> list[str]:
    with torch.device("meta"):  # shapes only, no memory
        state = Tgdp(config).state_dict()
    wanted = {}
    for name, theirs in names.items():
        shape = tuple(state[name].shape)
        if "positions_" in name:
            shape = (1, *shape)
        elif theirs == "register_tokens":
            shape = (2 * shape[1], shape[2])
        wanted[theirs] = shape
    wrong = []
    for name in sorted(wanted.keys() & tensors.keys()):
        tensor = tensors[name]
        if tuple(tensor.shape) != wanted[name]:
            wrong.append(f"{name} is {tuple(tensor.shape)}, must be {wanted[name]}")
        elif not tensor.is_floating_point():
            wrong.append(f"{name} is {tensor.dtype}, must be a floating-point type")
    return [f"wrong shape or type ({len(wrong)}): {'; '.join(wrong)}"] if wrong else []


def _find_not_finite(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    """Look at float32, in which the network computes: what overflows in it is no number either."""
    used = sorted(set(names.values()))
    broken = [name for name in used if not torch.isfinite(tensors[name].float()).all()]
    return [f"not finite in float32 ({len(broken)}): {', '.join(broken)}"] if broken else []
