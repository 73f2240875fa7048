"""What lies around a file and says something of it: an XMP file beside it, and its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from models.media.clip import DecodeLimits, MediaInfo, UnreadableClip, open_regular, read_said
from models.media.names import xmp_names
from models.media.ucs import read_ucs
from service.decode.decoder import Decoder
from service.library.objects import (
    ObjectChanged,
    ObjectNotFound,
    StorageUnavailable,
    StoredObject,
    read_object,
)
from service.library.scanning import FoundFile, UnusableFile

MAX_SIDECAR_BYTES = 1 << 20
SIDECAR = (
    "sidecar"  # fact of `media`: size and time of the XMP file that `said` is of, empty or missing without
)
TIMEOUT_SECONDS = 60.0


class Sidecars:
    """Tells which XMP files lie beside files that come folder by folder, each of which is listed once."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._names: set[str] = set()

    def stamp_of(self, found: FoundFile) -> str:
        """Size and time of the file that `read_sidecar` reads, as one word; empty without."""
        if found.stored is not None:
            beside = found.stored.sidecar
            fits = beside is not None and 0 < beside.size_bytes <= MAX_SIDECAR_BYTES
            return f"{beside.size_bytes}:{beside.etag or beside.modified_ns}" if beside and fits else ""
        folder = found.source.parent
        if found.target is None and folder != self._folder:
            names: list[str] = []
            with suppress(OSError):
                names = os.listdir(folder)  # noqa: PTH208 - a Path for each name is slow
            self._folder, self._names = folder, {name for name in names if name[-4:].lower() == ".xmp"}
        for name in xmp_names(found.source.name):
            if found.target is None and name not in self._names:
                continue
            with suppress(OSError):
                status = (folder / name).lstat()
                if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MAX_SIDECAR_BYTES:
                    return f"{status.st_size}:{status.st_mtime_ns}"
        return ""


def read_sidecar(found: FoundFile) -> bytes:
    """The bytes of `take.wav.xmp` or `take.xmp` beside `take.wav`, which only the decoder parses; empty without.

    Raises `UnusableFile` if a storage does not give them.
    """
    if found.stored is not None:
        return _read_stored(found, found.stored.sidecar)
    for name in xmp_names(found.source.name):
        try:
            with open_regular(found.source.with_name(name), follows_links=False) as (descriptor, status):
                if status.st_size <= MAX_SIDECAR_BYTES:
                    return os.read(descriptor, MAX_SIDECAR_BYTES)
        except (UnreadableClip, OSError, ValueError):
            continue
    return b""


def _read_stored(found: FoundFile, sidecar: StoredObject | None) -> bytes:
    if sidecar is None or sidecar.size_bytes > MAX_SIDECAR_BYTES:
        return b""
    try:
        return b"".join(read_object(sidecar))
    except (ObjectNotFound, ObjectChanged):
        return b""  # the next run finds another one, or none
    except StorageUnavailable as exc:
        raise UnusableFile.of(found.path, exc) from exc


def read_again(found: FoundFile, source: Path, decoder: Decoder, limits: DecodeLimits) -> dict[str, Any]:
    """What a file, the XMP file beside it and its name say now; of `source` only the header is read, in the sandbox.

    Raises what `Decoder.read` and `read_sidecar` raise.
    """
    sidecar = read_sidecar(found)
    with open_regular(source, follows_links=False) as (descriptor, _):
        said: Any = decoder.read(descriptor, read_said, TIMEOUT_SECONDS, limits, sidecar=sidecar)
    return {**read_ucs(str(found.path)), **said}


def with_name(info: MediaInfo, path: str) -> MediaInfo:
    """The facts with what the name of the file says, where the file itself says nothing else."""
    return replace(info, said=cast(Any, {**read_ucs(path), **info.said}))


def rename(media: Mapping[str, Any], old: str, path: str) -> Mapping[str, Any]:
    """What changes in stored facts if the first file has another name: `said`, if the names say something."""
    said, by_name = media.get("said") or {}, read_ucs(old)
    renamed = {**read_ucs(path), **{key: value for key, value in said.items() if by_name.get(key) != value}}
    return {} if renamed == said else {"said": renamed}
