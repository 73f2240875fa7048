r"""A cut: parts of files one after the other, as every format here takes it.

    cut = build_cut(items, assets, rate=RATES["25"], title="rain", path_map=[("/media", "Z:\\media")])

Hostile names stay inside their field: control characters become spaces before any format sees them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

from service.exports.timecode import FrameRate, carry_over, find_rate
from service.system.failure import Failure

FIRST_RECORD = "01:00:00:00"
MAX_NAME_CHARS = 255
MAX_FRAME_RATE = 1000.0
# Marks that let text be shown in another order than it is written, beyond its field.
UNSHOWN = re.compile("[\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")


class NothingToExport(Failure):
    """No item names a file that is indexed and has what the item wants."""

    code = "nothing_to_export"


@dataclass(frozen=True, kw_only=True)
class OwnCount:
    """Frames of a file at its own rate: timecode of its first, how many there are, and the first of the part."""

    rate: FrameRate
    source_start: int
    length: int
    first: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """A part of one file in a cut. Counts are frames of the cut's rate.

    Attributes:
        name: File name, one line.
        note: What somebody said of it, one line.
        query: What it was found with.
        path: Where the editor finds the file.
        source_start: Timecode of the file's first frame.
        length: Frames of the whole file.
        first: First frame of the part, from the file's first.
        stop: The one after its last.
        record: Where the part begins in the cut, from its first frame.
        own: What the file counts itself, if it has a picture of another rate than the cut.
    """

    asset_id: str
    name: str
    note: str
    query: str
    path: str
    has_video: bool
    has_audio: bool
    is_picture_file: bool
    is_sound_file: bool
    num_channels: int
    sample_rate_hz: int
    start_seconds: float
    end_seconds: float
    source_start: int
    length: int
    first: int
    stop: int
    record: int
    own: OwnCount | None
    metadata: Mapping[str, Any]

    @property
    def duration(self) -> int:
        """Frames of the part."""
        return self.stop - self.first

    @property
    def label(self) -> str:
        """Name and note."""
        return f"{self.name}: {self.note}" if self.note else self.name

    @property
    def url(self) -> str:
        """The path as a file URL, an address of an object as it is."""
        if "://" in self.path:
            scheme, _, rest = self.path.partition("://")
            return f"{scheme}://{quote(rest, safe='/')}"
        if is_windows(self.path):
            return "file:///" + quote(self.path.replace("\\", "/"), safe="/:")
        return "file://" + quote(self.path, safe="/")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Events one after the other, from `start`, the frame of their first timecode."""

    title: str
    rate: FrameRate
    events: Sequence[Event]
    num_left_out: int = 0

    @property
    def start(self) -> int:
        """The frame at which it begins."""
        return self.rate.count(FIRST_RECORD)

    @property
    def duration(self) -> int:
        """Its frames."""
        return self.events[-1].record + self.events[-1].duration


def clean(text: str, *, limit: int = MAX_NAME_CHARS) -> str:
    """Text as one line without control characters, at most `limit` long."""
    one_line = "".join(
        " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in text
    )
    return UNSHOWN.sub("", one_line)[:limit].strip()


def is_windows(path: str) -> bool:
    """Whether a path is one of Windows, with a drive or a server."""
    return bool(re.match(r"[A-Za-z]:[\\/]|\\\\", path))


def relink(path: str, path_map: Sequence[tuple[str, str]]) -> str:
    """The path where an editor finds the file: the longest prefix that fits, a folder or a whole path, is replaced."""
    for old, new in sorted(path_map, key=lambda pair: -len(pair[0])):
        folder = old.rstrip("/")
        if path == folder or path.startswith(f"{folder}/"):
            rest = path[len(folder) :]
            if is_windows(new):
                return new.rstrip("\\/") + rest.replace("/", "\\")
            return new.rstrip("/") + rest
    return path


def build_cut(
    items: Sequence[Mapping[str, Any]],
    assets: Mapping[str, Mapping[str, Any]],
    *,
    rate: FrameRate,
    title: str,
    path_map: Sequence[tuple[str, str]] = (),
) -> Cut:
    """Put items one after the other; those whose asset is not indexed are left out.

    `items` are those of a collection as JSON values, `assets` documents by id. Raises `NothingToExport`.
    """
    events: list[Event] = []
    record = 0
    for item in items:
        asset = assets.get(item["asset_id"])
        event = None if asset is None else _build(item, asset, record, rate=rate, path_map=path_map)
        if event is not None:
            events.append(event)
            record += event.duration
    if not events:
        raise NothingToExport("no item names a file that is indexed and has what the item wants")
    num_left_out = len(items) - len(events)
    return Cut(title=clean(title) or "Foley", rate=rate, events=events, num_left_out=num_left_out)


def _build(
    item: Mapping[str, Any],
    asset: Mapping[str, Any],
    record: int,
    *,
    rate: FrameRate,
    path_map: Sequence[tuple[str, str]],
) -> Event | None:
    media, wanted = asset["media"], item.get("modality")
    has_video = bool(media.get("has_video", "video" in asset["modalities"]))
    has_audio = bool(media.get("has_audio", "audio" in asset["modalities"]))
    duration = float(media.get("duration_seconds") or 0.0)
    start = float(item.get("start_seconds") or 0.0)
    end = item.get("end_seconds")
    end = duration if end is None else min(float(end), duration or float(end))
    shows, sounds = has_video and wanted != "audio", has_audio and wanted != "video"
    if end <= start or not (shows or sounds):
        return None
    first = rate.frames(start)
    path = relink(str(asset["path"]), path_map)
    pure = PureWindowsPath(path) if is_windows(path) else PurePosixPath(path)
    return Event(
        asset_id=str(asset["asset_id"]),
        name=clean(pure.name) or "file",
        note=clean(str(item.get("note") or ""), limit=4096),
        query=clean(str(item.get("query") or ""), limit=4096),
        path=path,
        has_video=shows,
        has_audio=sounds,
        is_picture_file=has_video,
        is_sound_file=has_audio,
        num_channels=int(media.get("num_channels") or 1),
        sample_rate_hz=int(media.get("sample_rate_hz") or 48_000),
        start_seconds=start,
        end_seconds=end,
        source_start=_source_start(media, rate),
        length=max(rate.frames(duration), 1),
        first=first,
        stop=max(rate.frames(end), first + 1),
        record=record,
        own=_own_count(media, start, duration, rate) if has_video else None,
        metadata={**(media.get("said") or {}), **(asset.get("metadata") or {})},
    )


def _own_count(media: Mapping[str, Any], start: float, duration: float, rate: FrameRate) -> OwnCount | None:
    frame_rate = float(media.get("frame_rate") or 0.0)
    if not 0 < frame_rate < MAX_FRAME_RATE:
        return None
    own = find_rate(frame_rate, is_drop=";" in (media.get("timecode") or ""))
    if own.rate == rate.rate:
        return None
    length = max(own.frames(duration), 1)
    first = min(own.frames(start), length - 1)
    return OwnCount(rate=own, source_start=_source_start(media, own), length=length, first=first)


def _source_start(media: Mapping[str, Any], rate: FrameRate) -> int:
    """Timecode of a file's first frame: what its picture says, else the time reference of its sound, else 0."""
    timecode, reference = media.get("timecode"), media.get("time_reference_samples")
    if timecode:
        own = float(media.get("frame_rate") or rate.rate)
        with suppress(ValueError):
            is_same = round(own) == rate.base and (";" in timecode) == rate.is_drop
            return rate.count(timecode) if is_same else carry_over(timecode, own, rate)
    if reference and media.get("sample_rate_hz"):
        return rate.frames(reference / media["sample_rate_hz"])
    return 0
