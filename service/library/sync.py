"""Synchronising a library: what is new or changed goes into the index, what is gone leaves it.

    report = sync_paths([Path("/videos")], snapshot=foley.snapshot(), decoder=foley.decoder)

If a file is gone, its asset loses the path; an asset without paths is removed from the index. Files that moved keep
their embeddings. A folder that cannot be read, or whose disk is not mounted, is never mistaken for one whose files were
deleted: then nothing is removed and `SyncRefused` says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from service.decode.decoder import Decoder
from service.library.catalogue import is_object_gone
from service.library.locations import Location, ObjectPath, is_url
from service.library.mounts import find_mounts, is_within, touches
from service.library.objects import ObjectNotFound, StorageUnavailable, check_storage
from service.library.options import RunOptions
from service.library.pipeline import RehearsedPipeline
from service.library.report import IndexReport
from service.library.run import LibraryRun
from service.library.scanning import OUTSIDE, LinkRules, UnusableFile
from service.search.snapshot import Snapshot
from service.system.failure import Failure
from service.system.paths import make_absolute, show_path

MIN_GONE = 10  # fewer files may be gone without a question, whatever their share


class SyncRefused(Failure):
    """Files or their disk seem to be missing: nothing was removed."""

    code = "sync_refused"


class TooManyGone(SyncRefused):
    """More files of a folder are gone at once than may be removed without asking: nothing was removed."""

    code = "too_many_gone"


def sync_paths(
    paths: Sequence[Location],
    *,
    snapshot: Snapshot,
    decoder: Decoder,
    options: RunOptions | None = None,
    allow_empty: bool = False,
    allow_gone: bool = False,
    max_gone: float = 0.5,
    settle_seconds: float = 0.0,
) -> IndexReport:
    """Make the index hold the media under some paths as they are now; see `service.library.indexing.index_paths`.

    A journal of a rehearsal writes nothing, and the report has a plan. Files that were written to within
    `settle_seconds` are left for the next run. Raises `SyncRefused` if a path cannot be read; also if a path, all its
    files or its disk are gone, unless `allow_empty` accepts that; and if a disk goes during the run. Raises
    `TooManyGone` if more than the share `max_gone` of a folder is gone, unless `allow_gone` or `allow_empty` does.
    """
    roots = [make_absolute(path) if isinstance(path, Path) else path for path in paths]
    options = options or RunOptions()
    journal, run = options.journal, LibraryRun(options)
    with run.stopping_early():
        for root in roots:
            _check_root(root, options.links, allow_empty=allow_empty)
        mounts = find_mounts(roots)
        journal.remember_mounts(mounts)  # at once: this run may not see its end, or these disks may not
        run.scan(roots, settle_seconds=settle_seconds)
        run.read(snapshot.index)
        gone = list(_find_gone(run, roots))
        targets = (found.target for found in run.found if found.target is not None)
        dead = (Path(os.path.realpath(path)) for path, _ in gone if Path(path).is_symlink())
        places: list[Location] = [*roots, *targets, *dead]
        mounts |= find_mounts(places)  # some are mounted when they are looked at
        journal.remember_mounts(mounts)
        missed = {mount for mount in journal.mounts() if touches(mount, places)} - mounts
        if not allow_empty:
            _check_mounts(run, gone, missed)
            _check_losses(run, roots, gone)
        index = None if journal.is_rehearsal else snapshot.index
        if index is None:
            run.index_all(RehearsedPipeline())
        else:
            run.index_through(snapshot, decoder)
        gone = [(path, asset_id) for path, asset_id in gone if _is_gone(path)]  # still
        if not (allow_gone or allow_empty or journal.is_rehearsal):
            _check_share(run, [*roots, *map(Path, sorted(mounts))], gone, max_gone=max_gone)
        # Last, when all disks must be there: then what was seen above was seen with every disk in its place.
        _check_mounts(run, gone, mounts - find_mounts(places))
        journal.forget_mounts(missed if allow_empty else ())
        for path, asset_id in gone:
            run.lose(asset_id, path)
        run.place(index)
    return run.finish()


def _check_root(root: Location, links: LinkRules, *, allow_empty: bool) -> None:
    try:
        if isinstance(root, ObjectPath):
            _check_storage(root, links)
            return
        links.check(root)
        if root.is_dir():
            with os.scandir(root) as entries:
                next(entries, None)
        else:
            root.lstat()
    except FileNotFoundError as exc:
        if not allow_empty:
            raise SyncRefused(
                f"{show_path(root)} is not there: mount its disk, or allow the removal with --allow-empty"
            ) from exc
    except UnusableFile as exc:
        raise SyncRefused(f"{show_path(root)}: {exc}") from exc
    except OSError as exc:
        raise SyncRefused(f"{show_path(root)} cannot be read: {exc.strerror or exc}") from exc


def _check_storage(root: ObjectPath, links: LinkRules) -> None:
    """Raise unless the storage shows what is below a prefix; FileNotFoundError if it says that nothing is."""
    if not links.allows_object(root):
        raise UnusableFile(root, "path_not_allowed", OUTSIDE)
    try:
        check_storage(root)
    except ObjectNotFound as exc:
        raise FileNotFoundError(str(root)) from exc
    except StorageUnavailable as exc:
        raise UnusableFile.of(root, exc) from exc


def _check_mounts(run: LibraryRun, gone: Sequence[tuple[str, str]], missing: Set[str]) -> None:
    """Refuse if a disk is not mounted any more of which the index knows files, or to which links lead."""
    for mount in sorted(missing):
        holds = any(run.catalogue.under([Path(mount)]))
        if holds or any(is_within(os.path.realpath(path), mount) for path, _ in gone):
            raise SyncRefused(
                f"no disk is mounted at {show_path(mount)}, where there was one: mount it, or allow the removal "
                "with --allow-empty"
            )


def _find_gone(run: LibraryRun, roots: Sequence[Location]) -> Iterator[tuple[str, str]]:
    """Paths that the index knows below the roots and at which there is no file, each with its asset."""
    present = {str(found.path) for found in run.found}
    for path, asset_id in run.catalogue.under(roots):
        if path not in present and _is_gone(path):
            yield path, asset_id


def _is_gone(path: str) -> bool:
    """Whether there is no such file, or only a link that leads nowhere; one that cannot be examined is not gone."""
    if is_url(path):
        return is_object_gone(path)
    try:
        Path(path).stat()
    except (OSError, ValueError) as exc:
        return isinstance(exc, FileNotFoundError | NotADirectoryError)
    return False


def _check_losses(run: LibraryRun, roots: Sequence[Location], gone: Sequence[tuple[str, str]]) -> None:
    """Refuse to remove everything that the index knows below a root."""
    lost = {path for path, _ in gone}
    for root in roots:
        known = {path for path, _ in run.catalogue.under([root])}
        is_empty = not any(is_within(str(found.path), str(root)) for found in run.found)
        if known and is_empty and known <= lost:
            raise SyncRefused(
                f"{show_path(root)} has no media file any more, and the index knows {len(known)}: mount its disk, or "
                "say that they are gone with --allow-empty"
            )


def _check_share(
    run: LibraryRun, folders: Sequence[Location], gone: Sequence[tuple[str, str]], *, max_gone: float
) -> None:
    """Refuse to remove more than this share of what the index knows below a folder; what was moved stays."""
    lost = {path for path, asset_id in gone if not run.is_elsewhere(asset_id)}
    for folder in folders:
        known = {path for path, _ in run.catalogue.under([folder])}
        if MIN_GONE <= len(known & lost) > max_gone * len(known):
            raise TooManyGone(
                f"{len(known & lost)} of the {len(known)} files that the index knows in {show_path(folder)} are gone: "
                "list them with --dry-run, mount their disk, or allow the removal with --allow-gone"
            )
