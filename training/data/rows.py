"""Rows of one size in a file, read at random without reading anything else.

Through a memory map the kernel reads far around every touched page, up to its read-ahead (8 MB on some machines): 16
times the bytes of a 150 KB frame, and a set larger than memory drives everything else out of the page cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ShortRead(OSError):
    """A file ends before the requested row."""


class RandomFile:
    """A file for random reads by any thread; it closes when it is no longer referenced.

    Args:
        path: An existing file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._path = path
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, offset: int, size: int) -> bytes:
        """Read some bytes.

        Args:
            offset: Where they start.
            size: How many.

        Returns:
            The bytes; fewer where the file ends.
        """
        return os.pread(self._descriptor, size, offset)

    def read_into(self, array: NDArray[Any], offset: int) -> None:
        """Fill an array with the bytes of the file.

        Args:
            array: Contiguous, of any type.
            offset: Where its bytes start.

        Raises:
            ShortRead: If the file ends before.
        """
        buffer = array.data.cast("B")
        while buffer:
            count = os.preadv(self._descriptor, [buffer], offset)
            if count == 0:
                raise ShortRead(f"{self._path} ends at {offset} bytes, {len(buffer)} more are asked for")
            buffer, offset = buffer[count:], offset + count

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class RowFile:
    """An array of N rows in a file, uncompressed.

    Args:
        path: The file, of exactly that size.
        kind: Type of the numbers.
        shape: (N, P, …): N rows of P parts each.
    """

    def __init__(self, path: Path, kind: type[np.generic], shape: Sequence[int]) -> None:
        self._path = path
        self._kind = np.dtype(kind)
        self.shape = tuple(shape)
        self._part_bytes = int(np.prod(self.shape[2:])) * self._kind.itemsize
        self._file = RandomFile(path)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def array(self) -> NDArray[Any]:
        """The whole of it, memory-mapped: for reading in order."""
        return np.memmap(self._path, self._kind, "r", shape=self.shape)

    def read(self, rows: Sequence[int], firsts: Sequence[int], count: int) -> NDArray[Any]:
        """Read some parts of each of some rows.

        Args:
            rows: B rows.
            firsts: The first part of each.
            count: How many parts of each.

        Returns:
            A new array, shape (B, count, …).

        Raises:
            IndexError: If a row has no such parts.
        """
        found = np.empty((len(rows), count, *self.shape[2:]), self._kind)
        for target, row, first in zip(found, rows, firsts, strict=True):
            if not (0 <= row < self.shape[0] and 0 <= first <= first + count <= self.shape[1]):
                raise IndexError(
                    f"{self._path} of {self.shape} has no parts {first}:{first + count} of row {row}"
                )
            self._file.read_into(target, (row * self.shape[1] + first) * self._part_bytes)
        return found
