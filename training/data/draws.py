"""Random numbers of one micro-batch, the same whoever asks and however many processes share the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Uniform numbers for the rows that this process works on.

    Every process draws for the whole batch and keeps its own rows: two processes with half a batch each see what one
    with all of it sees.

    Attributes:
        generator: On the CPU; a function of seed and step.
        num_rows: Rows of the whole batch.
        rows: The rows of this process.
    """

    generator: torch.Generator
    num_rows: int
    rows: slice

    def uniform(self, num_columns: int) -> Tensor:
        """Draw the next numbers.

        Args:
            num_columns: Numbers for each row.

        Returns:
            Uniform in [0, 1), float32, on the CPU, shape (B, num_columns) with B rows of this process.
        """
        return torch.rand(self.num_rows, num_columns, generator=self.generator)[self.rows]
