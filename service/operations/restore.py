"""Putting a backup back: checked first, written aside, moved into place in the end.

    foley restore /backups/today [--force]

Nothing that is there is overwritten without `--force`. The embedded index is written into a new folder and takes the
old one's place when it is complete; on a Qdrant server assets are written one by one, and those that the backup does
not have are deleted last. A restore that was cut off is done again from the start.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.bundle.bundle import Bundle, load_bundle
from service.index.contract import Index, Segment
from service.index.opening import activate_index, find_index, open_index
from service.operations.backup import KEYS, LEDGER, BackupFailed, Manifest, check_backup, safe_path
from service.operations.backup_format import unpack_assets
from service.releases.store import ReleaseStore
from service.system.files import sync_folder
from service.system.settings import Settings
from service.system.text import count

NUM_WRITERS = 8  # writes that wait together share a flush
SEGMENTS_AT_ONCE = 64
PAGE_ASSETS = 1000


def restore_backup(settings: Settings, folder: Path, *, is_forced: bool = False) -> Manifest:
    """Put a backup back.

    Args:
        settings: Where to: data folder or Qdrant server; the bundle, where the backup has none of its own.
        folder: The backup.
        is_forced: Replace what is there.

    Returns:
        What was restored.

    Raises:
        BackupFailed: If the backup is damaged, of another bundle, or something would be overwritten.
    """  # noqa: DOC502 - raised where it is checked
    manifest = check_backup(folder)
    bundle = _find_bundle(settings, folder, manifest)
    settings.data.mkdir(parents=True, exist_ok=True)
    _refuse_overwriting(settings, folder, manifest, bundle, is_forced=is_forced)
    with tempfile.TemporaryDirectory(prefix="restore-", dir=settings.data) as scratch:
        aside = settings.replace(data=Path(scratch))
        target = settings if settings.qdrant_url else aside
        index = open_index(target, bundle, release_id=manifest.release_id)
        try:
            _write_index(index, folder, manifest)
        finally:
            index.close()
        for name in manifest.files:
            if not name.startswith("index/"):
                path = safe_path(aside.data, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(safe_path(folder, name), path)
        _move_into_place(settings, aside.data, manifest)
    return manifest


def _find_bundle(settings: Settings, folder: Path, manifest: Manifest) -> Bundle:
    own = folder / "releases" / manifest.release_id / "bundle"
    bundle = load_bundle(own if own.exists() else settings.bundle)
    if bundle.bundle_id != manifest.bundle_id:
        raise BackupFailed(
            f"the backup is of bundle {manifest.bundle_id}, FOLEY_BUNDLE is {bundle.bundle_id}: their vectors cannot "
            "be compared"
        )
    return bundle


def _refuse_overwriting(
    settings: Settings, folder: Path, manifest: Manifest, bundle: Bundle, *, is_forced: bool
) -> None:
    index = find_index(settings, bundle, release_id=manifest.release_id)  # in use: says so
    num_assets = 0
    if index is not None:
        num_assets = index.info().num_assets
        index.close()
    there = [f"an index with {count(num_assets, 'asset')}"] if num_assets else []
    places = {LEDGER: settings.data / LEDGER, KEYS: settings.keys_path}
    there += [str(path) for name, path in places.items() if name in manifest.files and path.exists()]
    if there and not is_forced:
        raise BackupFailed(f"{settings.data} holds {', '.join(there)}: --force replaces it by {folder}")


def _write_index(index: Index, folder: Path, manifest: Manifest) -> None:
    kept: set[str] = set()
    with ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="restore") as writers:
        for name in sorted(name for name in manifest.files if name.startswith("index/")):
            assets = unpack_assets(safe_path(folder, name).read_bytes())
            for asset_id in writers.map(lambda asset: _write_asset(index, asset), assets):
                kept.add(asset_id)
    for asset_id in [asset_id for asset_id in _asset_ids(index) if asset_id not in kept]:
        index.delete_asset(asset_id)
    found = (index.info().num_assets, index.count_segments())
    if found != (manifest.num_assets, manifest.num_segments):
        raise BackupFailed(
            f"the index has {found} assets and segments, the backup {manifest.num_assets, manifest.num_segments}"
        )


def _write_asset(index: Index, segments: Sequence[Segment]) -> str:
    for first in range(0, len(segments), SEGMENTS_AT_ONCE):
        part = segments[first : first + SEGMENTS_AT_ONCE]
        index.write_asset(part, is_last=first + SEGMENTS_AT_ONCE >= len(segments))
    return segments[0].asset_id


def _asset_ids(index: Index) -> Iterator[str]:
    cursor: str | None = None
    while True:
        page = index.list_assets(limit=PAGE_ASSETS, cursor=cursor)
        yield from (asset.asset_id for asset in page.assets)
        cursor = page.next_cursor
        if cursor is None:
            return


def _bring(source: Path, place: Path) -> Path:
    """Bring what was restored onto the disk of its place, beside it: what may fail does so before the renames."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_dev == place.parent.stat().st_dev:
        return source
    beside = place.with_name(f".new-{place.name}")
    _remove(beside)
    if source.is_dir():
        shutil.copytree(source, beside)
    else:
        shutil.copy2(source, beside)
    return beside


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _move_into_place(settings: Settings, aside: Path, manifest: Manifest) -> None:
    index = Path("index", manifest.release_id)
    release = settings.release_folder / manifest.release_id
    places = {
        aside / index: settings.data / index,
        aside / "releases" / manifest.release_id: release,
        aside / "agreement": settings.data / "agreement",
        aside / KEYS: settings.keys_path,
        aside / LEDGER: settings.data / LEDGER,
    }
    brought = [(_bring(source, place), place) for source, place in places.items() if source.exists()]
    for source, place in brought:
        replaced = place.with_name(f".old-{place.name}")
        _remove(replaced)
        if place.exists():
            place.rename(replaced)
        source.rename(place)
        sync_folder(place.parent)
        _remove(replaced)
    for suffix in ("-wal", "-shm"):  # of the ledger that was replaced
        (settings.data / (LEDGER + suffix)).unlink(missing_ok=True)
    if not any(name.startswith("releases/") for name in manifest.files):
        (release / "calibration.json").unlink(missing_ok=True)  # of the library that was replaced
    if (release / "release.json").exists():
        ReleaseStore(settings.release_folder).activate(manifest.release_id, previous=None)
    else:  # the bundle of the settings, which no file names
        (settings.release_folder / "active.json").unlink(missing_ok=True)
    activate_index(settings, manifest.release_id)
