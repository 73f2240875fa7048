"""Commands that need torch, imported when they are called."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from types import ModuleType

import typer

from models.cores import num_cores


def load_commands(name: str, *, shares_cores: bool = False) -> ModuleType:
    """Import a command that needs torch, or exit with one line that says what to install.

    With `shares_cores` threads of torch that wait for each other sleep: a server may answer meanwhile. Else they spin,
    and with both cores busy a step of `adapt` took 20 times as long.
    """
    if shares_cores:  # read once, when torch is loaded
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Not at the top: `synthesize` needs no torch and should not wait a second for it.
        commands = importlib.import_module(f"training.commands.{name}")
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as exc:  # OSError: a shared library is missing or of another version
        module = getattr(exc, "name", None) or ""
        if module.split(".")[0] in ("training", "models"):
            raise
        if isinstance(exc, ModuleNotFoundError):
            reason = f"{module} is not installed"
        else:
            first_line = str(exc).partition("\n")[0]
            reason = f"torch or torchaudio cannot be loaded ({first_line})"
        typer.echo(f"{reason}: training needs {_torch_pins()}, pip install 'foley-av[train]'", err=True)
        raise typer.Exit(1) from exc
    torch.set_num_threads(min(torch.get_num_threads(), num_cores()))  # torch knows the affinity, but no quota
    return commands


def _torch_pins() -> str:
    """Return the versions of torch and torchaudio that the extra `train` pins."""
    needed = [text.partition(";")[0] for text in importlib.metadata.requires("foley-av") or []]
    return " and ".join(text for text in needed if text.split("==")[0] in ("torch", "torchaudio"))
