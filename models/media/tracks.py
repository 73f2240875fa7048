"""Which picture and which sound of a file are shown and heard, among all of its streams."""

from __future__ import annotations

from typing import Any

from av.container import InputContainer
from av.stream import Disposition

CHANNEL_TRACK_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "mxf"})
"""Cameras and broadcasters keep each channel of the sound in a track of its own in these."""
MPEG_STREAMS = frozenset({"mpegts", "mpeg"})
"""They may hold several programmes; which tracks belong to one is known only of the best track."""
ALTERNATIVES = (
    Disposition.comment
    | Disposition.dub
    | Disposition.karaoke
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.descriptions
)


def tracks_heard_with(container: InputContainer, best: Any) -> tuple[Any, ...]:
    """The best track and those that belong to it: a camera's or a broadcaster's channels, each a track of its own.

    Tracks in other languages, commentary and the like are alternatives. Matroska and the rest keep alternatives too and
    seldom tag them: there only mono tracks are heard together.
    """
    if container.format.name in MPEG_STREAMS:
        return (best,)

    def belongs(stream: Any) -> bool:
        return (
            stream.codec_context is not None
            and stream.codec_context.sample_rate == best.codec_context.sample_rate
            and stream.language == best.language
            and not stream.disposition & ALTERNATIVES
        )

    tracks = (best, *(stream for stream in container.streams.audio if stream is not best and belongs(stream)))
    are_mono = all(count_channels(stream.codec_context) == 1 for stream in tracks)
    return tracks if are_mono or container.format.name in CHANNEL_TRACK_CONTAINERS else (best,)


def best_stream(container: InputContainer, kind: Any, *, related: Any = None) -> Any:
    """Return FFmpeg's best stream of the kind, of the related one's programme; no cover art, none without a decoder."""

    def is_usable(stream: Any) -> bool:
        return stream.codec_context is not None and not stream.disposition & stream.disposition.attached_pic

    best = container.streams.best(kind, related)
    if best is None or is_usable(best):
        return best

    # As in FFmpeg's av_find_best_stream: the default stream first, then the higher bit rate, then the earlier one.
    def rank(stream: Any) -> tuple[bool, int]:
        return bool(stream.disposition & stream.disposition.default), stream.bit_rate or 0

    others = [stream for stream in container.streams if stream.type == kind and is_usable(stream)]
    return max(others, key=rank, default=None)


def count_channels(context: Any) -> int:
    """Channels of a stream, whose order is forgotten if it is not one of FFmpeg's own.

    PyAV frees the list of such an order once for every frame, which ends the process. All channels count the same
    here, so only their number matters.
    """
    layout = context.layout
    if " channels (" in layout.name:  # "2 channels (FR+FL)"
        context.layout = f"{layout.nb_channels} channels"
    return int(layout.nb_channels)
