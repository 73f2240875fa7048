"""A stretch of a file that is to be cut out: what was asked for, and the file wound to shortly before it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av.error

from models.media.limits import DecodeLimits
from models.media.opening import Media, open_media
from models.media.regular import MediaSource
from models.media.seeking import is_seek_exact
from models.media.unreadable import TooComplex

MAX_BYTES = 512 << 20
"""Largest segment: it is held in memory."""
LEADS = (1.0, 20.0, math.inf)
"""How long before the start reading begins, in seconds, tried in turn; the last is the start of the file."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What to cut out of which file: [start, end) on the asset's timeline, in seconds."""

    source: MediaSource
    limits: DecodeLimits
    start: float
    end: float


def open_early(stretch: Stretch, *, is_picture: bool) -> Iterator[tuple[Media, bool]]:
    """The file, opened and wound to ever earlier places, and whether this is its start."""
    for lead in LEADS:
        with open_media(stretch.source, stretch.limits) as media:
            is_start = lead >= stretch.start or not (is_picture or is_seek_exact(media))
            if not is_start:
                stream = media.video if is_picture else media.sounds[0]
                time = stretch.start - lead + media.origin_seconds
                try:
                    media.container.seek(math.floor(time / stream.time_base), stream=stream, backward=True)
                except (av.error.FFmpegError, OverflowError):
                    continue
            yield media, is_start
        if is_start:
            return


def time_of(media: Media, thing: Any, ticks: int) -> float:
    """A time in ticks of a packet, frame or stream, in seconds on the asset's timeline."""
    return float(ticks * thing.time_base) - media.origin_seconds


def check_size(num_bytes: int) -> None:
    """Raise `TooComplex` if a segment takes too much memory."""
    if num_bytes > MAX_BYTES:
        raise TooComplex(f"the segment would have more than {MAX_BYTES >> 20} MiB: cut a shorter one")
