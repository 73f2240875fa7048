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
FIRST_BYTES = re.compile(rb"PK|\x80[\x02-\x05]")
"""How a file of torch.save begins: it is a zip archive or, written by torch before 1.6, a pickle."""


class UnreadableWeights(ValueError):
    """The file holds no tensors by name, or something that is not a tensor."""


class WrongStateDict(ValueError):
    """The tensors are not those of the network. The message lists every missing, unexpected and misshapen one."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or one of any other name as a file of `torch.save`.

    Tensors may lie at the top of the file or under one of `model`, `state_dict`, `model_state_dict`. The prefix
    `module.` is taken off where every name has it.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU, as they were stored.

    Raises:
        UnreadableWeights: If it is no file, cannot be read, or holds anything that is not plain data.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UnreadableWeights(f"{path} must be a file")
    is_safe = path.suffix.lower() == ".safetensors"
    tensors = _unwrap(_read_safetensors(path) if is_safe else _read_pickle(path), path)
    if odd := sorted(name for name, tensor in tensors.items() if not _is_dense(tensor)):
        raise UnreadableWeights(f"{path} must hold dense tensors with their numbers, not as {', '.join(odd)}")
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
        with path.open("rb") as file, warnings.catch_warnings():
            head = file.read(16)
            if FIRST_BYTES.match(head):
                file.seek(0)
                warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error says enough
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        named = re.search(r"GLOBAL ([\w.]+)", str(exc))
        what = named[1] if named else "something that is not a tensor"
        raise UnreadableWeights(f"{path} is refused: it asks for {what}, and only tensors are read") from exc
    except Exception as exc:  # a file that is no checkpoint raises whatever its bytes lead to
        raise UnreadableWeights(f"{path} cannot be read as a file of torch.save: {exc}") from exc
    begins = f"begins with {head!r}" if head else "is empty"
    raise UnreadableWeights(f"{path} {begins}: it is not a torch.save file and is not named .safetensors")


def _unwrap(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    """Find the tensors: the whole content, or the value of exactly one of the known keys."""
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


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_meta


def _are_tensors(values: Any) -> bool:
    return (
        isinstance(values, Mapping)
        and bool(values)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items())
    )
