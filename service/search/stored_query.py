"""Search without a file: by what is stored of an asset, or by a track that the caller brings.

    search_asset(asset_id, SearchOptions(target="audio"), start_seconds=20.0, snapshot=snapshot)

Nothing is decoded and nothing is embedded: a query costs only what the index takes for it.
"""

from __future__ import annotations

from service.encode.embedding import EmbeddedSegment
from service.index.contract import Asset, Index, Segment
from service.index.iteration import iter_segments
from service.index.layout import VectorLayout
from service.search.matching import SearchAnswer, find_matches
from service.search.options import SearchOptions
from service.search.snapshot import Snapshot
from service.search.sources import UnusableQuery, check_options, choose_source
from service.system.modality import MODALITIES, Modality, Track

MAX_QUERY_SEGMENTS = 60  # 10 min, as of a query file


class UnknownAsset(UnusableQuery):
    """No asset of this id is indexed."""

    code = "unknown_asset"


class UnknownSegment(UnusableQuery):
    """The asset has no segment at this time, or too many to search with all of them."""

    code = "unknown_segment"
    parameter = "start_seconds"


def search_asset(
    asset_id: str, options: SearchOptions, *, start_seconds: float | None = None, snapshot: Snapshot
) -> SearchAnswer:
    """Search with all segments of an indexed asset, or with the one that holds a time.

    Returns the answer with the asset itself among the results; raises `UnknownAsset` if it is not indexed.
    """
    usable, source = read_asset(asset_id, options, start_seconds=start_seconds, snapshot=snapshot)
    return find_matches(usable, options, source=source, snapshot=snapshot)


def read_asset(
    asset_id: str, options: SearchOptions, *, start_seconds: float | None = None, snapshot: Snapshot
) -> tuple[list[EmbeddedSegment], Modality]:
    """The segments of an asset to search with, or the one that holds a time, and the modality they have for it."""
    check_options(options, snapshot.bundle)
    asset = snapshot.index.get_asset(asset_id)
    if asset is None:
        raise UnknownAsset(f"no asset {asset_id[:80]!r} is indexed")
    if start_seconds is None:
        segments = _read_all(snapshot.index, asset)
    else:
        segments = [_find_segment(snapshot.index, asset, start_seconds)]
    queries = [_to_query(segment, snapshot.layout) for segment in segments]
    present = {modality for query in queries for modality in query.tracks}
    source = choose_source(present, target=options.target, source=options.source, bundle=snapshot.bundle)
    return [query for query in queries if source in query.tracks], source


def search_track(track: Track, options: SearchOptions, *, snapshot: Snapshot) -> SearchAnswer:
    """Search with one track, float32, shape (T, D), as if it were a whole segment of a query.

    It is taken for one of `options.source`, by default the opposite of the target if the bundle compares them.
    """
    check_options(options, snapshot.bundle)
    source = choose_source(MODALITIES, target=options.target, source=options.source, bundle=snapshot.bundle)
    seconds = snapshot.spec.segment_seconds
    query = EmbeddedSegment(start_seconds=0.0, end_seconds=seconds, tracks={source: track})
    return find_matches([query], options, source=source, snapshot=snapshot)


def _read_all(index: Index, asset: Asset) -> list[Segment]:
    if asset.num_segments > MAX_QUERY_SEGMENTS:
        raise UnknownSegment(
            f"the asset has {asset.num_segments} segments, a query {MAX_QUERY_SEGMENTS} at most: name one by its time"
        )
    return list(iter_segments(index, asset))


def _find_segment(index: Index, asset: Asset, seconds: float) -> Segment:
    """Find the segment that holds a time by halving: starts rise with the index, and an index may be left out."""
    found: Segment | None = None
    low, high = 0, int(seconds * 1000) + 1  # segments start a millisecond apart at least
    while low < high:
        middle = (low + high) // 2
        here = next(iter(index.read_segments(asset.asset_id, first_index=middle, limit=1)), None)
        if here is None or here.start_seconds > seconds:
            high = middle
        else:
            found, low = here, here.index + 1
    if found is None or not found.start_seconds <= seconds < found.end_seconds:
        raise UnknownSegment(f"asset {asset.asset_id} has no segment at {seconds} s")
    return found


def _to_query(segment: Segment, layout: VectorLayout) -> EmbeddedSegment:
    tracks: dict[Modality, Track] = {}
    if segment.audio_track is not None:
        tracks["audio"] = layout.to_query(segment.audio_track, "audio")
    if segment.video_track is not None:
        tracks["video"] = segment.video_track
    return EmbeddedSegment(
        start_seconds=segment.start_seconds, end_seconds=segment.end_seconds, tracks=tracks
    )
