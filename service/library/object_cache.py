"""Local copies of objects in a storage, named by their content: a bounded folder.

    asset_id = cache.fetch(stored)         # streams, hashes, keeps it if there is room
    with cache.holding(asset_id): ...      # cache.path(asset_id) stays until the block ends

Only what is in use is sure to stay: what was not used the longest goes first.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.library.objects import StoredObject, read_object
from service.system.failure import Failure
from service.system.files import STALE_SECONDS, NoRoom, read_disk_space
from service.system.settings import Settings

PART = ".part"
OBJECTS = "objects"  # folder in that of the data


class ObjectTooLarge(Failure):
    """An object is larger than all local copies together may be."""

    code = "object_too_large"


class CopiesInUse(Failure):
    """All copies are in use: there is room when one of them is not."""

    code = "overloaded"


class ObjectCache:
    """The copies of a library. Any thread may call it; what another process removes is fetched again."""

    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int | None = 0) -> None:
        self._folder = folder.resolve()  # the decoder opens no file in a folder that is a link
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._ahead: set[str] = set()  # fetched, and not used yet
        self._num_reserved = 0
        for leftover in folder.glob(f"*{PART}"):  # of a process that was killed
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    leftover.unlink()

    @classmethod
    def of(cls, settings: Settings, name: str = OBJECTS) -> ObjectCache:
        """That of a library; who works in another process has a folder of another name."""
        return cls(
            settings.data / name,
            max_bytes=settings.object_cache_bytes,
            min_free_bytes=settings.min_free_bytes,
        )

    def path(self, asset_id: str) -> Path:
        """Where the copy of an asset is, if there is one."""
        return self._folder / asset_id

    def has(self, asset_id: str) -> bool:
        """Whether there is a copy."""
        return self.path(asset_id).exists()

    @contextmanager
    def holding(self, asset_id: str) -> Iterator[Path]:
        """Keep a copy until the block ends."""
        self.hold(asset_id)
        try:
            yield self.path(asset_id)
        finally:
            self.release(asset_id)

    def hold(self, asset_id: str) -> None:
        """Keep a copy until it is released as often as it was held."""
        with self._lock:
            self._held[asset_id] += 1
            self._ahead.discard(asset_id)
        with suppress(OSError):
            os.utime(self.path(asset_id))

    def release(self, asset_id: str) -> None:
        """See `hold`."""
        with self._lock:
            self._held[asset_id] -= 1
            if self._held[asset_id] <= 0:
                del self._held[asset_id]

    def remove(self, asset_id: str) -> None:
        """Remove the copy of an asset, unless it is in use."""
        with self._lock, suppress(OSError):
            if not self._held[asset_id]:
                self._ahead.discard(asset_id)
                self.path(asset_id).unlink()

    def forget(self, asset_id: str) -> None:
        """Note that a copy fetched ahead is not needed."""
        with self._lock:
            self._ahead.discard(asset_id)

    def fetch(
        self, stored: StoredObject, *, is_urgent: bool = True, check: Callable[[], object] = lambda: None
    ) -> str:
        """Copy an object, and return the sha256 of its content in hex.

        One that is not urgent takes no room of others that wait for their turn: without room it is only hashed.
        `check` is called before each piece, and may raise. Raises `ObjectTooLarge`, `CopiesInUse`, what `read_object`
        raises, and `NoRoom` if the disk is full.
        """
        if stored.size_bytes > self._max_bytes:
            raise ObjectTooLarge(
                f"the object has {stored.size_bytes} bytes, and local copies may have {self._max_bytes} "
                "(FOLEY_OBJECT_CACHE_BYTES)"
            )
        try:
            self._reserve(stored.size_bytes, spares_ahead=not is_urgent)
        except CopiesInUse:
            if is_urgent:
                raise
            return _copy(stored, None, check)
        try:
            return self._keep(stored, check, is_ahead=not is_urgent)
        finally:
            with self._lock:
                self._num_reserved -= stored.size_bytes

    def _keep(self, stored: StoredObject, check: Callable[[], object], *, is_ahead: bool) -> str:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._folder / f"{uuid.uuid4().hex}{PART}"
        try:
            asset_id = _copy(stored, part, check)
            with self._lock:
                part.replace(self.path(asset_id))
                if is_ahead and not self._held[asset_id]:
                    self._ahead.add(asset_id)
            return asset_id
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, num_bytes: int, *, spares_ahead: bool) -> None:
        with self._lock:
            kept = self._held.keys() | (self._ahead if spares_ahead else set())
            files = sorted(self._list())
            room = self._max_bytes - self._num_reserved - sum(size for _, size, _ in files)
            for _, size, path in files:
                if room >= num_bytes:
                    break
                if path.name not in kept:
                    path.unlink(missing_ok=True)
                    self._ahead.discard(path.name)
                    room += size
            if room < num_bytes:
                raise CopiesInUse("all local copies of objects are in use")
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not read_disk_space(self._folder, min_free_bytes=self._min_free_bytes).has_room(num_bytes):
                raise NoRoom("the disk of the local copies of objects is full")
            self._num_reserved += num_bytes

    def _list(self) -> Iterator[tuple[int, int, Path]]:
        """When each copy was last used, its bytes and its place."""
        for path in self._folder.glob("*"):
            with suppress(OSError):
                facts = path.stat()
                if path.suffix != PART:
                    yield facts.st_mtime_ns, facts.st_size, path


def _copy(stored: StoredObject, target: Path | None, check: Callable[[], object]) -> str:
    """Hash an object, and write it to a new file if there is one."""
    digest = hashlib.sha256()
    descriptor = None if target is None else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for piece in read_object(stored):
            check()
            digest.update(piece)
            while descriptor is not None and piece:
                piece = piece[os.write(descriptor, piece) :]
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return digest.hexdigest()
