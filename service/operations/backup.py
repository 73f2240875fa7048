"""A copy of everything that cannot be recreated from the media: index, job ledger, API keys, releases.

    foley backup /backups/today         # also while `foley serve` runs, which then sends the copy
    foley restore /backups/today

A copy of the folder of a running engine is not a backup, so the index is read through its own interface, asset by
asset, into files of our own (`service.index.packing`), which fit any engine; rows of 8 or 4 bits go in and come back as
they are. The ledger is copied first, so that it never calls a file done whose asset the copy lacks. A manifest with the
sha256 of every file comes last: without a manifest it is not a backup.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Any

from models.bundle.bundle import Bundle
from service.index.contract import Index
from service.index.opening import index_place
from service.index.packing import pack_segments, read_groups
from service.releases.opening import active_release
from service.system.failure import Failure
from service.system.files import sync_folder
from service.system.settings import Settings

FORMAT_VERSION = 1
ROWS_VERSION = 2
"""Of a backup with rows of 8 or 4 bits: programs that know version 1 only refuse it."""
MANIFEST = "backup.json"
LEDGER = "ledger.sqlite"
KEYS = "api-keys.json"
PIECE_BYTES = 1 << 20
ROUTE = "/v1/backup"


class BackupFailed(Failure):
    """The backup could not be made, or is not a whole one."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a backup holds, and in which version of the format."""

    version: int
    foley_version: str
    created_at: float  # seconds since 1970
    release_id: str  # the active release, which names the index
    bundle_id: str
    num_assets: int
    num_segments: int
    files: dict[str, dict[str, Any]]  # `sha256` (hex) and `num_bytes` of every other file, by name


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a backup: its path in the backup, its size, and its content or the file that holds it."""

    name: str
    num_bytes: int
    content: bytes | Path

    def pieces(self) -> Iterator[bytes]:
        """The content, a piece at a time."""
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            yield from _read(file)


def copy_members(settings: Settings, index: Index, *, release_id: str, bundle: Bundle) -> Iterator[Member]:
    """Read everything a backup holds, file after file, the manifest last; `index` is that of the release."""
    files: dict[str, dict[str, Any]] = {}
    num_assets = num_segments = 0
    with tempfile.TemporaryDirectory(prefix="backup-", dir=settings.data) as scratch:
        for member in _copy_files(settings, release_id, Path(scratch)):
            files[member.name] = _facts(member)
            yield member
        for number, segments in enumerate(read_groups(index)):
            num_segments += len(segments)
            num_assets += len({segment.asset_id for segment in segments})
            content = pack_segments(segments)
            member = Member(name=f"index/{number:06d}.npz", num_bytes=len(content), content=content)
            files[member.name] = _facts(member)
            yield member
    manifest = Manifest(
        version=FORMAT_VERSION if index.storage == "float16" else ROWS_VERSION,
        foley_version=version("foley-av"),
        created_at=time.time(),
        release_id=release_id,
        bundle_id=bundle.bundle_id,
        num_assets=num_assets,
        num_segments=num_segments,
        files=files,
    )
    content = (json.dumps(asdict(manifest), indent=1) + "\n").encode()
    yield Member(name=MANIFEST, num_bytes=len(content), content=content)


def _copy_files(settings: Settings, release_id: str, scratch: Path) -> Iterator[Member]:
    ledger = settings.data / LEDGER
    if ledger.exists():
        copy = scratch / LEDGER
        with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(copy)) as target:
            try:
                source.backup(target)
                (found,) = target.execute("PRAGMA quick_check(1)").fetchone()
            except sqlite3.DatabaseError as exc:
                found = exc
        if found != "ok":
            raise BackupFailed(f"{ledger} is damaged, `foley jobs` says what to do: {found}")
        yield _member(LEDGER, copy)
    if settings.keys_path.exists():
        yield _member(KEYS, settings.keys_path)
    folders = {
        "agreement": settings.data / "agreement",
        f"releases/{release_id}": settings.release_folder / release_id,
    }
    for name, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield _member(f"{name}/{path.relative_to(folder).as_posix()}", path)


def _member(name: str, path: Path) -> Member:
    """A file for the backup; a small one is read now, because it may be replaced before it is sent."""
    num_bytes = path.stat().st_size
    if num_bytes > PIECE_BYTES:  # of a bundle, which never changes
        return Member(name=name, num_bytes=num_bytes, content=path)
    content = path.read_bytes()
    return Member(name=name, num_bytes=len(content), content=content)


def _facts(member: Member) -> dict[str, Any]:
    digest = hashlib.sha256()
    for piece in member.pieces():
        digest.update(piece)
    return {"sha256": digest.hexdigest(), "num_bytes": member.num_bytes}


# As one stream


def write_tar(members: Iterable[Member]) -> Iterator[bytes]:
    """The bytes of a backup as a tar, piece by piece."""
    for member in members:
        header = tarfile.TarInfo(member.name)
        header.size, header.mode, header.mtime = member.num_bytes, 0o600, int(time.time())
        yield header.tobuf(tarfile.PAX_FORMAT)
        yield from member.pieces()
        yield bytes(-member.num_bytes % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


class _Pieces(io.RawIOBase):
    """Bytes that arrive piece by piece, as the file that `tarfile` reads."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    def read(self, _size: int = -1) -> bytes:
        """The next piece, whatever its size: `tarfile` keeps what it does not need yet."""
        return next(self._pieces, b"")


def read_tar(pieces: Iterable[bytes]) -> Generator[tuple[str, Iterator[bytes]]]:
    """Read what `write_tar` wrote: the name and the content of file after file, each to be read before the next.

    Raises `BackupFailed` if it is something else, or breaks off.
    """
    with _whole(), tarfile.open(fileobj=_Pieces(pieces), mode="r|") as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            if file is None:
                raise BackupFailed(f"{entry.name!r} is not a file")
            yield entry.name, _read(file)


def _read(file: IO[bytes]) -> Iterator[bytes]:
    with _whole():
        while piece := file.read(PIECE_BYTES):
            yield piece


@contextmanager
def _whole() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as exc:
        raise BackupFailed(f"the backup broke off: {exc}") from exc


# As a folder


def read_library(settings: Settings) -> Generator[tuple[str, Iterator[bytes]]]:
    """Open the active index and read everything a backup holds: the name and the content of file after file.

    Raises `BackupFailed` if there is no index; `IndexInUse` if another process has the index open.
    """
    release_id, bundle = active_release(settings)
    index = index_place(settings).find(bundle, release_id=release_id)
    if index is None:
        raise BackupFailed(f"there is nothing to back up: no index in {settings.data}")
    with closing(index):
        for member in copy_members(settings, index, release_id=release_id, bundle=bundle):
            yield member.name, member.pieces()


def save_backup(folder: Path, files: Iterable[tuple[str, Iterable[bytes]]]) -> Manifest:
    """Write a backup into a new folder, which appears when it is whole and checked, and return what it holds.

    `files` gives the name and the content of file after file. Whatever goes wrong leaves nothing behind. Raises
    `BackupFailed` if the folder exists, or what was written is not a whole backup.
    """
    if folder.exists():
        raise BackupFailed(f"{folder} exists: give a folder that does not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, pieces in files:
            _write(aside, name, pieces)
        manifest = check_backup(aside)
        aside.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return manifest


def _write(folder: Path, name: str, pieces: Iterable[bytes]) -> None:
    path = safe_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def safe_path(folder: Path, name: str) -> Path:
    """The path of a file by its name in the backup; raises `BackupFailed` if it leads out of the folder."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise BackupFailed(f"{name[:100]!r} cannot be the name of a file in a backup")
    return folder / pure


def check_backup(folder: Path) -> Manifest:
    """Check every file and hash of a backup, and return what it holds; `BackupFailed` names the file at fault."""
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text("utf-8")))
        if manifest.version not in (FORMAT_VERSION, ROWS_VERSION):
            raise BackupFailed(
                f"{folder} has version {manifest.version}, this program reads {FORMAT_VERSION} to {ROWS_VERSION}"
            )
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()} - {MANIFEST}
        for name in sorted(names ^ manifest.files.keys()):
            raise BackupFailed(f"{folder} is damaged: {name} is {'extra' if name in names else 'missing'}")
        for name, facts in manifest.files.items():
            path = safe_path(folder, name)
            if path.is_symlink() or _facts(_member(name, path)) != facts:
                raise BackupFailed(f"{folder} is damaged: {name} is not what was written")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise BackupFailed(f"{folder} is not a backup, or not a whole one: {exc}") from exc
    return manifest
