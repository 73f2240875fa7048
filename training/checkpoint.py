"""A checkpoint as a folder of safetensors and JSON, never half written.

student.safetensors, teacher.safetensors    weights by our names
run.json                                    config, step, metrics, git commit, command
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from models.tgdp import Tgdp, TgdpConfig


class BrokenCheckpoint(ValueError):
    """A checkpoint folder lacks a file or holds something else."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `load_checkpoint` found.

    Attributes:
        student: Weights by our names.
        teacher: Weights of its average.
        run: Contents of run.json.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    run: dict[str, Any]

    @property
    def config(self) -> TgdpConfig:
        """Geometry of the network."""
        return TgdpConfig(**self.run["config"]["network"])

    def build(self, weights: str = "student") -> Tgdp:
        """Build the network and fill it.

        Args:
            weights: "student" or "teacher".

        Returns:
            The network in evaluation mode.
        """
        network = Tgdp(self.config)
        network.load_state_dict(self.student if weights == "student" else self.teacher)
        return network.eval()


def save_checkpoint(folder: Path, student: Tgdp, teacher: Tgdp, run: dict[str, Any]) -> None:
    """Write a checkpoint beside its place and move it there in one step.

    Args:
        folder: Where it will be; an older one there is replaced.
        student: The network.
        teacher: Its average.
        run: JSON values: config, step, metrics, command.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, network in (("student", student), ("teacher", teacher)):
        state = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
        save_file(state, temporary / f"{name}.safetensors")
    (temporary / "run.json").write_text(json.dumps(run, indent=2))
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        folder: Where `save_checkpoint` wrote it.

    Returns:
        Weights and run.

    Raises:
        BrokenCheckpoint: If a file is missing or unreadable.
    """
    try:
        return Checkpoint(
            student=load_file(folder / "student.safetensors"),
            teacher=load_file(folder / "teacher.safetensors"),
            run=json.loads((folder / "run.json").read_text()),
        )
    except (OSError, ValueError) as exc:
        raise BrokenCheckpoint(f"{folder} is not a checkpoint: {exc}") from exc
