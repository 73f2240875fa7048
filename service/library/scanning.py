"""Finding the media files of a library: walk folders, recognise media, name a file by its content.

    for found in find_files([Path("~/Movies").expanduser()]):
        ...  # a FoundFile, an UnusableFile or an IgnoredFile

Nothing here decodes. A file is opened only if it is a regular one, and never so that a FIFO could block. A link to a
file is a file of the folder in which it stands; what is opened is its target. Everything is opened by its name without
links, looked up once and checked against the folders of the library: a link that appears later is not followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from models.media.clip import clamp_time_ns, hash_media, open_regular, open_without_links
from models.media.names import is_ignored
from service.library.locations import Location, ObjectPath
from service.library.mounts import is_within
from service.library.objects import (
    ObjectChanged,
    ObjectNotFound,
    StorageUnavailable,
    StoredObject,
    list_objects,
)
from service.library.parts import WHOLE, Part
from service.library.stamps import ETAG, is_same_stamp, stamp_of
from service.system.failure import Failure, is_out_of_files
from service.system.paths import make_absolute

MEDIA_EXTENSIONS = frozenset(
    """
    .3g2 .3gp .aac .ac3 .adts .aif .aifc .aiff .amr .ape .asf .au .avi .caf .dv .eac3 .f4v .flac .flv .m2t .m2ts .m2v
    .m4a .m4b .m4v .mka .mkv .mod .mov .mp2 .mp3 .mp4 .mpe .mpeg .mpg .mts .mxf .oga .ogg .ogm .ogv .opus .qt .snd .spx
    .tod .tta .vob .w64 .wav .wave .weba .webm .wma .wmv .wv
    """.split()
)
SNIFFED_BYTES = 512
# Offset and bytes by which a container is recognised under a name that is none of media; files with a known extension
# are tried whatever they hold.
MAGIC: tuple[tuple[int, bytes], ...] = (
    (4, b"ftyp"),
    (4, b"moov"),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (0, b"OggS"),
    (0, b"fLaC"),
    (0, b"ID3"),
    (8, b"WAVE"),
    (8, b"AVI "),
    (8, b"AIFF"),
    (8, b"AIFC"),
    (0, b"caff"),
    (0, b"FLV\x01"),
    (0, b"0&\xb2u\x8ef\xcf\x11"),  # ASF: WMA, WMV
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x06\x0e+4"),  # MXF
    (0, b"#!AMR"),
    (0, b"wvpk"),
    (0, b"TTA1"),
    (0, b"MAC "),  # Monkey's Audio
    (0, b".snd"),
)
IMAGE_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # still images in an MP4 container
OUTSIDE = "it leads out of the folders that jobs may work on"
CHANGED = "the file was changed while it was read"
TS_SYNC = 0x47
TS_PACKETS = (
    (0, 188),
    (4, 192),
)  # offset of the first sync byte and length of a packet; AVCHD puts a clock before each


class UnusableFile(Failure):
    """A path that was given or found and cannot be read as a file; `code` is the stable name of the reason."""

    def __init__(self, path: Location, code: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.code = code

    @classmethod
    def of(cls, path: Location, exc: StorageUnavailable) -> Self:
        """An object that its storage does not give."""
        codes = {ObjectNotFound: "not_found", ObjectChanged: "changed"}
        return cls(path, codes.get(type(exc), exc.code), str(exc))


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A regular file that may be media, a link to one, or an object. Its path is absolute; its time is since 1970.

    `stamp` is what only the kernel writes (see `stamp_of`), or the ETag of an object; empty if it is not known.
    `target` is where a link leads, and `folder` the folder of the path, if that has links.
    """

    path: Location
    size_bytes: int
    modified_ns: int
    stamp: str = field(default="", compare=False)
    target: Path | None = field(default=None, compare=False)
    folder: Path | None = field(default=None, compare=False)
    stored: StoredObject | None = field(default=None, compare=False)

    @classmethod
    def of(cls, stored: StoredObject) -> FoundFile:
        """What a storage says of an object."""
        return cls(
            path=stored.path,
            size_bytes=stored.size_bytes,
            modified_ns=stored.modified_ns,
            stamp=f"{ETAG}{stored.etag}" if stored.etag else "",
            stored=stored,
        )

    @property
    def source(self) -> Path:
        """What is opened of a file: no link, nor in a folder that is reached by one."""
        assert isinstance(self.path, Path)
        return self.target or (self.folder / self.path.name if self.folder else self.path)


@dataclass(frozen=True, kw_only=True)
class LinkedFolder:
    """A link to a folder, which is not followed."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class IgnoredFile:
    """A file in a folder that is not media, by its name and its first bytes; an object by its name alone."""

    path: Location


@dataclass(frozen=True, kw_only=True)
class UnsettledFile:
    """A file that seems to be still written to."""

    path: Path


Finding = FoundFile | IgnoredFile | LinkedFolder | UnusableFile | UnsettledFile


@dataclass(frozen=True, kw_only=True)
class LinkRules:
    """Which links count: to folders only if they are followed, and none that leads out of all folders in `within`.

    Of objects those below `storages` count; without these all do, unless files are kept to some folders.
    """

    follows_folders: bool = False
    within: Sequence[Path] = ()
    storages: Sequence[str] = ()

    def allows_object(self, path: ObjectPath) -> bool:
        """Whether an object may be used."""
        if not self.storages:
            return not self.within
        return any(is_within(path.url, root) for root in self.storages)

    def allows(self, target: str | Path) -> bool:
        """Whether a link may lead there; the target has no links."""
        return not self.within or any(Path(target).is_relative_to(os.path.realpath(r)) for r in self.within)

    def leads_in(self, path: Path) -> bool:
        """Whether something is at a path and may be used."""
        try:
            return bool(self.check(path))
        except (OSError, UnusableFile):
            return False

    def check(self, path: Path) -> Path:
        """Where a path leads, without links; raises `UnusableFile` if that is outside, and OSError if it is nowhere."""
        for is_strict in (False, True):  # whether something is there is not told of what lies outside
            real = Path(os.path.realpath(path, strict=is_strict))
            if not self.allows(real):
                raise UnusableFile(path, "path_not_allowed", OUTSIDE)
        return real


NO_LINKED_FOLDERS = LinkRules()


def find_files(
    paths: Iterable[Location],
    *,
    settle_seconds: float = 0.0,
    links: LinkRules = NO_LINKED_FOLDERS,
    part: Part = WHOLE,
) -> Iterator[Finding]:
    """Find the media under some paths: each file and object once, in the order of the paths and then of the names.

    A file that is named is always tried. In folders, hidden entries, recycle bins and what is not media are skipped,
    and links to folders come last. Files that were written to, or came here, within `settle_seconds` are unsettled.
    Of files only those of the `part` are looked at; every part finds the folders that cannot be read.
    """
    seen: set[str] = set()
    for path in paths:
        if isinstance(path, ObjectPath):
            findings = _find_objects(path, links, part)
        else:
            findings = _find_under(make_absolute(path), links, part)
        for finding in findings:
            key = os.fspath(finding.path)
            if key not in seen:
                seen.add(key)
                if isinstance(finding, FoundFile) and isinstance(finding.path, Path):
                    is_settled = _is_settled(finding.source, settle_seconds)
                    yield finding if is_settled else UnsettledFile(path=finding.path)
                else:
                    yield finding


def _find_objects(root: ObjectPath, links: LinkRules, part: Part) -> Iterator[Finding]:
    """What is below a prefix: an object appears whole, so there is none that is still written to."""
    try:
        if not links.allows_object(root):
            raise UnusableFile(root, "path_not_allowed", OUTSIDE)
        for stored in list_objects(root):
            if not part.holds(stored.path):
                continue
            is_media = stored.path == root or stored.path.suffix.lower() in MEDIA_EXTENSIONS
            yield FoundFile.of(stored) if is_media else IgnoredFile(path=stored.path)
    except UnusableFile as exc:
        yield exc
    except StorageUnavailable as exc:
        yield UnusableFile.of(root, exc)


def _is_settled(path: Path, settle_seconds: float) -> bool:
    """Whether a file was left alone for this long, by its ctime: copying tools set its mtime."""
    if settle_seconds <= 0:
        return True
    try:
        age_seconds = time.time() - path.lstat().st_ctime
    except OSError:
        return False  # it is gone again
    return not 0 <= age_seconds < settle_seconds  # a time in the future is a wrong clock, and says nothing


def identify(found: FoundFile) -> str:
    """A file's sha256 in hex; `UnusableFile` if it is unreadable or another one now, and what `hash_media` raises."""
    try:
        asset_id, size_bytes, modified_ns = hash_media(found.source, follows_links=False)
    except OSError as exc:  # a disk that fails in the middle
        raise UnusableFile(found.path, *_explain(exc)) from exc
    if (size_bytes, modified_ns) != (found.size_bytes, found.modified_ns):
        raise UnusableFile(found.path, "changed", CHANGED)
    check_unchanged(found)
    return asset_id


def check_unchanged(found: FoundFile) -> None:
    """Raise `UnusableFile` if a file is gone or was written to since it was found; copies of objects never change."""
    if found.stored is not None:
        return
    assert isinstance(found.path, Path)
    try:
        now = _describe(found.path, found.source.lstat())
    except OSError as exc:
        raise UnusableFile(found.path, *_explain(exc)) from exc
    if now != found or not is_same_stamp(now.stamp, found.stamp):
        raise UnusableFile(found.path, "changed", CHANGED)


def _describe(
    path: Path, status: os.stat_result, *, target: Path | None = None, folder: Path | None = None
) -> FoundFile:
    return FoundFile(
        path=path,
        size_bytes=status.st_size,
        modified_ns=clamp_time_ns(status.st_mtime_ns),
        stamp=stamp_of(status),
        target=target,
        folder=folder,
    )


def sniff_media(head: bytes) -> bool:
    """Whether the first 512 bytes of a file are those of a container of sound or moving pictures."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in IMAGE_BRANDS
    if any(head.startswith(magic, offset) for offset, magic in MAGIC):
        return True
    # Transport streams have no magic, but a sync byte at the start of every packet.
    trains = [head[offset::length] for offset, length in TS_PACKETS]
    return any(len(train) >= 3 and all(byte == TS_SYNC for byte in train) for train in trains)


def _find_under(path: Path, links: LinkRules, part: Part) -> Iterator[Finding]:
    try:
        is_folder = stat.S_ISDIR(links.check(path).stat().st_mode)
        folder = Path(os.path.realpath(path.parent))
    except (OSError, UnusableFile) as exc:
        yield _unusable(path, exc)
    else:
        if is_folder:
            yield from _walk(path, links, part)
        elif part.holds(path):
            yield _examine(path, folder, links, is_named=True)


def _walk(folder: Path, links: LinkRules, part: Part) -> Iterator[Finding]:
    # A stack and not recursion: folders may be thousands deep. Beside each its name without links, if it is known.
    waiting: list[tuple[Path, Path | None]] = [(folder, None)]
    linked: list[tuple[Path, None]] = []
    visited: set[tuple[int, int]] = set()  # a link or a bind mount can make a folder its own descendant
    while waiting or linked:
        folder, real = waiting.pop() if waiting else linked.pop(0)
        folders = []
        try:
            real = real or links.check(folder)
            with _open_folder(real) as (entries, identity):
                for entry in entries if identity not in visited else ():
                    path = folder / entry.name
                    if _is_folder(entry):
                        folders.append((path, real / entry.name))
                    elif not os.path.isdir(real / entry.name):  # noqa: PTH112 - pathlib's raises
                        if part.holds(path):
                            yield _examine(path, real, links, is_named=False)
                    elif links.follows_folders and links.leads_in(path):
                        linked.append((path, None))
                    else:
                        yield LinkedFolder(path=path)
                visited.add(identity)
        except (OSError, UnusableFile) as exc:
            yield _unusable(folder, exc)
        waiting.extend(reversed(folders))


@contextlib.contextmanager
def _open_folder(real: Path) -> Iterator[tuple[list[os.DirEntry[str]], tuple[int, int]]]:
    """What is in a folder, by its name without links, and its disk and inode; another is never listed."""
    descriptor = open_without_links(real)
    try:
        status = os.fstat(descriptor)
        with os.scandir(descriptor) as listing:
            found = (entry for entry in listing if not is_ignored(entry.name))
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        yield entries, (status.st_dev, status.st_ino)
    finally:
        os.close(descriptor)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # looking at it as at a file says why
        return False


def _examine(path: Path, folder: Path, links: LinkRules, *, is_named: bool) -> Finding:
    """What is at a path; `folder` is its folder by the name without links."""
    looks_like_media = is_named or path.suffix.lower() in MEDIA_EXTENSIONS
    try:
        source = folder / path.name
        target = links.check(path) if source.is_symlink() else None
        source = target or source
        if not stat.S_ISREG(source.lstat().st_mode):
            raise UnusableFile(path, "not_a_file", "it is not a regular file")
        if not looks_like_media and not sniff_media(_read_head(source)):
            return IgnoredFile(path=path)
        real_folder = None if target is not None or folder == path.parent else folder
        return _describe(path, source.lstat(), target=target, folder=real_folder)
    except UnusableFile as exc:
        return exc if looks_like_media else IgnoredFile(path=path)
    except (
        Exception
    ) as exc:  # pathlib reports a loop of links as a RuntimeError; and one file must not end the scan
        return UnusableFile(path, *_explain(exc)) if looks_like_media else IgnoredFile(path=path)


def _read_head(path: Path) -> bytes:
    with open_regular(path, follows_links=False) as (descriptor, _):
        return os.pread(descriptor, SNIFFED_BYTES, 0)


def _unusable(path: Path, exc: OSError | UnusableFile) -> UnusableFile:
    return exc if isinstance(exc, UnusableFile) else UnusableFile(path, *_explain(exc))


def _explain(exc: Exception) -> tuple[str, str]:
    """Code and reason of a failed system call; one for want of descriptors is raised, it says nothing of the file."""
    if is_out_of_files(exc):
        raise exc
    if isinstance(exc, FileNotFoundError):
        return "not_found", "there is no such file"
    if isinstance(exc, PermissionError):
        return "not_readable", "permission denied"
    return "not_readable", exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
