"""A folder as Hugging Face publishes a model, read with suspicion: config, weights, tokenizer, processor.

    folder = PublishedFolder.open(Path("pe-av-small"))
    model = folder.load_model("PeAudioVideoModel", "PeAudioVideoConfig")

Nothing in the folder runs and nothing is downloaded: weights come out of safetensors only, code that a config names is
refused, and the network is built before a byte of the weights is read, without memory, to see that it is theirs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from models.network.weights import UnreadableWeights, WrongStateDict, read_weights

MAX_JSON_BYTES = 4 << 20
MAX_TOKENIZER_BYTES = 64 << 20
MAX_INTEGER = 1 << 20
"""Largest width, length or count that a config may ask for."""
MAX_LAYERS = 512
MAX_DEPTH = 16
"""How deep a config may be nested."""
LAYER_KEYS = re.compile(r"layers|depth|blocks|stages")
CODE_KEYS = re.compile(r"auto_map|trust_remote_code|custom_pipelines|quantization_config")
"""What would have code or settings outside the folder used."""
FILE_KEYS = re.compile(r"checkpoint|pretrained|cache|path|url|file|hub")
"""Arguments of a picture network of `timm` that would have other weights read."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
FIXED = re.compile(r"(position_ids|token_type_ids|relative_position_index|num_batches_tracked)$")
"""Numbers that follow from the config: some versions store them, some do not."""
PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)")
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
INSTALL = "pip install 'foley-av[train,pe-av]'"


class UnusableFolder(ValueError):
    """The folder is not a published model that can be imported; the message says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class PublishedFolder:
    """A folder whose files are regular, of sensible size, and name no code.

    Attributes:
        path: Where it is.
        config: config.json.
        weights: Files of the weights.
    """

    path: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> PublishedFolder:
        """Check a folder.

        Args:
            path: Of the folder.

        Returns:
            The folder.

        Raises:
            UnusableFolder: If a file is missing, a link or too large, or the config asks for what is not given.
        """
        if not path.is_dir():
            raise UnusableFolder(
                f"{path} must be a folder with config.json, model.safetensors and tokenizer.json"
            )
        for entry in sorted(path.iterdir()):
            if entry.is_symlink():
                raise UnusableFolder(
                    f"{entry} is a link: give a folder of plain files, hf download --local-dir"
                )
        config = _read_json(path / "config.json")
        _check_config(config, path / "config.json")
        return cls(path=path, config=config, weights=_find_weights(path))

    def processor(self, section: str) -> dict[str, Any]:
        """Read the settings of the published processor.

        Args:
            section: `feature_extractor` (sound) or `video_processor`.

        Returns:
            Settings by name, from whichever file has them.

        Raises:
            UnusableFolder: If there are none.
        """
        kind = "video_processor_type" if section == "video_processor" else "feature_extractor_type"
        for name in PROCESSORS:
            if (self.path / name).exists():
                settings = _read_json(self.path / name)
                _check_config(settings, self.path / name)
                found = settings.get(section, settings)
                if isinstance(found, dict) and kind in found:
                    return found
        raise UnusableFolder(
            f"{self.path} has no settings of a {section}: {' or '.join(PROCESSORS)} must be there"
        )

    def tokenizer(self, *, max_positions: int, vocabulary: int) -> tuple[str, int]:
        """Read tokenizer.json and how long a text may be.

        Args:
            max_positions: Longest text of the network, in tokens.
            vocabulary: Tokens that the network knows.

        Returns:
            The text of tokenizer.json, and most tokens of a text.

        Raises:
            UnusableFolder: If it is missing, too large, broken, or has tokens that the network does not know.
        """
        path = self.path / "tokenizer.json"
        text = _read_text(path, MAX_TOKENIZER_BYTES)
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as exc:  # the package raises plain Exception
            raise UnusableFolder(f"{path} cannot be read: {exc}") from exc
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if not 0 <= largest < vocabulary:
            raise UnusableFolder(f"{path} has token {largest}, the network knows {vocabulary}")
        settings = self.path / "tokenizer_config.json"
        limit = _read_json(settings).get("model_max_length") if settings.exists() else None
        return text, int(min(max_positions, limit)) if isinstance(limit, int | float) else max_positions

    def load_model(self, model_class: str, config_class: str) -> Any:
        """Build the published network, and fill it with the weights.

        Args:
            model_class: Its name in `transformers`.
            config_class: The name of its configuration.

        Returns:
            The network in float32 and evaluation mode, on the CPU.

        Raises:
            UnusableFolder: If `transformers` cannot build it, or the config asks for other numbers than there are.
            WrongStateDict: If the weights are not those of the network.
        """
        transformers = import_transformers()
        held = self._check_tensors()
        with _quietly():
            try:
                config = getattr(transformers, config_class).from_dict(self.config)
                with torch.device("meta"):
                    empty = getattr(transformers, model_class)(config)
            except Exception as exc:  # whatever an odd config leads to
                raise UnusableFolder(
                    f"{self.path / 'config.json'} is no {model_class}: {_first_line(exc)}"
                ) from exc
            wanted = sum(parameter.numel() for parameter in empty.parameters())
            if wanted > held:
                raise UnusableFolder(f"config.json asks for {wanted:,} numbers, the weights hold {held:,}")
            tensors = {name: tensor for file in self.weights for name, tensor in read_weights(file).items()}
            try:
                model, found = getattr(transformers, model_class).from_pretrained(
                    None,
                    config=config,
                    state_dict=tensors,
                    dtype=torch.float32,
                    output_loading_info=True,
                    local_files_only=True,
                )
            except Exception as exc:  # shapes, names and dtypes are refused by unrelated types
                raise WrongStateDict(f"the weights do not fit {model_class}: {_first_line(exc)}") from exc
        _check_loading(found, model_class)
        model.set_attn_implementation("eager")
        return model.float().eval()

    def _check_tensors(self) -> int:
        """Read the headers of the weights; returns how many numbers they hold."""
        held = 0
        for path in self.weights:
            try:
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 - it is no mapping
                        count = 1
                        for size in file.get_slice(name).get_shape():
                            count *= size
                        held += count
            except (OSError, SafetensorError) as exc:
                raise UnreadableWeights(f"{path} cannot be read as safetensors: {_first_line(exc)}") from exc
        return held


def import_transformers() -> Any:
    """Import the package `transformers`, an extra, so that it never asks for anything over the network.

    Returns:
        The package.

    Raises:
        UnusableFolder: If it is not installed.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    try:
        # Not at the top: it takes seconds and is an extra.
        transformers = importlib.import_module("transformers")
        importlib.import_module("timm")
    except ImportError as exc:
        raise UnusableFolder(f"{exc.name or 'transformers'} is not installed: {INSTALL}") from exc
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what building a model prints about its docstrings off stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _find_weights(path: Path) -> tuple[Path, ...]:
    if (path / WEIGHTS).exists():
        names = [WEIGHTS]
    elif (path / INDEX).exists():
        listed = _read_json(path / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise UnusableFolder(f"{path / INDEX} has no weight_map")
        names = sorted(set(map(str, listed.values())))
        if odd := [name for name in names if not SHARD.fullmatch(name)]:
            raise UnusableFolder(f"{path / INDEX} names {odd[0]!r}, which is no shard of this folder")
    else:
        pickles = sorted(entry.name for entry in path.iterdir() if PICKLES.fullmatch(entry.name))
        advice = "take a revision with safetensors, often a pull request: hf download --revision refs/pr/N"
        hint = f"; {pickles[0]} is a pickle, which could run a program: {advice}" if pickles else ""
        raise UnusableFolder(f"{path} has no {WEIGHTS}{hint}")
    for name in names:
        _check_file(path / name, None)
    return tuple(path / name for name in names)


def _check_file(path: Path, max_bytes: int | None) -> None:
    try:
        status = path.lstat()
    except OSError as exc:
        raise UnusableFolder(
            f"{path} is missing" if isinstance(exc, FileNotFoundError) else str(exc)
        ) from exc
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFolder(f"{path} must be a regular file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UnusableFolder(f"{path} has {status.st_size} bytes, at most {max_bytes} are allowed")


def _read_text(path: Path, max_bytes: int) -> str:
    _check_file(path, max_bytes)
    try:
        return path.read_bytes()[: max_bytes + 1].decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UnusableFolder(f"{path} cannot be read: {exc}") from exc


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read_text(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, UnusableFolder):
            raise
        raise UnusableFolder(f"{path} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise UnusableFolder(f"{path} must hold a JSON object")
    return found


def _check_config(values: Any, path: Path, key: str = "", depth: int = 0) -> None:
    """Refuse a config that names code or other files, or asks for sizes that no published model has."""
    if depth > MAX_DEPTH:
        raise UnusableFolder(f"{path} is nested too deeply")
    if isinstance(values, Mapping):
        for name, value in values.items():
            is_refused = CODE_KEYS.search(name) or (key == "model_args" and FILE_KEYS.search(name))
            if is_refused and value not in (None, False):
                raise UnusableFolder(
                    f"{path} has {name}: code, files and settings outside the folder are not used"
                )
            _check_config(value, path, name, depth + 1)
    elif isinstance(values, list):
        for value in values:
            _check_config(value, path, key, depth + 1)
    elif isinstance(values, int) and not isinstance(values, bool):
        limit = MAX_LAYERS if LAYER_KEYS.search(key) else MAX_INTEGER
        if not -limit <= values <= limit:
            raise UnusableFolder(f"{path} asks for {key} {values}, at most {limit} is allowed")


def _check_loading(found: Mapping[str, Any], model_class: str) -> None:
    missing, extra = (
        sorted(name for name in map(str, found[key]) if not FIXED.search(name))
        for key in ("missing_keys", "unexpected_keys")
    )
    if missing or extra:
        lists = [
            f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
            for what, names in ((f"{len(missing)} missing:", missing), (f"{len(extra)} unexpected:", extra))
            if names
        ]
        raise WrongStateDict(f"the weights are not those of {model_class}: {'; '.join(lists)}")


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:300]
