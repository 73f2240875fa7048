"""Published encoders by name: fetched, checked, and imported as bundles.

    DATA/models/NAME/files/     what was downloaded
    DATA/models/NAME/bundle/    what `foley-train import` made of it
    DATA/models/hashes.json     sha256 of files whose publisher says none, as they were the first time

Nothing is fetched unless `get_model` is called. One process at a time changes the folder.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.bundle.bundle import BrokenBundle, load_bundle, read_bundle_id
from models.catalogue import KnownModel, read_catalogue
from service.operations.download import OnBytes
from service.operations.model_files import Hashes, ModelUnavailable, fetch_all, take_given
from service.system.child import start_child
from service.system.files import FileLocked, NoRoom, locked_file, replace_file
from service.system.settings import Settings

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What `get_model` is to do: `given` is a file or folder that was fetched by hand."""

    given: Path | None = None
    imports: bool = True


def find_model(name: str) -> KnownModel:
    """The model of a name; raises `ModelUnavailable` if none has it."""
    known = read_catalogue()
    if name not in known:
        raise ModelUnavailable(f"no model is called {name}; known are {', '.join(known)}")
    return known[name]


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """All models as JSON values: the catalogue's facts, and what lies here of each."""
    found = []
    for model in read_catalogue().values():
        folder = model_folder(settings, model.name)
        bundle = None
        with contextlib.suppress(BrokenBundle):
            bundle = read_bundle_id(folder / "bundle")
        has_files = folder.is_dir() and any((folder / "files").glob("*"))
        state = "imported" if bundle else "downloaded" if has_files else "absent"
        found.append({**asdict(model), "state": state, "bundle_id": bundle, "folder": str(folder)})
    return found


def model_folder(settings: Settings, name: str) -> Path:
    """Where a model lies, whether it is there or not."""
    return settings.data / "models" / name


def bundle_folder(settings: Settings, name: str) -> Path:
    """The bundle of a model that was imported; raises `ModelUnavailable` if it was not."""
    folder = model_folder(settings, find_model(name).name) / "bundle"
    if not folder.is_dir():
        raise ModelUnavailable(f"{name} is not here: `foley models get {name}`")
    return folder


def remove_model(settings: Settings, name: str) -> bool:
    """Remove a model's files, its bundle and the hashes that were kept; whether there was anything.

    Raises `ModelUnavailable` if FOLEY_BUNDLE names it. Releases have copies of their own.
    """
    folder = model_folder(settings, find_model(name).name)
    if settings.bundle.is_relative_to(folder):
        raise ModelUnavailable(f"FOLEY_BUNDLE names {settings.bundle}: set it to another bundle first")
    if not folder.parent.is_dir():
        return False
    with _changing(settings):
        was_there = folder.is_dir()
        if was_there:
            shutil.rmtree(folder)  # refuses a link
        known = _read_hashes(settings)
        kept = {key: value for key, value in known.items() if not key.startswith(f"{name}/")}
        if kept != known:
            _write_hashes(settings, kept)
    return was_there


def get_model(settings: Settings, name: str, wanted: Wanted, *, on_bytes: OnBytes, say: Say) -> Path | None:
    """Fetch a model, check it, and import it; returns the folder of its bundle, None if it was only fetched.

    Raises `ModelUnavailable`, `DownloadFailed`, or `NoRoom`; what has come stays, and the same call goes on with it.
    """
    model = find_model(name)
    folder = model_folder(settings, name)
    with _changing(settings) as lock:
        if wanted.imports and (folder / "bundle").is_dir():
            if wanted.given is not None:
                raise ModelUnavailable(f"{name} is here already: `foley models remove {name}` first")
            with contextlib.suppress(BrokenBundle):
                load_bundle(folder / "bundle")
                return folder / "bundle"
            shutil.rmtree(folder / "bundle")
        if wanted.imports:
            _check_extras(model)
        files = folder / "files"
        files.mkdir(parents=True, exist_ok=True)
        if files.is_symlink() or folder.is_symlink():
            raise ModelUnavailable(f"{folder} must be a folder, not a link")
        if wanted.given is not None:
            source, hashes = take_given(model, wanted.given)
        else:
            source, hashes = fetch_all(settings, model, files, on_bytes=on_bytes)
        _compare_hashes(settings, model, hashes, say=say)
        if not wanted.imports:
            return None
        _check_room(settings, source, folder)
        _import(model, source, folder / "bundle", lock=lock)
    return folder / "bundle"


@contextlib.contextmanager
def _changing(settings: Settings) -> Iterator[int]:
    place = settings.data / "models"
    place.mkdir(parents=True, exist_ok=True)
    try:
        with locked_file(place / ".lock", wait_seconds=0) as descriptor:
            yield descriptor
    except FileLocked as exc:
        raise ModelUnavailable(
            f"process {exc.holder} fetches or removes models: try again when it has ended"
        ) from exc


def _check_extras(model: KnownModel) -> None:
    """Refuse before anything is fetched if what the import needs is not installed."""
    for extra in model.needs:
        for needed in importlib.metadata.requires("foley-av") or []:
            if f'extra == "{extra}"' in needed.replace("'", '"') and not _is_installed(needed):
                extras = ",".join(model.needs)
                raise ModelUnavailable(
                    f"importing {model.name} needs more packages: pip install 'foley-av[{extras}]' "
                    "(or fetch its files only, with --download-only)"
                )


def _is_installed(requirement: str) -> bool:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


def _compare_hashes(settings: Settings, model: KnownModel, hashes: Hashes, *, say: Say) -> None:
    """Keep the hashes of files whose publisher says none, and refuse a file that was another one before."""
    known = _read_hashes(settings)
    unpublished = {f"{model.name}/{name}": sha256 for name, sha256 in hashes.items() if sha256 is not None}
    for key, sha256 in unpublished.items():
        if known.get(key, sha256) != sha256:
            raise ModelUnavailable(
                f"{key} is not the file of before: its sha256 is {sha256}, it was {known[key]}; if it may have "
                f"changed, `foley models remove {model.name}` forgets the old one"
            )
    if new := sorted(unpublished.keys() - known.keys()):
        say(f"WARNING: no sha256 is published of {', '.join(new)}; theirs are kept, and compared next time")
        _write_hashes(settings, {**known, **unpublished})


def _read_hashes(settings: Settings) -> dict[str, str]:
    path = settings.data / "models" / "hashes.json"
    try:
        return {str(key): str(value) for key, value in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, OSError) as exc:
        raise ModelUnavailable(
            f"{path} cannot be read ({exc}): remove it to forget the hashes that it kept"
        ) from exc


def _write_hashes(settings: Settings, hashes: Hashes) -> None:
    replace_file(
        settings.data / "models" / "hashes.json", json.dumps(hashes, indent=1, sort_keys=True) + "\n"
    )


def _check_room(settings: Settings, source: Path, folder: Path) -> None:
    """Refuse an import for which the disk has too little room: a bundle is about as large as what it is made of."""
    files = source.iterdir() if source.is_dir() else [source]
    num_bytes = sum(file.lstat().st_size for file in files)
    if not settings.disk_space(folder).has_room(num_bytes):
        raise NoRoom(
            errno.ENOSPC, f"the disk has too little room for a bundle of {num_bytes} bytes in {folder}"
        )


def _import(model: KnownModel, source: Path, output: Path, *, lock: int) -> None:
    """Have `foley-train import` make the bundle, in a process of its own that keeps the lock as long as it runs."""
    process = start_child(
        "training.cli", "import", str(source), "--kind", model.kind, "--output", str(output),
        "--name", model.name, "--license", model.licence, pass_fds=(lock,),
    )  # fmt: skip
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status != 0:
        raise ModelUnavailable(f"{model.name} was fetched, but its import failed; its files are in {source}")
