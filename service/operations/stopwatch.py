"""How long the stages of decoding take. It runs in a decode worker, and so imports little.

Opening, decoding and resizing a picture happen packet by packet in one pass, and so are one stage.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from models.media.clip import Clip, ClipSpec, MediaInfo, MediaSource, decode_segments, probe_media

ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the way from a file to an answer, with its median wall time."""

    name: str
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """The stage as JSON values."""
        return {"stage": self.name, "milliseconds": round(self.milliseconds, 3)}


@dataclass(frozen=True, kw_only=True)
class DecodedOnce:
    """What a decode worker sends back: the facts of the file, its first clip, and the time of each stage."""

    info: MediaInfo
    clip: Clip
    stages: tuple[Stage, ...]


def time_decoding(
    source: MediaSource, spec: ClipSpec, modalities: Collection[Literal["audio", "video"]]
) -> DecodedOnce:
    """Time the decoding of a file's first segment in a decode worker; raises `ValueError` if nothing decodes."""
    info = probe_media(source)
    stages = [time_call("open: header and first picture", partial(probe_media, source))]
    if info.has_video and "video" in modalities:
        stages.append(time_call("picture: open, decode, resize", partial(_decode, source, spec, "video")))
    if info.has_audio and "audio" in modalities:
        stages.append(time_call("sound: open, decode, resample", partial(_decode, source, spec, "audio")))
    decoded = decode_segments(source, spec, count=1, modalities=modalities)
    if not decoded.clips:
        raise ValueError("nothing in the first segment of the file decodes")
    return DecodedOnce(info=decoded.info, clip=decoded.clips[0], stages=tuple(stages))


def _decode(source: MediaSource, spec: ClipSpec, modality: Literal["audio", "video"]) -> None:
    decode_segments(source, spec, count=1, modalities=(modality,))


def time_call(name: str, call: Callable[[], object]) -> Stage:
    """Time a call: the median of three, after one to warm up."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return Stage(name=name, milliseconds=1e3 * statistics.median(seconds))
