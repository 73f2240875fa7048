"""The folder of an embedded index: who has it open, what its vectors mean, how much room is left.

FOLDER/
index.json    width and number of moments, or those of each modality: what the vectors mean
lock          held by the service that has the index open and by its shard process; the lock dies with them
counts        what the current shard holds at least: see `service.index.embedded.counts`
shard/        Qdrant Edge's own files; `service.index.embedded.generation` explains the later ones
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.index.embedded.closed import check_closed
from service.index.embedded.forms import fitting
from service.index.embedded.generation import (
    BUILDING,
    POINTER,
    Seal,
    check_shard,
    current_shard,
    describe_seal,
    sweep_others,
)
from service.index.embedded.messages import ShardConfig
from service.index.failure import IndexFailure, IndexFull, IndexInUse
from service.index.layout import VectorLayout
from service.system.files import (
    FileLocked,
    locked_file,
    name_owner,
    read_disk_space,
    replace_file,
    sync_folder,
)
from service.system.storage import Storage

FORMAT_VERSION = 2
"""Version 1 had one path for each asset and no metadata. Its folders are brought to version 2 in place when they are
opened (`service.index.embedded.schema.migrate_shard`); a program that knows version 1 only refuses them afterwards."""
UNLIKE_VERSION = 3
"""Of an index whose modalities have shapes of their own, or which has one alone, or compares by dot product: programs
that know version 2 only refuse it."""
STORED_VERSION = 4
"""Of an index whose shard says how it stores tracks (`service.index.embedded.forms`)."""
LOCK_SECONDS = 1.0


class FolderLock:
    """The lock of an index's folder, which is created if it is missing.

    The shard process inherits the descriptor `fd`: as long as that of a killed service is still there, so is the lock.
    Fails with `IndexInUse` if another process has the lock, with `IndexFailure` if the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = contextlib.ExitStack()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.fd = self._lock.enter_context(locked_file(folder / "lock", wait_seconds=LOCK_SECONDS))
        except FileLocked as exc:
            raise IndexInUse(
                f"the index in {folder} is open in another process (number {exc.holder})"
            ) from exc
        except OSError as exc:
            raise IndexFailure(f"the index's folder {folder} cannot be used: {name_owner(exc)}") from exc

    def close(self) -> None:
        """Release the lock in this process. Safe to call twice."""
        self._lock.close()


class Folder:
    """An index's folder, whose lock the service holds, and one shard in it."""

    def __init__(self, config: ShardConfig) -> None:
        self.opened_ns = time.time_ns()
        self.path = config.folder
        self.shard = config.folder / (config.shard or current_shard(config.folder))
        self._min_free_bytes = config.min_free_bytes
        self._layout = config.layout
        self.must_migrate = self._check_meaning(fitting(config.storage, config.layout))
        if config.shard is None:
            check_closed(self.shard)
            sweep_others(self.path, self.shard.name)
            check_shard(self.shard)

    def _check_meaning(self, storage: Storage) -> bool:
        """Compare index.json with what is wanted, or write it for a new index; return whether it is of version 1.

        Before a shard of other storage than float16 is created, it gets a version that older programs refuse.
        """
        path = self.path / "index.json"
        wanted, stored = describe(self._layout), describe(self._layout, is_stored=True)
        if not path.exists():
            if self.shard.exists():
                raise IndexFailure(f"{self.path} holds a shard but no index.json: not an index, or damaged")
            self.check_space()
            self._write_meaning(wanted if storage == "float16" else stored)
            return False
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as exc:
            raise IndexFailure(f"{path} cannot be read: {exc}") from exc
        if wanted["version"] == FORMAT_VERSION and found == {**wanted, "version": 1}:
            return True
        if found not in (wanted, stored):
            raise IndexFailure(f"the index in {self.path} is {found}, asked for {wanted}: use another folder")
        if storage != "float16" and found != stored and not self.shard.exists():
            self._write_meaning(stored)
        return False

    def seal_version(self) -> None:
        """Write durably that the index is of the present version of float16."""
        self._write_meaning(describe(self._layout))
        self.must_migrate = False

    def _write_meaning(self, meaning: Mapping[str, Any]) -> None:
        replace_file(self.path / "index.json", json.dumps(meaning) + "\n")

    def check_space(self, *, extra_bytes: int = 0) -> None:
        """Raise `IndexFull` on a disk that is nearly full: a full one kills the shard process (SIGBUS)."""
        disk = read_disk_space(self.path, min_free_bytes=self._min_free_bytes)
        if not disk.has_room(extra_bytes):
            needed = disk.floor_bytes + extra_bytes
            raise IndexFull(f"{self.path} has {disk.free_bytes} bytes free, writing needs {needed}")

    def new_building(self) -> Path:
        """An empty folder for changes on their way into a shard that is built aside."""
        building = self.path / BUILDING
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        return building

    def adopt_shard(self, aside: Path) -> None:
        """Rename a complete new shard into place, durably."""
        aside.rename(self.shard)
        sync_folder(self.path)

    def switch_to(self, seal: Seal) -> None:
        """Seal this shard and make it the current one, durably: the last step is one rename."""
        self.sync_shard()
        self.seal(seal)
        replace_file(self.path / POINTER, json.dumps({"shard": self.shard.name}) + "\n")

    def seal(self, seal: Seal) -> None:
        """Write the seal of this shard durably."""
        replace_file(self.path / f"{self.shard.name}.json", describe_seal(seal))

    def sync_shard(self) -> None:
        """Make every file and folder of the shard durable."""
        for root, _, names in os.walk(self.shard):
            for name in names:
                fd = os.open(Path(root, name), os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            sync_folder(Path(root))
        sync_folder(self.path)


def describe(layout: VectorLayout, *, is_stored: bool = False) -> dict[str, Any]:
    """What index.json says of the vectors; `is_stored` if the shard says how it stores them."""
    if layout.is_plain and not is_stored:
        num_moments, width = layout.tracks["audio"]
        return {"version": FORMAT_VERSION, "width": width, "num_moments": num_moments}
    tracks = {modality: list(shape) for modality, shape in layout.tracks.items()}
    weighed = {"weighs_moments": True} if layout.weighs_moments else {}
    version = STORED_VERSION if is_stored else UNLIKE_VERSION
    return {"version": version, "tracks": tracks, "similarity": layout.similarity, **weighed}


def count_bytes(folder: Path) -> int:
    """Bytes that the files in a folder take on the disk, holes not counted."""
    num_bytes = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                num_bytes += Path(root, name).lstat().st_blocks * 512
    return num_bytes
