"""Which assets an index has, and which paths each is to have at the end of a run.

The content of a file decides which asset it is; an asset has the paths of all files with its content. Content is read
only if path, size and time do not tell.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.media.clip import clamp_time_ns
from service.index.contract import Asset, Index
from service.index.iteration import iter_assets
from service.library.fetching import Fetching
from service.library.journal import Journal, KeptMetadata
from service.library.locations import Location, ObjectPath, is_url
from service.library.metadata import inherit_metadata
from service.library.mounts import find_mounts, is_within
from service.library.objects import ObjectNotFound, StorageUnavailable, describe_object
from service.library.said import SIDECAR, Sidecars, rename
from service.library.scanning import FoundFile
from service.library.stages import FileError, IncomingFile, blame_file

HASHES_AHEAD = 8  # files whose content is hashed while earlier ones are decoded
REMOVED_AT_ONCE = 1024  # assets that share a flush
NO_TIME_NS = -(2**63)  # below every time that is stored of a file

Identity = str | FileError


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the index knows of one asset; size and time are those of the file at its first path."""

    paths: tuple[str, ...]
    size_bytes: int
    modified_ns: int
    num_segments: int
    packets_hash: str | None = None
    sidecar: str = ""  # stamp of the XMP file beside the first file

    @classmethod
    def of(cls, file: IncomingFile) -> Known:
        """What the index knows of a file that was just indexed."""
        return cls(
            paths=(str(file.found.path),),
            size_bytes=file.found.size_bytes,
            modified_ns=file.found.modified_ns,
            num_segments=file.num_segments,
            packets_hash=None if file.info is None else file.info.packets_hash,
            sidecar=file.sidecar,
        )

    @classmethod
    def of_asset(cls, asset: Asset) -> Known:
        """What the index knows of a stored asset."""
        return cls(
            paths=asset.paths or (asset.path,),
            size_bytes=asset.media.get("size_bytes", -1),
            modified_ns=asset.media.get("modified_ns", NO_TIME_NS),
            num_segments=asset.num_segments,
            packets_hash=asset.media.get("packets_hash"),
            sidecar=asset.media.get(SIDECAR, ""),
        )

    def is_untouched(self, found: FoundFile) -> bool:
        """Whether the first file has this size and time."""
        return (self.size_bytes, self.modified_ns) == (found.size_bytes, found.modified_ns)


class Catalogue:
    """The assets of an index, by id and by path."""

    def __init__(self) -> None:
        self._assets: dict[str, Known] = {}
        self._ids_at: dict[str, set[str]] = {}
        self._ids_of: dict[str | None, list[str]] = {}  # by the hash of packets

    def add(self, asset_id: str, known: Known) -> None:
        """Remember an asset."""
        if asset_id not in self._assets:
            self._ids_of.setdefault(known.packets_hash, []).append(asset_id)
        self._assets[asset_id] = known
        for path in known.paths:
            self._ids_at.setdefault(path, set()).add(asset_id)

    def get(self, asset_id: str) -> Known | None:
        """The asset; None if it is not stored."""
        return self._assets.get(asset_id)

    def find_twin(self, packets_hash: str | None, *, of: str = "") -> str | None:
        """An asset with the same coded sound and picture, other than `of`."""
        ids = [] if packets_hash is None else self._ids_of.get(packets_hash, [])
        return next((asset_id for asset_id in ids if asset_id != of), None)

    def find_untouched(self, found: FoundFile) -> str | None:
        """The asset of a file that has not been touched since it was indexed."""
        path = str(found.path)
        for asset_id in self._ids_at.get(path, ()):
            known = self._assets[asset_id]
            if known.paths[0] == path and known.is_untouched(found):
                return asset_id
        return None

    def others_at(self, path: Location | str, asset_id: str) -> set[str]:
        """Assets other than this one that the index knows at a path."""
        return self._ids_at.get(str(path), set()) - {asset_id}

    def under(self, folders: Sequence[Location]) -> Iterator[tuple[str, str]]:
        """Every path that the index knows at or below some absolute paths, each with an asset that has it."""
        exact = {str(folder) for folder in folders}
        prefixes = tuple(path.rstrip("/") + "/" for path in exact)
        for path, asset_ids in self._ids_at.items():
            if path in exact or path.startswith(prefixes):
                for asset_id in sorted(asset_ids):
                    yield path, asset_id


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What became of the paths of one asset; without any left it was removed from the index.

    With an `error` nothing did, and `copied` are the files that came to it.
    """

    asset_id: str
    moved: Sequence[tuple[FoundFile, str]] = ()  # each with the path that it was moved from
    copied: Sequence[FoundFile]  # further files with its content
    dropped: Sequence[str] = ()  # paths that it lost without a new one in their place
    is_removed: bool = False
    error: FileError | None = None


class Placement:
    """Gathers where contents were found and where they are no longer, and writes the paths of assets at the end.

    Only the end of a run can tell: a path with a new content may have been the only place of the old content, or the
    old content was found elsewhere.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.sidecars = Sidecars()
        self._catalogue = catalogue
        self._gained: dict[str, list[FoundFile]] = {}
        self._lost: dict[str, set[str]] = {}
        self._touched: dict[str, FoundFile] = {}
        self._facts: dict[str, Mapping[str, Any]] = {}  # by path: what is said of it now
        self._heirs: dict[str, dict[str, str]] = {}  # by asset and path: what the path holds now

    def find(self, asset_id: str, found: FoundFile) -> bool:
        """Note that a file has the content of a stored asset; returns whether the index knows it at this path."""
        known = self._catalogue.get(asset_id)
        if known is None or str(found.path) not in known.paths:
            self._gained.setdefault(asset_id, []).append(found)
            return False
        if known.paths[0] == str(found.path) and not known.is_untouched(found):
            self._touched[asset_id] = found
        return True

    def read_again(self, asset_id: str, found: FoundFile, read_said: Callable[[], Mapping[str, Any]]) -> bool:
        """Read what a file of a stored asset says if the XMP file beside it is another one; returns whether it did.

        If that fails, the next run does. A file that left its XMP file behind says what it said.
        """
        known, path = self._catalogue.get(asset_id), str(found.path)
        sidecar, is_new = self.sidecars.stamp_of(found), known is None or path not in known.paths
        if known is None or sidecar == known.sidecar or not (is_new or known.paths[0] == path):
            return False
        is_left = is_new and not sidecar
        try:
            said = {} if is_left else {"said": read_said()}
        except Exception as exc:
            blame_file(exc)
            return False
        self._facts[path] = {**said, SIDECAR: sidecar}
        self._touched[asset_id] = found
        return not is_left

    def lose(self, asset_id: str, path: str, *, heir: str | None = None) -> None:
        """Note that a path no longer has the content of an asset, but that of its heir, if there is a file."""
        self._lost.setdefault(asset_id, set()).add(path)
        if heir is not None:
            self._heirs.setdefault(asset_id, {})[path] = heir

    def gained(self) -> Iterator[tuple[str, FoundFile]]:
        """Every file whose content was found at a path that is new to its asset, with the asset."""
        for asset_id, found in self._gained.items():
            yield from ((asset_id, one) for one in found)

    def has_gained(self, asset_id: str) -> bool:
        """Whether the content of a stored asset was found at a path that is new to it."""
        return asset_id in self._gained

    def place(self, index: Index | None, journal: Journal) -> Iterator[Placed]:
        """Write each asset's final paths; remove assets that have none left, many at once. Yields what is durable.

        What people said of an asset goes first to what its paths hold now; the journal keeps it if that is not stored.
        Without an index nothing is written.
        """
        if index is not None:
            self._restore_metadata(index, journal)
        removed: list[Placed] = []
        for asset_id in sorted(self._gained.keys() | self._lost.keys() | self._touched.keys()):
            known = self._catalogue.get(asset_id)
            if known is None:
                continue
            try:
                placed = self._place(asset_id, known, index, journal)
            except Exception as exc:
                yield Placed(asset_id=asset_id, copied=self._gained.get(asset_id, []), error=blame_file(exc))
                continue
            if not placed.is_removed:
                yield placed
                continue
            removed.append(placed)
            if len(removed) == REMOVED_AT_ONCE:
                yield from _remove(removed, index)
                removed = []
        yield from _remove(removed, index)

    def _restore_metadata(self, index: Index, journal: Journal) -> None:
        """Give back what was kept of assets whose content is there again, and of paths that hold another."""
        for kept in journal.kept_metadata():
            asset_ids = {kept.asset_id} if kept.path is None else self._catalogue.others_at(kept.path, "")
            try:
                if any(inherit_metadata(index, asset_id, kept.metadata) for asset_id in asset_ids):
                    journal.forget_metadata(kept)
            except Exception as exc:
                blame_file(exc)

    def _bequeath(
        self, asset_id: str, known: Known, index: Index, journal: Journal, *, is_gone: bool
    ) -> None:
        """Give what people said of an asset to what its paths hold now, to itself with new tags, or keep it."""
        asset = index.get_asset(asset_id)
        if asset is None or not asset.metadata:
            return
        heirs = dict[str | None, str | None](self._heirs.get(asset_id, {}).items())
        if is_gone and not heirs:
            heirs = {None: self._catalogue.find_twin(known.packets_hash, of=asset_id)}
        for path, heir in heirs.items():
            if heir is None or not inherit_metadata(index, heir, asset.metadata):  # it could not be indexed
                journal.keep_metadata(KeptMetadata(asset_id=asset_id, path=path, metadata=asset.metadata))

    def _place(self, asset_id: str, known: Known, index: Index | None, journal: Journal) -> Placed:
        gained, lost = self._gained.get(asset_id, []), self._lost.get(asset_id, set())
        # If the content was found elsewhere too, a path that is gone is where it was moved from.
        kept = [p for p in known.paths if p not in lost and not (gained and _is_gone(p, journal))]
        gone = [path for path in known.paths if path not in kept]
        paths = [*kept, *(str(found.path) for found in gained)]
        if index is not None:
            if not gained:  # else it was moved, and what people said of it goes with it
                self._bequeath(asset_id, known, index, journal, is_gone=not paths)
            if paths:
                self._write(index, asset_id, known, paths, gained)
        return Placed(
            asset_id=asset_id,
            moved=list(zip(gained, gone, strict=False)),
            copied=gained[len(gone) :],
            dropped=gone[len(gained) :],
            is_removed=not paths,
        )

    def _write(
        self, index: Index, asset_id: str, known: Known, paths: Sequence[str], gained: Sequence[FoundFile]
    ) -> None:
        asset = index.get_asset(asset_id)
        if asset is None:  # deleted meanwhile
            return
        added = [p for p in asset.paths if p not in known.paths and p not in paths]  # by another process
        paths = [*paths, *added]
        touched = self._touched.get(asset_id)
        first = next((f for f in (*gained, *([touched] if touched else [])) if str(f.path) == paths[0]), None)
        facts: Mapping[str, Any] = {}
        if first is not None:
            facts = {"size_bytes": first.size_bytes, "modified_ns": first.modified_ns}
        elif paths[0] != asset.path:
            facts = _facts_of(paths[0])
        facts = {**facts, **rename(asset.media, asset.path, paths[0]), **self._facts.get(paths[0], {})}
        index.set_paths(asset_id, paths=paths, media={**asset.media, **facts})


def _remove(placed: Sequence[Placed], index: Index | None) -> Iterator[Placed]:
    """Remove assets without a path from the index: they share a flush."""
    if index is not None and placed:
        try:
            index.delete_assets([one.asset_id for one in placed])
        except Exception as exc:
            error = blame_file(exc)
            placed = [Placed(asset_id=one.asset_id, copied=one.copied, error=error) for one in placed]
    yield from placed


def _is_gone(path: str, journal: Journal) -> bool:
    """Whether there is nothing at a path although every disk is mounted that was known to hold it."""
    if is_url(path):
        return is_object_gone(path)
    if os.path.lexists(path):
        return False
    mounts = {mount for mount in journal.mounts() if is_within(path, mount)}
    return not mounts or mounts <= find_mounts([Path(path)])


def is_object_gone(url: str) -> bool:
    """Whether the storage says that there is no such object; one that does not answer says nothing."""
    try:
        describe_object(ObjectPath(url))
    except StorageUnavailable as exc:
        return isinstance(exc, ObjectNotFound)
    return False


def _facts_of(path: str) -> Mapping[str, int]:
    """Size and time of a file; if they cannot be read, a time that no file has, so that the next run reads the file."""
    try:
        if is_url(path):
            stored = describe_object(ObjectPath(path))
            return {"size_bytes": stored.size_bytes, "modified_ns": stored.modified_ns}
        status = Path(path).stat()
    except (OSError, StorageUnavailable):
        return {"modified_ns": NO_TIME_NS}
    return {"size_bytes": status.st_size, "modified_ns": clamp_time_ns(status.st_mtime_ns)}


def read_catalogue(index: Index, *, into: Catalogue) -> None:
    """Add all assets of an index to a catalogue."""
    for asset in iter_assets(index):
        into.add(asset.asset_id, Known.of_asset(asset))


def identify_all(
    files: Iterable[FoundFile],
    find_known: Callable[[FoundFile], Identity | None],
    fetching: Fetching,
) -> Iterator[tuple[FoundFile, Identity]]:
    """Each file in order, with its id (from `find_known`, else hashed a few files ahead) or what is wrong with it."""
    ahead: deque[tuple[FoundFile, Future[Identity]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        try:
            for found in files:
                ahead.append((found, pool.submit(_identify, found, find_known(found), fetching)))
                if len(ahead) > HASHES_AHEAD:
                    earlier, identity = ahead.popleft()
                    yield earlier, identity.result()
            while ahead:
                earlier, identity = ahead.popleft()
                yield earlier, identity.result()
        finally:
            fetching.stop_ahead()
            pool.shutdown(wait=False, cancel_futures=True)


def _identify(found: FoundFile, known: Identity | None, fetching: Fetching) -> Identity:
    if known is not None:
        return known
    try:
        return fetching.identify(found)
    except Exception as exc:
        return blame_file(exc)
