"""Finding the media files of a library: walk folders, recognise media, name a file by its content.

    for found in find_files([Path("~/Movies").expanduser()]):
        ...  # a FoundFile, an UnusableFile or an IgnoredFile

Nothing here decodes. A file is opened only if it is a regular one, never through a symbolic link at the end of its path
and never so that a FIFO could block.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from models.media.clip import hash_media
from models.media.names import is_ignored
from service.system.failure import Failure
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
CHANGED = "the file was changed while it was read"
TS_SYNC = 0x47
TS_PACKETS = (
    (0, 188),
    (4, 192),
)  # offset of the first sync byte and length of a packet; AVCHD puts a clock before each


class UnusableFile(Failure):
    """A path that was given or found and cannot be read as a file; `code` is the stable name of the reason."""

    def __init__(self, path: Path, code: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.code = code


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A regular file that may be media. Its path is absolute, and no symbolic link; its time is since 1970."""

    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, kw_only=True)
class IgnoredFile:
    """A file in a folder that is not media, by its name and its first bytes."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class UnsettledFile:
    """A file that seems to be still written to."""

    path: Path


Finding = FoundFile | IgnoredFile | UnusableFile | UnsettledFile


def find_files(paths: Iterable[Path], *, settle_seconds: float = 0.0) -> Iterator[Finding]:
    """Find the media files under some paths: each once, in the order of the paths and then of the names' bytes.

    A file that is named is always tried. In folders, hidden entries, recycle bins and what is not media are skipped,
    and symbolic links to folders are not followed. Files that were written to, or came here, within `settle_seconds`
    are unsettled.
    """
    seen: set[str] = set()
    for path in paths:
        for finding in _find_under(make_absolute(path)):
            key = os.fspath(finding.path)
            if key not in seen:
                seen.add(key)
                is_settled = not isinstance(finding, FoundFile) or _is_settled(finding.path, settle_seconds)
                yield finding if is_settled else UnsettledFile(path=finding.path)


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
        asset_id, size_bytes, modified_ns = hash_media(found.path)
    except OSError as exc:  # a disk that fails in the middle
        raise UnusableFile(found.path, *_explain(exc)) from exc
    if (size_bytes, modified_ns) != (found.size_bytes, found.modified_ns):
        raise UnusableFile(found.path, "changed", CHANGED)
    return asset_id


def check_unchanged(found: FoundFile) -> None:
    """Raise `UnusableFile` if a file is gone or was written to since it was found."""
    try:
        status = found.path.lstat()
    except OSError as exc:
        raise UnusableFile(found.path, *_explain(exc)) from exc
    if (status.st_size, status.st_mtime_ns) != (found.size_bytes, found.modified_ns):
        raise UnusableFile(found.path, "changed", CHANGED)


def sniff_media(head: bytes) -> bool:
    """Whether the first 512 bytes of a file are those of a container of sound or moving pictures."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in IMAGE_BRANDS
    if any(head.startswith(magic, offset) for offset, magic in MAGIC):
        return True
    # Transport streams have no magic, but a sync byte at the start of every packet.
    trains = [head[offset::length] for offset, length in TS_PACKETS]
    return any(len(train) >= 3 and all(byte == TS_SYNC for byte in train) for train in trains)


def _find_under(path: Path) -> Iterator[Finding]:
    try:
        status = path.stat()
    except OSError as exc:
        yield UnusableFile(path, *_explain(exc))
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(path)
    else:
        yield _examine(path, is_named=True)


def _walk(folder: Path) -> Iterator[Finding]:
    waiting = [folder]  # a stack and not recursion: folders may be thousands deep
    visited: set[tuple[int, int]] = set()  # a bind mount can make a folder its own descendant
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as exc:
            yield UnusableFile(folder, *_explain(exc))
            continue
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        folders = []
        for entry in entries:
            if is_ignored(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):  # noqa: PTH112 - pathlib's raises
                yield _examine(Path(entry.path), is_named=False)
        waiting.extend(reversed(folders))


def _examine(path: Path, *, is_named: bool) -> Finding:
    looks_like_media = is_named or path.suffix.lower() in MEDIA_EXTENSIONS
    try:
        if path.is_symlink():
            path = path.resolve(strict=True)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UnusableFile(path, "not_a_file", "it is not a regular file")
        if not looks_like_media and not sniff_media(_read_head(path)):
            return IgnoredFile(path=path)
        status = path.lstat()
        return FoundFile(path=path, size_bytes=status.st_size, modified_ns=status.st_mtime_ns)
    except UnusableFile as exc:
        return exc if looks_like_media else IgnoredFile(path=path)
    except (OSError, RuntimeError) as exc:  # pathlib reports a loop of links as a RuntimeError
        return UnusableFile(path, *_explain(exc)) if looks_like_media else IgnoredFile(path=path)


def _read_head(path: Path) -> bytes:
    with os.fdopen(_open_regular(path), "rb", buffering=0) as handle:
        return handle.read(SNIFFED_BYTES)


def _open_regular(path: Path) -> int:
    """Open for reading without following a last link and without waiting for the writer of a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnusableFile(path, "not_a_file", "it is not a regular file")
    return descriptor


def _explain(exc: OSError | RuntimeError) -> tuple[str, str]:
    """Code and reason of a failed system call."""
    if isinstance(exc, FileNotFoundError):
        return "not_found", "there is no such file"
    if isinstance(exc, PermissionError):
        return "not_readable", "permission denied"
    return "not_readable", exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
