"""Copies a bundle from outside into the store, and verifies the copy.

It may be damaged, or made to do harm: links to other files, graphs that name files of their own, a file that changes
while it is read. Only the files of a bundle are copied, each through one descriptor; what is served is the copy.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from models.bundle.bundle import (
    MANIFEST,
    BrokenBundle,
    Bundle,
    load_bundle,
    load_variant,
    starter_path,
    variant_path,
)
from service.system.files import sync_folder

PIECE = 1 << 20
MAX_FILE_BYTES = 16 << 30
PRECISIONS = ("fp16", "int8")


def adopt_bundle(source: Bundle, target: Path) -> Bundle:
    """Copy a verified bundle and its variants to a new folder; raises `BrokenBundle` for links and changed files."""
    _refuse_links(source.path)
    target.mkdir()
    for name in (MANIFEST, *source.manifest.files):
        _copy_file(source.path / name, target / name, trusted=source.path == starter_path())
    sync_folder(target)
    adopted = load_bundle(target)
    if adopted.bundle_id != source.bundle_id:
        raise BrokenBundle(f"{source.path} was changed while it was copied")
    for precision in PRECISIONS:
        variant = load_variant(source, precision)
        if variant is not None:
            folder = variant_path(target, precision)
            folder.mkdir()
            for name in ("variant.json", *variant.files):
                _copy_file(variant.path / name, folder / name, trusted=False)
            sync_folder(folder)
            load_variant(adopted, precision)
    return adopted


def _refuse_links(folder: Path) -> None:
    """Refuse links and folders: a bundle is a flat folder of files. Other files in it are not copied."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise BrokenBundle(f"{entry.path} must be a regular file: a bundle is a flat folder of them")


def _copy_file(source: Path, target: Path, *, trusted: bool) -> None:
    """Copy a regular file through one descriptor; a file with a second name could be changed under it."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise BrokenBundle(f"{source} cannot be read: {exc}") from exc
    with os.fdopen(descriptor, "rb") as reader:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenBundle(f"{source} must be a regular file")
        if status.st_nlink > 1 and not trusted:  # an installer may link the files that ship with the project
            raise BrokenBundle(f"{source} has {status.st_nlink} names: a bundle's files have one")
        if status.st_size > MAX_FILE_BYTES:
            raise BrokenBundle(f"{source} has {status.st_size} bytes, {MAX_FILE_BYTES} are allowed")
        with target.open("xb") as writer:
            while piece := reader.read(PIECE):
                writer.write(piece)
            writer.flush()
            os.fsync(writer.fileno())
