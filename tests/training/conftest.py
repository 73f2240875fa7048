"""Golden arrays recorded from the published code; tests/golden/README.md names every one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _load(name: str) -> dict[str, Tensor]:
    arrays = load_file(GOLDEN / name)
    return {key: array.float() if array.dtype == torch.float16 else array for key, array in arrays.items()}


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    return _load("tgdp_small_expected.safetensors")


@pytest.fixture(scope="session")
def golden_retrieval() -> dict[str, Tensor]:
    return _load("retrieval_expected.safetensors")
