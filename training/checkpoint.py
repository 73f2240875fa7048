"""A checkpoint as a folder of safetensors and JSON, never half written.

student.safetensors, teacher.safetensors    weights by our names
optimiser.safetensors                       the optimiser's state, by position of the parameter
run.json                                    config, step, metrics, git commit, command

`checkpoint` is a link to the newest whole folder beside it, `checkpoint-000300`. The link is replaced in one step, so a
process that is killed at any moment leaves the older checkpoint or the newer one.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.network.geometry import TgdpConfig
from models.network.tgdp import Tgdp


class BrokenCheckpoint(ValueError):
    """A checkpoint folder lacks a file or holds something else."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `load_checkpoint` found.

    Attributes:
        student: Weights by our names.
        teacher: Weights of its average.
        optimiser: State of the optimiser by position and name, as `restore_optimiser` takes it.
        run: Contents of run.json.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    optimiser: dict[str, Tensor]
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
        network.load_state_dict({"student": self.student, "teacher": self.teacher}[weights])
        return network.eval()


def save_checkpoint(
    link: Path, student: Tgdp, teacher: Tgdp, optimiser: torch.optim.Optimizer, run: dict[str, Any]
) -> None:
    """Write a checkpoint beside its link, let the link point to it in one step, and remove the older ones.

    Args:
        link: Where it will be found.
        student: The network.
        teacher: Its average.
        optimiser: Of the student's parameters.
        run: JSON values with `step`: config, step, metrics, command.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the older checkpoint stays.
    """  # noqa: DOC502 - raised by what it calls
    folder = link.with_name(f"{link.name}-{run['step']:06d}")
    temporary = link.with_name(f".{folder.name}.part")
    for leftover in (temporary, folder):  # of a process that was killed before the link pointed there
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, network in (("student", student), ("teacher", teacher)):
            _save(network.state_dict(), temporary / f"{name}.safetensors")
        _save(_flat_state(optimiser), temporary / "optimiser.safetensors")
        (temporary / "run.json").write_text(json.dumps(run, indent=2))
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        temporary.rename(folder)
    finally:  # on a full disk nobody else would make room again
        shutil.rmtree(temporary, ignore_errors=True)
    new_link = link.with_name(f".{link.name}.link")
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(folder.name)
    new_link.replace(link)
    _sync(link.parent)
    for older in link.parent.glob(f"{link.name}-*"):
        if older != folder:
            shutil.rmtree(older)


def restore_optimiser(optimiser: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Give an optimiser the state it had when the checkpoint was written.

    Args:
        optimiser: Made for the same parameters in the same order; changed in place.
        checkpoint: Where the state comes from.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.optimiser.items():
        position, key = name.split(".", 1)
        state.setdefault(int(position), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _flat_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{position}.{key}": tensor for position, entry in state.items() for key, tensor in entry.items()}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as exc:
        raise OSError(f"{path} cannot be written: {exc}") from exc


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        folder: Where `save_checkpoint` wrote it.

    Returns:
        Weights and run.

    Raises:
        BrokenCheckpoint: If a file is missing or unreadable.
    """
    there = folder.resolve()  # a run that goes on may let the link point elsewhere meanwhile
    try:
        return Checkpoint(
            student=load_file(there / "student.safetensors"),
            teacher=load_file(there / "teacher.safetensors"),
            optimiser=load_file(there / "optimiser.safetensors"),
            run=json.loads((there / "run.json").read_text()),
        )
    except (OSError, ValueError, SafetensorError) as exc:
        raise BrokenCheckpoint(f"{folder} is not a checkpoint: {exc}") from exc
