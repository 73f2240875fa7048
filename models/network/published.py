"""Released weights into our network: TG-DP, CAV-MAE Sync and CAV-MAE, every tensor of them and nothing left over.

    network = import_network(read_weights(Path("audio_model.25.pth")), kind="tgdp")
    initialise(Tgdp(TgdpConfig()), Path("mae_pretrain_vit_base.pth"))   # a start for training

The three kinds share their names. TG-DP and CAV-MAE Sync have CLS and registers, and CLS is the embedding; CAV-MAE has
neither, one window of 1024 frames, and the mean of its patches. "Contrastive heads" are two more blocks of each
modality that the released code can be built with; it then embeds through them, and so does ours, unless they are left
out by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
MAX_NAMED = 10
"""Names of each kind in a refusal; the rest is counted."""
ANCHOR = "patch_embed_a.proj.weight"
"""A name that every kind has."""
POSITIONS = re.compile(r"(decoder_)?pos_embed_[av] ")


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
        problems.append(f"missing {_some(missing)}")
    if unexpected:
        problems.append(f"unexpected {_some(unexpected)}")
    if problems:
        problems += _likeliest_cause(wanted, set(missing), set(unexpected))
    return problems


def _some(names: Sequence[str], separator: str = ", ") -> str:
    """Their number, and the first ten."""
    more = f"{separator}and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"({len(names)}): {separator.join(names[:MAX_NAMED])}{more}"


def _likeliest_cause(wanted: set[str], missing: set[str], unexpected: set[str]) -> list[str]:
    """Say in one line why names may differ, as far as they tell."""
    ends = [name.removesuffix(ANCHOR) for name in unexpected if name.endswith(f".{ANCHOR}")]
    prefix = ends[0] if len(ends) == 1 and all(name.startswith(ends[0]) for name in unexpected) else ""
    causes = (
        (missing == CLS_AND_REGISTERS, "all but CLS and registers is there: that is CAV-MAE, --kind cavmae"),
        (unexpected == CLS_AND_REGISTERS, "CLS and registers are those of --kind tgdp or cavmae-sync"),
        (
            missing and all(DECODER.fullmatch(name) for name in missing),
            "only the decoder lacks tensors: the encoder alone is imported with --without-decoder",
        ),
        (prefix, f"every name has {prefix} before it, which is no wrapper that is known: take it off"),
        (
            any(name.startswith("streams.") for name in unexpected),
            "these are names of foley-train's own checkpoints: foley-train export makes a bundle of one",
        ),
        (
            any(name.startswith("blocks.0.") for name in unexpected),
            "blocks.0 is of a plain ViT, which can only start a training: foley-train pretrain --initialise",
        ),
        (missing == wanted, "not one name is right: it is the checkpoint of another network"),
        (
            missing and not unexpected,
            "the file holds a part of the network: saved while incomplete, or one part of a split checkpoint",
        ),
    )
    return [text for is_so, text in causes if is_so][:1]


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
    if not wrong:
        return []
    are_positions = all(POSITIONS.match(text) for text in wrong)
    cause = (
        "made for pictures or windows of another size" if are_positions else "of a network of another size"
    )
    return [f"wrong shape or type {_some(wrong, '; ')}", f"part of the file is {cause}"]


def _find_not_finite(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    """Look at float32, in which the network computes: what overflows in it is no number either."""
    used = sorted(set(names.values()))
    broken = [name for name in used if not torch.isfinite(tensors[name].float()).all()]
    return [f"not finite in float32 {_some(broken)}"] if broken else []
