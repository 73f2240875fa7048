"""Several queries together, each with a weight: clips, stored assets, tracks and words.

    parts = [of_segments(segments, source="video"), of_text(WeightedText(text="at night", weight=0.5), ...)]
    search_parts(parts, options, snapshot=snapshot)

The score of a segment is the weighted mean of its scores for each query, that of a query being its best for any segment
of it: Σ wᵢ · maxⱼ score(qᵢⱼ) / Σ wᵢ. The mean over moments is linear in the query, so the track Σ wᵢ qᵢⱼ / Σ wᵢ scores
exactly that for one choice of segments j, and the best choice is the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from service.encode.embedding import EmbeddedSegment
from service.search.matching import QueryTrack, SearchAnswer, answer_tracks
from service.search.options import SearchOptions
from service.search.snapshot import Snapshot
from service.search.sources import UnusableQuery, check_options
from service.search.stored_query import MAX_QUERY_SEGMENTS
from service.search.text_query import embed_text
from service.system.modality import Modality

MAX_QUERIES = 8


class TooManyCombinations(UnusableQuery):
    """The segments of the queries make too many combinations."""

    code = "unknown_segment"
    parameter = "queries"


@dataclass(frozen=True, kw_only=True)
class WeightedText:
    """Words and how much they count beside the rest, a finite number above 0."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of several queries: the tracks of its segments, of one space and shape, and its weight above 0."""

    tracks: Sequence[QueryTrack]
    weight: float = 1.0


def of_segments(segments: Sequence[EmbeddedSegment], *, source: Modality, weight: float = 1.0) -> Part:
    """The query that the segments of a clip or an asset make, by their `source` tracks."""
    tracks = [
        QueryTrack(track=one.tracks[source], start_seconds=one.start_seconds, end_seconds=one.end_seconds)
        for one in segments
    ]
    return Part(tracks=tracks, weight=weight)


def of_text(words: WeightedText, *, target: Modality, snapshot: Snapshot) -> Part:
    """The query that a text makes; raises what `embed_text` raises."""
    return Part(tracks=[embed_text(words.text, target=target, snapshot=snapshot)], weight=words.weight)


def search_parts(
    parts: Sequence[Part], options: SearchOptions, *, snapshot: Snapshot, is_partial: bool = False
) -> SearchAnswer:
    """Search with several queries together; results name the span of the first one.

    Raises `TooManyCombinations` if one segment of each can be chosen in more than 60 ways.
    """
    check_options(options, snapshot.bundle)
    if (num_ways := math.prod(len(part.tracks) for part in parts)) > MAX_QUERY_SEGMENTS:
        raise TooManyCombinations(
            f"the segments of the queries make {num_ways} combinations, a search {MAX_QUERY_SEGMENTS} at most: "
            "name one segment by its time"
        )
    weights = np.array([part.weight for part in parts])
    weights = (weights / weights.max()).astype(np.float32)  # large ones must not overflow
    tracks = []
    for chosen in product(*(part.tracks for part in parts)):
        mean = np.tensordot(weights, np.stack([one.track for one in chosen]), axes=1) / weights.sum()
        first = chosen[0]
        tracks.append(
            QueryTrack(
                track=mean.astype(np.float32),
                start_seconds=first.start_seconds,
                end_seconds=first.end_seconds,
            )
        )
    return answer_tracks(tracks, options, source="mixed", snapshot=snapshot, is_partial=is_partial)
