"""A query file → clips: sound and film as `models.media.clip` reads them, and still pictures too."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np

from models.media.clip import Clip, DecodedMedia, decode_segments, probe_media
from models.media.limits import DecodeLimits
from models.media.opening import MediaInfo
from models.media.regular import MediaSource
from models.media.still import is_still_file, probe_still, read_still
from models.media.timeline import ClipSpec
from models.media.unreadable import NoStream


def probe_query(source: MediaSource, limits: DecodeLimits) -> MediaInfo:
    """Read the facts of a query file; see `probe_media`.

    Args:
        source: A regular file.
        limits: What the file may ask for.

    Returns:
        The facts; a still picture has a picture and no duration.
    """
    return probe_still(source, limits) if is_still_file(source) else probe_media(source, limits)


def decode_query(
    source: MediaSource,
    spec: ClipSpec,
    *,
    first: int = 0,
    count: int | None = None,
    limits: DecodeLimits | None = None,
    modalities: Collection[Literal["audio", "video"]] = ("audio", "video"),
) -> DecodedMedia:
    """Decode a query file, or a stretch of its segments; a still picture is one segment of equal frames.

    Args:
        source: A regular file.
        spec: What a clip looks like.
        first: First segment, from 0.
        count: How many segments; None for all to the end.
        limits: What the file may ask for.
        modalities: What to decode; the other is None in every clip.

    Returns:
        The segments and the facts of the file.

    Raises:
        NoStream: If nothing of a picture is wanted.
    """
    limits = limits or DecodeLimits()
    if not is_still_file(source):
        return decode_segments(source, spec, first=first, count=count, limits=limits, modalities=modalities)
    if "video" not in modalities:
        raise NoStream("the file is a picture and has no audio")
    info, frames = read_still(source, spec, limits)
    clip = Clip(
        start_seconds=0.0,
        end_seconds=spec.segment_seconds,
        frames=frames,
        frame_times_seconds=np.zeros(len(frames)),
        samples=None,
        is_static=True,
    )
    return DecodedMedia(info=info, clips=(clip,) if first == 0 else (), is_last=True, is_partial=False)
