"""Where reading may start in the middle of a file: not where its time is a guess, or a decoder remembers more."""

from __future__ import annotations

import re
from typing import Any

from models.media.opening import Media

COUNTED_CONTAINERS = frozenset({"mp3", "aac", "ac3", "eac3", "amr", "amrnb", "amrwb"})
"""Containers without timestamps: a seek guesses the time from the file position, so packets are counted instead."""
BYTE_RATE_CONTAINERS = frozenset({"wav", "w64", "aiff", "au", "caf", "wv", "tta"})
"""Containers of sound that FFmpeg seeks in by an average byte rate: right for plain PCM with a right header."""
REMEMBERING_CODECS = frozenset(
    {"adpcm_yamaha", "adpcm_ima_qt", "adpcm_g726", "adpcm_g726le", "gsm", "gsm_ms", "speex"}
)
"""Codecs whose decoders never forget where they began, or not within the warm-up: all from the start is decoded."""


def is_seek_exact(media: Media) -> bool:
    """Whether a seek leads to where it should, and the sound from there is that of the whole file.

    A WAV-like container's reckons with a byte rate that need not be the true one.
    """
    if media.info.container in COUNTED_CONTAINERS or any(
        is_counted(media, stream) for stream in media.sounds
    ):
        return False
    if media.info.container not in BYTE_RATE_CONTAINERS or media.audio is None:
        return True
    context = media.audio.codec_context
    if not context.name.startswith("pcm_"):
        return False
    bits = re.search(r"\d+", context.name)  # pcm_s24le; pcm_alaw and pcm_mulaw have 8
    return bool(
        context.bit_rate == context.sample_rate * context.layout.nb_channels * int(bits[0] if bits else 8)
    )


def is_counted(media: Media, stream: Any) -> bool:
    """Whether the sound of a chunk is only right if all before it is decoded too."""
    codec, ticks = stream.codec_context.codec.canonical_name, 1 / stream.time_base
    if codec in REMEMBERING_CODECS or (
        codec.startswith("wma") and media.info.container in BYTE_RATE_CONTAINERS
    ):
        return True  # packets of WMA in a WAV tell wrong times
    # Packets without timestamps are counted in ticks that no sample falls on: the clock of AC-3 runs ahead.
    return media.info.container in COUNTED_CONTAINERS and ticks % stream.codec_context.sample_rate != 0
