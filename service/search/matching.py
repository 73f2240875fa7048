"""Finds the best segment of each asset for the tracks of a query, in pages, above a score, among the assets that count.

    options = SearchOptions(target="audio", limit=10, filter=Filter(folder="/library/rain"))
    answer = find_matches(segments, options, source="video", snapshot=snapshot)

`SearchAnswer.to_json` is the one form of an answer, over HTTP and on the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from models.bundle.bundle import Similarity
from service.encode.embedding import EmbeddedSegment
from service.index.contract import Index, SegmentMatch, VectorQuery, WordMatch
from service.search.calibration import Calibration
from service.search.options import SearchOptions
from service.search.prefetch import choose_prefetch
from service.search.snapshot import Snapshot
from service.system.failure import Failure
from service.system.modality import Modality, Track
from service.system.paths import show_path

EmptyReason = Literal[
    "nothing_to_search",
    "nothing_passes_filter",
    "below_min_score",
    "below_min_probability",
    "no_further_results",
    "no_word_found",
]
ProbabilityReason = Literal[
    "same_modality", "not_calibrated", "cannot_tell", "no_captions", "several_queries", "words_only"
]
Source = Literal["audio", "video", "text", "mixed"]
"""What a query is: a modality, a text, or several together."""
FoundBy = Literal["meaning", "words"]
RANK_CONSTANT = 60
FUSED = 50
"""Lists of the best that are joined have so many more assets than are wanted: one asset of both comes before many."""


class NotCalibrated(Failure):
    """Scores have no known probability: the release is not calibrated, or sound is compared with sound."""

    code = "not_calibrated"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The best segment of one asset, and the segment of the query that it matches best.

    `match_probability`, in [0, 1], is None if `probability_reason` of the answer says why. What words alone found has
    neither score nor moments.
    """

    match: SegmentMatch | WordMatch
    query_start_seconds: float
    query_end_seconds: float
    match_probability: float | None = None
    found_by: tuple[FoundBy, ...] = ("meaning",)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        match = self.match
        return {
            "asset_id": match.asset_id,
            "path": show_path(match.path),
            "start_seconds": match.start_seconds,
            "end_seconds": match.end_seconds,
            "score": match.score,
            "match_probability": self.match_probability,
            "found_by": list(self.found_by),
            "best_moment": _find_best(match),
            "moments": list(match.moments),
            "query_start_seconds": self.query_start_seconds,
            "query_end_seconds": self.query_end_seconds,
            "metadata": dict(match.metadata),
        }


def _find_best(match: SegmentMatch | WordMatch) -> dict[str, Any] | None:
    if not match.moments:
        return None
    best = int(np.argmax(match.moments))
    length = match.end_seconds - match.start_seconds
    return {
        "index": best,
        "time_seconds": match.start_seconds + best / len(match.moments) * length,
        "similarity": match.moments[best],
    }


@dataclass(frozen=True, kw_only=True)
class QueryTrack:
    """What is compared: a track, float32, shape (T, D), and the span of the query that it stands for."""

    track: Track
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """What a search found, one result per asset by falling score (then by asset id), and what it compared.

    `source` is what the query is (`from` outside Python). `is_partial` means that less than 95 % of its file
    could be decoded. `next_offset` is None after the last page, and if no page was asked for; `reason` says why there
    are no results, `probability_reason` why they have no probability. `similarity` says what scores are made of.
    """

    results: tuple[SearchResult, ...]
    target: Modality
    source: Source
    bundle_id: str
    release_id: str
    similarity: Similarity
    num_query_segments: int
    is_partial: bool = False
    next_offset: int | None = None
    reason: EmptyReason | None = None
    probability_reason: ProbabilityReason | None = None

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON values: the body of the HTTP answer and the output of `--json`."""
        return {
            "results": [result.to_json() for result in self.results],
            "target": self.target,
            "from": self.source,
            "bundle_id": self.bundle_id,
            "release_id": self.release_id,
            "similarity": self.similarity,
            "query": {"num_segments": self.num_query_segments, "is_partial": self.is_partial},
            "next_offset": self.next_offset,
            "reason": self.reason,
            "probability_reason": self.probability_reason,
        }


def find_matches(
    queries: Sequence[EmbeddedSegment],
    options: SearchOptions,
    *,
    source: Modality,
    snapshot: Snapshot,
    is_partial: bool = False,
) -> SearchAnswer:
    """Search with the `source` tracks of every segment of a query, and keep the best match of each asset.

    Raises `NotCalibrated` if results are wanted by their probability and it is not known.
    """
    tracks = [
        QueryTrack(
            track=query.tracks[source], start_seconds=query.start_seconds, end_seconds=query.end_seconds
        )
        for query in queries
    ]
    return answer_tracks(tracks, options, source=source, snapshot=snapshot, is_partial=is_partial)


def answer_tracks(
    tracks: Sequence[QueryTrack],
    options: SearchOptions,
    *,
    source: Source,
    snapshot: Snapshot,
    is_partial: bool = False,
    words: Sequence[WordMatch] | None = None,
) -> SearchAnswer:
    """Search with tracks, keep the best match of each asset, and join the ranking with what words found, if they did.

    Raises `NotCalibrated` if results are wanted by their probability and it is not known.
    """
    calibration = snapshot.calibration
    probability_reason = _why_no_probability(options, source, calibration)
    ranked = _rank_assets(
        tracks, options, snapshot.index, depth=count_ranked(options, is_fused=words is not None)
    )
    if calibration is not None and probability_reason is None:
        for rank, result in enumerate(ranked):
            score = result.match.score or 0.0
            learned = calibration.text_probability if source == "text" else calibration.probability
            likely = learned(score, target=options.target, is_best=rank == 0)
            ranked[rank] = replace(result, match_probability=likely)
    if words is not None:
        ranked = fuse(ranked, words)
    results, next_offset, reason = _cut_page(ranked, options)
    if not tracks:  # words alone were looked for
        probability_reason = "words_only"
        reason = "no_word_found" if reason in ("nothing_to_search", "nothing_passes_filter") else reason
    return SearchAnswer(
        results=results,
        target=options.target,
        source=source,
        bundle_id=snapshot.bundle_id,
        release_id=snapshot.release_id,
        similarity=snapshot.bundle.manifest.similarity,
        num_query_segments=len(tracks),
        is_partial=is_partial,
        next_offset=next_offset,
        reason=reason,
        probability_reason=probability_reason,
    )


def count_ranked(options: SearchOptions, *, is_fused: bool) -> int:
    """How many of the best assets are ranked: so many that a page is cut from."""
    if options.offset is not None:
        return options.window
    return min(options.limit + FUSED, options.window) if is_fused else options.limit


def fuse(meaning: Sequence[SearchResult], words: Sequence[WordMatch]) -> list[SearchResult]:
    """Join two rankings: an asset's place is Σ 1 / (60 + rank) over those that have it (Cormack et al., 2009).

    Equal sums in the order of the asset ids.
    """
    joined = {result.match.asset_id: result for result in meaning}
    sums = {asset_id: 1 / (RANK_CONSTANT + rank) for rank, asset_id in enumerate(joined, start=1)}
    for rank, match in enumerate(words, start=1):
        asset_id = match.asset_id
        sums[asset_id] = sums.get(asset_id, 0.0) + 1 / (RANK_CONSTANT + rank)
        found = joined.get(asset_id)
        joined[asset_id] = (
            SearchResult(match=match, query_start_seconds=0.0, query_end_seconds=0.0, found_by=("words",))
            if found is None
            else replace(found, found_by=("meaning", "words"))
        )
    return sorted(joined.values(), key=lambda result: (-sums[result.match.asset_id], result.match.asset_id))


def _why_no_probability(
    options: SearchOptions, source: Source, calibration: Calibration | None
) -> ProbabilityReason | None:
    """Why results have no probability; a calibration is of sound against picture, says nothing of like against like."""
    reason: ProbabilityReason | None = None
    texts = {} if calibration is None else calibration.texts
    if source == "text" and options.target not in texts:
        reason = "no_captions"
        words = (
            "min_probability of a text needs captions, which teach what its scores mean: metadata `caption`, "
            "`description` or `title` of 30 files, then `foley releases calibrate`"
        )
    elif source == "text":
        if not (separation := texts[options.target].separation).can_tell:
            reason = "cannot_tell"
            words = f"min_probability needs texts whose scores say more than chance: {separation}"
    elif source == "mixed":
        reason = "several_queries"
        words = "min_probability is for a single query"
    elif source == options.target:
        reason = "same_modality"
        words = f"min_probability is for the other modality: {source} was compared with {options.target}"
    elif calibration is None or options.target not in calibration.directions:
        reason = "not_calibrated"
        words = "min_probability needs a release that has learned what its scores mean: see `foley releases calibrate`"
    elif not calibration.can_tell:
        reason = "cannot_tell"
        words = f"min_probability needs a release whose scores say more than chance: {calibration.separation}"
    if reason is not None and options.min_probability is not None:
        raise NotCalibrated(words)
    return reason


def _rank_assets(
    queries: Sequence[QueryTrack], options: SearchOptions, index: Index, *, depth: int
) -> list[SearchResult]:
    best: dict[str, SearchResult] = {}
    for query in queries:
        track = query.track
        prefetch = options.prefetch or choose_prefetch(track, limit=depth)
        wanted = VectorQuery(
            track=track, target=options.target, limit=depth, prefetch=prefetch, filter=options.filter
        )
        for match in index.search_assets(wanted):
            held = best.get(match.asset_id)
            if held is None or _rank(match) < _rank(held.match):
                best[match.asset_id] = SearchResult(
                    match=match, query_start_seconds=query.start_seconds, query_end_seconds=query.end_seconds
                )
    # An asset among the best overall is among the best of one segment: no list had to be longer.
    return sorted(best.values(), key=lambda result: _rank(result.match))[:depth]


def _cut_page(
    ranked: Sequence[SearchResult], options: SearchOptions
) -> tuple[tuple[SearchResult, ...], int | None, EmptyReason | None]:
    """The results of one page, the offset of the next, and why the page is empty."""
    least, likely = options.min_score, options.min_probability
    scoring = [
        result
        for result in ranked
        if least is None or (result.match.score is not None and result.match.score >= least)
    ]
    good = [result for result in scoring if likely is None or (result.match_probability or 0.0) >= likely]
    first = options.offset or 0
    end = first + options.limit
    if results := tuple(good[first:end]):
        return results, end if options.offset is not None and len(good) > end else None, None
    reason: EmptyReason = "nothing_to_search" if options.filter is None else "nothing_passes_filter"
    if good:
        reason = "no_further_results"
    elif scoring:
        reason = "below_min_probability"
    elif ranked:
        reason = "below_min_score"
    return (), None, reason


def _rank(match: SegmentMatch | WordMatch) -> tuple[float, str, float]:
    return (-(match.score or 0.0), match.asset_id, match.start_seconds)
