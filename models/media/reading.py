"""One reading of a media file: open it, go to the wanted segments, pass packets on until they are complete.

    reading = read_media(ReadRequest(source="holiday.mp4", spec=ClipSpec(), limits=DecodeLimits()))
    reading.bounds()            # [(0.0, 10.0), (10.0, 13.2)]
    reading.picture.frames(1)   # of the second segment

It takes shortcuts (seeking, leaving frames out), and reads again without the one that was not exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import av.error

from models.media.edits import EVERYTHING
from models.media.limits import DecodeLimits
from models.media.opening import Media, MediaInfo, open_media
from models.media.picture import LandedLate, PictureReader, SkippingInexact
from models.media.regular import MediaSource, open_regular
from models.media.sampling import PictureSampler
from models.media.seeking import is_counted, is_seek_exact
from models.media.sound import WARM_UP_SECONDS, MixedSound, SoundReader
from models.media.timeline import ClipSpec, MomentPlan, segment_bounds
from models.media.tracks import MPEG_STREAMS
from models.media.unreadable import Encrypted, NoStream

SEEK_MARGINS_SECONDS = (1.0, 15.0, 60.0)
"""How far before a chunk to go; the next one is tried where a seek comes down too late, at last the whole file."""
JOINED_CONTAINERS = MPEG_STREAMS | {"ogg", "flac"}
"""Containers of which two, one after the other, are one again: the clock starts anew in mid-file."""
MAX_STEP_BACK_SECONDS = 1.5  # less is an overlap, of which the second take is not heard
MAX_STEP_SECONDS = 2**32 / 90_000
"""A packet earlier or later than this after the one before belongs to another clock: theirs turn over after 26.5 h."""
SYNC_SECONDS = 1.0
"""Streams whose clocks start anew with less than this between them keep together."""
MAX_REMEMBERED_FILES = 64
"""Of how many files it is remembered whether they are joined."""
COMPLETE_SHARE = 0.95
"""A file of which less than this share of the declared length decodes is partial."""


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """Which segments of a file to read, and with which shortcuts."""

    source: MediaSource
    """A regular file."""
    spec: ClipSpec
    """What a segment looks like."""
    limits: DecodeLimits
    """What the file may ask for."""
    modalities: frozenset[str] = frozenset({"audio", "video"})
    """What to decode."""
    first: int = 0
    """First segment."""
    stop: int | None = None
    """Segment after the last; None for all."""
    end_seconds: float | None = None
    """Where the file ends, if that is known better than from its header."""
    frame_starts: tuple[float, ...] | None = None
    """When frames come on screen, if that is known better than from the packets."""
    can_skip: bool = True
    """Whether frames that nobody needs may be left out."""
    behind: int | None = None
    """Which track behind the best sound is heard in its place."""
    margin_seconds: float | None = None
    """How far before the first segment to go; None starts at the beginning of the file."""
    with_preview: bool = False
    """Whether small pictures are taken; with `at_seconds` one from then on, and no others."""
    at_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one reading brought. The readers hold pictures and sound, segment by segment."""

    info: MediaInfo
    """Facts from the header."""
    plan: MomentPlan
    """The segments that were read."""
    picture: PictureReader | None
    """The pictures, where the file has any and they were asked for."""
    sound: MixedSound | None
    """The sound, likewise."""
    end_seconds: float
    """How far the streams reach, as far as they were read."""
    is_whole: bool
    """Whether the file was read to its end."""
    num_behind: int = 0
    """Tracks that are heard where the best ones are silent."""
    is_joined_badly: bool = False
    """Whether it is several FLAC files in a row, or Ogg of several kinds: FFmpeg loses sound at the joint."""

    def bounds(self) -> list[tuple[float, float]]:
        """Start and end of the file's segments in seconds, up to the last requested one."""
        end_seconds = self.end_seconds if self.is_whole else self.plan.stop_seconds
        return segment_bounds(end_seconds, self.plan.spec)[: self.plan.stop]

    @property
    def is_last(self) -> bool:
        """Whether the file has no segment after the requested ones."""
        num_segments = len(segment_bounds(self.end_seconds, self.plan.spec))
        return self.is_whole and (self.plan.stop is None or num_segments <= self.plan.stop)

    @property
    def is_partial(self) -> bool:
        """Whether the file ended well before the length that its header declares."""
        declared = self.info.duration_seconds or 0.0
        return self.is_whole and (self.is_joined_badly or self.end_seconds < COMPLETE_SHARE * declared)


def read_media(request: ReadRequest) -> Reading:
    """Read with every shortcut, and again with fewer if one is not exact.

    Args:
        request: What to read; `can_skip` and `margin_seconds` are chosen here.

    Returns:
        The reading.

    Raises:
        RuntimeError: Never, unless this module is wrong.
    """
    margins = (None,) if request.first == 0 or _is_joined(request) else (*SEEK_MARGINS_SECONDS, None)
    for can_skip in (True, False):
        for margin in margins:
            try:
                return _read_once(replace(request, can_skip=can_skip, margin_seconds=margin))
            except LandedLate:
                continue
            except SkippingInexact:
                break
    raise RuntimeError("reading all of a file from its start neither skips nor seeks")


def iterate_packets(media: Media, streams: list[Any]) -> Iterator[Any]:
    """Read to the end of the file, or until it cannot be read any further.

    Args:
        media: The open file.
        streams: Some of its streams.

    Returns:
        Packets of these streams in file order.
    """
    return _demux(media, streams, _clock_of(media))


def _clock_of(media: Media) -> _JoinedClock | None:
    return _JoinedClock() if media.info.container in JOINED_CONTAINERS else None


def _demux(media: Media, streams: list[Any], clock: _JoinedClock | None) -> Iterator[Any]:
    packets = media.container.demux(streams)
    while True:
        try:
            packet = next(packets, None)
        except IndexError:  # PyAV at the end, where a stream began in mid-file
            return
        except av.error.FFmpegError:
            if clock is not None:
                clock.is_cut_off = media.info.container == "ogg"
            return
        if packet is None:
            return
        if packet.has_sidedata("encryption_info"):
            raise Encrypted
        if packet.size:  # those without bytes would tell the decoder that the stream is over
            if clock is not None:
                clock.carry_on(packet)
            yield packet


_joined: dict[tuple[int, int, int, int], bool] = {}


def _is_joined(request: ReadRequest) -> bool:
    """Return whether the clock of a file restarts, so that no seek can be trusted; cached for some files."""
    with open_regular(request.source) as (descriptor, status):
        file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if file not in _joined:
            if len(_joined) >= MAX_REMEMBERED_FILES:
                _joined.clear()
            with open_media(descriptor, request.limits) as media:
                _joined[file] = media.info.container in JOINED_CONTAINERS and _has_joint(media)
        return _joined[file]


def _has_joint(media: Media) -> bool:
    clock = _JoinedClock()
    streams = [stream for stream in (media.video, *media.sounds) if stream is not None]
    return any(clock.has_joint for _ in _demux(media, streams, clock))


class _JoinedClock:
    """Puts each part of a joined file after the end of the part before it."""

    def __init__(self) -> None:
        self.has_joint = self.is_cut_off = False
        self._ends: dict[int, float] = {}
        self._shifts: dict[int, float] = {}
        self._newest_shift = 0.0

    def carry_on(self, packet: Any) -> None:
        """Put a packet on the clock of the first part."""
        if packet.dts is None:
            return
        stream, tick = packet.stream_index, float(packet.time_base)
        shift = self._shifts.get(stream, 0.0)
        step = packet.dts * tick + shift - self._ends.get(stream, math.nan)
        if step < -MAX_STEP_BACK_SECONDS or step > MAX_STEP_SECONDS:
            shift -= step
            if abs(shift - self._newest_shift) < SYNC_SECONDS:
                shift = self._newest_shift
            self._shifts[stream] = self._newest_shift = shift
            self.has_joint = True
        self._ends[stream] = (packet.dts + (packet.duration or 0)) * tick + shift
        if ticks := round(shift / tick):
            packet.dts += ticks
            if packet.pts is not None:
                packet.pts += ticks


def _read_once(request: ReadRequest) -> Reading:
    with open_media(request.source, request.limits, request.behind) as media:
        _check_request(media, request)
        known_end = request.end_seconds
        plan = MomentPlan(
            spec=request.spec,
            first=request.first,
            stop=request.stop,
            duration_seconds=media.info.duration_seconds if known_end is None else known_end,
        )
        if request.spec.frame_times != "moments" and "video" in request.modalities:
            plan = replace(plan, frame_starts=_list_frames(request, plan))
        has_seeked = _seek(media, plan, request.margin_seconds)
        picture = _make_picture_reader(media, plan, request, has_seeked=has_seeked)
        sounds = _make_sound_readers(media, plan, request)
        sound = MixedSound(sounds) if sounds else None
        feeds = [
            _Feed(stream, sounds[track] if sounds else None, media)
            for track, stream in enumerate(media.sounds)
        ]
        if media.video is not None:
            feeds.append(_Feed(media.video, picture, media))
        clock = _clock_of(media)
        is_whole = _feed_all(media, feeds, plan, request.limits, clock)
        if has_seeked and sound is not None:
            _check_landing(media, sound, plan)
        return Reading(
            info=media.info,
            plan=plan,
            picture=picture,
            sound=sound,
            end_seconds=max(feed.end_seconds for feed in feeds),
            is_whole=is_whole,
            num_behind=len(media.behind),
            is_joined_badly=clock is not None
            and (clock.is_cut_off or (media.info.container == "flac" and clock.has_joint)),
        )


def _list_frames(request: ReadRequest, plan: MomentPlan) -> tuple[float, ...]:
    """When the frames of the wanted segments come on screen, by the timestamps of the packets."""
    if request.frame_starts is not None:
        return request.frame_starts
    with open_media(request.source, request.limits) as media:
        reader = _make_picture_reader(media, plan, request, has_seeked=False)
        if reader is None:
            return ()
        _seek(media, plan, request.margin_seconds)
        for packet in iterate_packets(media, [media.video]):
            reader.note(packet)
            request.limits.check_duration(reader.progress_seconds)
            if reader.progress_seconds > plan.stop_seconds:
                break
        return reader.frame_starts()


def _check_request(media: Media, request: ReadRequest) -> None:
    held = {"audio": media.audio, "video": media.video}
    if all(held[modality] is None for modality in request.modalities):
        raise NoStream(f"the file has no {' and no '.join(sorted(request.modalities))} that can be decoded")
    request.limits.check_duration(media.info.duration_seconds or 0.0)


def _seek(media: Media, plan: MomentPlan, margin_seconds: float | None) -> bool:
    """Seek to before the first segment. Return False if reading starts at the beginning of the file."""
    if margin_seconds is None or not is_seek_exact(media):
        return False
    seconds = plan.start_seconds - margin_seconds
    if seconds <= 0:
        return False
    stream = media.video or media.audio
    try:
        offset = math.floor((seconds + media.origin_seconds) / stream.time_base)
        media.container.seek(offset, stream=stream, backward=True)
    except (av.error.FFmpegError, OverflowError) as error:
        raise LandedLate("the container cannot seek") from error
    return True


def _make_picture_reader(
    media: Media, plan: MomentPlan, request: ReadRequest, *, has_seeked: bool
) -> PictureReader | None:
    if media.video is None or "video" not in request.modalities:
        return None
    return PictureReader(
        media.video,
        origin_seconds=media.origin_seconds,
        plan=plan,
        limits=request.limits,
        shown=media.shown.get(media.video.index, EVERYTHING),
        can_skip=request.can_skip and request.spec.frame_times != "all",
        has_seeked=has_seeked,
        sampler=PictureSampler(plan, at_seconds=request.at_seconds) if request.with_preview else None,
    )


def _make_sound_readers(media: Media, plan: MomentPlan, request: ReadRequest) -> list[SoundReader]:
    if "audio" not in request.modalities:
        return []
    return [
        SoundReader(
            stream,
            origin_seconds=media.origin_seconds,
            plan=plan,
            limits=request.limits,
            shown=media.shown.get(stream.index, EVERYTHING),
            counts_all=is_counted(media, stream),
        )
        for stream in media.sounds
    ]


class _Feed:
    """Passes on the packets of one stream, or records how far they reach if they are not decoded."""

    def __init__(self, stream: Any, reader: PictureReader | SoundReader | None, media: Media) -> None:
        self.stream = stream
        self.cut_seconds = media.shown.get(stream.index, EVERYTHING)[-1][1]
        self._reader = reader
        self._origin_seconds = media.origin_seconds
        self._end_seconds = self._progress_seconds = -math.inf

    @property
    def end_seconds(self) -> float:
        end = self._end_seconds if self._reader is None else self._reader.end_seconds
        return min(end, self.cut_seconds)

    @property
    def progress_seconds(self) -> float:
        return self._progress_seconds if self._reader is None else self._reader.progress_seconds

    def put(self, packet: Any) -> None:
        if self._reader is not None:
            self._reader.feed(packet)
        elif packet.pts is not None and not packet.is_discard:
            start = float(packet.pts * packet.time_base) - self._origin_seconds
            end = start + float((packet.duration or 0) * packet.time_base)
            self._progress_seconds = max(self._progress_seconds, start)
            self._end_seconds = max(self._end_seconds, end)

    def finish(self) -> None:
        if self._reader is not None:
            self._reader.finish()


def _feed_all(
    media: Media, feeds: list[_Feed], plan: MomentPlan, limits: DecodeLimits, clock: _JoinedClock | None
) -> bool:
    """Pass packets on until the wanted segments are complete. True if that took all there are."""
    by_stream = {feed.stream.index: feed for feed in feeds}
    enough = plan.stop_seconds + plan.spec.min_segment_seconds
    cut_seconds = max(feed.cut_seconds for feed in feeds)
    is_whole = True
    for packet in _demux(media, [feed.stream for feed in feeds], clock):
        by_stream[packet.stream_index].put(packet)
        end_seconds = max(feed.end_seconds for feed in feeds)
        limits.check_duration(end_seconds)
        if min(feed.progress_seconds for feed in feeds) >= cut_seconds:
            break  # what follows is cut away
        if end_seconds >= enough and min(feed.progress_seconds for feed in feeds) >= plan.stop_seconds:
            is_whole = False
            break
    for feed in feeds:
        feed.finish()
    return is_whole


def _check_landing(media: Media, sound: MixedSound, plan: MomentPlan) -> None:
    """Check that the first sound after a seek is well before the wanted time, unless the stream starts later."""
    stream_start = float((media.audio.start_time or 0) * media.audio.time_base) - media.origin_seconds
    latest = max(plan.start_seconds, stream_start + WARM_UP_SECONDS) - WARM_UP_SECONDS / 2
    if latest < sound.start_seconds < plan.stop_seconds:
        raise LandedLate(f"the first sound is at {sound.start_seconds} s, {latest} s is wanted")
