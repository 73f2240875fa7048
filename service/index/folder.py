"""The folder of an embedded index: who has it open, what its vectors mean, how much room is left.

FOLDER/
index.json    width and number of moments: what the vectors mean
lock          held by the process that has the index open; the lock dies with that process
shard/        Qdrant Edge's own files
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from service.index.contract import IndexFailure, IndexFull, IndexInUse
from service.index.messages import ShardConfig

FORMAT_VERSION = 2
"""Version 1 had one path for each asset and no metadata. Its folders are brought to version 2 in place when they are
opened (`service.index.schema.migrate_shard`); a program that knows version 1 only refuses them afterwards."""
MIN_FREE_BYTES = 2 * 2**30
LOCK_SECONDS = 1.0
MIN_FREE_SHARE = 20  # one part in so many of the disk


class Folder:
    """An index's folder, locked for this process until it is closed or the process ends."""

    def __init__(self, config: ShardConfig) -> None:
        self.path = config.folder
        self.shard = config.folder / "shard"
        self._min_free_bytes = config.min_free_bytes
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock_fd = self._lock()
        except OSError as exc:
            raise IndexFailure(f"the index's folder {self.path} cannot be used: {exc}") from exc
        try:
            self._meaning = {
                "version": FORMAT_VERSION,
                "width": config.width,
                "num_moments": config.num_moments,
            }
            self.must_migrate = self._check_meaning(self._meaning)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> int:
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _try_lock(fd):
            holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise IndexInUse(f"the index in {self.path} is open in another process (number {holder})")
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getppid()}\n".encode(), 0)  # the service: what a person looks for
        return fd

    def _check_meaning(self, wanted: Mapping[str, int]) -> bool:
        """Compare index.json with what is asked for, or write it where the index is new; tell if it is of version 1."""
        path = self.path / "index.json"
        if not path.exists():
            if self.shard.exists():
                raise IndexFailure(f"{self.path} holds a shard but no index.json: not an index, or damaged")
            self.check_space()
            self.seal_version()
            return False
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as exc:
            raise IndexFailure(f"{path} cannot be read: {exc}") from exc
        if found == {**wanted, "version": 1}:
            return True
        if found != wanted:
            raise IndexFailure(f"the index in {self.path} is {found}, asked for {wanted}: use another folder")
        return False

    def seal_version(self) -> None:
        """Write durably that the index is of this version."""
        _write_atomically(self.path / "index.json", json.dumps(self._meaning) + "\n")
        self.must_migrate = False

    def check_space(self, *, extra_bytes: int = 0) -> None:
        """Refuse to write on a disk that is nearly full: a full one kills the process (SIGBUS).

        Args:
            extra_bytes: What is needed above the floor.

        Raises:
            IndexFull: If less is free.
        """
        usage = shutil.disk_usage(self.path)
        floor = self._min_free_bytes
        if floor is None:
            floor = max(MIN_FREE_BYTES, usage.total // MIN_FREE_SHARE)
        if usage.free < floor + extra_bytes:
            raise IndexFull(f"{self.path} has {usage.free} bytes free, writing needs {floor + extra_bytes}")

    def count_bytes(self) -> int:
        """Bytes that the files take on the disk, holes not counted."""
        num_bytes = 0
        for root, _, names in os.walk(self.path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    num_bytes += Path(root, name).lstat().st_blocks * 512
        return num_bytes

    def adopt_shard(self, aside: Path) -> None:
        """Rename a complete new shard into place, durably."""
        aside.rename(self.shard)
        _sync(self.path)

    def close(self) -> None:
        """Unlock."""
        os.close(self._lock_fd)


def _try_lock(fd: int) -> bool:
    """Lock a file, waiting a moment: the engine of a service that was killed just now may still be dying."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _write_atomically(path: Path, text: str) -> None:
    aside = path.with_suffix(".new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
