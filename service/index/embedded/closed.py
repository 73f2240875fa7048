"""What the small files of a shard were when it was closed: damage to them shows when it is opened again.

FOLDER/shard.closed     CRC32 of what follows; a line each: path within the shard, bytes, CRC32

Large files are compared by size at opening, and by their sha256 later (`service.index.embedded.generation`): to read
8 GB takes 7 to 13 s. Small ones change with every write, so they are noted at the end. Opening removes the note before
anything can change: after a crash there is none. Tracks are left out, since a lost copy of one can be made again.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from service.index.embedded.tracks import FILE_NAME
from service.index.failure import REPAIR, IndexDamaged
from service.system.files import replace_file, sync_folder

logger = logging.getLogger(__name__)

MAX_BYTES = 4 << 20  # on the disk: of large files with little in them only that is read
CHUNK_BYTES = 1 << 16
SEGMENTS = "segments"
CLOCK_NS = 2_000_000_000  # that a file's time may be behind the clock


def note_closed(shard: Path, *, opened_ns: int) -> None:
    """Note what the files are, durably, those first that were changed since the shard was opened (ns since 1970)."""
    lines = [json.dumps([name, *facts]) for name, facts in _read_files(shard, opened_ns)]
    text = "\n".join(lines)
    replace_file(_path(shard), f"{zlib.crc32(text.encode())}\n{text}")


def check_closed(shard: Path) -> None:
    """Raise `IndexDamaged` if a file is not what it was when the shard was closed, and forget what it was.

    A whole segment that is lost shows in the number of points.
    """
    try:
        checksum, _, text = _path(shard).read_text("utf-8").partition("\n")
    except FileNotFoundError:
        return
    if checksum == str(zlib.crc32(text.encode())):
        for name, *facts in map(json.loads, text.splitlines()):
            if _read(shard / name) != tuple(facts) and _holds(shard, name):
                raise IndexDamaged(
                    f"{shard / name} is damaged: it is not what it was when the index was closed; {REPAIR}"
                )
    else:
        logger.warning("%s is damaged and says nothing of the index's files", _path(shard))
    _path(shard).unlink()
    sync_folder(shard.parent)


def _path(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.closed")


def _holds(shard: Path, name: str) -> bool:
    """Whether a file belongs there still: a segment that is gone as a whole takes its files along."""
    parts = Path(name).parts
    return parts[0] != SEGMENTS or (shard / parts[0] / parts[1]).exists()


def _read(path: Path) -> tuple[int, int] | None:
    """Bytes and CRC32 of a file, large as it may be on the disk: a copy has no holes. None if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        num_bytes = os.fstat(descriptor).st_size
        return num_bytes, _checksum(descriptor, num_bytes)
    finally:
        os.close(descriptor)


def _read_files(shard: Path, changed_ns: int | None = None) -> Iterator[tuple[str, tuple[int, int]]]:
    """Bytes and CRC32 of each small file, by its path; what was written since `changed_ns` is made durable."""
    for root, _, names in os.walk(shard):
        for name in names:
            path = Path(root, name)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                facts = os.fstat(descriptor)
                if name == FILE_NAME or facts.st_blocks * 512 > MAX_BYTES:
                    continue
                if changed_ns is not None and facts.st_mtime_ns > changed_ns - CLOCK_NS:
                    os.fsync(descriptor)
                yield str(path.relative_to(shard)), (facts.st_size, _checksum(descriptor, facts.st_size))
            finally:
                os.close(descriptor)


def _checksum(descriptor: int, num_bytes: int) -> int:
    """CRC32 of what is not zero in a file, with its place: holes may be filled by a copy."""
    checksum, offset = 0, 0
    while offset < num_bytes:
        try:
            offset = os.lseek(descriptor, offset, os.SEEK_DATA) // CHUNK_BYTES * CHUNK_BYTES
        except OSError:  # no data after it
            break
        chunk = os.pread(descriptor, CHUNK_BYTES, offset)
        if chunk != bytes(len(chunk)):
            checksum = zlib.crc32(chunk, zlib.crc32(offset.to_bytes(8, "little"), checksum))
        offset += CHUNK_BYTES
    return checksum
