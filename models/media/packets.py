"""A hash of the coded sound and picture of a file: the same after its tags were edited, another after a change."""

from __future__ import annotations

import hashlib
from typing import Any

import av.error
from av.stream import Discard

from models.media.limits import DecodeLimits
from models.media.opening import MediaInfo, open_media
from models.media.regular import MediaSource

HASH_CHARS = 32
TAGGED_CODECS = frozenset({"vorbis", "theora"})
"""Their tags lie in the header that their decoder is given."""
FACTS = (
    "width",
    "height",
    "frame_rate",
    "rotation_degrees",
    "video_codec",
    "audio_codec",
    "num_channels",
    "sample_rate_hz",
    "is_out_of_phase",
)
"""What the container says of how the packets are to be shown and heard, after decoding."""


def hash_packets(source: MediaSource, info: MediaInfo, limits: DecodeLimits | None = None) -> str | None:
    """Hash the packets of the chosen streams with their times, and what is known of how they are shown.

    Args:
        source: A regular file.
        info: Its facts, after the first picture was decoded.
        limits: What the file may ask for.

    Returns:
        32 hex digits; None if the packets cannot be read to the end.
    """
    try:
        with open_media(source, limits) as media:
            streams = [stream for stream in (media.video, *media.sounds, *media.behind) if stream is not None]
            for stream in media.behind:
                stream.discard = Discard.default
            digests = {stream.index: hashlib.sha256(_describe(stream)) for stream in streams}
            for packet in media.container.demux(streams):
                if packet.size:
                    tick = packet.time_base or 0
                    # Times are those of the file, to 1 ms: a container that is written anew may count other ticks.
                    times = [None if t is None else round(1000 * t * tick) for t in (packet.pts, packet.dts)]
                    digests[packet.stream_index].update(f"{times} {packet.size} {packet.is_discard}".encode())
                    digests[packet.stream_index].update(packet)
            end = f"{media.origin_seconds:.3f} {sorted(media.shown.items())}"
    except av.error.FFmpegError:
        return None
    facts = [getattr(info, name) for name in FACTS]
    whole = hashlib.sha256(repr((end, facts)).encode())
    for digest in digests.values():
        whole.update(digest.digest())
    return whole.hexdigest()[:HASH_CHARS]


def _describe(stream: Any) -> bytes:
    """What else a stream's decoder is given, or goes by."""
    context = stream.codec_context
    names = ("color_range", "color_primaries", "color_trc", "colorspace") if stream.type == "video" else ()
    colours = [getattr(context, name) for name in names]
    head = b"" if context.codec.canonical_name in TAGGED_CODECS else context.extradata or b""
    return repr((context.codec.canonical_name, colours)).encode() + head
