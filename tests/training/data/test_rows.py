from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from training.data.rows import RandomFile, RowFile, ShortRead

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4, 2)])
def test_parts_of_rows_are_those_of_the_array(tmp_path: Path, kind, shape: tuple[int, ...]) -> None:
    array = RANDOM.integers(0, 255, shape).astype(kind)
    array.tofile(tmp_path / "rows.raw")
    file = RowFile(tmp_path / "rows.raw", kind, shape)
    assert len(file) == 5
    assert (file.array == array).all()
    rows, firsts = [4, 0, 4, 2], [4, 0, 1, 3]
    found = file.read(rows, firsts, 3)
    assert found.dtype == kind
    expected = np.stack([array[row, first : first + 3] for row, first in zip(rows, firsts, strict=True)])
    assert (found == expected).all()
    found[:] = 0
    assert (file.array == array).all()


@pytest.mark.parametrize(("row", "first"), [(5, 0), (-1, 0), (0, 5), (0, -1)])
def test_what_is_not_there_is_an_error(tmp_path: Path, row: int, first: int) -> None:
    np.zeros((5, 7)).tofile(tmp_path / "rows.raw")
    file = RowFile(tmp_path / "rows.raw", np.float64, (5, 7))
    with pytest.raises(
        IndexError, match=rf"rows\.raw of \(5, 7\) has no parts {first}:{first + 3} of row {row}"
    ):
        file.read([row], [first], 3)


def test_a_file_that_shrank_is_an_error(tmp_path: Path) -> None:
    np.zeros((5, 7)).tofile(tmp_path / "rows.raw")
    file = RowFile(tmp_path / "rows.raw", np.float64, (5, 7))
    os.truncate(tmp_path / "rows.raw", 100)
    with pytest.raises(ShortRead, match=r"rows\.raw ends at 100 bytes, 12 more are asked for"):
        file.read([1], [0], 7)


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    """A cold file of 32 MB: one row in the middle, and what the kernel took from the disk for it."""
    size = 1 << 20
    array = RANDOM.integers(0, 255, (32, size), np.uint8)
    path = tmp_path / "rows.raw"
    array.tofile(path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    before = bytes_read()
    file = RowFile(path, np.uint8, array.shape)
    assert (file.read([16], [1000], 100_000)[0] == array[16, 1000:101_000]).all()
    taken = bytes_read() - before
    if taken == 0:
        pytest.skip("this filesystem keeps its files in memory")
    assert taken < 150_000


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def test_bytes_end_where_the_file_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    file = RandomFile(tmp_path / "file")
    assert file.read(4, 3) == b"456"
    assert file.read(8, 5) == b"89"
