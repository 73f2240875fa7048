"""Measuring a run while it goes: zero-shot retrieval on held-out media."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.network.geometry import TgdpConfig
from models.network.tgdp import Tgdp
from training.data.segments import Segments
from training.evaluation.evaluate import embed_segments, retrieval


def evaluate_networks(
    networks: Mapping[str, nn.Module], validation: Segments, *, config: TgdpConfig, device: torch.device
) -> dict[str, Any]:
    """Measure zero-shot retrieval of networks on held-out media.

    Args:
        networks: By name; all of one geometry.
        validation: Held-out media.
        config: The geometry.
        device: Where they are measured.

    Returns:
        Retrieval by name, JSON values.
    """
    scores = {}
    for name, network in networks.items():
        plain = Tgdp(config).to(device).eval()  # other shapes: nothing compiled
        plain.load_state_dict(network.state_dict())
        scores[name] = retrieval(*embed_segments(plain, validation)).to_json()
    return scores
