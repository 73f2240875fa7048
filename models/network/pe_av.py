"""PE-AV (Meta, https://arxiv.org/abs/2512.19687) as graphs: its published class, sound in, frames in, words in.

    encoders = read_pe_av(PublishedFolder.open(Path("pe-av-small")), segment_seconds=10.0)

`transformers` has the class and `timm` its picture tower. What differs from the class, and why:

- Rows of a batch are independent: sound is reflect-padded to whole steps row by row, as the published processor does
  it to a file alone, and each convolution sees zeros after a row's end, as it would alone.
- Words: the first token of hidden state 22 before the final norm, which is what the authors trained; `transformers`
  5.24 gives the state after that norm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.bundle.bundle import TextSpec
from models.media.clip import ClipSpec
from models.network.encoders import Encoders
from models.network.published_folder import PublishedFolder, UnusableFolder
from models.network.rotary import RotaryAttention, can_rotate

FAMILY = "pe-av"
ATTRIBUTION = "PE-AV by Meta, Apache-2.0, https://arxiv.org/abs/2512.19687, https://huggingface.co/facebook"
AUTHORS_KEYS = ("audio_visual_model", "nth_text_layer")
"""What the authors' own form, the revision `perception_models`, has in its config."""
PARTS = {
    "text_config": "modernbert",
    "audio_video_config.audio_config": "pe_audio_encoder",
    "audio_video_config.audio_config.dac_config": "dac",
    "audio_video_config.video_config": "pe_video_encoder",
    "audio_video_config.video_config.vision_config": "timm_wrapper",
}
"""Which networks the published class may be made of: others would be built by code that nobody looked at."""
MAX_FRAMES, MAX_SIDE = 512, 2048
TEXT_LAYERS = 22
"""Words are taken after so many layers of ModernBERT."""
MASKED = -1e9
"""What a hidden place adds to the logits of attention."""


def read_pe_av(folder: PublishedFolder, *, segment_seconds: float = 10.0) -> Encoders:
    """Read a published PE-AV: small, base or large, of every frame or of 16.

    Args:
        folder: Checked folder, of the revision `main`.
        segment_seconds: Length of a segment, which has one vector.

    Returns:
        Its encoders of sound, picture and words.

    Raises:
        UnusableFolder: If it is not a PE-AV, or its processor does what is not known here.
    """
    config = folder.config
    if any(key in config for key in AUTHORS_KEYS):
        raise UnusableFolder(
            f"{folder.path} is the authors' own form (revision perception_models); download the revision main, "
            "which transformers reads"
        )
    if config.get("model_type") != "pe_audio_video":
        raise UnusableFolder(f"config.json is of a {config.get('model_type')!r}, not of a 'pe_audio_video'")
    _check_parts(config)
    sound, picture = folder.processor("feature_extractor"), folder.processor("video_processor")
    model = folder.load_model("PeAudioVideoModel", "PeAudioVideoConfig")
    spec = _clip_spec(sound, picture, segment_seconds)
    strides = model.audio_model.audio_encoder.config.dac_config.downsampling_ratios
    hop = math.prod(strides)
    if any(stride % 2 for stride in strides):
        raise UnusableFolder(f"the steps of the codec must be even, got {strides}")
    if sound.get("hop_length") != hop:
        raise UnusableFolder(
            f"the processor pads to {sound.get('hop_length')} samples, the network steps by {hop}"
        )
    side = model.video_model.video_encoder.embedder.vision_model.timm_model.patch_embed.img_size
    if side is not None and tuple(side) != (spec.frame_size, spec.frame_size):
        raise UnusableFolder(
            f"the processor gives pictures of {spec.frame_size} pixels, the network reads {side}"
        )
    text = model.text_model.config
    tokenizer, max_tokens = folder.tokenizer(
        max_positions=text.max_position_embeddings, vocabulary=text.vocab_size
    )
    return Encoders(
        family=FAMILY,
        clip_spec=spec,
        audio=PeAudio(model, hop),
        video=PeVideo(model, picture["image_mean"], picture["image_std"]),
        text=PeText(model),
        text_outputs=("text_audio", "text_video"),
        text_spec=TextSpec(outputs={"audio": "text_audio", "video": "text_video"}, max_tokens=max_tokens),
        tokenizer=tokenizer,
        similarity="dot",
        network={"config": config},
        attribution=(ATTRIBUTION,),
    )


def _check_parts(config: Mapping[str, Any]) -> None:
    for path, kind in PARTS.items():
        part: Any = config
        for key in path.split("."):
            part = part.get(key) if isinstance(part, Mapping) else None
        settings = part if isinstance(part, Mapping) else {}  # what is not said is as the class has it
        if (found := settings.get("model_type", kind)) != kind:
            raise UnusableFolder(f"config.json has {path} of a {found!r}, not of a {kind!r}")
        architecture = settings.get("architecture", "vit_pe_core")
        if not re.fullmatch(r"vit_pe_core\w*", str(architecture)):
            raise UnusableFolder(
                f"config.json asks for the picture network {architecture!r}, not a vit_pe_core"
            )


def _clip_spec(sound: Mapping[str, Any], picture: Mapping[str, Any], segment_seconds: float) -> ClipSpec:
    """What the published processor makes of a file."""
    size = picture.get("size") or {}
    known = (
        size.get("height") == size.get("width")
        and size.get("height") in range(1, MAX_SIDE + 1)
        and (not picture.get("do_sample_frames") or picture.get("num_frames") in range(2, MAX_FRAMES + 1))
        and picture.get("resample", 2) == 2
        and not picture.get("do_center_crop")
        and not picture.get("fps")
        and abs(picture.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-6
        and all(len(picture.get(key) or ()) == 3 for key in ("image_mean", "image_std"))
    )
    if not known:
        raise UnusableFolder(f"the processor of pictures does what is not known here: {dict(picture)}")
    num_frames = picture.get("num_frames") if picture.get("do_sample_frames") else None
    return ClipSpec(
        num_moments=1,
        num_frames=num_frames,
        frame_times="ends" if num_frames else "all",
        frame_shape="stretch",
        frame_size=size["height"],
        sample_rate_hz=sound.get("sampling_rate", 48_000),
        segment_seconds=segment_seconds,
        min_segment_seconds=min(1.0, segment_seconds / 2),
    )


class PeAudio(nn.Module):
    """Sound to vectors.

    Args:
        model: The published `PeAudioVideoModel`.
        hop_samples: Samples of a step.
    """

    def __init__(self, model: Any, hop_samples: int) -> None:
        super().__init__()
        self.encoder = model.audio_model.audio_encoder
        self.head = model.audio_model.audio_head
        self.hop_samples = hop_samples
        self.strides: Sequence[int] = self.encoder.config.dac_config.downsampling_ratios

    def forward(self, samples: Tensor, heard: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            samples: Mono sound, float32, shape (B, S).
            heard: Samples until the sound of each row ends, int64, shape (B,); what follows is not read.

        Returns:
            float32, shape (B, 1, D).
        """
        padded, num_steps = pad_by_reflection(samples, heard.clamp(min=1), self.hop_samples)
        steps = self.encode_steps(padded.unsqueeze(1), num_steps)  # (B, C, L)
        embedder = self.encoder.embedder
        tokens = embedder.data_proj(embedder.bottleneck(steps).transpose(1, 2))  # (B, L, D)
        is_real = torch.arange(tokens.shape[1]).unsqueeze(0) < num_steps.unsqueeze(1)
        tracks: Tensor = self.head(pool(self.encoder, tokens, is_real)).unsqueeze(1)
        return tracks

    def encode_steps(self, sound: Tensor, num_steps: Tensor) -> Tensor:
        """Run the convolutions of the codec, each with zeros after the end of its row.

        Args:
            sound: float32, shape (B, 1, S), S a multiple of a step.
            num_steps: Steps of each row, int64, shape (B,).

        Returns:
            float32, shape (B, C, S / hop).
        """
        codec, stride = self.encoder.embedder.dac_encoder, self.hop_samples

        def cut(values: Tensor) -> Tensor:
            is_real = torch.arange(values.shape[2]).view(1, 1, -1) < (num_steps * stride).view(-1, 1, 1)
            return torch.where(is_real, values, 0.0)

        values = codec.conv1(sound)
        for block, ratio in zip(codec.block, self.strides, strict=True):
            for unit in (block.res_unit1, block.res_unit2, block.res_unit3):
                values = values + unit.conv2(unit.snake2(unit.conv1(cut(unit.snake1(values)))))
            values = block.conv1(cut(block.snake1(values)))
            stride //= ratio
        steps: Tensor = codec.conv2(cut(codec.snake1(values)))
        return steps


class PeVideo(nn.Module):
    """Frames to vectors.

    Args:
        model: The published `PeAudioVideoModel`.
        mean: Of each colour, as the published processor takes it off, in [0, 1].
        std: What it divides by.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.encoder = model.video_model.video_encoder
        self.head = model.video_model.video_head
        for block in self.encoder.embedder.vision_model.timm_model.blocks:
            if can_rotate(block.attn):
                block.attn = RotaryAttention(block.attn)
        self.register_buffer("mean", 255 * torch.tensor(mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            frames: RGB, uint8, shape (B, F, H, W, 3).

        Returns:
            float32, shape (B, 1, D).
        """
        pixels = (frames.flatten(0, 1).to(torch.float32) - self.mean) / self.std
        embedder = self.encoder.embedder
        features = embedder.vision_model(pixels.permute(0, 3, 1, 2)).logits.unflatten(0, frames.shape[:2])
        tokens = embedder.data_proj(embedder.proj(F.normalize(features, dim=-1)))  # (B, F, D)
        tracks: Tensor = self.head(pool(self.encoder, tokens, None)).unsqueeze(1)
        return tracks


class PeText(nn.Module):
    """Words to two vectors: one to compare with sound, one to compare with picture.

    Args:
        model: The published `PeAudioVideoModel`, whose network of words is cut after layer 22.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text = model.text_model
        self.text.layers = self.text.layers[:TEXT_LAYERS]
        self.text.final_norm = nn.Identity()
        self.heads = nn.ModuleList([model.audio_model.text_audio_head, model.video_model.text_video_head])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a padded batch.

        Args:
            input_ids: Tokens, int64, shape (B, L).
            attention_mask: 1 for tokens, 0 for padding, int64, shape (B, L).

        Returns:
            The vectors for sound and for picture, float32, shape (B, D) each.
        """
        place = torch.arange(input_ids.shape[1])
        is_near = (place.unsqueeze(0) - place.unsqueeze(1)).abs() <= self.text.config.sliding_window
        is_real = attention_mask.bool()[:, None, None, :]
        masks = {
            "full_attention": hide(is_real.expand(-1, 1, place.shape[0], -1)),
            "sliding_attention": hide(is_real & is_near),
        }
        first = self.text(input_ids=input_ids, attention_mask=masks).last_hidden_state[:, 0]
        for_audio, for_video = (head(first) for head in self.heads)
        return for_audio, for_video


def pad_by_reflection(samples: Tensor, heard: Tensor, hop_samples: int) -> tuple[Tensor, Tensor]:
    """Continue each row from its end backwards to whole steps, as `numpy.pad(…, "reflect")` does; then zeros.

    Args:
        samples: float32, shape (B, S).
        heard: Samples of each row, int64, shape (B,), at least 1.
        hop_samples: Samples of a step.

    Returns:
        Padded rows, float32, shape (B, S rounded up), and steps of each row, int64, shape (B,).
    """
    num_steps = (heard + hop_samples - 1) // hop_samples
    length = (samples.shape[1] + hop_samples - 1) // hop_samples * hop_samples
    place = torch.arange(length).unsqueeze(0)  # (1, P)
    last = (heard - 1).unsqueeze(1)
    folded = place % (2 * last).clamp(min=1)
    source = torch.minimum(folded, 2 * last - folded).clamp(min=0)
    padded = torch.gather(samples, 1, source)
    return torch.where(place < (num_steps * hop_samples).unsqueeze(1), padded, 0.0), num_steps


def pool(encoder: Any, tokens: Tensor, is_real: Tensor | None) -> Tensor:
    """Run the transformer over tokens with the class token before them, and return what that becomes.

    Args:
        encoder: `PeAudioEncoder` or `PeVideoEncoder`.
        tokens: float32, shape (B, L, D).
        is_real: Tokens that are no padding, bool, shape (B, L); None if there is none.

    Returns:
        float32, shape (B, D).
    """
    start = encoder.patch_embedder.class_embedding.expand(tokens.shape[0], -1, -1)
    hidden = torch.cat([start, tokens], dim=1)
    if is_real is not None:
        is_real = torch.cat([is_real[:, :1], is_real], dim=1)
    block = encoder.patch_embedder.resnet_block
    convolved = hidden.transpose(1, 2)
    for part in (block.block1, block.block2):
        convolved = part.project(part.activation(_normalise(part.groupnorm, convolved, is_real)))
    hidden = hidden + convolved.transpose(1, 2)
    mask = None if is_real is None else hide(is_real[:, None, None, :])
    position = encoder.rotary_emb(hidden, torch.arange(hidden.shape[1]).unsqueeze(0))
    for layer in encoder.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=position)
    pooled: Tensor = encoder.output(encoder.norm(hidden))[:, 0]
    return pooled


def hide(is_real: Tensor) -> Tensor:
    """Turn a mask into what is added to the logits of attention.

    Args:
        is_real: Places that are seen, bool.

    Returns:
        float32 of that shape.
    """
    return torch.where(is_real, 0.0, MASKED)


def _normalise(norm: Any, values: Tensor, is_real: Tensor | None) -> Tensor:
    """Group norm of one group over the real places; the others become zero."""
    if is_real is None:
        plain: Tensor = nn.GroupNorm.forward(norm, values)
        return plain
    seen = is_real.unsqueeze(1).to(values.dtype)  # (B, 1, L)
    count = seen.sum(dim=(1, 2), keepdim=True) * values.shape[1]
    mean = (values * seen).sum(dim=(1, 2), keepdim=True) / count
    centred = (values - mean) * seen
    variance = centred.square().sum(dim=(1, 2), keepdim=True) / count
    scaled = centred / torch.sqrt(variance + norm.eps)
    normalised: Tensor = (scaled * norm.weight.view(1, -1, 1) + norm.bias.view(1, -1, 1)) * seen
    return normalised
