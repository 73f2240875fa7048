"""Golden arrays recorded from the published code; tests/golden/README.md names every one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.network.geometry import TgdpConfig
from models.network.published import load_tgdp
from models.network.tgdp import Tgdp
from tests.support.paths import GOLDEN


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    arrays = load_file(GOLDEN / "tgdp_small_expected.safetensors")
    return {name: array.float() if array.dtype == torch.float16 else array for name, array in arrays.items()}


@pytest.fixture(scope="session")
def golden_weights() -> dict[str, Tensor]:
    return load_file(GOLDEN / "tgdp_small_weights.safetensors")


@pytest.fixture(scope="session")
def golden_network(golden_weights: dict[str, Tensor]) -> Tgdp:
    config = TgdpConfig(
        width=48, num_heads=4, mlp_ratio=2, decoder_width=32, decoder_depth=2, decoder_heads=4
    )
    return load_tgdp(golden_weights, config)


@pytest.fixture(scope="session")
def cavmae_golden() -> dict[str, Tensor]:
    arrays = load_file(GOLDEN / "cavmae_small_expected.safetensors")
    return {name: array.float() for name, array in arrays.items()}


@pytest.fixture(scope="session")
def cavmae_weights() -> dict[str, Tensor]:
    return load_file(GOLDEN / "cavmae_small_weights.safetensors")


@pytest.fixture(scope="session")
def golden_frontend() -> dict[str, Tensor]:
    return load_file(GOLDEN / "frontend_expected.safetensors")
