"""How many points and rows of tracks a shard has on the disk, at least: if it opens with fewer, some were lost.

FOLDER/counts      name of the current shard, points, rows; written after each flush, and before anything is deleted
"""

from __future__ import annotations

import os
from pathlib import Path

from service.index.failure import REPAIR, IndexDamaged

NUM_BYTES = 128


class Counts:
    """The counts of one shard."""

    def __init__(self, shard: Path) -> None:
        self._path = shard.with_name("counts")
        self._shard = shard.name
        self._num_lost = 0  # rows of tracks
        self._durable = ""  # what is on the disk for sure

    def compare(self, num_points: int, num_rows: int) -> None:
        """Raise `IndexDamaged` if points were lost; for rows of tracks see `check`."""
        noted_points, noted_rows = self._read()
        self._num_lost = max(0, noted_rows - num_rows)
        if num_points < noted_points:
            raise IndexDamaged(
                f"the index in {self._path.parent} has {num_points} of its {noted_points} segments; {REPAIR}"
            )

    def check(self) -> None:
        """Raise `IndexDamaged` if tracks were lost; they are searched by Qdrant Edge's own copies, slowly."""
        if self._num_lost:
            raise IndexDamaged(f"the index in {self._path.parent} has lost {self._num_lost} tracks; {REPAIR}")

    def _read(self) -> tuple[int, int]:
        """Points and rows; nothing if they are not known of this shard."""
        try:
            name, num_points, num_rows = self._path.read_text("ascii").split()
            return (int(num_points), int(num_rows)) if name == self._shard else (0, 0)
        except (OSError, ValueError):
            return 0, 0

    def write(self, num_points: int, num_rows: int, *, is_durable: bool = False) -> None:
        """Replace them in place, in one step but for a power cut."""
        text = f"{self._shard} {num_points} {num_rows + self._num_lost}"
        if text == self._durable:
            return
        self._durable = ""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, text.ljust(NUM_BYTES).encode(), 0)
            if is_durable:
                os.fdatasync(descriptor)
                self._durable = text
        finally:
            os.close(descriptor)
