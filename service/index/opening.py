"""Where the indexes of a library live: in its data folder, or on a Qdrant server that many replicas share.

    place = index_place(settings)
    with place.open(bundle, release_id=release_id) as index: ...

Each release has an index of its own, so vectors of two models never meet. In a folder one process at a time has an
index open, and the release store alone says which release is active. On a server any number of replicas read and write
one collection, and the library's alias says which release is active for all of them.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Protocol

from models.bundle.bundle import Bundle
from service.index.contract import Index
from service.index.embedded.folder import FolderLock
from service.index.embedded.generation import check_shard, current_shard
from service.index.embedded.index import EmbeddedIndex
from service.index.failure import IndexDamaged, IndexFailure
from service.index.layout import VectorLayout
from service.system.files import DiskSpace
from service.system.settings import Settings

logger = logging.getLogger(__name__)


class IndexPlace(Protocol):
    """Where the indexes of a library's releases live; `engine` and `package` name what serves them.

    If it `is_shared`, other processes use the place too and may switch releases.
    """

    engine: ClassVar[str]
    package: ClassVar[str]
    is_shared: ClassVar[bool]

    def open(self, bundle: Bundle, *, release_id: str) -> Index:
        """Open the index of a release, or create it; the caller closes it."""

    def find(self, bundle: Bundle, *, release_id: str) -> Index | None:
        """Open the index of a release if there is one; nothing is created."""

    def describe(self, release_id: str) -> str:
        """Where the index of a release is, for people."""

    def active(self, index: Index | None = None) -> str | None:
        """The active release, None if this place does not say; asks over the link of `index`, or one of its own."""

    def activate(self, release_id: str) -> None:
        """Record here which release is active, if this place says so."""

    def drop(self, release_id: str) -> None:
        """Remove the index of a release, if there is one."""

    def repair(self, bundle: Bundle, *, release_id: str) -> Path | None:
        """Let the index of a release open again without what is damaged; returns where one that cannot is kept."""

    def disk_space(self) -> DiskSpace | None:
        """How full the disk is; None if a server has it and does not say."""


def index_place(settings: Settings) -> IndexPlace:
    """The place that the settings name: a Qdrant server if they have its address, else the data folder."""
    if settings.qdrant_url is None:
        return FolderPlace(settings)
    from service.index.qdrant.place import ServerPlace  # noqa: PLC0415 - the client takes a second and a half to import

    return ServerPlace(settings, settings.qdrant_url)


def index_folder(settings: Settings, release_id: str) -> Path:
    """Where the embedded index of a release lives."""
    return settings.data / "index" / release_id


class FolderPlace:
    """The data folder: an embedded index in a folder for each release."""

    engine: ClassVar[str] = "Qdrant Edge"
    package: ClassVar[str] = "qdrant-edge-py"
    is_shared: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def open(self, bundle: Bundle, *, release_id: str) -> EmbeddedIndex:
        """Open the index of a release, or create it."""
        share = self._settings.optimize_share
        return EmbeddedIndex.open(
            index_folder(self._settings, release_id),
            layout=VectorLayout.of(bundle.manifest),
            min_free_bytes=self._settings.min_free_bytes,
            optimize_share=share if share < 1 else None,
            call_seconds=self._settings.index_call_seconds,
            storage=self._settings.storage,
        )

    def find(self, bundle: Bundle, *, release_id: str) -> EmbeddedIndex | None:
        """Open the index of a release if there is one."""
        exists = (index_folder(self._settings, release_id) / "index.json").exists()
        return self.open(bundle, release_id=release_id) if exists else None

    def describe(self, release_id: str) -> str:
        """The folder."""
        return str(index_folder(self._settings, release_id))

    def active(self, index: Index | None = None) -> None:
        """None: the release store says it."""

    def activate(self, release_id: str) -> None:
        """Do nothing: the release store records it."""

    def drop(self, release_id: str) -> None:
        """Remove the folder of a release."""
        shutil.rmtree(index_folder(self._settings, release_id), ignore_errors=True)

    def repair(self, bundle: Bundle, *, release_id: str) -> Path | None:
        """Copy what can be trusted into a new shard, or move a folder aside whose content cannot be."""
        folder = index_folder(self._settings, release_id)
        with closing(FolderLock(folder)):
            (folder / "counts").unlink(missing_ok=True)
        try:
            check_shard(folder / current_shard(folder), hashes=True)
            with self.open(bundle, release_id=release_id) as index:
                index.optimize_aside()
        except IndexFailure as exc:
            if type(exc) not in (IndexFailure, IndexDamaged):  # in use, or a full disk
                raise
            logger.warning("%s", exc)
            return folder.rename(folder.with_name(f"{folder.name}.damaged-{time.time_ns()}"))
        return None

    def disk_space(self) -> DiskSpace:
        """How full the disk of the data folder is."""
        self._settings.data.mkdir(parents=True, exist_ok=True)
        return self._settings.disk_space()
