"""Segments in WebDataset shards, read at random, so that a batch stays a function of its step.

    segments = ShardedSegments.open([Path("shards")])
    segments.frames_at([3, 7], [0, 15])            # uint8 (2, 224, 224, 3)

Only what is asked for is read and decoded: one frame of 16, and the sound, from which the network's own front end makes
the log-mel on the fly. Memory holds the tables of contents, about 400 bytes a segment.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.cores import num_cores
from models.media.clip import ClipSpec
from training.data.archive import BrokenShard, ShardIndex, read_index, read_listing, scan_shard
from training.data.packing import BrokenSample, decode_flac, decode_jpeg, frame_name, member_names
from training.data.rows import RandomFile
from training.data.segments import NUM_MEL_BINS, NoTrainingData
from training.data.windows import LogMelWindows

Result = TypeVar("Result")

MAX_OPEN_SHARDS = 128
"""Files held open at a time."""
MAX_THREADS = 8
"""Threads that decode, on a machine with that many cores."""
WINDOWS_AT_A_TIME = 32
"""Segments whose sound and spectra are in memory together: 80 MB."""


def is_sharded(path: Path) -> bool:
    """Say whether a path is a shard or a folder of shards.

    Args:
        path: Of anything.

    Returns:
        Whether `ShardedSegments` opens it.
    """
    return path.suffix.lower() == ".tar" or (path / "index.json").exists() or any(path.glob("*.tar"))


@dataclass(frozen=True, kw_only=True)
class ShardedSegments:
    """Segments in shards; see `training.data.segments.Segments` for the interface.

    Attributes:
        shards: The archives.
        checksums: sha256 of each.
        shard_of: Which shard each row is in, int32, shape (N,).
        offsets: Where each member of a row starts in its shard, int64, shape (N, T + 2).
        sizes: How long each is, uint32, shape (N, T + 2).
        crc32: Checksum of each, uint32, shape (N, T + 2).
        gains: What the sound of each row is multiplied by, float32, shape (N,).
        lengths: Samples of the segment of each row, int64, shape (N,).
        heard: Samples until its sound ends, int64, shape (N,).
        paths: The file of each row.
        labels: What is true of each row, in the words of its manifest.
        failed: Files that could not be read when the shards were made, with the reason.
        num_left_out: Segments left out then because their sound is silence or nothing changes in their picture.
        spec: What a segment looks like.
    """

    shards: tuple[Path, ...]
    checksums: tuple[str, ...]
    shard_of: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.uint32]
    crc32: NDArray[np.uint32]
    gains: NDArray[np.float32]
    lengths: NDArray[np.int64]
    heard: NDArray[np.int64]
    paths: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    failed: tuple[dict[str, str], ...]
    num_left_out: int
    spec: ClipSpec
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(
            min(MAX_THREADS, num_cores()), thread_name_prefix="shards"
        ),
        repr=False,
    )

    @classmethod
    def open(cls, paths: Sequence[Path], spec: ClipSpec | None = None) -> ShardedSegments:
        """Open shards.

        Args:
            paths: Folders that `write_shards` completed, folders of shards without an index, and single shards.
            spec: What their segments look like; None for the usual one.

        Returns:
            The segments, in the order of paths, shards and samples.

        Raises:
            NoTrainingData: If there is no segment in them.
        """
        spec = spec or ClipSpec()
        shards, indexes = _find_shards(paths)
        tables = [read_listing(shard) or scan_shard(shard, spec.num_moments) for shard in shards]
        rows = [row for table in tables for row in table["segments"]]
        if not rows:
            raise NoTrainingData(f"no segment in {', '.join(map(str, paths))}")
        return cls(
            shards=tuple(shards),
            checksums=tuple(table["sha256"] for table in tables),
            shard_of=np.repeat(np.arange(len(tables), dtype=np.int32), [len(t["segments"]) for t in tables]),
            offsets=np.array([row["offsets"] for row in rows], np.int64),
            sizes=np.array([row["sizes"] for row in rows], np.uint32),
            crc32=np.array([row["crc32"] for row in rows], np.uint32),
            gains=np.array([row["gain"] for row in rows], np.float32),
            lengths=np.array([row["num_samples"] for row in rows], np.int64),
            heard=np.array([row.get("num_heard", row["num_samples"]) for row in rows], np.int64),
            paths=tuple(row["path"] for row in rows),
            labels=tuple(tuple(row["labels"]) for row in rows),
            failed=tuple(failure for index in indexes for failure in index.failed),
            num_left_out=sum(index.num_left_out for index in indexes),
            spec=spec,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the checksums of all shards, in order."""
        return hashlib.sha256(json.dumps(self.checksums).encode()).hexdigest()

    def frames_at(self, rows: Sequence[int], moments: Sequence[int]) -> NDArray[np.uint8]:
        """Read one frame of each of some rows; see `Segments`."""
        return np.stack(list(self._threads.map(self._frame, rows, moments)))

    def windows_at(self, rows: Sequence[int], starts: Sequence[int], num_frames: int) -> NDArray[np.float32]:
        """Make one window of the log-mel of each of some rows; see `Segments`."""
        windows = np.empty((len(rows), num_frames, NUM_MEL_BINS), np.float32)
        for first in range(0, len(rows), WINDOWS_AT_A_TIME):
            some = slice(first, first + WINDOWS_AT_A_TIME)
            samples = np.stack(list(self._threads.map(self.samples_of, rows[some])))
            windows[some] = _log_mel_windows()(
                samples, self.heard[list(rows[some])], starts[some], num_frames
            )
        return windows

    def frames_of(self, row: int) -> NDArray[np.uint8]:
        """Read all frames of a row; see `Segments`."""
        return np.stack([self._frame(row, moment) for moment in range(self.spec.num_moments)])

    def samples_of(self, row: int) -> NDArray[np.float32]:
        """Read the sound of a row; see `Segments`."""
        sound = self._decode(row, "flac", decode_flac)
        if len(sound) != self.lengths[row]:
            raise BrokenShard(f"{self._describe(row)}: {len(sound)} samples instead of {self.lengths[row]}")
        samples = np.zeros(self.spec.segment_samples, np.float32)
        samples[: len(sound)] = sound * self.gains[row]
        return samples

    def _frame(self, row: int, moment: int) -> NDArray[np.uint8]:
        frame = self._decode(row, frame_name(moment), decode_jpeg)
        size = self.spec.frame_size
        if frame.shape != (size, size, 3):
            raise BrokenShard(f"{self._describe(row)}: a frame of {frame.shape} instead of {size} x {size}")
        return frame

    def _decode(self, row: int, name: str, decode: Callable[[bytes], Result]) -> Result:
        member = _member_numbers(self.spec.num_moments)[name]
        file = _open_shard(self.shards[self.shard_of[row]])
        data = file.read(int(self.offsets[row, member]), int(self.sizes[row, member]))
        if zlib.crc32(data) != self.crc32[row, member]:
            raise BrokenShard(f"{self._describe(row)}: {name} differs from what was written")
        try:
            return decode(data)
        except BrokenSample as exc:
            raise BrokenShard(f"{self._describe(row)}: {exc}") from exc

    def _describe(self, row: int) -> str:
        return f"{self.shards[self.shard_of[row]]}, segment of {self.paths[row]}"


def _find_shards(paths: Sequence[Path]) -> tuple[list[Path], list[ShardIndex]]:
    """List shards, and the indexes of the folders that have one."""
    shards: list[Path] = []
    indexes: list[ShardIndex] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise BrokenShard(f"{path} does not exist")
            shards.append(path)
        elif (path / "index.json").exists():
            index = read_index(path)
            shards += [_check_size(path / shard["name"], shard["bytes"]) for shard in index.shards]
            indexes.append(index)
        else:
            shards += sorted(path.glob("*.tar"))
    return shards, indexes


def _check_size(path: Path, num_bytes: int) -> Path:
    size = path.stat().st_size if path.exists() else 0
    if size != num_bytes:
        raise BrokenShard(f"{path} must have {num_bytes} bytes, it has {size}")
    return path


@functools.cache
def _log_mel_windows() -> LogMelWindows:
    return LogMelWindows(NUM_MEL_BINS)


@functools.cache
def _member_numbers(num_moments: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(member_names(num_moments))}


@functools.lru_cache(MAX_OPEN_SHARDS)
def _open_shard(path: Path) -> RandomFile:
    try:
        return RandomFile(path)
    except OSError as exc:
        raise BrokenShard(f"{path} cannot be opened: {exc.strerror}") from exc
