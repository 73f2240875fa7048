"""Which seconds of a file have sound that does not belong to its picture, in a release that weighs moments.

    find_off_screen(segments, bundle.moments())     # [(3.75, 8.125)]

The weights of stored rows say how much moments count beside each other; here the network is asked again, because it
says of each moment by itself whether its sound belongs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.bundle.bundle import MomentWeights, unit_rows
from service.index.contract import Segment
from service.system.failure import Failure

MIN_MOMENTS = 2
"""A single moment is no finding: one in 250 of fitting sound is taken for foreign (docs/adapting.md)."""

Span = tuple[float, float]


class MomentsNotWeighed(Failure):
    """The active release does not know which moments belong to their picture."""

    code = "moments_not_weighed"


def find_off_screen(segments: Sequence[Segment], moments: MomentWeights) -> list[Span]:
    """Spans [start, end) of a file in seconds, in order; segments without sound or picture say nothing."""
    spans: list[Span] = []
    shortest = 0.0
    for segment in segments:
        if segment.audio_track is None or segment.video_track is None:
            continue
        audio, video = (unit_rows(track)[None] for track in (segment.audio_track, segment.video_track))
        is_foreign = moments.logits(audio, video)[0] < 0
        step = (segment.end_seconds - segment.start_seconds) / len(is_foreign)
        shortest = max(shortest, MIN_MOMENTS * step)
        for place in np.flatnonzero(is_foreign).tolist():
            start = segment.start_seconds + place * step
            if spans and start - spans[-1][1] < step / 2:
                spans[-1] = spans[-1][0], start + step
            else:
                spans.append((start, start + step))
    return [(round(start, 3), round(end, 3)) for start, end in spans if end - start > shortest - 1e-6]
