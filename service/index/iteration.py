"""Going through a whole index: its assets, the segments of an asset, and a copy of everything in another index.

for asset in iter_assets(index, filter=Filter(modality="audio")):
    for segment in iter_segments(index, asset): ...
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from service.index.contract import Asset, Filter, Index, Segment
from service.index.failure import IndexUnavailable

logger = logging.getLogger(__name__)

ASSETS_PER_PAGE = 256
SEGMENTS_PER_CALL = 64
NUM_WRITERS = 8  # writes that wait together share a flush
WRITE_ATTEMPTS = 4
RETRY_SECONDS = 0.5


def iter_assets(index: Index, *, filter: Filter | None = None) -> Iterator[Asset]:
    """Every complete asset that passes the filter, in the stable order of `Index.list_assets`."""
    cursor: str | None = None
    while True:
        page = index.list_assets(limit=ASSETS_PER_PAGE, cursor=cursor, filter=filter)
        yield from page.assets
        cursor = page.next_cursor
        if cursor is None:
            return


def find_missing(index: Index, assets: Iterable[Asset]) -> list[Asset]:
    """Those of some assets that an index lacks."""
    missing, rest = list[Asset](), iter(assets)
    while some := list(islice(rest, ASSETS_PER_PAGE)):
        held = index.get_assets([asset.asset_id for asset in some])
        missing += [asset for asset in some if asset.asset_id not in held]
    return missing


def iter_segments(index: Index, asset: Asset) -> Iterator[Segment]:
    """The segments of an asset with their tracks, in the order of their indexes.

    They are read in several calls. If the asset is deleted or replaced meanwhile, they may be of two versions, or
    fewer than `asset.num_segments`.
    """
    first_index = 0
    while True:
        part = index.read_segments(asset.asset_id, first_index=first_index, limit=SEGMENTS_PER_CALL)
        yield from part
        if len(part) < SEGMENTS_PER_CALL:
            return
        first_index = part[-1].index + 1


def write_patiently(index: Index, segments: Sequence[Segment], *, is_last: bool) -> None:
    """`Index.write_asset`, and again after a pause if the index is not available: it may be starting anew."""
    for attempt in range(1, WRITE_ATTEMPTS + 1):
        try:
            index.write_asset(segments, is_last=is_last)
        except IndexUnavailable as exc:
            if attempt == WRITE_ATTEMPTS:
                raise
            logger.warning("write %d of %d failed and is tried again: %s", attempt, WRITE_ATTEMPTS, exc)
            time.sleep(RETRY_SECONDS * attempt)
        else:
            return


def write_in_parts(index: Index, segments: Iterable[Segment]) -> None:
    """Write a whole asset, however long, a few segments a call."""
    rest = iter(segments)
    part = list(islice(rest, SEGMENTS_PER_CALL))
    while part:
        following = list(islice(rest, SEGMENTS_PER_CALL))
        write_patiently(index, part, is_last=not following)
        part = following


def copy_assets(
    source: Index, target: Index, *, is_there: Callable[[Asset, Asset | None], bool] = operator.eq
) -> Iterator[bool]:
    """Copy every asset, several at a time, and yield for each whether it was written.

    Skipped are assets of which `is_there` says so, given the asset at the source and the target: by default those
    described alike, so an interrupted copy can be resumed. Do not write to the source meanwhile.
    """

    def copy(asset: Asset, held: Asset | None) -> bool:
        if is_there(asset, held):
            return False
        write_in_parts(target, iter_segments(source, asset))
        return True

    assets = iter_assets(source)
    with ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="copy") as writers:
        while page := list(islice(assets, ASSETS_PER_PAGE)):
            held = target.get_assets([asset.asset_id for asset in page])
            yield from writers.map(copy, page, [held.get(asset.asset_id) for asset in page])
