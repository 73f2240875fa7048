"""Rows of a file: read as written, used again only when they may be, and every torn one is noticed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from service.index.embedded.rows import HEAD_BYTES, RowFile
from service.index.failure import IndexFull

ROW_BYTES = 21


def make_rows(count: int, *, seed: int = 0) -> tuple[list[str], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    ids = [str(UUID(bytes=rng.bytes(16), version=4)) for _ in range(count)]
    return ids, rng.integers(0, 256, (count, ROW_BYTES), dtype=np.uint8)


def open_rows(folder: Path) -> RowFile:
    return RowFile(folder / "audio.rows", row_bytes=ROW_BYTES)


def test_rows_come_back_in_any_order_and_only_to_their_points(tmp_path: Path) -> None:
    ids, content = make_rows(5)
    rows = open_rows(tmp_path)
    assert rows.read([0], ids[:1])[1].tolist() == [False], "an empty file has none"
    assert rows.add(ids[:2], content[:2]) == [0, 1]
    assert rows.read([0], ids[:1])[1].tolist() == [True]
    assert rows.add(ids[2:], content[2:]) == [2, 3, 4], "the map grows with the file"
    found, is_whole = rows.read([4, 0, 4], [ids[4], ids[0], ids[4]])
    np.testing.assert_array_equal(found, content[[4, 0, 4]])
    assert is_whole.tolist() == [True] * 3
    for checks_content in (True, False):
        _, is_whole = rows.read(
            [3, 3, -1, 5], [ids[3], ids[2], ids[3], ids[4]], checks_content=checks_content
        )
        assert is_whole.tolist() == [True, False, False, False]
    assert (len(rows), rows.num_synced) == (5, 0)
    rows.sync()
    assert rows.num_synced == 5
    rows.close()
    rows.close()
    again = open_rows(tmp_path)
    np.testing.assert_array_equal(again.read([1], [ids[1]])[0], content[[1]])
    again.close()


def test_a_row_is_used_again_after_the_flush_and_not_before(tmp_path: Path) -> None:
    ids, content = make_rows(9)
    rows = open_rows(tmp_path)
    rows.add(ids[:4], content[:4])
    rows.free([1, 2])
    assert rows.add(ids[4:5], content[4:5]) == [4], "a crash may bring their points back"
    assert rows.read([1], [ids[1]])[1].all()
    rows.reuse()
    assert rows.num_free == 2
    (reused,) = rows.add(ids[5:6], content[5:6])
    assert reused in (1, 2)
    assert not rows.read([reused], [ids[reused]])[1].any(), "the point of before does not get the new content"
    rows.close()
    again = open_rows(tmp_path)
    assert (again.num_free, len(again)) == (1, 5), "what is free is known after closing"
    assert sorted(again.add(ids[6:8], content[6:8])) == sorted([3 - reused, 5])
    del again  # killed
    after = open_rows(tmp_path)
    assert after.num_free == 0, "what is free is not known after a crash"
    assert after.add(ids[8:], content[8:]) == [6]
    after.close()


def test_a_file_that_was_cut_anywhere_keeps_what_was_whole_and_shows_what_was_not(tmp_path: Path) -> None:
    ids, content = make_rows(3)
    rows = open_rows(tmp_path)
    rows.add(ids, content)
    rows.close()
    whole = (tmp_path / "audio.rows").read_bytes()
    other, new = make_rows(1, seed=1)
    size = ROW_BYTES + HEAD_BYTES
    for num_bytes in range(len(whole)):
        (tmp_path / "audio.rows").write_bytes(whole[:num_bytes])
        cut = open_rows(tmp_path)
        num_whole = num_bytes // size
        assert cut.read(range(3), ids)[1].tolist() == [n < num_whole for n in range(3)]
        assert cut.add(other, new) == [num_whole], "the row that was cut was named by no point"
        assert cut.read([num_whole], other)[1].all()
        assert cut.read(range(3), ids)[1].tolist() == [n < num_whole for n in range(3)]
        cut.close()


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    ids, content = make_rows(2)
    rows = open_rows(tmp_path)
    rows.add(ids, content)
    rows.close()
    whole = (tmp_path / "audio.rows").read_bytes()
    for place in range(len(whole) // 2):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        (tmp_path / "audio.rows").write_bytes(damaged)
        one = open_rows(tmp_path)
        assert one.read([0, 1], ids)[1].tolist() == [False, True], f"byte {place}"
        one.close()


def test_a_row_torn_while_it_was_written_again_is_noticed(tmp_path: Path) -> None:
    ids, content = make_rows(2)
    rows = open_rows(tmp_path)
    rows.add(ids[:1], content[:1])
    rows.close()
    before = (tmp_path / "audio.rows").read_bytes()
    shutil.copytree(tmp_path, tmp_path / "new")
    again = open_rows(tmp_path / "new")
    again.free([0])
    again.reuse()
    assert again.add(ids[1:], content[1:]) == [0]
    again.close()
    after = (tmp_path / "new" / "audio.rows").read_bytes()
    for place in range(1, len(after)):
        (tmp_path / "audio.rows").write_bytes(after[:place] + before[place:])
        torn = open_rows(tmp_path)
        assert not torn.read([0], ids[:1])[1].any()
        assert not torn.read([0], ids[1:])[1].any()
        torn.close()


def test_a_full_disk_leaves_the_rows_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, content = make_rows(4)
    rows = open_rows(tmp_path)
    rows.add(ids[:2], content[:2])
    rows.free([0])
    rows.reuse()
    written = os.pwrite

    def write(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= 2 * (ROW_BYTES + HEAD_BYTES):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, data[:7], offset)  # a short write is continued

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", write)
        with pytest.raises(IndexFull, match=r"audio\.rows cannot grow: No space left"):
            rows.add(ids[2:], content[2:])
        assert rows.add(ids[2:3], content[2:3]) == [0]
    assert rows.add(ids[3:], content[3:]) == [2]
    assert rows.read([0, 1, 2], [ids[2], ids[1], ids[3]])[1].all()
    rows.close()
