"""Rows of one size in a file, each with the point that it belongs to and a checksum; they are read through a map.

    rows = RowFile(folder / "audio.rows", row_bytes=13_512)
    numbers = rows.add(ids, content)
    content, is_whole = rows.read(numbers, ids)

A row is the CRC32 of what follows (little-endian), the id of its point (16 bytes), and its content. Rows are on the
disk (`sync`) before a point names them. Those of points that are gone are written again, but only once the engine has
flushed that (`reuse`): until then a crash may bring the points back.

FILE.free holds the free rows from one closing to the next opening. After a crash they are not known, and their room is
won back when the shard is built aside.
"""

from __future__ import annotations

import errno
import mmap
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from service.index.failure import IndexFull
from service.system.files import replace_file, sync_folder

Content = NDArray[np.uint8]
Truths = NDArray[np.bool_]
PointId = UUID | str | int  # an int is none of ours; Edge could have them
ID_BYTES = 16
HEAD_BYTES = 4 + ID_BYTES
# Files from this size on are read row by row: reading ahead would read ten times as much.
RANDOM_BYTES = 1 << 26


def to_uuid(id: PointId) -> UUID:
    """The id of a point as UUID."""
    return id if isinstance(id, UUID) else UUID(str(id))


class RowFile:
    """A file of rows with `row_bytes` of content, created if it is missing. Not thread-safe."""

    def __init__(self, path: Path, *, row_bytes: int) -> None:
        self._path = path
        self._bytes = HEAD_BYTES + row_bytes
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._num_rows = os.fstat(self._fd).st_size // self._bytes  # no point names a row that was cut short
        self.num_synced = self._num_rows
        self._must_sync = False
        self._leaving: list[int] = []
        self._free = self._take_free()
        self._map: Content | None = None

    def __len__(self) -> int:
        """Number of rows, those in no use included."""
        return self._num_rows

    @property
    def num_free(self) -> int:
        """How many rows are in no use, as far as that is known."""
        return len(self._free) + len(self._leaving)

    def _take_free(self) -> list[int]:
        """The free rows; from now on the file may not say any more which these are."""
        try:
            free = np.frombuffer(self._free_path.read_bytes(), dtype="<i8").tolist()
        except FileNotFoundError:
            return []
        self._free_path.unlink()
        sync_folder(self._path.parent)
        return [row for row in free if row < self._num_rows]

    @property
    def _free_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.free")

    def add(self, ids: Sequence[PointId], content: Content) -> list[int]:
        """Write rows, uint8, (N, row_bytes), for the points of these ids, and return their numbers.

        Raises `IndexFull` if the disk is full; then no row counts.
        """
        num_used = min(len(self._free), len(ids))
        appended = range(self._num_rows, self._num_rows + len(ids) - num_used)
        numbers = [*self._free[len(self._free) - num_used :], *appended]
        self._must_sync = True
        try:
            for number, id, row in zip(numbers, ids, content, strict=True):
                checked = to_uuid(id).bytes + row.tobytes()
                self._write(number, zlib.crc32(checked).to_bytes(4, "little") + checked)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise IndexFull(f"{self._path.name} cannot grow: {exc.strerror}") from exc
            raise
        del self._free[len(self._free) - num_used :]
        self._num_rows = appended.stop
        return numbers

    def _write(self, number: int, row: bytes) -> None:
        offset, rest = number * self._bytes, memoryview(row)
        while rest:
            num_bytes = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[num_bytes:], offset + num_bytes

    def read(
        self, numbers: Sequence[int], ids: Iterable[PointId], *, checks_content: bool = True
    ) -> tuple[Content, Truths]:
        """Read rows: uint8, (N, row_bytes), and whether each is there, of the point with that id, and whole.

        What is not is undefined. Without `checks_content` a row counts as whole if the id is right.
        """
        places = np.asarray(numbers, dtype=np.int64)
        is_there = (places >= 0) & (places < self._num_rows)
        found = self._rows()[np.where(is_there, places, 0)] if self._num_rows else self._nothing(len(places))
        wanted = np.frombuffer(b"".join(to_uuid(id).bytes for id in ids), dtype=np.uint8)
        is_there &= (found[:, 4:HEAD_BYTES] == wanted.reshape(-1, ID_BYTES)).all(axis=1)
        if checks_content:
            checksums = found[:, :4].copy().view("<u4")[:, 0].tolist()
            is_there &= np.array([zlib.crc32(row[4:]) for row in found], dtype=np.int64) == checksums
        return found[:, HEAD_BYTES:], is_there

    def _nothing(self, count: int) -> Content:
        return np.zeros((count, self._bytes), dtype=np.uint8)

    def _rows(self) -> Content:
        """All rows, mapped. A map that became too short is replaced, and ends with its last reader."""
        if self._map is None or len(self._map) < self._num_rows:
            num_bytes = self._num_rows * self._bytes
            mapped = mmap.mmap(self._fd, num_bytes, prot=mmap.PROT_READ)
            if num_bytes >= RANDOM_BYTES:
                mapped.madvise(mmap.MADV_RANDOM)
            self._map = np.frombuffer(mapped, dtype=np.uint8).reshape(self._num_rows, self._bytes)
        return self._map

    def free(self, numbers: Iterable[int]) -> None:
        """Note rows whose points are gone."""
        self._leaving += numbers

    def reuse(self) -> None:
        """Let the rows be written again whose points were gone when the engine was flushed."""
        self._free += self._leaving
        self._leaving = []

    def sync(self) -> None:
        """Make all rows durable."""
        if self._must_sync:
            os.fdatasync(self._fd)
            self._must_sync = False
            self.num_synced = self._num_rows

    def close(self) -> None:
        """Note the free rows and close the file. Safe to call twice."""
        if self._fd >= 0:
            self.sync()
            if self._free:
                replace_file(self._free_path, np.array(self._free, dtype="<i8").tobytes())
            os.close(self._fd)
            self._fd, self._map = -1, None
