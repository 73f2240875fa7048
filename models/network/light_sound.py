"""The sound network of aiSFX (A. B. Ma and A. Lerch, ISMIR 2022) for `light`: a CNN over log-mel, 512 numbers.

Its log-mel is Essentia's: frames of 2048 samples at 44.1 kHz, 1024 apart, the first one centred on the first sample;
a symmetric Hann window, the power spectrum, 96 triangles that are straight on HTK's mel scale, each with weights of
sum 1, then log10(10,000 x + 1) over its largest value in the authors' data. Blocks of 100 frames, 50 apart, are
embedded alone; a segment's vector is the mean of its blocks' unit vectors, again of unit length. A segment shorter
than a block is filled up with silence, and a last block that is not whole is left out, as published.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE_HZ = 44_100
WINDOW_SAMPLES, HOP_SAMPLES = 2048, 1024
NUM_MEL_BINS = 96
LARGEST = 9.457798957824707
BLOCK_FRAMES, BLOCK_HOP = 100, 50
WIDTH = 512


def mel_triangles() -> Tensor:
    """Weights of the mel bins, as Essentia's MelBands has them with warping htkMel, weighting and unit_sum.

    Returns:
        float32, shape (1025, 96).
    """
    hertz = torch.arange(WINDOW_SAMPLES // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / WINDOW_SAMPLES
    mel = 2595 * torch.log10(1 + hertz / 700)
    edges = torch.linspace(0, mel[-1].item(), NUM_MEL_BINS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0)
    return (weights / weights.sum(dim=0)).float()


def windowed_transform() -> Tensor:
    """The Hann window and the Fourier transform as one matrix.

    Returns:
        float32, shape (2048, 2050): real parts, then imaginary parts.
    """
    window = torch.hann_window(WINDOW_SAMPLES, periodic=False, dtype=torch.float64)
    spectrum = torch.fft.rfft(torch.diag(window))
    return torch.cat([spectrum.real, spectrum.imag], dim=1).float()


class ConvBlock(nn.Module):
    """Two convolutions; names of its layers are those of the checkpoint.

    Args:
        inputs: Channels.
        outputs: Channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, values: Tensor) -> Tensor:
        """Convolve twice.

        Args:
            values: float32, shape (B, C, F, M).

        Returns:
            float32, shape (B, C', F, M).
        """
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(values))))))


class SoundNet(nn.Module):
    """The embedding network of aiSFX."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_block1 = ConvBlock(1, WIDTH // 8)
        self.conv_block2 = ConvBlock(WIDTH // 8, WIDTH // 4)
        self.conv_block3 = ConvBlock(WIDTH // 4, WIDTH // 2)
        self.conv_block4 = ConvBlock(WIDTH // 2, WIDTH)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed blocks.

        Args:
            log_mel: float32, shape (B, F, 96).

        Returns:
            float32, shape (B, 512), not negative.
        """
        values = log_mel.unsqueeze(1)
        for block in (self.conv_block1, self.conv_block2, self.conv_block3):
            values = F.max_pool2d(block(values), 2)
        found: Tensor = self.conv_block4(values)
        return found.mean(dim=3).amax(dim=2)


class LightSound(nn.Module):
    """Sound to one unit row a segment.

    Args:
        network: Of blocks.
        segment_samples: Longest segment; blocks that it cannot fill are not computed.
    """

    transform: Tensor
    triangles: Tensor

    def __init__(self, network: SoundNet, segment_samples: int) -> None:
        super().__init__()
        self.network = network
        num_frames = math.ceil(segment_samples / HOP_SAMPLES) + 1
        self.num_blocks = max(1, (num_frames - BLOCK_FRAMES) // BLOCK_HOP + 1)
        self.num_frames = (self.num_blocks - 1) * BLOCK_HOP + BLOCK_FRAMES
        self.register_buffer("transform", windowed_transform(), persistent=False)
        self.register_buffer("triangles", mel_triangles(), persistent=False)

    def log_mel(self, samples: Tensor, heard: Tensor) -> Tensor:
        """Compute the frames of all blocks.

        Args:
            samples: Mono sound at 44.1 kHz, float32, shape (B, S).
            heard: Samples until the sound of each row ends, int64, shape (B,).

        Returns:
            float32, shape (B, F, 96), in [0, 1] for sound as loud as the authors'; 0 where the sound has ended.
        """
        num_samples = (self.num_frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES
        padded = F.pad(samples, (HOP_SAMPLES, num_samples))[:, :num_samples]
        parts = padded.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES) @ self.transform  # (B, F, 2050)
        power = parts.square().reshape(*parts.shape[:2], 2, -1).sum(dim=2)
        log_mel = torch.log10(10_000 * (power @ self.triangles) + 1) / LARGEST
        place = torch.arange(self.num_frames).unsqueeze(0)
        is_heard = place < _count_frames(heard).unsqueeze(1)
        return torch.where(is_heard.unsqueeze(2), log_mel, 0.0)

    def forward(self, samples: Tensor, heard: Tensor) -> Tensor:
        """Embed a padded batch; see the module.

        Args:
            samples: float32, shape (B, S).
            heard: int64, shape (B,).

        Returns:
            Unit rows, float32, shape (B, 1, 512).
        """
        blocks = self.log_mel(samples, heard).unfold(1, BLOCK_FRAMES, BLOCK_HOP)  # (B, K, 96, 100)
        vectors = F.normalize(self.network(blocks.flatten(0, 1).transpose(1, 2)), dim=1)
        vectors = vectors.reshape(-1, self.num_blocks, WIDTH)  # (B, K, 512)
        num_whole = (_count_frames(heard) - BLOCK_FRAMES).clamp(min=0) // BLOCK_HOP + 1
        is_whole = torch.arange(self.num_blocks).unsqueeze(0) < num_whole.unsqueeze(1)
        return F.normalize((vectors * is_whole.unsqueeze(2)).sum(dim=1, keepdim=True), dim=2)


def _count_frames(heard: Tensor) -> Tensor:
    """Frames of a sound: the last one is centred on its end or after it."""
    return (heard + HOP_SAMPLES - 1) // HOP_SAMPLES + 1
