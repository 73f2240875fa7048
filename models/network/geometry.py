"""The geometry of the network: widths, depths, patches. Plain numbers that a checkpoint and a bundle carry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

Modality = Literal["audio", "video"]
MODALITIES: tuple[Modality, Modality] = ("audio", "video")
Pooling = Literal["cls", "patch_mean"]
PublishedKind = Literal["tgdp", "cavmae-sync", "cavmae"]
"""Released checkpoints that fit this network."""
EncoderKind = Literal["pe-av", "clap", "light"]
"""Published models of other families, folders of many files."""
MAX_WINDOW_FRAMES = 1024
"""Analysis frames of a whole segment: the longest window there is."""
MAX_SIZE = 65_536
"""Largest width of tokens and side of a picture."""


@dataclass(frozen=True, kw_only=True)
class TgdpConfig:
    """Geometry of the network. The defaults are the published size: 190.66 M parameters."""

    width: int = 768
    """Width D of the encoder's tokens and of the embedding."""
    num_heads: int = 12
    """Attention heads of the encoder."""
    depth: int = 11
    """Blocks of each modality before the joint block."""
    mlp_ratio: float = 4.0
    """Hidden width of every MLP over the token width."""
    num_registers: int = 8
    """Register tokens of each modality; 0 for none."""
    pooling: Pooling = "cls"
    """What becomes the embedding: the CLS token, or, in a network without one, the mean of the patches (CAV-MAE)."""
    head_depth: int = 0
    """Blocks of each modality after the joint block, on the way to the embedding only; 0 for none."""
    decoder_width: int = 512
    """Width of the decoder's tokens."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    num_mel_bins: int = 128
    """Mel bins M of the spectrogram: the height of the audio picture."""
    window_frames: int = 416
    """Analysis frames of a moment's audio window (4.16 s): its width."""
    frame_size: int = 224
    """Side of a video frame in pixels."""
    audio_patch: int = 16
    """Side of an audio patch."""
    video_patch: int = 16
    """Side of a video patch."""
    num_moments: int = 16
    """Moments of a segment."""

    def __post_init__(self) -> None:
        """Refuse geometry that does not fit together."""
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be cls or patch_mean, got {self.pooling!r}")
        for size in ("width", "decoder_width", "window_frames", "frame_size", "audio_patch", "video_patch"):
            if not 1 <= getattr(self, size) <= MAX_SIZE:
                raise ValueError(f"{size} must be in [1, {MAX_SIZE}], got {getattr(self, size)}")
        if self.window_frames > MAX_WINDOW_FRAMES:
            raise ValueError(f"window_frames must be at most {MAX_WINDOW_FRAMES}, got {self.window_frames}")
        for width, num_heads, of in (
            (self.width, self.num_heads, ""),
            (self.decoder_width, self.decoder_heads, "decoder_"),
        ):
            if width % num_heads:
                raise ValueError(f"{of}width {width} must be a multiple of {of or 'num_'}heads {num_heads}")
            if width % 4:
                raise ValueError(f"{of}width {width} must be a multiple of 4 for its sine-cosine positions")
        for name, side, patch in (
            ("num_mel_bins", self.num_mel_bins, self.audio_patch),
            ("window_frames", self.window_frames, self.audio_patch),
            ("frame_size", self.frame_size, self.video_patch),
        ):
            if side % patch:
                raise ValueError(f"{name} {side} must be a multiple of the patch side {patch}")

    @property
    def num_cls_tokens(self) -> int:
        """CLS tokens at the head of each sequence: 1 or 0."""
        return 1 if self.pooling == "cls" else 0

    def grid(self, modality: Modality) -> tuple[int, int]:
        """Rows and columns of patches: (mel, time) for audio, (top, left) for video.

        Args:
            modality: Which picture.

        Returns:
            Number of rows, number of columns.
        """
        if modality == "audio":
            return self.num_mel_bins // self.audio_patch, self.window_frames // self.audio_patch
        return self.frame_size // self.video_patch, self.frame_size // self.video_patch

    def num_patches(self, modality: Modality) -> int:
        """Tokens of one moment without CLS and registers.

        Args:
            modality: Which picture.

        Returns:
            208 for audio and 196 for video at the published size.
        """
        rows, columns = self.grid(modality)
        return rows * columns

    def patch_values(self, modality: Modality) -> int:
        """Numbers in one patch.

        Args:
            modality: Which picture.

        Returns:
            256 for audio and 768 for video at the published size.
        """
        return self.audio_patch**2 if modality == "audio" else 3 * self.video_patch**2

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def published(cls) -> Self:
        """Return the size of the released TG-DP retrieval model."""
        return cls()

    @classmethod
    def starter(cls) -> Self:
        """Return the small preset that ships with the project and trains on a laptop."""
        return cls(
            width=128,
            num_heads=4,
            depth=4,
            decoder_width=96,
            decoder_heads=4,
            decoder_depth=2,
            audio_patch=32,
            video_patch=32,
        )
