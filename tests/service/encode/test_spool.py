"""What is kept of a file under way comes back as it was, as far as it is whole."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.encode.embedding import EmbeddedSegment
from service.encode.spool import KEPT_SECONDS, Spool, SpooledChunk

ASSET = "ab" * 32


def make_chunk(number: int, *, is_final: bool = False) -> SpooledChunk:
    rng = np.random.default_rng(number)
    segments = [
        EmbeddedSegment(
            start_seconds=10.0 * place,
            end_seconds=10.0 * place + 10,
            tracks={name: rng.standard_normal((16, 8)).astype(np.float16) for name in names},  # type: ignore[misc]
        )
        for place, names in enumerate((("audio", "video"), ("video",), ("audio",)))
    ]
    return SpooledChunk(
        number=number,
        num_clips=4,
        segments=segments,
        is_final=is_final,
        media={"container": "mp4", "duration_seconds": 12.5, "is_partial": False},
    )


def show(chunk: SpooledChunk) -> tuple[Any, ...]:
    segments = [
        (
            s.start_seconds,
            s.end_seconds,
            {name: np.asarray(t, np.float32).tobytes() for name, t in s.tracks.items()},
        )
        for s in chunk.segments
    ]
    return chunk.number, chunk.num_clips, chunk.is_final, chunk.media, segments


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool" / "release")


CHUNKS = [make_chunk(0), make_chunk(1), make_chunk(2, is_final=True)]


def fill(spool: Spool) -> Path:
    for chunk in CHUNKS:
        spool.append(ASSET, chunk)
    return spool.folder / ASSET


def test_chunks_come_back_to_the_bit(spool: Spool) -> None:
    assert list(spool.read(ASSET)) == []
    path = fill(spool)
    for _ in range(2):
        assert [show(chunk) for chunk in spool.read(ASSET)] == [show(chunk) for chunk in CHUNKS]
    spool.remove(ASSET)
    assert not path.exists()
    spool.remove(ASSET)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        spool.remove("../../etc/passwd")


def test_a_file_cut_anywhere_gives_what_is_whole_and_can_be_gone_on_with(spool: Spool) -> None:
    path = fill(spool)
    content = path.read_bytes()
    size = len(content) // 3
    for length in {0, 1, 19, 20, 21, size - 1, size, size + 1, 2 * size + 30, *range(0, len(content), 401)}:
        path.write_bytes(content[:length])
        found = [show(chunk) for chunk in spool.read(ASSET)]
        assert found == [show(chunk) for chunk in CHUNKS[: len(found)]]
        assert len(found) in (length * 3 // len(content), length * 3 // len(content) - 1)
        for chunk in CHUNKS[len(found) :]:
            spool.append(ASSET, chunk)
        assert [show(chunk) for chunk in spool.read(ASSET)] == [show(chunk) for chunk in CHUNKS]


def test_a_damaged_record_ends_the_file(spool: Spool) -> None:
    path = fill(spool)
    content = path.read_bytes()
    chance = np.random.default_rng(3)
    for place in chance.integers(0, len(content), 200).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(damaged)
        found = [show(chunk) for chunk in spool.read(ASSET)]
        assert found == [show(chunk) for chunk in CHUNKS[: len(found)]]
        assert len(found) < 3


def test_a_chunk_that_is_missing_ends_the_file(spool: Spool) -> None:
    for chunk in (CHUNKS[0], CHUNKS[2]):
        spool.append(ASSET, chunk)
    assert [chunk.number for chunk in spool.read(ASSET)] == [0]
    assert [chunk.number for chunk in spool.read(ASSET)] == [0]


def test_chunks_of_another_basis_count_as_none(spool: Spool) -> None:
    fill(spool)
    other = Spool(spool.folder, basis="another version")
    assert list(other.read(ASSET)) == []
    other.append(ASSET, CHUNKS[0])
    assert len(list(other.read(ASSET))) == 1
    assert list(spool.read(ASSET)) == []


def test_nothing_is_kept_on_a_disk_that_is_nearly_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, min_free_bytes=2**62)
    with caplog.at_level(logging.WARNING):
        fill(spool)
    assert "No space left" in caplog.text
    assert list(spool.read(ASSET)) == []


def test_a_disk_that_takes_nothing_costs_a_warning(
    spool: Spool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        fill(spool)
    assert len(caplog.records) == 1
    assert list(spool.read(ASSET)) == []


def test_what_nobody_goes_on_with_is_swept_after_a_week(spool: Spool) -> None:
    spool.sweep()
    old = fill(spool)
    spool.append("cd" * 32, CHUNKS[0])
    other = spool.folder / "notes"
    other.touch()
    for path in (old, other):
        os.utime(path, times=(time.time() - KEPT_SECONDS - 60,) * 2)
    spool.sweep()
    assert sorted(path.name for path in spool.folder.iterdir()) == ["cd" * 32, "notes"]
