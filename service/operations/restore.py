"""Putting a backup back: it is checked first, written aside, and moved into place at the end.

    foley restore /backups/today [--force]

Nothing is overwritten without `--force`. The embedded index is written into a new folder, which replaces the old one
when it is complete; it stores tracks as the one that was backed up. On a Qdrant server assets are written one by one,
and those that the backup does not have are deleted last. A restore that was interrupted starts again from the
beginning.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.bundle.bundle import Bundle, load_bundle
from service.index.contract import Index, Segment
from service.index.iteration import iter_assets, write_in_parts
from service.index.opening import index_place
from service.index.packing import find_storage, unpack_assets
from service.operations.backup import KEYS, LEDGER, BackupFailed, Manifest, check_backup, safe_path
from service.releases.store import ReleaseStore
from service.system.files import sync_folder
from service.system.settings import Settings
from service.system.text import count

NUM_WRITERS = 8  # writes that wait together share a flush


def restore_backup(settings: Settings, folder: Path, *, is_forced: bool = False) -> Manifest:
    """Put a backup back, and return what it holds; `is_forced` replaces existing data.

    The settings name the data folder or Qdrant server to restore to, and the bundle, if the backup has none of its
    own. Raises `BackupFailed` if the backup is damaged, of another bundle, or would overwrite something.
    """
    manifest = check_backup(folder)
    bundle = _find_bundle(settings, folder, manifest)
    settings.data.mkdir(parents=True, exist_ok=True)
    _refuse_overwriting(settings, folder, manifest, bundle, is_forced=is_forced)
    with tempfile.TemporaryDirectory(prefix="restore-", dir=settings.data) as scratch:
        names = sorted(name for name in manifest.files if name.startswith("index/"))
        storage = find_storage(safe_path(folder, names[0]).read_bytes()) if names else None
        aside = settings.replace(data=Path(scratch), storage=storage or settings.storage)
        index = index_place(aside).open(bundle, release_id=manifest.release_id)
        try:
            _write_index(index, folder, names, manifest)
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
    index = index_place(settings).find(bundle, release_id=manifest.release_id)  # raises if it is in use
    num_assets = 0
    if index is not None:
        num_assets = index.info().num_assets
        index.close()
    there = [f"an index with {count(num_assets, 'asset')}"] if num_assets else []
    places = {LEDGER: settings.data / LEDGER, KEYS: settings.keys_path}
    there += [str(path) for name, path in places.items() if name in manifest.files and path.exists()]
    if there and not is_forced:
        raise BackupFailed(f"{settings.data} holds {', '.join(there)}: --force replaces it with {folder}")


def _write_index(index: Index, folder: Path, names: Sequence[str], manifest: Manifest) -> None:
    kept: set[str] = set()
    with ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="restore") as writers:
        for name in names:
            assets = unpack_assets(safe_path(folder, name).read_bytes())
            for asset_id in writers.map(lambda asset: _write_asset(index, asset), assets):
                kept.add(asset_id)
    index.delete_assets([asset.asset_id for asset in iter_assets(index) if asset.asset_id not in kept])
    found = (index.info().num_assets, index.count_segments())
    if found != (manifest.num_assets, manifest.num_segments):
        raise BackupFailed(
            f"the index has {found[0]} assets and {found[1]} segments, the backup {manifest.num_assets} and "
            f"{manifest.num_segments}"
        )


def _write_asset(index: Index, segments: Sequence[Segment]) -> str:
    write_in_parts(index, segments)
    return segments[0].asset_id


def _bring(source: Path, place: Path) -> Path:
    """Copy what was restored to the disk of its place, next to it, so that nothing but renames is left to fail."""
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
    store = ReleaseStore(settings.release_folder)
    if (release / "release.json").exists():
        store.activate(manifest.release_id, previous=None)
    else:  # the bundle of the settings, which no file names
        (store.folder / "active.json").unlink(missing_ok=True)
        if store.list():
            store.adopt(manifest.release_id, load_bundle(settings.bundle))
    index_place(settings).activate(manifest.release_id)
