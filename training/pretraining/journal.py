"""The records of a run: `metrics.jsonl`, one line a step, and TensorBoard files in `board/`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from models.network.tgdp import Tgdp
from training.evaluation.evaluate import DIRECTIONS
from training.pretraining.board import Board
from training.pretraining.config import PretrainConfig

logger = logging.getLogger(__name__)

NUM_PICTURES = 4
"""Clips that the board shows."""


class Journal:
    """Metrics of a run, kept by one process only.

    What was written after the checkpoint that a run goes on from is forgotten first.

    Args:
        output: Folder of the run.
        first_step: Steps done before this start of the run.
        with_board: Whether TensorBoard files are written too.
        is_kept: Whether this process writes at all.
    """

    def __init__(self, output: Path, *, first_step: int, with_board: bool, is_kept: bool) -> None:
        self._path = output / "metrics.jsonl"
        self._board = Board(output / "board", purge_step=first_step) if with_board and is_kept else None
        self._is_kept = is_kept
        if is_kept:
            lines = self._path.read_text().splitlines(keepends=True) if first_step else []
            self._path.write_text("".join(lines[:first_step]))  # one line a step
            self._file = self._path.open("a")

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        if self._is_kept:
            self._file.close()
        if self._board:
            self._board.close()

    def write(
        self, step: int, numbers: dict[str, float], retrieved: dict[str, Any] | None, seconds: float
    ) -> None:
        """Write the line of a step.

        Args:
            step: Steps done.
            numbers: Losses and rates.
            retrieved: Held-out retrieval, where it was measured.
            seconds: Time the run has taken so far.
        """
        if not self._is_kept:
            return
        line: dict[str, Any] = {"step": step, **numbers}
        if retrieved is not None:
            line["retrieval"] = retrieved
            logger.info("step %d: held-out retrieval: %s", step, describe_retrieval(retrieved))
        self._file.write(json.dumps({**line, "seconds": seconds}) + "\n")
        self._file.flush()
        if self._board:
            self._board.numbers(step, numbers)
            if retrieved is not None:
                self._board.numbers(step, recalls(retrieved))

    def show(
        self, step: int, student: Tgdp, teacher: Tgdp, batch: tuple[Tensor, Tensor], config: PretrainConfig
    ) -> None:
        """Write pictures of the hidden, rebuilt and attended patches of a few clips.

        Args:
            step: Steps done.
            student: The network in training.
            teacher: Its average.
            batch: Windows and frames of always the same clips.
            config: The run.
        """
        if self._board:
            windows, frames = (part[:NUM_PICTURES] for part in batch)
            self._board.pictures(step, student, teacher, windows, frames, config)


def describe_retrieval(retrieved: dict[str, Any]) -> str:
    """Put held-out retrieval in words.

    Args:
        retrieved: By network and direction, JSON values.

    Returns:
        Recall at 1 and 10 of each network in each direction.
    """
    return "; ".join(
        f"{network}, {name}: R@1 {found[direction]['at_1']:.1f} %, R@10 {found[direction]['at_10']:.1f} %"
        for network, found in retrieved.items()
        for direction, name in DIRECTIONS.items()
    )


def recalls(retrieved: dict[str, Any]) -> dict[str, float]:
    """Flatten held-out retrieval to curves.

    Args:
        retrieved: By network and direction, JSON values.

    Returns:
        Recall at 1 and 10 by "network/direction/at_k".
    """
    return {
        f"{network}/{direction}/{at}": found[direction][at]
        for network, found in retrieved.items()
        for direction in DIRECTIONS
        for at in ("at_1", "at_10")
    }
