"""Copying an index from one place to another: from a folder to a Qdrant server, back, or between two of a kind.

    foley migrate --to http://qdrant:6333        # copy the index of the settings to the server
    foley migrate --from http://qdrant:6333      # and back
    foley migrate --from part-3 --join           # add the index of another data folder
    foley migrate --storage fine                 # store the tracks of this index in 8 bits a number

An asset that the target already has is skipped, so an interrupted copy is resumed when the command is run again. At
the end both sides are compared: the number of assets and segments, and the vectors of random segments: tracks bit for
bit, pooled vectors within 1e-6. A new folder stores tracks as the folder that is copied, and rows of 8 or 4 bits are
copied as they are. Where one side stores tracks in another way than the other, both are compared within `LOSSES`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.index.contract import Asset, Index
from service.index.embedded.index import EmbeddedIndex
from service.index.failure import IndexFailure
from service.index.iteration import copy_assets, iter_assets
from service.index.layout import VectorLayout
from service.index.opening import index_place
from service.library.metadata import inherit_metadata
from service.releases.opening import active_release
from service.system.modality import MODALITIES, Modality, Track
from service.system.settings import Settings
from service.system.storage import Storage

NUM_SAMPLES = 200
LOSSES: Mapping[Storage, float] = {"float16": 1e-6, "fine": 0.03, "compact": 0.25}
"""How far what is written and read may be off, of its length; for float16 a number of a pooled vector."""


class MigrationFailed(IndexFailure):
    """The copy differs from its source, or cannot be made; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What was done: assets copied and already present, segments at the target, vectors compared and found equal."""

    num_copied: int
    num_present: int
    num_segments: int
    num_compared: int


OnCopied = Callable[[int, int], None]
"""Called with the number of assets done, and of all."""


def migrate_places(
    settings: Settings,
    *,
    source: str | None = None,
    target: str | None = None,
    joins: bool = False,
    on_copied: OnCopied = lambda _done, _all: None,
) -> Migration:
    """Copy the index of the release that is active at the source; `joins` adds to what the target has (see `join`).

    A place is the URL of a Qdrant server or a data folder; one that is not given is that of the settings. Raises
    `MigrationFailed` if both are the same, or the source has no index of its active release.
    """
    from_settings, to_settings = (_settings_of(place, settings) for place in (source, target))
    release_id, bundle = active_release(from_settings)
    places = [index_place(place).describe(release_id) for place in (from_settings, to_settings)]
    if places[0] == places[1]:
        hint = "name another with --to or --from, or a Qdrant server with FOLEY_QDRANT_URL"
        raise MigrationFailed(f"source and target are the same: {places[0]}; {hint}")
    with ExitStack() as stack:
        opened = index_place(from_settings).find(bundle, release_id=release_id)
        if opened is None:
            raise MigrationFailed(f"there is no index of release {release_id} to copy: {places[0]}")
        stack.callback(opened.close)
        if not opened.is_shared:
            to_settings = to_settings.replace(storage=opened.storage)
        copy = index_place(to_settings).open(bundle, release_id=release_id)
        stack.callback(copy.close)
        if not joins:
            return migrate(opened, copy, on_copied=on_copied)
        if active_release(to_settings)[0] != release_id:
            raise MigrationFailed(f"the target has another active release than the source, {release_id}")
        return join(opened, copy, on_copied=on_copied)


@dataclass(frozen=True, kw_only=True)
class StorageChange:
    """How tracks are stored now, how many segments there are, the bytes of the index before and after.

    `score_error` is the mean error of the scores of sampled segments with each other, `largest_error` the largest.
    """

    storage: Storage
    num_segments: int
    bytes_before: int
    bytes_after: int
    score_error: float
    largest_error: float


def change_storage(
    settings: Settings, storage: Storage, *, on_copied: OnCopied = lambda _done, _all: None
) -> StorageChange:
    """Store the tracks of the active release's index in another way, beside the present ones, and compare both.

    A copy that was cut off is resumed, if nothing has changed since. Raises `MigrationFailed` if the index is on a
    server or not there.
    """
    release_id, bundle = active_release(settings)
    index = index_place(settings).find(bundle, release_id=release_id)
    if index is None:
        raise MigrationFailed(f"there is no index of release {release_id}")
    with closing(index):
        if not isinstance(index, EmbeddedIndex):
            raise MigrationFailed(
                "an index on a Qdrant server stores tracks as float16: unset FOLEY_QDRANT_URL"
            )
        places = [(asset.asset_id, int(at * asset.num_segments)) for asset, at in _sample(index, 0)]
        before, tracks = index.info(), _read_tracks(index, places)
        if index.storage != storage:
            index.store_as(storage, on_copied=on_copied)
        after, now = index.info(), _read_tracks(index, places)
        if before.num_segments != after.num_segments or tracks.keys() != now.keys():
            raise MigrationFailed("the new shard does not hold what the old one held")
        errors = [*_score_errors(index.layout, tracks, now), 0.0]
        return StorageChange(
            storage=index.storage,
            num_segments=after.num_segments,
            bytes_before=before.num_bytes or 0,
            bytes_after=after.num_bytes or 0,
            score_error=float(np.mean(errors)),
            largest_error=float(np.max(errors)),
        )


Tracks = dict[tuple[Modality, str], Track]


def _read_tracks(index: Index, places: Sequence[tuple[str, int]]) -> Tracks:
    found: Tracks = {}
    for asset_id, first_index in places:
        for segment in index.read_segments(asset_id, first_index=first_index, limit=1):
            for modality, track in (("audio", segment.audio_track), ("video", segment.video_track)):
                if track is not None:
                    found[modality, asset_id] = track  # type: ignore[index]
    return found


def _score_errors(layout: VectorLayout, before: Tracks, after: Tracks) -> Iterator[float]:
    """Differences of the scores of each track, as a query, with all others of its modality: before and after."""
    for modality in layout.tracks:
        keys = [key for key in before if key[0] == modality]
        if not keys:
            continue
        old, new = (np.stack([side[key] for key in keys]) for side in (before, after))
        for query in old:
            asked = layout.to_query(query, modality)
            differences = np.einsum("td,ntd->n", asked, new - old) / len(query)
            yield from np.abs(differences).tolist()


def _settings_of(place: str | None, settings: Settings) -> Settings:
    if place is None:
        return settings
    if "://" in place:
        return settings.replace(qdrant_url=place)
    return settings.replace(data=Path(place), qdrant_url=None)


def migrate(source: Index, target: Index, *, on_copied: OnCopied = lambda _done, _all: None) -> Migration:
    """Copy every asset, then compare both sides. Do not write to the source meanwhile."""
    num_assets = source.info().num_assets
    num_copied = num_done = 0
    for is_copied in copy_assets(source, target):
        num_copied += is_copied
        num_done += 1
        on_copied(num_done, num_assets)
    num_compared = compare(source, target)
    return Migration(
        num_copied=num_copied,
        num_present=num_done - num_copied,
        num_segments=target.count_segments(),
        num_compared=num_compared,
    )


def join(source: Index, target: Index, *, on_copied: OnCopied = lambda _done, _all: None) -> Migration:
    """Add every asset to what the target has; one that both have keeps the target's vectors and gets all paths.

    Random segments that were copied are compared. Do not write to the source meanwhile.
    """

    def is_there(asset: Asset, held: Asset | None) -> bool:
        if held is None:
            return False
        if more := [path for path in asset.paths if path not in held.paths]:
            target.set_paths(asset.asset_id, paths=[*held.paths, *more], media=held.media)
        if not inherit_metadata(target, asset.asset_id, asset.metadata):
            raise MigrationFailed(f"there is no room for what people said on both sides of {held.asset_id}")
        return True

    num_assets = source.info().num_assets
    sample = _sample(source, 0)
    held = target.get_assets([asset.asset_id for asset, _ in sample])
    missing = [(asset, at) for asset, at in sample if asset.asset_id not in held]
    copied = []
    for is_copied in copy_assets(source, target, is_there=is_there):
        copied.append(is_copied)
        on_copied(len(copied), num_assets)
    return Migration(
        num_copied=sum(copied),
        num_present=len(copied) - sum(copied),
        num_segments=target.count_segments(),
        num_compared=sum(_compare_segment(asset, at, source, target) for asset, at in missing),
    )


def compare(source: Index, target: Index, *, num_samples: int = NUM_SAMPLES, seed: int = 0) -> int:
    """Compare counts and random segments; returns the number of vectors, raises `MigrationFailed` if any differ."""
    for what, counts in (
        ("assets", (source.info().num_assets, target.info().num_assets)),
        ("segments", (source.count_segments(), target.count_segments())),
        *(
            (f"segments with {m}", (source.count_segments(modality=m), target.count_segments(modality=m)))
            for m in MODALITIES
        ),
    ):
        if counts[0] != counts[1]:
            raise MigrationFailed(f"the source has {counts[0]} {what}, the target {counts[1]}")
    sample = _sample(source, seed, num_samples=num_samples)
    return sum(_compare_segment(asset, at, source, target) for asset, at in sample)


def _sample(index: Index, seed: int, *, num_samples: int = NUM_SAMPLES) -> list[tuple[Asset, float]]:
    """Random assets, each equally likely (reservoir sampling: the list of all may be long), and a place in each."""
    chosen = random.Random(seed)  # noqa: S311 - a sample, not a secret
    kept: list[Asset] = []
    for number, asset in enumerate(iter_assets(index)):
        if len(kept) < num_samples:
            kept.append(asset)
        elif (place := chosen.randrange(number + 1)) < num_samples:
            kept[place] = asset
    return [(asset, chosen.random()) for asset in kept]


def _compare_segment(asset: Asset, at: float, source: Index, target: Index) -> int:
    """Compare the segment at a fraction of an asset, 0 to 1, and return the number of vectors compared."""
    if source.get_asset(asset.asset_id) != target.get_asset(asset.asset_id):
        raise MigrationFailed(f"asset {asset.asset_id} is described differently at the target")
    position = int(at * asset.num_segments)  # there is a segment of this index or a later one
    (segment,) = source.read_segments(asset.asset_id, first_index=position, limit=1)
    num_compared = 0
    for modality in MODALITIES:
        num_compared += _compare_vectors(asset.asset_id, segment.index, modality, source, target)
    return num_compared


def _compare_vectors(asset_id: str, index: int, modality: Modality, source: Index, target: Index) -> int:
    place = f"segment {index} of asset {asset_id}"
    tracks = [side.get_track(asset_id, index=index, modality=modality) for side in (source, target)]
    pooled = [
        side.read_pooled([asset_id], index=index, modality=modality).get(asset_id)
        for side in (source, target)
    ]
    if tracks[0] is None and tracks[1] is None:
        return 0
    if tracks[0] is None or tracks[1] is None or pooled[0] is None or pooled[1] is None:
        raise MigrationFailed(f"{place} has {modality} on one side only")
    is_exact = source.storage == target.storage
    loss = LOSSES["float16"] if is_exact else max(LOSSES[side.storage] for side in (source, target))
    if is_exact and not np.array_equal(
        tracks[0].astype(np.float16).view(np.uint16), tracks[1].astype(np.float16).view(np.uint16)
    ):
        raise MigrationFailed(f"the {modality} track of {place} differs")
    if not is_exact and (difference := _difference(tracks[0], tracks[1])) > loss:
        raise MigrationFailed(f"the {modality} track of {place} differs by {difference:.1e} of its length")
    difference = float(np.abs(pooled[0] - pooled[1]).max()) if is_exact else _difference(pooled[0], pooled[1])
    if not difference <= loss:
        raise MigrationFailed(f"the pooled {modality} vector of {place} differs by {difference:.1e}")
    return 2


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The length of the difference, as a share of the length of the first."""
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(one)), 1e-12))
