"""CLAP (LAION, https://arxiv.org/abs/2211.06687) as graphs: its published class with the log-mel inside, and its words.

    encoders = read_clap(PublishedFolder.open(Path("clap-htsat-unfused")))

A sound shorter than 10 s is repeated as often as it fits whole, then followed by zeros (`repeatpad`). The log-mel
is that of the published feature extractor, computed in float64 as there: quiet bins beside loud ones need it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.bundle.bundle import TextSpec
from models.media.clip import ClipSpec
from models.network.encoders import Encoders
from models.network.pe_av import hide
from models.network.published_folder import PublishedFolder, UnusableFolder, import_transformers

FAMILY = "clap"
ATTRIBUTION = "CLAP by LAION, Apache-2.0 by its model card, https://arxiv.org/abs/2211.06687, https://huggingface.co/laion"
LARGEST = {
    "fft_window_size": 4096,
    "hop_length": 4096,
    "feature_size": 512,
    "max_length_s": 60,
    "sampling_rate": 192_000,
}
"""What a feature extractor may ask for."""
FLOOR = 1e-10
"""Least energy of a mel bin: -100 dB."""


def read_clap(folder: PublishedFolder) -> Encoders:
    """Read a published CLAP that was trained without fusion: `clap-htsat-unfused`, `larger_clap_general`.

    Args:
        folder: Checked folder.

    Returns:
        Its encoders of sound and words.

    Raises:
        UnusableFolder: If it is not such a CLAP, or its feature extractor does what is not known here.
    """
    config = folder.config
    if config.get("model_type") != "clap":
        raise UnusableFolder(f"config.json is of a {config.get('model_type')!r}, not of a 'clap'")
    sound = folder.processor("feature_extractor")
    if (config.get("audio_config") or {}).get("enable_fusion") or sound.get("truncation") == "fusion":
        raise UnusableFolder(
            f"{folder.path} is a CLAP with fusion, which needs random crops: take an unfused one"
        )
    if sound.get("padding") != "repeatpad" or sound.get("top_db") is not None:
        raise UnusableFolder(f"the feature extractor does what is not known here: {sound}")
    for name, largest in LARGEST.items():
        if name in sound and sound[name] not in range(1, largest + 1):
            raise UnusableFolder(f"the feature extractor asks for {name} {sound[name]}, at most {largest}")
    model = folder.load_model("ClapModel", "ClapConfig")
    extractor = import_transformers().ClapFeatureExtractor(**{**sound, "feature_extractor_type": None})
    text = model.text_model.config
    tokenizer, max_tokens = folder.tokenizer(
        max_positions=text.max_position_embeddings - text.pad_token_id - 1, vocabulary=text.vocab_size
    )
    return Encoders(
        family=FAMILY,
        clip_spec=ClipSpec(
            num_moments=1,
            sample_rate_hz=extractor.sampling_rate,
            segment_seconds=float(extractor.max_length_s),
        ),
        audio=ClapAudio(model, extractor),
        text=ClapText(model),
        text_outputs=("text",),
        text_spec=TextSpec(outputs={"audio": "text"}, max_tokens=max_tokens),
        tokenizer=tokenizer,
        network={"config": config},
        attribution=(ATTRIBUTION,),
    )


class ClapAudio(nn.Module):
    """Sound to unit vectors.

    Args:
        model: The published `ClapModel`.
        extractor: The published `ClapFeatureExtractor`.
    """

    spectrum: Tensor
    banks: Tensor

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__()
        self.audio = model.audio_model
        self.projection = model.audio_projection
        self.num_samples: int = extractor.nb_max_samples
        self.hop_samples: int = extractor.hop_length
        self.window_samples: int = extractor.fft_window_size
        self.register_buffer("spectrum", windowed_spectrum(self.window_samples), persistent=False)
        banks = torch.from_numpy(np.asarray(extractor.mel_filters_slaney, np.float64))
        self.register_buffer("banks", banks, persistent=False)  # (bins, mels)

    def forward(self, samples: Tensor, heard: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            samples: Mono sound, float32, shape (B, S), of at most a segment.
            heard: Samples until the sound of each row ends, int64, shape (B,); what follows is not read.

        Returns:
            Unit rows, float32, shape (B, 1, D).
        """
        features = self.log_mel(samples, heard).unsqueeze(1)  # (B, 1, frames, mels)
        pooled = self.audio(input_features=features).pooler_output
        return F.normalize(self.projection(pooled), dim=-1).unsqueeze(1)

    def log_mel(self, samples: Tensor, heard: Tensor) -> Tensor:
        """Compute what the feature extractor gives for each row alone.

        Args:
            samples: float32, shape (B, S).
            heard: int64, shape (B,).

        Returns:
            Decibels, float32, shape (B, frames, mels).
        """
        heard = heard.clamp(min=1, max=self.num_samples).unsqueeze(1)
        place = torch.arange(self.num_samples).unsqueeze(0)  # (1, P)
        repeated = torch.gather(samples, 1, (place % heard).clamp(max=samples.shape[1] - 1))
        whole = torch.full_like(heard, self.num_samples) // heard * heard
        sound = torch.where(place < whole, repeated, 0.0)
        half = self.window_samples // 2
        padded = torch.cat([sound[:, 1 : half + 1].flip(1), sound, sound[:, -half - 1 : -1].flip(1)], dim=1)
        frames = padded.unfold(1, self.window_samples, self.hop_samples).to(
            torch.float64
        )  # (B, frames, window)
        parts = frames @ self.spectrum
        real, imaginary = parts.chunk(2, dim=2)
        power = real.square() + imaginary.square()
        energies = (power @ self.banks).clamp(min=FLOOR)
        decibels: Tensor = 10 * energies.to(torch.float32).log10()
        return decibels


class ClapText(nn.Module):
    """Words to unit vectors.

    Args:
        model: The published `ClapModel`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text = model.text_model
        self.projection = model.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            input_ids: Tokens, int64, shape (B, L).
            attention_mask: 1 for tokens, 0 for padding, int64, shape (B, L).

        Returns:
            Unit rows, float32, shape (B, D).
        """
        is_real = attention_mask.bool()
        tokens = torch.where(
            is_real, input_ids, self.text.config.pad_token_id
        )  # positions are counted by them
        mask = hide(is_real[:, None, None, :].expand(-1, 1, tokens.shape[1], -1))
        pooled = self.text(input_ids=tokens, attention_mask=mask).pooler_output
        return F.normalize(self.projection(pooled), dim=-1)


def windowed_spectrum(window_samples: int) -> Tensor:
    """Matrix that turns a frame into its spectrum under a Hann window.

    Args:
        window_samples: Samples of a frame N.

    Returns:
        float64, shape (N, N + 2): the real parts of the N/2 + 1 bins, then the imaginary ones.
    """
    place = torch.arange(window_samples, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * place / window_samples)
    bins = torch.arange(window_samples // 2 + 1)
    turns = (torch.arange(window_samples).unsqueeze(1) * bins) % window_samples
    angles = 2 * torch.pi * turns.to(torch.float64) / window_samples
    return torch.cat([angles.cos(), -angles.sin()], dim=1) * window.unsqueeze(1)
