"""Copies of the tracks in a file of rows, from which a few are read fast.

    copies = TrackCopies(folder, num_values=16 * 768)
    rows = copies.append([track])
    copies.read(rows, shape=(16, 768))

Qdrant Edge gives a vector as Python floats: reading ten tracks of 16 × 768 takes it 2.8 ms, this file .3 ms. What Edge
stores counts: a copy may be missing, and a reader compares it with Edge's score
(`service.index.embedded.ranking`). Rows are on the disk before the head of their asset is, and never written twice;
those of deleted points are left out when the shard is built aside.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.index.failure import IndexFull

FILE_NAME = "tracks.f16"
ROWS = "rows"
"""Key of a point's payload: the row of each modality's track, in the file of its shard."""


class TrackCopies:
    """A shard's file of rows of `num_values`, created if it is missing. A track takes one or several. Not thread-safe.

    If all tracks have one shape, `num_values` is T·D and a track one row; else it divides T·D of each.
    """

    def __init__(self, folder: Path, *, num_values: int) -> None:
        self._num_values = num_values
        self._row_bytes = 2 * num_values
        self._fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        num_bytes = os.fstat(self._fd).st_size
        self._num_rows = -(-num_bytes // self._row_bytes)  # a row that was cut short is not used again

        self.num_synced = self._num_rows  # rows that are on the disk

    def __len__(self) -> int:
        """Number of rows, those of deleted points included."""
        return self._num_rows

    def append(self, tracks: Sequence[NDArray[np.float32]]) -> list[int]:
        """Append tracks of T·D values that float16 holds exactly, and return their first rows; raises `IndexFull`."""
        rest = memoryview(b"".join(track.astype(np.float16).tobytes() for track in tracks))
        ends = self._num_rows + np.cumsum([0, *(track.size // self._num_values for track in tracks)])
        rows: list[int] = ends[:-1].tolist()
        offset = self._num_rows * self._row_bytes
        try:
            while rest:
                num_bytes = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[num_bytes:], offset + num_bytes
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise IndexFull(f"{FILE_NAME} cannot grow: {exc.strerror}") from exc
            raise
        self._num_rows = int(ends[-1])
        return rows

    def read(
        self, rows: Sequence[int], *, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the tracks (T, D) that begin at some rows: float32, (N, T, D), and whether each is there; else zeros."""
        num_bytes = 2 * math.prod(shape)
        found = [os.pread(self._fd, num_bytes, max(0, row) * self._row_bytes) for row in rows]
        is_there = np.array(
            [row >= 0 and len(one) == num_bytes for row, one in zip(rows, found, strict=True)], dtype=bool
        )
        nothing = bytes(num_bytes)
        joined = b"".join(one if is_whole else nothing for one, is_whole in zip(found, is_there, strict=True))
        tracks = np.frombuffer(joined, dtype=np.float16).astype(np.float32)
        return tracks.reshape(len(rows), *shape), is_there

    def sync(self) -> None:
        """Make all rows durable."""
        os.fdatasync(self._fd)
        self.num_synced = self._num_rows

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
