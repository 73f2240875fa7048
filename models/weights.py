"""Weights out of a file of any origin: tensors by name, and nothing that could run.

    tensors = read_weights(Path("audio_model.25.pth"))   # {"patch_embed_a.proj.weight": ..., ...}

Released checkpoints are pickles, and a pickle may run a program when it is opened. torch reads them here with
`weights_only=True`, which builds tensors and refuses everything else; safetensors cannot hold anything else.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training code nests the tensors beside its optimiser and settings."""
PREFIX = "module."
"""What torch's parallel wrappers put before every name."""


class UnreadableWeights(ValueError):
    """The file holds no tensors by name, or something that is not a tensor."""


class WrongStateDict(ValueError):
    """The tensors are not those of the network. The message lists every missing, unexpected and misshapen one."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or any other name as a file of `torch.save`.

    Tensors may lie at the top of the file or under one of `model`, `state_dict`, `model_state_dict`. The prefix
    `module.` is taken off where every name has it.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU, as they were stored.

    Raises:
        UnreadableWeights: If it cannot be read, or holds anything that is not plain data.
    """  # noqa: DOC502 - the readers raise it
    tensors = _unwrap(_read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path), path)
    if all(name.startswith(PREFIX) for name in tensors):
        return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as exc:
        raise UnreadableWeights(f"{path} cannot be read as safetensors: {exc}") from exc


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        named = re.search(r"GLOBAL ([\w.]+)", str(exc))
        what = named[1] if named else "something that is not a tensor"
        raise UnreadableWeights(f"{path} is refused: it asks for {what}, and only tensors are read") from exc
    except Exception as exc:  # a file that is no checkpoint raises whatever its bytes lead to
        raise UnreadableWeights(f"{path} cannot be read as a file of torch.save: {exc}") from exc


def _unwrap(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    """Find the tensors: the whole content, or what lies under exactly one of the known keys."""
    if _are_tensors(loaded):
        return loaded  # type: ignore[no-any-return]
    inside = loaded if isinstance(loaded, Mapping) else {}
    found = [key for key in WRAPPERS if _are_tensors(inside.get(key))]
    if len(found) == 1:
        return inside[found[0]]  # type: ignore[no-any-return]
    holds = ", ".join(sorted(map(str, inside))[:8]) or type(loaded).__name__
    raise UnreadableWeights(
        f"{path} must hold tensors by name, at its top or under one of {', '.join(WRAPPERS)}; it holds {holds}"
    )


def _are_tensors(values: Any) -> bool:
    return (
        isinstance(values, Mapping)
        and bool(values)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items())
    )
