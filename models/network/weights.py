"""Weights out of a file of any origin: tensors by name, and nothing that could run.

    tensors = read_weights(Path("audio_model.25.pth"))   # {"patch_embed_a.proj.weight": ..., ...}

Released checkpoints are pickles, and a pickle may run a program when it is opened. torch reads them here with
`weights_only=True`, which builds tensors and refuses everything else; safetensors cannot hold anything else.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MODEL_KEYS = ("model", "state_dict", "model_state_dict", "module", "net", "network")
"""Keys under which training code nests the tensors beside its optimiser and settings."""
AVERAGE_KEYS = ("ema", "ema_state_dict", "model_ema", "state_dict_ema", "ema_model", "model_ema_state_dict")
"""Keys of their moving average; taken where the tensors themselves are not there."""
PREFIX = re.compile(r"module\.|model\.|network\.|net\.")
"""What the wrappers of training code put before every name."""
AVERAGE_PREFIX = re.compile(r"ema\.|ema_model\.|model_ema\.")
COMPILED = "_orig_mod."
"""What torch.compile puts into a name, before the part that it compiled."""
COUNTER = "n_averaged"
"""What torch's AveragedModel keeps beside its tensors: how many it has averaged."""
SETTINGS = re.compile(
    r"argparse\.|omegaconf\.|pathlib\.|easydict\.|yacs\.|numpy\.|collections\.defaultdict|types\.SimpleN"
)
"""Classes of settings and numbers that training code stores beside its tensors."""
FIRST_BYTES = re.compile(rb"PK|\x80[\x02-\x05]")
"""How a file of torch.save begins: it is a zip archive or, written by torch before 1.6, a pickle."""
TRUNCATED = (
    "it ends too early: copy or download it again, and compare its size or checksum with the original's"
)


class _Skipped:
    """Stands for a number of NumPy: whatever a pickle says of it, nothing of NumPy is called."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


NUMBERS: list[Any] = [
    (_Skipped, name)
    for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
]


class UnreadableWeights(ValueError):
    """The file holds no tensors by name, or something that is not a tensor."""


class WrongStateDict(ValueError):
    """The tensors are not those of the network. The message names missing, unexpected and misshapen ones."""


@dataclass(frozen=True, kw_only=True)
class FoundWeights:
    """The tensors of a file.

    Attributes:
        tensors: By name, on the CPU, as they were stored.
        wrappers: What was taken off around them and from their names, for people; empty if nothing was.
    """

    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file; see `unwrap_weights`.

    Args:
        path: The file.

    Returns:
        Tensors by name.
    """
    return unwrap_weights(path).tensors


def unwrap_weights(path: Path, *, skips_numbers: bool = False) -> FoundWeights:
    """Read a `.safetensors` file, or one of any other name as a file of `torch.save`.

    Tensors may lie at the top of the file or under one of `MODEL_KEYS` and `AVERAGE_KEYS`, one inside the other too.
    The prefixes of wrappers (`module.`, `model.`, `ema.` …) are taken off where every name has one, and torch.compile's
    `_orig_mod.` wherever it stands.

    Args:
        path: The file.
        skips_numbers: Whether NumPy's numbers may lie beside the tensors; they are not read.

    Returns:
        The tensors, and what was taken off.

    Raises:
        UnreadableWeights: If it is no file, cannot be read, or holds anything that is not plain data.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UnreadableWeights(f"{path} must be a file")
    is_safe = path.suffix.lower() == ".safetensors"
    wrappers: list[str] = []
    tensors = _unwrap(
        _read_safetensors(path) if is_safe else _read_pickle(path, skips_numbers), path, wrappers
    )
    if odd := sorted(name for name, tensor in tensors.items() if not _is_dense(tensor)):
        raise UnreadableWeights(f"{path} must hold dense tensors with their numbers, not as {', '.join(odd)}")
    return FoundWeights(tensors=_strip_names(tensors, wrappers), wrappers=tuple(wrappers))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as exc:
        is_short = re.search("incomplete metadata|invalid header length|header too small", str(exc))
        reason = f"{TRUNCATED} ({exc})" if is_short else exc
        raise UnreadableWeights(f"{path} cannot be read as safetensors: {reason}") from exc


def _read_pickle(path: Path, skips_numbers: bool = False) -> Any:
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            head = file.read(16)
            if head.startswith(b"PK") and not zipfile.is_zipfile(file):
                raise EOFError
            if FIRST_BYTES.match(head):
                file.seek(0)
                warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error says enough
                with torch.serialization.safe_globals(NUMBERS if skips_numbers else []):
                    return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        named = re.search(r"GLOBAL ([\w.]+)", str(exc))
        what = named[1] if named else "something that is not a tensor"
        advice = _advise(path) if named and SETTINGS.match(what) else ""
        raise UnreadableWeights(
            f"{path} is refused: it asks for {what}, and only tensors are read{advice}"
        ) from exc
    except Exception as exc:  # a file that is no checkpoint raises whatever its bytes lead to
        is_short = isinstance(exc, EOFError) or "unexpected EOF" in str(exc)
        reason = TRUNCATED if is_short else exc
        raise UnreadableWeights(f"{path} cannot be read as a file of torch.save: {reason}") from exc
    begins = f"begins with {head!r}" if head else "is empty"
    raise UnreadableWeights(f"{path} {begins}: it is not a torch.save file and is not named .safetensors")


def _advise(path: Path) -> str:
    """Say how to save the tensors of a file without the settings beside them."""
    script = (
        f"import torch; loaded = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "torch.save(loaded['model'], 'weights.pth')"
    )
    return (
        "; settings lie beside them. If you trust the file, save the tensors alone (if not under model, then under "
        f'state_dict or ema) and import those: python -c "{script}"'
    )


def _unwrap(loaded: Any, path: Path, wrappers: list[str]) -> Mapping[str, Tensor]:
    """Find the tensors: the whole content, or the value of one of the known keys, to any depth."""
    if (found := _look_inside(loaded)) is not None:
        wrappers += found[1]
        return found[0]
    inside = loaded if isinstance(loaded, Mapping) else {}
    holds = ", ".join(sorted(map(str, inside))[:8]) or type(loaded).__name__
    raise UnreadableWeights(
        f"{path} must hold tensors by name, at its top or under one of {', '.join(MODEL_KEYS + AVERAGE_KEYS)}; "
        f"it holds {holds}"
    )


def _look_inside(loaded: Any) -> tuple[Mapping[str, Tensor], list[str]] | None:
    """The tensors and the keys that lead to them; None if there are none, or two equally good ones."""
    if _are_tensors(loaded):
        return loaded, []
    if isinstance(loaded, tuple):  # tensors, and what else was saved with them
        inside = [found for one in loaded if (found := _look_inside(one)) is not None]
        return inside[0] if len(inside) == 1 else None
    if not isinstance(loaded, Mapping):
        return None
    models, averages = (
        [(key, found) for key in keys if (found := _look_inside(loaded.get(key))) is not None]
        for keys in (MODEL_KEYS, AVERAGE_KEYS)
    )
    candidates = models or averages
    if len(candidates) != 1:
        return None
    key, (tensors, inner) = candidates[0]
    unused = f" ({averages[0][0]} is not used)" if models and averages else ""
    return tensors, [f"{key}{unused}", *inner]


def _strip_names(tensors: Mapping[str, Tensor], wrappers: list[str]) -> dict[str, Tensor]:
    """Take wrappers' prefixes off the names; if the file has a moving average beside them, that is left out."""
    names = {name: name for name in tensors}
    while True:
        plain = {name.replace(COMPILED, ""): origin for name, origin in names.items()}
        if plain.keys() != names.keys() and len(plain) == len(names):
            wrappers.append(COMPILED)
            names = plain
        if len(names) > 1 and COUNTER in names:
            wrappers.append(names.pop(COUNTER))
        prefixes = [PREFIX.match(name) or AVERAGE_PREFIX.match(name) for name in names]
        heads = {match[0] if match else "" for match in prefixes}
        models = sorted(head for head in heads if PREFIX.fullmatch(head))
        averages = sorted(heads - set(models))
        if "" in heads or len(models) > 1 or (not models and len(averages) > 1):
            return {name: tensors[origin] for name, origin in names.items()}
        head = (models or averages)[0]
        wrappers.append(f"{head} ({averages[0]} is not used)" if models and averages else head)
        names = {name.removeprefix(head): origin for name, origin in names.items() if name.startswith(head)}


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_meta


def _are_tensors(values: Any) -> bool:
    return (
        isinstance(values, Mapping)
        and bool(values)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items())
    )
