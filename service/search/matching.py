"""What is found for tracks: the best segment of each asset, in pages, above a score, among the assets that count.

    choice = SearchOptions(limit=10, filter=Filter(folder="/library/rain"))
    matching = find_matches(segments, source="video", index=index, target="audio", choice=choice)

`SearchAnswer.to_json` is the one form of an answer, over HTTP and on the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from service.encode.embedding import EmbeddedSegment
from service.index.contract import Filter, Index, SegmentMatch
from service.search.calibration import Calibration
from service.search.prefetch import choose_prefetch
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


class NotCalibrated(Failure):
    """Nobody knows what the scores mean: the release has not learned it, or sound is compared with sound."""

    code = "not_calibrated"


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Which results are wanted.

    Attributes:
        limit: Most results, one per asset.
        offset: How many results to pass over, or None for a search without pages. All pages of one query are cut
            from one ranking, that of the best `window` assets, so no result is missed or comes twice.
        window: Length of that ranking: `offset + limit` at most.
        min_score: Only results that score so much or more.
        min_probability: Only results that are the match with such a probability or a higher one.
        filter: Which assets count; None for all.
        prefetch: Candidates by pooled vector for each segment, more where few assets fill them all; None for as many
            as the segment's track needs (`choose_prefetch`).
    """

    limit: int = 10
    offset: int | None = None
    window: int = 1000
    min_score: float | None = None
    min_probability: float | None = None
    filter: Filter | None = None
    prefetch: int | None = None

    def __post_init__(self) -> None:
        """Check the page.

        Raises:
            ValueError: If it does not lie within the window.
        """
        if self.limit < 1 or (self.offset or 0) < 0 or (self.offset or 0) + self.limit > self.window:
            raise ValueError(
                f"limit must be 1 or more and offset + limit {self.window} at most, got {self.limit} and {self.offset}"
            )


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The best segment of one asset, and the segment of the query it matches.

    Attributes:
        match: The segment found, with its score and the similarity of each moment.
        query_start_seconds: Start of the query segment that scored best.
        query_end_seconds: Its end, exclusive.
        match_probability: How likely it belongs to the query, in [0, 1] (`service.search.calibration`); None where
            the release has not learned what its scores mean, and where like was compared with like.
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
class Matches:
    """A page of results, and where the next one starts.

    Attributes:
        results: One result per asset, best first; equal scores by asset id.
        next_offset: Offset of the next page; None after the last, and where no page was asked for.
        reason: Why there are none; None where there are some.
    """

    results: tuple[SearchResult, ...]
    next_offset: int | None = None
    reason: EmptyReason | None = None


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """What a search found, best first, and what it compared.

    Attributes:
        results: One result per asset, by falling score; equal scores by asset id.
        target: Modality of the library that was searched.
        source: Modality of the query that was used (`from` outside Python).
        bundle_id: The bundle that embedded both.
        release_id: The release that answered: one encoder, one generation of the index, one calibration.
        num_query_segments: How many segments of the query were searched with.
        is_partial: True when less than 95 % of the query file could be decoded.
        next_offset: Offset of the next page; None after the last, and where no page was asked for.
        reason: Why there are no results; None where there are some.
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
        }


def find_matches(
    queries: Sequence[EmbeddedSegment],
    *,
    source: Modality,
    index: Index,
    target: Modality,
    choice: SearchOptions,
    calibration: Calibration | None = None,
) -> Matches:
    """Search with every segment of a query and keep the best match of each asset.

    Args:
        queries: Embedded segments that have the modality `source`.
        source: Which of their tracks to search by.
        index: What to search.
        target: Modality to find.
        choice: Which results are wanted.
        calibration: What the scores mean, of sound against picture and back; it says nothing of like against like.

    Returns:
        One result per asset, best first; equal scores by asset id.

    Raises:
        NotCalibrated: If results are wanted by their probability, and nobody knows it.
    """
    if source == target:
        calibration = None
    if choice.min_probability is not None and source == target:
        raise NotCalibrated(f"min_probability is for the other modality: {source} was compared with {target}")
    if choice.min_probability is not None and (calibration is None or target not in calibration.directions):
        raise NotCalibrated(
            "min_probability needs a release that has learned what its scores mean: see `foley releases calibrate`"
        )
    num_ranked = choice.limit if choice.offset is None else choice.window
    best: dict[str, SearchResult] = {}
    for query in queries:
        found = index.search_assets(
            query.tracks[source],
            target=target,
            limit=num_ranked,
            prefetch=choice.prefetch or choose_prefetch(query.tracks[source], limit=num_ranked),
            filter=choice.filter,
        )
        for match in found:
            held = best.get(match.asset_id)
            if held is None or _rank(match) < _rank(held.match):
                best[match.asset_id] = SearchResult(
                    match=match, query_start_seconds=query.start_seconds, query_end_seconds=query.end_seconds
                )
    # An asset among the best overall is among the best of one segment: no list had to be longer.
    ranked = sorted(best.values(), key=lambda result: _rank(result.match))[:num_ranked]
    if calibration is not None:
        ranked = [
            replace(
                result,
                match_probability=calibration.probability(
                    result.match.score, target=target, is_best=rank == 0
                ),
            )
            for rank, result in enumerate(ranked)
        ]
    return _cut(ranked, choice)


def _cut(ranked: Sequence[SearchResult], choice: SearchOptions) -> Matches:
    least, likely = choice.min_score, choice.min_probability
    scoring = [result for result in ranked if least is None or result.match.score >= least]
    good = [result for result in scoring if likely is None or (result.match_probability or 0.0) >= likely]
    first = choice.offset or 0
    end = first + choice.limit
    has_more = choice.offset is not None and len(good) > end
    reason: EmptyReason | None = None
    if not good[first:end]:
        if good:
            reason = "no_further_results"
        elif scoring:
            reason = "below_min_probability"
        elif ranked:
            reason = "below_min_score"
        else:
            reason = "nothing_to_search" if choice.filter is None else "nothing_passes_filter"
    return Matches(results=tuple(good[first:end]), next_offset=end if has_more else None, reason=reason)


def _rank(match: SegmentMatch) -> tuple[float, str, float]:
    return (-match.score, match.asset_id, match.start_seconds)
