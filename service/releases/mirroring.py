"""Making one generation of the index hold what another holds, each in the vectors of its own encoder.

    wanted = list(iter_assets(active.index))
    report = mirror(wanted, snapshot=new, decoder=decoder)

What is there already stays, so a killed run can be resumed, and a second run after others wrote does only what changed:
it embeds what is new, deletes what is gone, and copies paths and metadata.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.bundle.bundle import Bundle
from service.decode.decoder import Decoder
from service.index.contract import Asset, Index
from service.index.iteration import iter_assets
from service.library.indexing import index_paths, library_limits
from service.library.locations import Location, locate
from service.library.object_cache import ObjectCache
from service.library.options import RunOptions
from service.library.report import FailedFile, OnProgress
from service.library.scanning import LinkRules
from service.search.snapshot import Snapshot
from service.system.settings import Settings


@dataclass(frozen=True, kw_only=True)
class MirrorReport:
    """What a run did."""

    num_assets: int
    num_embedded: int
    num_relabelled: int
    """Assets that got other paths or metadata."""
    num_deleted: int
    missing: tuple[str, ...]
    """Wanted assets that are still not there: their files are gone, changed or cannot be decoded, or `beyond`."""
    beyond: tuple[str, ...]
    """Those of which the bundle embeds nothing: pictures alone, for a bundle without a picture encoder."""
    failed: tuple[FailedFile, ...]
    is_interrupted: bool = False

    @property
    def did_nothing(self) -> bool:
        """Whether both held the same before, except for what cannot be embedded."""
        return not (self.num_embedded or self.num_relabelled or self.num_deleted)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        failed = [{"path": f.path, "code": f.code, "reason": f.reason} for f in self.failed[:100]]
        lists = {"missing": list(self.missing), "beyond": list(self.beyond), "failed": failed}
        return asdict(self) | lists


def building_options(settings: Settings, on_progress: OnProgress | None = None) -> RunOptions:
    """How files of the library are embedded for another release: by the rules of its jobs, without their journal."""
    return RunOptions(
        limits=library_limits(settings),
        on_progress=on_progress,
        links=LinkRules(within=settings.library_roots, storages=settings.storage_roots),
        objects=ObjectCache.of(settings, "objects-building"),
    )


def mirror(
    wanted: Sequence[Asset],
    *,
    snapshot: Snapshot,
    decoder: Decoder,
    options: RunOptions | None = None,
    given_up: Collection[str] = (),
    embeds: bool = True,
    deletes: bool = True,
    source: Bundle | None = None,
) -> MirrorReport:
    """Make a generation of the index hold these assets and no others.

    Assets in `given_up` are not tried again. Without `embeds` or `deletes`, missing or unwanted assets stay as they
    are. So do unwanted ones of which `source`, the bundle of the other generation, embeds nothing: it cannot know them.
    If `stop` of the options leaves, the run ends early, and what is embedded stays.
    """
    index = snapshot.index
    beyond = {asset.asset_id for asset in wanted if not _embeds(snapshot.bundle, asset)}
    given_up = beyond.union(given_up)
    held = {asset.asset_id: asset for asset in iter_assets(index)}
    missing = [asset for asset in wanted if asset.asset_id not in held and asset.asset_id not in given_up]
    failed: list[FailedFile] = []
    is_interrupted = False
    if missing and embeds:
        report = index_paths(
            [_living_path(asset) for asset in missing],
            snapshot=snapshot,
            decoder=decoder,
            options=options,
        )
        failed, is_interrupted = report.failed, report.is_interrupted
        held = {asset.asset_id: asset for asset in iter_assets(index)}
    ids = {asset.asset_id for asset in wanted}
    unwanted = [
        asset_id
        for asset_id, asset in held.items()
        if deletes and asset_id not in ids and (source is None or _embeds(source, asset))
    ]
    index.delete_assets(unwanted)
    return MirrorReport(
        num_assets=len(wanted),
        num_embedded=sum(1 for asset in missing if asset.asset_id in held),
        num_relabelled=sum(_relabel(index, asset, held.get(asset.asset_id)) for asset in wanted),
        num_deleted=len(unwanted),
        missing=tuple(asset.asset_id for asset in wanted if asset.asset_id not in held),
        beyond=tuple(beyond - held.keys()),
        failed=tuple(failed),
        is_interrupted=is_interrupted,
    )


def _living_path(asset: Asset) -> Location:
    paths = [locate(path) for path in asset.paths]
    return next((path for path in paths if not isinstance(path, Path) or path.exists()), paths[0])


def _embeds(bundle: Bundle, asset: Asset) -> bool:
    """Whether a bundle embeds anything of an asset, as far as the index knows what that has."""
    return any(modality in bundle.manifest.tracks for modality in asset.modalities)


def _relabel(index: Index, wanted: Asset, held: Asset | None) -> bool:
    """Copy paths, facts about the file and metadata; returns whether anything differed.

    A fact that the other generation does not know, because it did not look at picture or sound, stays.
    """
    if held is None:
        return False
    known = {name: fact for name, fact in held.media.items() if wanted.media.get(name) is None}
    media = {**wanted.media, **known}
    has_moved = (held.paths, dict(held.media)) != (wanted.paths, media)
    if has_moved:
        index.set_paths(wanted.asset_id, paths=wanted.paths, media=media)
    if dict(held.metadata) != dict(wanted.metadata):
        index.set_metadata(wanted.asset_id, wanted.metadata)
        return True
    return has_moved
