"""Reads the golden arrays of the adapting methods as float64 tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

FOLDER = Path(__file__).parents[2] / "golden/adapt"


class Golden(dict[str, torch.Tensor]):
    """Arrays by name, and the `constants` they were made with."""

    def __init__(self, name: str) -> None:
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
            self.constants: dict[str, Any] = json.loads(file.metadata()["constants"])
        super().__init__(
            {key: array.bool() if array.dtype == torch.uint8 else array for key, array in arrays.items()}
        )

    def weights(self, prefix: str) -> dict[str, torch.Tensor]:
        """State of a module: the arrays below a prefix."""
        return {key.removeprefix(prefix): array for key, array in self.items() if key.startswith(prefix)}

    def meets(self, found: torch.Tensor, name: str, *, tolerance: float = 2e-5) -> bool:
        """Whether an array is within the tolerance, relative to the largest golden value."""
        wanted = self[name].double()
        shape = wanted.shape if found.dim() else (1,)
        worst = (found.double().reshape(shape) - wanted).abs().max()
        return bool(worst <= tolerance * wanted.abs().max().clamp(min=1e-12))
