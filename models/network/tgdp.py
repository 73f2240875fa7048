"""TG-DP, the audio-visual network: two modality streams, one shared joint block, two ways through it.

Teacher-Guided Dual-Path audio-visual pretraining, https://arxiv.org/abs/2604.08147 (CVPR 2026).

    patches = embed(picture) + positions + modality                  (B, L, D)
    hidden  = stream([CLS, visible patches, registers])              registers dropped: (B, 1 + K, D)
    global path:          CLS of norm(joint block(hidden))           the embedding, one modality alone
    reconstruction path:  joint block([audio patches, video patches]) → decoder → every patch again

The joint block shares its weights between the paths and keeps three LayerNorm sets: joint, audio, video.

CAV-MAE (https://arxiv.org/abs/2210.07839) is the same network without CLS and registers: its embedding is the mean of
the normed patches. Blocks after the joint block, one stack for each modality, may belong to the global path ("heads").
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.network.frontend import (
    LogMel,
    Pixels,
    cut_windows,
    distinct_windows,
    moment_starts,
    window_starts,
)
from models.network.geometry import MODALITIES, Modality, TgdpConfig
from models.network.layers import Block, PatchEmbedding, sincos_positions


class FullView(NamedTuple):
    """The network's output for one modality with every patch visible.

    Attributes:
        embedding: CLS after the final norm, shape (B, D), not normalised to unit length.
        patch_to_cls: Attention of the joint block from every patch to CLS, mean of heads, shape (B, L).
        cls_to_patch: The other reading: from CLS to every patch, shape (B, L).
    """

    embedding: Tensor
    patch_to_cls: Tensor
    cls_to_patch: Tensor


class Tgdp(nn.Module):
    """The TG-DP network.

    Args:
        config: Geometry.
    """

    def __init__(self, config: TgdpConfig) -> None:
        super().__init__()
        self.config = config
        width, decoder_width = config.width, config.decoder_width
        self.log_mel = LogMel(config.num_mel_bins)
        self.pixels = Pixels()
        self.patch_embeddings = nn.ModuleDict(
            {
                "audio": PatchEmbedding(1, config.audio_patch, width),
                "video": PatchEmbedding(3, config.video_patch, width),
            }
        )
        self.cls_tokens = _per_modality(config.num_cls_tokens, width)
        self.registers = _per_modality(config.num_registers, width)
        self.modality_vectors = _per_modality(1, width)
        self.streams = self._stacks(config.depth)
        self.joint_block = Block(width, config.num_heads, config.mlp_ratio, ["joint", *MODALITIES])
        self.heads = self._stacks(config.head_depth)
        self.norms = nn.ModuleDict({stream: nn.LayerNorm(width) for stream in ("joint", *MODALITIES)})

        self.decoder_embedding = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_modality_vectors = _per_modality(1, decoder_width)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_width, config.decoder_heads, config.mlp_ratio, ["joint"])
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width)
        self.decoder_heads = nn.ModuleDict(
            {m: nn.Linear(decoder_width, config.patch_values(m)) for m in MODALITIES}
        )
        for m in MODALITIES:
            self.register_buffer(f"positions_{m}", sincos_positions(width, *config.grid(m)))
            self.register_buffer(f"decoder_positions_{m}", sincos_positions(decoder_width, *config.grid(m)))
        self._initialise()

    def _stacks(self, depth: int) -> nn.ModuleDict:
        """Make a stack of blocks for each modality."""
        width, num_heads, mlp_ratio = self.config.width, self.config.num_heads, self.config.mlp_ratio
        return nn.ModuleDict(
            {
                m: nn.ModuleList(Block(width, num_heads, mlp_ratio, [m]) for _ in range(depth))
                for m in MODALITIES
            }
        )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):  # a linear layer over the patch's values
                nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        tokens = [self.cls_tokens, self.registers, self.modality_vectors, self.decoder_modality_vectors]
        for parameter in [self.mask_token, *(p for group in tokens for p in group.values())]:
            nn.init.normal_(parameter, std=0.02)

    # Pictures to tokens

    def audio_pictures(self, windows: Tensor) -> Tensor:
        """Turn log-mel windows into pictures with the pitch as height.

        Args:
            windows: Normalised log-mel, shape (N, W, M).

        Returns:
            Shape (N, 1, M, W).
        """
        return windows.transpose(1, 2).unsqueeze(1)

    def embed_patches(self, pictures: Tensor, modality: Modality) -> Tensor:
        """Embed every patch and say where it is and which modality it belongs to.

        Args:
            pictures: Shape (N, 1, M, W) for audio, (N, 3, H, W) for video.
            modality: Which one it is.

        Returns:
            Tokens, shape (N, L, D).
        """
        tokens: Tensor = self.patch_embeddings[modality](pictures)
        placed: Tensor = tokens + self.get_buffer(f"positions_{modality}") + self.modality_vectors[modality]
        return placed

    # The way of one modality

    def encode(self, tokens: Tensor, modality: Modality) -> Tensor:
        """Run the modality's own blocks over the visible tokens.

        Args:
            tokens: Visible patches, shape (B, K, D), in any order.
            modality: Whose blocks.

        Returns:
            [CLS, patches] without the registers, shape (B, C + K, D); C is 1, or 0 in a network without CLS.
        """
        batch, parts = tokens.shape[0], [tokens]
        if self.config.num_cls_tokens:
            parts = [self.cls_tokens[modality].expand(batch, -1, -1), *parts]
        if self.config.num_registers:
            parts = [*parts, self.registers[modality].expand(batch, -1, -1)]
        x = torch.cat(parts, dim=1)
        for block in cast("nn.ModuleList", self.streams[modality]):
            x = block(x, modality)
        return x[:, : self.config.num_cls_tokens + tokens.shape[1]]

    def embed(self, tokens: Tensor, modality: Modality) -> Tensor:
        """Global path: one embedding of the visible tokens of one modality.

        Args:
            tokens: Visible patches, shape (B, K, D).
            modality: Whose blocks and norms.

        Returns:
            CLS after the final norm, or the mean of the normed patches, shape (B, D), not normalised to unit length.
        """
        return self.summarise(self.encode(tokens, modality), modality)

    def summarise(self, hidden: Tensor, modality: Modality) -> Tensor:
        """Second half of the global path: the joint block with one modality's norms, then the heads if there are any.

        Only what the embedding needs is computed in the last block: CLS, or every patch where there is none.

        Args:
            hidden: [CLS, patches] as `encode` gives them, shape (B, C + K, D).
            modality: Whose norms.

        Returns:
            CLS after the final norm, or the mean of the normed patches, shape (B, D), not normalised to unit length.
        """
        blocks = [self.joint_block, *cast("nn.ModuleList", self.heads[modality])]
        for block in blocks[:-1]:
            hidden = block(hidden, modality)
        if self.config.pooling == "patch_mean":
            patches: Tensor = self.norms[modality](blocks[-1](hidden, modality))
            return patches.mean(dim=1)
        cls: Tensor = self.norms[modality](blocks[-1](hidden, modality, num_queries=1))
        return cls.squeeze(1)

    def full_view(self, tokens: Tensor, modality: Modality) -> FullView:
        """Run the global path and return the joint block's attention too, as a teacher needs.

        Args:
            tokens: Every patch in its own order, shape (B, L, D).
            modality: Whose blocks and norms.

        Returns:
            Embedding and both readings of the attention.

        Raises:
            ValueError: If the network has no CLS token.
        """
        if self.config.pooling != "cls":
            raise ValueError(f"a full view needs a CLS token, this network pools by {self.config.pooling}")
        hidden = self.encode(tokens, modality)
        attention = self.joint_block.attention_weights(hidden, modality)
        return FullView(self.summarise(hidden, modality), attention[:, 1:, 0], attention[:, 0, 1:])

    # The way of both

    def reconstruct(
        self, audio: Tensor, video: Tensor, visible_audio: Tensor, visible_video: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reconstruction path: predict every patch of both modalities from the visible ones.

        Args:
            audio: All audio tokens, shape (B, La, D).
            video: All video tokens, shape (B, Lv, D).
            visible_audio: Positions of the visible audio patches, int64, shape (B, Ka).
            visible_video: Positions of the visible video patches, int64, shape (B, Kv).

        Returns:
            Predicted values of every patch: (B, La, 256) and (B, Lv, 768) at the published size.
        """
        hidden_audio = self.encode(take_tokens(audio, visible_audio), "audio")
        hidden_video = self.encode(take_tokens(video, visible_video), "video")
        return self.decode(hidden_audio, hidden_video, visible_audio, visible_video)

    def see_once(
        self, audio: Tensor, video: Tensor, visible_audio: Tensor, visible_video: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both paths from one encoding of the same visible patches: the single pass of TG-DP's ancestor.

        CAV-MAE Sync, https://arxiv.org/abs/2505.01237.

        Args:
            audio: All audio tokens, shape (B, La, D).
            video: All video tokens, shape (B, Lv, D).
            visible_audio: Positions of the visible audio patches, int64, shape (B, Ka).
            visible_video: Positions of the visible video patches, int64, shape (B, Kv).

        Returns:
            Embeddings of both as `embed` gives them, and predictions as `reconstruct` gives them.
        """
        hidden_audio = self.encode(take_tokens(audio, visible_audio), "audio")
        hidden_video = self.encode(take_tokens(video, visible_video), "video")
        embeddings = self.summarise(hidden_audio, "audio"), self.summarise(hidden_video, "video")
        return embeddings, self.decode(hidden_audio, hidden_video, visible_audio, visible_video)

    def decode(
        self, hidden_audio: Tensor, hidden_video: Tensor, visible_audio: Tensor, visible_video: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Second half of the reconstruction path: joint block over both, mask tokens back in place, decoder.

        Args:
            hidden_audio: [CLS, patches] as `encode` gives them, shape (B, C + Ka, D).
            hidden_video: The same of the picture, shape (B, C + Kv, D).
            visible_audio: Positions of the audio patches, int64, shape (B, Ka).
            visible_video: Positions of the video patches, int64, shape (B, Kv).

        Returns:
            Predicted values of every patch: (B, La, 256) and (B, Lv, 768) at the published size.
        """
        first = self.config.num_cls_tokens
        patches = torch.cat([hidden_audio[:, first:], hidden_video[:, first:]], dim=1)
        hidden = self.joint_block(patches, "joint")
        hidden = self.decoder_embedding(self.norms["joint"](hidden))
        num_audio = visible_audio.shape[1]
        x = torch.cat(
            [
                self._fill_in(hidden[:, :num_audio], visible_audio, "audio"),
                self._fill_in(hidden[:, num_audio:], visible_video, "video"),
            ],
            dim=1,
        )
        for block in self.decoder_blocks:
            x = block(x, "joint")
        x = self.decoder_norm(x)
        num_patches = self.config.num_patches("audio")
        return self.decoder_heads["audio"](x[:, :num_patches]), self.decoder_heads["video"](
            x[:, num_patches:]
        )

    def _fill_in(self, visible: Tensor, positions: Tensor, modality: Modality) -> Tensor:
        num_patches = self.config.num_patches(modality)
        everywhere = self.mask_token.to(visible.dtype).expand(visible.shape[0], num_patches, -1)
        index = positions.unsqueeze(2).expand(-1, -1, visible.shape[2])
        x = everywhere.scatter(1, index, visible)  # (B, L, D)
        filled = x + self.get_buffer(f"decoder_positions_{modality}")
        marked: Tensor = filled + self.decoder_modality_vectors[modality]
        return marked

    # From raw input to tracks

    def audio_track(self, samples: Tensor, lengths: Tensor, heard: Tensor | None = None) -> Tensor:
        """Embed the sound of every moment. Only the distinct windows are encoded: the same numbers for less work.

        Args:
            samples: Mono sound at 16 kHz, float32, shape (B, S), in [-1, 1].
            lengths: Samples of each row's segment, int64, shape (B,): they place the windows.
            heard: Samples until the sound of each row ends, int64, shape (B,): the log-mel sees no others, and is
                padded after them as in the published code. None if it fills the segment.

        Returns:
            Unit embeddings, float32, shape (B, T, D).
        """
        num_moments, width = self.config.num_moments, self.config.window_frames
        distinct, window_of_moment = distinct_windows(window_starts(num_moments, window_frames=width))
        # Moments that share a window in a whole segment share it in every shorter one.
        moments = [window_of_moment.index(window) for window in range(len(distinct))]
        starts = moment_starts(lengths, moments, num_moments=num_moments, window_frames=width)
        windows = cut_windows(self.log_mel(samples, lengths if heard is None else heard), starts, width)
        tokens = self.embed_patches(self.audio_pictures(windows.flatten(0, 1)), "audio")
        embeddings = F.normalize(self.embed(tokens, "audio"), dim=1)
        return embeddings.reshape(-1, len(moments), self.config.width)[:, window_of_moment]

    def video_track(self, frames: Tensor) -> Tensor:
        """Embed the picture of every moment.

        Args:
            frames: RGB, uint8, shape (B, T, H, W, 3).

        Returns:
            Unit embeddings, float32, shape (B, T, D).
        """
        tokens = self.embed_patches(self.pixels(frames.flatten(0, 1)), "video")
        embeddings = F.normalize(self.embed(tokens, "video"), dim=1)
        return embeddings.reshape(-1, self.config.num_moments, self.config.width)


def take_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
    """Pick tokens of each row.

    Args:
        tokens: Shape (B, L, D).
        positions: int64, shape (B, K).

    Returns:
        Shape (B, K, D).
    """
    return tokens.gather(1, positions.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def _per_modality(num_tokens: int, width: int) -> nn.ParameterDict:
    if num_tokens == 0:
        return nn.ParameterDict()
    return nn.ParameterDict({m: nn.Parameter(torch.zeros(1, num_tokens, width)) for m in MODALITIES})
