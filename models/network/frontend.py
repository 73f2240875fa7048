"""Samples to log-mel windows and frames to normalised pixels: the first layers of the exported graphs.

Preprocessing is part of the network, so training and serving cannot drift apart and the service needs no torch.

The log-mel is Kaldi's (`torchaudio.compliance.kaldi.fbank` with htk_compat, Hann window, 128 bins, no dither). Every
step of it up to the power spectrum is linear in the samples (mean removal, pre-emphasis, window, zero padding,
Fourier transform), so one fixed (400, 514) matrix does them all.

    log-mel = log(max(mel_banks · |samples · M|², 1.19e-7));  normalised = (log-mel + 5.081) / 4.4849
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.compliance import kaldi

FRAME_SAMPLES = 400
"""Samples in one analysis frame: 25 ms at 16 kHz."""
HOP_SAMPLES = 160
"""Samples between two analysis frames: 10 ms at 16 kHz."""
FFT_SIZE = 512
NUM_LOG_MEL_FRAMES = 1024
"""Analysis frames of a segment after padding; 10 s make 998 real ones."""
SEGMENT_SAMPLES = 160_000
"""Samples of a whole segment: 10 s at 16 kHz."""
LOG_MEL_MEAN = -5.081
LOG_MEL_STD = 4.4849
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def window_starts(
    num_moments: int = 16, *, num_frames: int = NUM_LOG_MEL_FRAMES, window_frames: int = 416
) -> list[int]:
    """First analysis frame of every moment's audio window: centred on the moment, kept inside the segment.

    Worked example: 16 moments of a 416-frame window → 0 0 0 0 48 112 … 560 608 608 608, 11 distinct ones.

    Args:
        num_moments: Moments of a segment.
        num_frames: Analysis frames of a segment.
        window_frames: Analysis frames of a window.

    Returns:
        One start per moment, not decreasing.
    """
    stride = num_frames // num_moments
    last_start = num_frames - window_frames
    return [min(max(0, stride * moment - window_frames // 2), last_start) for moment in range(num_moments)]


def distinct_windows(starts: list[int]) -> tuple[list[int], list[int]]:
    """Windows that need encoding, and where each moment finds its own among them.

    Args:
        starts: One start per moment, as `window_starts` gives them.

    Returns:
        The sorted distinct starts, and for every moment its position among them.
    """
    distinct = sorted(set(starts))
    return distinct, [distinct.index(start) for start in starts]


def spectrum_matrix() -> Tensor:
    """Kaldi's frame processing and the Fourier transform as one matrix.

    Returns:
        float32 of shape (400, 514): 257 real parts, then 257 imaginary parts.
    """
    frame = torch.eye(FRAME_SAMPLES, dtype=torch.float64)
    frame = frame - frame.mean(dim=1, keepdim=True)
    previous = torch.cat([frame[:, :1], frame[:, :-1]], dim=1)
    frame = (frame - 0.97 * previous) * torch.hann_window(FRAME_SAMPLES, periodic=False, dtype=torch.float64)
    spectrum = torch.fft.rfft(frame, n=FFT_SIZE)
    return torch.cat([spectrum.real, spectrum.imag], dim=1).float()


def mel_banks(num_mel_bins: int = 128) -> Tensor:
    """Kaldi's triangular mel filters from 20 Hz to 8 kHz.

    Args:
        num_mel_bins: Number of filters M.

    Returns:
        float32 of shape (M, 257).
    """
    banks, _ = kaldi.get_mel_banks(num_mel_bins, FFT_SIZE, 16_000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
    return F.pad(banks, (0, 1))


class LogMel(nn.Module):
    """Samples to the normalised log-mel spectrogram of a whole segment.

    Args:
        num_mel_bins: Number of mel filters M.
    """

    spectrum: Tensor
    banks: Tensor

    def __init__(self, num_mel_bins: int = 128) -> None:
        super().__init__()
        self.register_buffer("spectrum", spectrum_matrix().T.unsqueeze(1), persistent=False)  # (514, 1, 400)
        self.register_buffer("banks", mel_banks(num_mel_bins), persistent=False)

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Compute the log-mel of a padded batch; padding never changes a clip's numbers.

        Args:
            samples: Mono sound at 16 kHz, float32, shape (B, S), in [-1, 1].
            lengths: How many samples of each row are real, int64, shape (B,). Fewer than 400 make no frame.

        Returns:
            Normalised log-mel, float32, shape (B, 1024, M). Frames without samples hold 5.081 / 4.4849 = 1.133.
        """
        log_mel = self.unnormalised(samples, lengths)
        return (log_mel - LOG_MEL_MEAN) / LOG_MEL_STD

    def unnormalised(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Compute the log-mel before normalisation; it is zero in frames without samples.

        Args:
            samples: Mono sound at 16 kHz, float32, shape (B, S), in [-1, 1].
            lengths: How many samples of each row are real, int64, shape (B,).

        Returns:
            Natural logarithm of the mel energies, float32, shape (B, 1024, M).
        """
        num_needed = FRAME_SAMPLES + (NUM_LOG_MEL_FRAMES - 1) * HOP_SAMPLES
        samples = F.pad(samples, (0, num_needed))[:, :num_needed]  # (B, 164080) for every S
        lengths = lengths.unsqueeze(1)
        is_real = torch.arange(num_needed, device=samples.device).unsqueeze(0) < lengths
        samples = torch.where(is_real, samples, 0.0)
        mean = samples.sum(dim=1, keepdim=True) / lengths.clamp(min=1).to(samples.dtype)
        samples = torch.where(is_real, samples - mean, 0.0)

        spectrum = F.conv1d(samples.unsqueeze(1), self.spectrum, stride=HOP_SAMPLES)  # (B, 514, 1024)
        power = spectrum.square()
        power = power[:, : FFT_SIZE // 2 + 1] + power[:, FFT_SIZE // 2 + 1 :]
        energies = torch.matmul(self.banks, power).transpose(1, 2)  # (B, 1024, M)
        log_mel = energies.clamp(min=torch.finfo(torch.float32).eps).log()

        num_frames = (lengths - FRAME_SAMPLES) // HOP_SAMPLES + 1
        has_samples = torch.arange(NUM_LOG_MEL_FRAMES, device=samples.device).unsqueeze(0) < num_frames
        return torch.where(has_samples.unsqueeze(2), log_mel, 0.0)


def moment_starts(lengths: Tensor, moments: list[int], *, num_moments: int, window_frames: int) -> Tensor:
    """First analysis frame of the window of some moments, for segments of any length.

    Frame i of the picture lies at i/T of the segment, so the window of moment i is centred at i/T of the segment too.
    For a whole segment of 10 s these are the published windows (`window_starts`). The published code keeps those for
    shorter ones as well, where sound and picture of a moment then drift apart and the late windows hold padding only:
    in a sound of 2.7 s, moments 8 to 15.

    Worked example: moments 0, 8 and 15 of 10 s → 0, 304, 608; of 5 s → 0, 48, 96; of 2 s → 0, 0, 0.

    Args:
        lengths: Samples of each segment, int64, shape (B,).
        moments: N numbers of moments.
        num_moments: Moments of a segment T.
        window_frames: Frames of a window W.

    Returns:
        int64, shape (B, N).
    """
    lengths = lengths.clamp(max=SEGMENT_SAMPLES).unsqueeze(1)
    stride = NUM_LOG_MEL_FRAMES // num_moments
    offsets = torch.tensor(moments, dtype=torch.int64, device=lengths.device) * stride
    centres = (2 * offsets * lengths + SEGMENT_SAMPLES) // (2 * SEGMENT_SAMPLES)  # rounded, (B, N)
    num_frames = (2 * NUM_LOG_MEL_FRAMES * lengths + SEGMENT_SAMPLES) // (2 * SEGMENT_SAMPLES)
    last_starts = (num_frames - window_frames).clamp(min=0)
    return torch.minimum((centres - window_frames // 2).clamp(min=0), last_starts)


def cut_windows(log_mel: Tensor, starts: Tensor, window_frames: int) -> Tensor:
    """Cut windows out of the log-mel of whole segments.

    Args:
        log_mel: Shape (B, 1024, M).
        starts: First frames of the N windows of each row, int64, shape (B, N).
        window_frames: Frames of a window W.

    Returns:
        Shape (B, N, W, M).
    """
    frames = starts.unsqueeze(2) + torch.arange(window_frames, device=starts.device)  # (B, N, W)
    num_mel_bins = log_mel.shape[2]
    index = frames.flatten(1).unsqueeze(2).expand(-1, -1, num_mel_bins)
    return log_mel.gather(1, index).reshape(-1, starts.shape[1], window_frames, num_mel_bins)


class Pixels(nn.Module):
    """Frames as bytes to normalised pixels (mean and standard deviation of ImageNet)."""

    scale: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        std = torch.tensor(IMAGE_STD)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("offset", (-torch.tensor(IMAGE_MEAN) / std).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalise a batch of frames.

        Args:
            frames: uint8, shape (N, H, W, 3), RGB.

        Returns:
            float32, shape (N, 3, H, W).
        """
        return frames.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.offset
