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

from service.encode.embedding import EmbeddedSegment
from service.index.contract import Index, SegmentMatch, VectorQuery
from service.search.calibration import Calibration
from service.search.options import SearchOptions
from service.search.prefetch import choose_prefetch
from service.search.snapshot import Snapshot
from service.system.failure import Failure
from service.system.modality import Modality
from service.system.paths import show_path

EmptyReason = Literal[
    "nothing_to_search",
    "nothing_passes_filter",
    "below_min_score",
    "below_min_probability",
    "no_further_results",
]
ProbabilityReason = Literal["same_modality", "not_calibrated", "cannot_tell"]


class NotCalibrated(Failure):
    """Scores have no known probability: the release is not calibrated, or sound is compared with sound."""

    code = "not_calibrated"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The best segment of one asset, and the segment of the query that it matches best.

    `match_probability`, in [0, 1], is None if `probability_reason` of the answer says why.
    """

    match: SegmentMatch
    query_start_seconds: float
    query_end_seconds: float
    match_probability: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        match = self.match
        best = int(np.argmax(match.moments))
        length = match.end_seconds - match.start_seconds
        return {
            "asset_id": match.asset_id,
            "path": show_path(match.path),
            "start_seconds": match.start_seconds,
            "end_seconds": match.end_seconds,
            "score": match.score,
            "match_probability": self.match_probability,
            "best_moment": {
                "index": best,
                "time_seconds": match.start_seconds + best / len(match.moments) * length,
                "similarity": match.moments[best],
            },
            "moments": list(match.moments),
            "query_start_seconds": self.query_start_seconds,
            "query_end_seconds": self.query_end_seconds,
            "metadata": dict(match.metadata),
        }


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """What a search found, one result per asset by falling score (then by asset id), and what it compared.

    `source` is the modality of the query (`from` outside Python). `is_partial` means that less than 95 % of its file
    could be decoded. `next_offset` is None after the last page, and if no page was asked for; `reason` says why there
    are no results, `probability_reason` why they have no probability.
    """

    results: tuple[SearchResult, ...]
    target: Modality
    source: Modality
    bundle_id: str
    release_id: str
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
    calibration = snapshot.calibration
    probability_reason = _why_no_probability(options, source, calibration)
    ranked = _rank_assets(queries, options, source, snapshot.index)
    if calibration is not None and probability_reason is None:
        for rank, result in enumerate(ranked):
            likely = calibration.probability(result.match.score, target=options.target, is_best=rank == 0)
            ranked[rank] = replace(result, match_probability=likely)
    results, next_offset, reason = _cut_page(ranked, options)
    return SearchAnswer(
        results=results,
        target=options.target,
        source=source,
        bundle_id=snapshot.bundle_id,
        release_id=snapshot.release_id,
        num_query_segments=len(queries),
        is_partial=is_partial,
        next_offset=next_offset,
        reason=reason,
        probability_reason=probability_reason,
    )


def _why_no_probability(
    options: SearchOptions, source: Modality, calibration: Calibration | None
) -> ProbabilityReason | None:
    """Why results have no probability; a calibration is of sound against picture, says nothing of like against like."""
    reason: ProbabilityReason | None = None
    if source == options.target:
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
    queries: Sequence[EmbeddedSegment], options: SearchOptions, source: Modality, index: Index
) -> list[SearchResult]:
    num_ranked = options.limit if options.offset is None else options.window
    best: dict[str, SearchResult] = {}
    for query in queries:
        track = query.tracks[source]
        prefetch = options.prefetch or choose_prefetch(track, limit=num_ranked)
        wanted = VectorQuery(
            track=track, target=options.target, limit=num_ranked, prefetch=prefetch, filter=options.filter
        )
        for match in index.search_assets(wanted):
            held = best.get(match.asset_id)
            if held is None or _rank(match) < _rank(held.match):
                best[match.asset_id] = SearchResult(
                    match=match, query_start_seconds=query.start_seconds, query_end_seconds=query.end_seconds
                )
    # An asset among the best overall is among the best of one segment: no list had to be longer.
    return sorted(best.values(), key=lambda result: _rank(result.match))[:num_ranked]


def _cut_page(
    ranked: Sequence[SearchResult], options: SearchOptions
) -> tuple[tuple[SearchResult, ...], int | None, EmptyReason | None]:
    """The results of one page, the offset of the next, and why the page is empty."""
    least, likely = options.min_score, options.min_probability
    scoring = [result for result in ranked if least is None or result.match.score >= least]
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


def _rank(match: SegmentMatch) -> tuple[float, str, float]:
    return (-match.score, match.asset_id, match.start_seconds)
