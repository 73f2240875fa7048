"""The geometry of a released checkpoint, read from the shapes of its tensors.

Two numbers are in no shape: attention heads, and mel bins. Heads are 64 wide at width 768 and 32 wide in the decoder of
width 512, as released; at any other width they must be given. Mel bins are 128 in all released code.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from models.network.geometry import TgdpConfig
from models.network.published_names import Counts

NUM_MEL_BINS = 128
RELEASED_HEADS = {768: 12}
"""Attention heads of the encoder by its width."""
RELEASED_DECODER_HEADS = {512: 16}
"""Attention heads of the decoder by its width."""


class UnknownGeometry(ValueError):
    """A number of the network is in no shape and was not given, or the shapes make no network."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Numbers of attention heads; None if unknown.

    Attributes:
        encoder: Of the encoder; None for the released number at the released width.
        decoder: Of the decoder; the same.
    """

    encoder: int | None = None
    decoder: int | None = None


def read_geometry(tensors: Mapping[str, Tensor], counts: Counts, heads: Heads) -> TgdpConfig:
    """Read the geometry of a released checkpoint.

    Where tensors disagree the majority counts, so that one wrong tensor does not make all the others look wrong. What
    no tensor tells has the released size.

    Args:
        tensors: By their published names without `module.`.
        counts: Which parts to expect.
        heads: Attention heads, where they are known.

    Returns:
        The geometry.

    Raises:
        UnknownGeometry: If heads are needed, or the shapes make no network.
    """
    width = _vote(tensors, r"norm(_[av])?\.(weight|bias)|patch_embed_[av]\.proj\.bias|modality_[av]", 768)
    hidden_width = _vote(tensors, r"blocks_[avu]\.\d+\.mlp\.fc1\.bias", 4 * width)
    decoder_width = _vote(
        tensors, r"decoder_norm\.(weight|bias)|decoder_embed\.bias|mask_token|decoder_modality_[av]", 512
    )
    audio_patch = _vote(tensors, r"patch_embed_a\.proj\.weight", 16)
    video_patch = _vote(tensors, r"patch_embed_v\.proj\.weight", 16)
    rows, released_frames = NUM_MEL_BINS // max(1, audio_patch), 416 if counts.has_cls else 1024
    num_audio_patches = _vote(
        tensors, r"(decoder_)?pos_embed_a", rows * (released_frames // max(1, audio_patch)), axis=-2
    )
    num_video_patches = _vote(tensors, r"(decoder_)?pos_embed_v", (224 // max(1, video_patch)) ** 2, axis=-2)
    num_registers = max(1, _vote(tensors, "register_tokens", 16, axis=0) // 2) if counts.has_registers else 0
    num_heads, decoder_heads = _find_heads(heads, width, decoder_width if counts.decoder_depth else 512)
    if width < 1 or not 1 <= audio_patch <= NUM_MEL_BINS:
        raise UnknownGeometry(
            f"width must be at least 1, and audio patches 1 to {NUM_MEL_BINS} mel bins high, "
            f"got {width} and {audio_patch}"
        )
    try:
        return TgdpConfig(
            width=width,
            num_heads=num_heads,
            depth=counts.depth,
            mlp_ratio=hidden_width / width,
            num_registers=num_registers,
            pooling="cls" if counts.has_cls else "patch_mean",
            head_depth=counts.head_depth,
            decoder_width=decoder_width,
            decoder_heads=decoder_heads,
            decoder_depth=counts.decoder_depth or 0,
            num_mel_bins=NUM_MEL_BINS,
            window_frames=num_audio_patches // (NUM_MEL_BINS // audio_patch) * audio_patch,
            frame_size=math.isqrt(num_video_patches) * video_patch,
            audio_patch=audio_patch,
            video_patch=video_patch,
        )
    except ValueError as exc:
        raise UnknownGeometry(str(exc)) from exc


def _vote(tensors: Mapping[str, Tensor], pattern: str, default: int, *, axis: int = -1) -> int:
    """The size that most tensors of these names have along one axis; the released one if that is as frequent."""
    named = (tensor for name, tensor in tensors.items() if re.fullmatch(pattern, name))
    sizes = Counter(
        tensor.shape[axis] for tensor in named if tensor.ndim >= (axis + 1 if axis >= 0 else -axis)
    )
    return max(sizes, key=lambda size: (sizes[size], size == default)) if sizes else default


def _find_heads(heads: Heads, width: int, decoder_width: int) -> tuple[int, int]:
    """Return the heads of encoder and decoder: those that were given, else those released at these widths."""
    num_heads = heads.encoder or RELEASED_HEADS.get(width)
    decoder_heads = heads.decoder or RELEASED_DECODER_HEADS.get(decoder_width)
    if num_heads is None or decoder_heads is None:
        unknown = f"at width {width} (--heads)" if num_heads is None else ""
        in_decoder = (
            f"in a decoder of width {decoder_width} (--decoder-heads)" if decoder_heads is None else ""
        )
        raise UnknownGeometry(
            "the weights do not tell the number of attention heads; give it "
            + " and ".join(filter(None, (unknown, in_decoder)))
        )
    return num_heads, decoder_heads
