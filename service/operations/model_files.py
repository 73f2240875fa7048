"""The files of a published model: fetched, found installed, or fetched by hand; each compared with what is known."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from models.bundle.bundle import describe_file
from models.catalogue import KnownModel, PublishedFile
from service.operations.download import (
    DownloadFailed,
    Expected,
    OnBytes,
    WrongFile,
    download,
    open_client,
    read_text,
)
from service.system.failure import Failure
from service.system.files import NoRoom, replace_file
from service.system.settings import Settings

HOST = "https://huggingface.co"
MAX_LIST_BYTES = 4 << 20
WANTED = (".json", ".safetensors", ".txt", ".model")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
Hashes = Mapping[str, str | None]
"""sha256 of each file whose publisher says none, by name; None for the others."""


class ModelUnavailable(Failure):
    """A model cannot be had, shown or removed; the message says why, and what to do by hand."""


def fetch_all(
    settings: Settings, model: KnownModel, files: Path, *, on_bytes: OnBytes
) -> tuple[Path, Hashes]:
    """Fetch what is missing; returns what to import, and the hashes to keep.

    Raises `ModelUnavailable` if it cannot be fetched, `WrongFile` or `NoRoom`.
    """
    if model.by_hand:
        raise ModelUnavailable(f"{model.name} is downloaded with a browser: {_by_hand(model)}")

    def room(num_bytes: int) -> None:
        if not settings.disk_space(files).has_room(num_bytes):
            raise NoRoom(
                errno.ENOSPC,
                f"the disk has too little room for {num_bytes} more bytes in {files}; what came is kept",
            )

    hashes = {}
    with open_client() as client:
        try:
            listed = model.files or _list_files(client, settings, model)
            for file in listed:
                if file.members and _copy_installed(file, files):
                    continue
                hashes[file.name] = _fetch(client, settings, file, files, room=room, on_bytes=on_bytes)
        except WrongFile:
            raise
        except DownloadFailed as exc:
            raise ModelUnavailable(f"{exc}; run the same command again, or {_by_hand(model)}") from exc
    unpublished = {file.name for file in listed if file.sha256 is None}
    return files, {name: sha256 for name, sha256 in hashes.items() if name in unpublished}


def _fetch(
    client: httpx.Client,
    settings: Settings,
    file: PublishedFile,
    files: Path,
    *,
    room: Callable[[int], None],
    on_bytes: OnBytes,
) -> str:
    target = files / file.name
    if target.exists() and not target.is_symlink():
        found = describe_file(target)
        if file.sha256 in (None, found["sha256"]) and file.bytes in (None, found["bytes"]):
            return str(found["sha256"])
    assert file.address is not None
    return download(
        client,
        mirror(settings, file.address),
        target,
        expected=Expected(num_bytes=file.bytes, sha256=file.sha256),
        room=room,
        on_bytes=on_bytes,
    )


def mirror(settings: Settings, address: str) -> str:
    """The address on the mirror of the settings, if there is one: its host is another, its path the same."""
    if settings.models_url is None:
        return address
    parts = urlsplit(address)
    return settings.models_url.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


def _list_files(client: httpx.Client, settings: Settings, model: KnownModel) -> tuple[PublishedFile, ...]:
    """Ask Hugging Face for a repository's files, with their sizes and, of large ones, their sha256."""
    address = mirror(settings, f"{HOST}/api/models/{model.repository}/revision/main?blobs=true")
    try:
        answer = json.loads(read_text(client, address, max_bytes=MAX_LIST_BYTES))
        revision = answer["sha"] if re.fullmatch(r"[0-9a-f]{40}", str(answer.get("sha"))) else "main"
        place = f"{HOST}/{model.repository}/resolve/{revision}/"
        found = [_read_listed(entry, place) for entry in answer["siblings"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise DownloadFailed(f"{address} does not list files: {exc!r}") from exc
    files = [file for file in found if file is not None and file.name.endswith(WANTED)]
    if not any(file.name.endswith(".safetensors") for file in files):
        raise DownloadFailed(f"{address} lists no weights as safetensors, and pickles are not taken")
    return tuple(files)


def _read_listed(entry: Mapping[str, Any], place: str) -> PublishedFile | None:
    """A file at the top of a repository; None for those in folders and hidden ones."""
    name, large = entry["rfilename"], entry.get("lfs") or {}
    if not isinstance(name, str) or ".." in name or "\\" in name or not name.isprintable():
        raise DownloadFailed(f"the host lists a file with an odd name, {name!r}")
    if not NAME.fullmatch(name):
        return None
    size, sha256 = entry.get("size"), large.get("sha256")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise DownloadFailed(f"the host gives no sha256 for {name}, but {sha256!r}")
    size = size if isinstance(size, int) and size >= 0 else None
    return PublishedFile(name=name, address=place + quote(name), bytes=size, sha256=sha256, members={})


def _copy_installed(file: PublishedFile, files: Path) -> bool:
    """Copy what is read of a wheel from where it is installed; False if it is not, or is another version."""
    project, version = file.name.split("-")[:2]
    try:
        distribution = importlib.metadata.distribution(project)
    except importlib.metadata.PackageNotFoundError:
        return False
    if distribution.version != version:
        return False
    for member, sha256 in file.members.items():
        content = Path(str(distribution.locate_file(member))).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            return False
        replace_file(files / Path(member).name, content)
    return True


def take_given(model: KnownModel, place: Path) -> tuple[Path, Hashes]:
    """Check what was fetched by hand; returns what to import, and the hashes to keep."""
    place = place.absolute()
    if model.files is not None and len(model.files) == 1:
        file = replace(model.files[0], name=place.name)
        return place, {model.files[0].name: _check_given(place, file)}
    if not place.is_dir() or place.is_symlink():
        raise ModelUnavailable(f"{place} must be a folder: {_by_hand(model)}")
    if model.files is None:
        entries = sorted(place.iterdir())
        if odd := [
            entry.name for entry in entries if not NAME.fullmatch(entry.name) and entry.suffix in WANTED
        ]:
            raise ModelUnavailable(f"{place} has files with odd names: {', '.join(map(repr, odd[:5]))}")
        named = [
            PublishedFile(name=entry.name, address=None, bytes=None, sha256=None, members={})
            for entry in entries
            if entry.name.endswith((*WANTED, ".bin"))
        ]
        return place, {file.name: _check_given(place / file.name, file) for file in named}
    for file in model.files:
        _check_given(place / file.name, file)
    return place, {}


def _check_given(path: Path, file: PublishedFile) -> str | None:
    """Compare a file with what is published of it; returns its sha256 if that is not."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ModelUnavailable(f"{path} must be a regular file, not a link or folder")
        found = describe_file(path)
    except OSError as exc:
        raise ModelUnavailable(f"{path} cannot be read: {exc.strerror or exc}") from exc
    for key, published in (("bytes", file.bytes), ("sha256", file.sha256)):
        if published is not None and found[key] != published:
            raise WrongFile(f"{path} has {key} {found[key]}, published is {published}")
    return None if file.sha256 else str(found["sha256"])


def _by_hand(model: KnownModel) -> str:
    """What to fetch with a browser, and where to put it."""
    if model.files is None:
        return f"fetch the files of {model.page} into a FOLDER, then `foley models get {model.name} --from FOLDER`"
    named = ", ".join(f"{file.address or model.page}" for file in model.files)
    place = "FILE" if len(model.files) == 1 else "FOLDER"
    return f"fetch {named} as {place}, then `foley models get {model.name} --from {place}`"
