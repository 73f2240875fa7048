"""From the packets of a video stream to the square pictures that are on screen at given times.

    picture = PictureReader(stream, origin_seconds=0.0, plan=plan, limits=limits)
    for packet in packets:
        picture.feed(packet)
    picture.finish()
    frames, times = picture.frames(0)   # uint8 (F, H, W, 3) and float64 (F,) of segment 0

`models.media.reading` feeds it; `models.media.frame` turns a decoded frame into the square.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from models.media.colour import matrix_of, needs_mapping, rows_of, show_on_sdr
from models.media.edits import EVERYTHING, Spans
from models.media.frame import Pixels, crop_square, read_display_matrix, stretch_square, turn_upright
from models.media.limits import DecodeLimits
from models.media.sampling import PictureSampler
from models.media.timeline import TIME_TOLERANCE_SECONDS, MomentPlan
from models.media.tracks import read_pixel_aspect
from models.media.unreadable import TooComplex

EXACT_SKIP_CODECS = frozenset({"h264"})
"""Codecs whose frames say reliably, in damaged files too, that no other frame is built from them."""
REFRESH_SECONDS = 10.0
"""How long a stream without key frames takes to refresh the whole picture."""
MAX_QUEUED_PACKETS = 256
"""A packet is decoded at the latest when so many wait behind it for the one that follows on screen."""


class SkippingInexact(Exception):
    """Leaving out frames might have changed which one is picked: every frame must be decoded."""


class LandedLate(Exception):
    """A seek landed after the wanted position."""


class PictureReader:
    """Picks from one video stream the frame that is on screen at each planned time.

    That is the last frame with a timestamp at or before the time; the first frame before any, the last one held
    after all. Only frames that decode are considered. `SkippingInexact` is raised as soon as a frame that was left
    out might have been a right one.

    Args:
        stream: The PyAV video stream.
        origin_seconds: Timestamp that is time 0.
        plan: The wanted times.
        limits: The largest picture.
        shown: When the stream is shown: its first picture is held before that, its last one after.
        can_skip: Whether frames nobody needs may be left out, where the codec tells which these are.
        has_seeked: Whether the packets start in mid-file: what comes before the first key frame is then dropped.
        sampler: Is shown every picture that is picked, before it is cut.
    """

    def __init__(
        self,
        stream: Any,
        *,
        origin_seconds: float,
        plan: MomentPlan,
        limits: DecodeLimits,
        shown: Spans = EVERYTHING,
        can_skip: bool = True,
        has_seeked: bool = False,
        sampler: PictureSampler | None = None,
    ) -> None:
        self.start_seconds = math.inf  # of the first frame that decoded
        self.end_seconds = -math.inf  # of the last one
        self.progress_seconds = -math.inf  # how far the file was read
        self.size: tuple[int, int] | None = None  # width and height of the last picked frame as shown, uncut
        self.rotation_degrees = 0
        self._context = stream.codec_context
        self._context.thread_count = 1
        # Well above the limit, so that what is only a little too large is named as such and not taken for damage.
        self._context.options = {"max_pixels": str(2 * limits.max_pixels)}
        self._time_base: Fraction = stream.time_base
        self._frame_seconds = float(1 / stream.average_rate) if stream.average_rate else 0.0
        self._pixel_aspect = read_pixel_aspect(stream)
        self._origin_seconds = origin_seconds
        self._plan = plan
        self._limits = limits
        self._begin_seconds = shown[0][0] if shown[0][0] > 0 else -math.inf
        self._cut_seconds = shown[-1][1]
        self._has_seeked = has_seeked
        self.sampler = sampler
        self._floor_pts: int | None = None
        codec = self._context.codec
        self._skipper = (
            _Skipper(codec.intra_only) if can_skip and shown[0][0] <= 0 and _can_skip_exactly(codec) else None
        )
        self._shown_pts: list[int] = []  # of the frames that decode, and of those that were left out
        self._is_finished = False
        self._segment, self._moment = plan.first, 0
        self._frame: Any = None
        self._pixels: Pixels | None = None
        self._upright: Pixels | None = None  # kept for the sampler
        self._picks: dict[int, list[tuple[float, Pixels]]] = {}
        self._reformatter = VideoReformatter()

    def feed(self, packet: Any) -> None:
        """Take the next packet of the stream."""
        dts = packet.pts if packet.dts is None else packet.dts
        if dts is not None:
            self.progress_seconds = max(self.progress_seconds, self._seconds(dts))
        if self._has_seeked and self._floor_pts is None:
            if not packet.is_keyframe or packet.pts is None:
                return
            self._floor_pts = packet.pts
        if self.progress_seconds > self._plan.stop_seconds:
            self.finish()
        if self._is_finished:
            self._extend(packet)
        elif self._skipper is None:
            self._decode(packet)
        else:
            self._skipper.put(packet)
            self._drain(self._skipper, is_last=False)

    def note(self, packet: Any) -> None:
        """Note when the frame of a packet comes on screen, as far as the packet tells; nothing is decoded."""
        pts = packet.dts if packet.pts is None else packet.pts
        if pts is None or packet.is_discard:
            return
        dts = pts if packet.dts is None else packet.dts
        self.progress_seconds = max(self.progress_seconds, self._seconds(dts))
        if self._seconds(pts) < self._cut_seconds - TIME_TOLERANCE_SECONDS:
            insort(self._shown_pts, pts)

    def finish(self) -> None:
        """Decode what waits, and hold the last frame to the end of its segment. Safe to call twice."""
        if self._is_finished:
            return
        self._is_finished = True
        if self._skipper is not None:
            self._drain(self._skipper, is_last=True)
        self._decode(None)
        if self._frame is None:
            return
        while self._plan.bounds(self._segment)[0] < self.end_seconds - TIME_TOLERANCE_SECONDS:
            if (wanted := self._plan.time(self._segment, self._moment)) == math.inf:
                return
            self._pick(wanted)

    def frames(self, segment: int) -> tuple[Pixels, NDArray[np.float64]] | None:
        """Pictures of a segment.

        Args:
            segment: Which segment, from 0.

        Returns:
            The pictures, uint8, shape (F, H, W, 3), and the times at which they came on screen, in seconds, float64,
            shape (F,); None where the segment has no picture.
        """
        picks = self._picks.get(segment)
        if picks is None or len(picks) < self._plan.count(segment):
            return None
        times = np.array([seconds for seconds, _ in picks], dtype=np.float64)
        return np.stack([pixels for _, pixels in picks]), times

    def frame_starts(self) -> tuple[float, ...]:
        """When each frame came on screen, rising; of those up to the start of an edit list only the last one does."""
        begin = self._begin_seconds + self._frame_seconds / 2
        seconds = [self._seconds(pts) for pts in self._shown_pts]
        num_before = max(1, sum(start <= begin for start in seconds))
        return tuple(map(self._screen_seconds, self._shown_pts[num_before - 1 :]))

    def has_right_frames(self, segment: int, start_seconds: float, end_seconds: float) -> bool:
        """Whether the picked frames are the right ones of the segment, now that its true end and frames are known.

        Args:
            segment: Which segment.
            start_seconds: Its start.
            end_seconds: Its true end; the plan may have had another.

        Returns:
            True where reading again with the true end and frames would pick the same frames.
        """
        plan = self._plan
        if plan.spec.frame_times == "moments" and plan.bounds(segment) == (start_seconds, end_seconds):
            return True
        picked = self.frames(segment)
        if picked is None:
            end_of_stream = self.end_seconds - TIME_TOLERANCE_SECONDS
            return not (self.start_seconds < end_seconds and start_seconds < end_of_stream)
        right = replace(plan, duration_seconds=end_seconds, frame_starts=self.frame_starts())
        wanted = np.array([right.time(segment, picture) for picture in range(right.count(segment))])
        shown = np.array([self._screen_seconds(pts) for pts in self._shown_pts])
        last = np.searchsorted(shown, wanted + TIME_TOLERANCE_SECONDS, side="right") - 1
        return np.array_equal(picked[1], shown[np.maximum(last, 0)])

    def _seconds(self, pts: int) -> float:
        return pts * self._time_base.numerator / self._time_base.denominator - self._origin_seconds

    def _screen_seconds(self, pts: int) -> float:
        """When a frame comes on screen: one that an edit list starts in the middle of, where that starts."""
        return max(0.0, self._begin_seconds, self._seconds(pts))

    def _extend(self, item: Any) -> None:
        """Note how far the stream reaches: to the end of this packet or frame."""
        if item.pts is not None and not getattr(item, "is_discard", False):
            end = self._seconds(item.pts + item.duration) if item.duration else self._seconds(item.pts)
            end = min(self._cut_seconds, end if item.duration else end + self._frame_seconds)
            self.end_seconds = max(self.end_seconds, end)
            self._limits.check_duration(self.end_seconds)

    def _drain(self, skipper: _Skipper, *, is_last: bool) -> None:
        """Decode the waiting packets of which it is known what follows them on screen."""
        for packet, follower_pts in skipper.take(is_last=is_last):
            if follower_pts is None or self._frame is None or self._is_wanted(packet.pts, follower_pts):
                self._decode(packet)
                continue
            self._extend(packet)
            insort(self._shown_pts, packet.pts)
            skipper.skipped_pts.append(packet.pts)
            if not skipper.is_intra_only:
                self._context.skip_frame = "NONREF"
                self._decode(packet)
                self._context.skip_frame = "DEFAULT"

    def _is_wanted(self, pts: int, follower_pts: int) -> bool:
        wanted = self._plan.next_time(self._seconds(pts))
        return wanted < self._seconds(follower_pts) - TIME_TOLERANCE_SECONDS

    def _decode(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except MemoryError as error:
            raise TooComplex("the picture needs too much memory") from error
        except av.error.FFmpegError as error:
            if self._skipper is not None:
                raise SkippingInexact("a packet is damaged") from error
            return  # it shows nothing
        for frame in frames:
            if frame.pts is None:
                frame.pts = frame.dts
            if frame.pts is not None and (self._floor_pts is None or frame.pts >= self._floor_pts):
                self._show(frame)

    def _show(self, frame: Any) -> None:
        """Take the next frame in order of presentation: with it the time of the one before ends."""
        seconds = self._seconds(frame.pts)
        is_cut_away = seconds >= self._cut_seconds - TIME_TOLERANCE_SECONDS
        if is_cut_away or (self._frame is not None and frame.pts < self._frame.pts):
            return
        self._limits.check_frame_size(frame.width, frame.height)
        if self._skipper is not None:
            self._skipper.check(frame)
        if not self._shown_pts or frame.pts > self._shown_pts[-1]:
            self._shown_pts.append(frame.pts)
        elif frame.pts not in self._shown_pts[-MAX_QUEUED_PACKETS:]:
            insort(self._shown_pts, frame.pts)
        self._extend(frame)
        if self._frame is None:
            self._start(frame, max(seconds, self._begin_seconds))
        shown = seconds if seconds > self._begin_seconds + self._frame_seconds / 2 else -math.inf
        while (wanted := self._plan.time(self._segment, self._moment)) < shown - TIME_TOLERANCE_SECONDS:
            self._pick(wanted)
        self._frame, self._pixels = frame, None
        if self._skipper is not None:
            self._skipper.forget(frame.pts)

    def _start(self, frame: Any, seconds: float) -> None:
        # A stream without key frames refreshes its picture bit by bit: the first ones after a seek are unfinished.
        unfinished = REFRESH_SECONDS if frame.pict_type in (PictureType.P, PictureType.B) else 0.0
        wanted = self._plan.start_seconds + TIME_TOLERANCE_SECONDS
        if self._has_seeked and seconds + unfinished > wanted:
            raise LandedLate(f"the first frame is at {seconds} s, {wanted - unfinished} s is wanted")
        self._frame, self.start_seconds = frame, seconds
        # A segment that is over before the first frame has no picture.
        while self._plan.bounds(self._segment)[1] <= seconds:
            self._segment += 1

    def _pick(self, wanted: float) -> None:
        """Keep the frame on screen for the next planned time."""
        if self._skipper is not None and self._skipper.has_between(self._frame.pts, self._seconds, wanted):
            raise SkippingInexact(f"a frame before {wanted} s was left out")
        if self._pixels is None:
            self._pixels = self._render(self._frame)
        if self.sampler is not None and self._upright is not None and self.size is not None:
            self.sampler.show(wanted, self._upright, self.size)
        pick = (self._screen_seconds(self._frame.pts), self._pixels)
        self._picks.setdefault(self._segment, []).append(pick)
        self._moment += 1
        if self._plan.spec.frame_times == "all":
            self._limits.check_segment_frames(self._moment)
        if self._moment == self._plan.count(self._segment):
            self._segment, self._moment = self._segment + 1, 0

    def _render(self, frame: Any) -> Pixels:
        stored = self._to_rgb(frame)
        upright = turn_upright(stored, read_display_matrix(frame))
        self._upright = None if self.sampler is None else upright
        self.size, self.rotation_degrees = (
            self._shown_size(frame, upright.shape != stored.shape),
            frame.rotation,
        )
        if self._plan.spec.frame_shape == "stretch":
            return stretch_square(upright, self._plan.spec.frame_size)
        return crop_square(upright, self._plan.spec.frame_size, shown=self.size)

    def _shown_size(self, frame: Any, is_turned: bool) -> tuple[int, int]:
        """Width and height as shown: pixels that are not square are stretched along the stored width."""
        width, height = max(1, round(frame.width * self._pixel_aspect)), frame.height
        return (height, width) if is_turned else (width, height)

    def _to_rgb(self, frame: Any) -> Pixels:
        """Stored picture in SDR, uint8; one of high dynamic range may come smaller, at twice the square or more."""
        if not needs_mapping(frame):
            picture = self._reformatter.reformat(
                frame, format="rgb24", src_colorspace=matrix_of(frame), threads=1
            )
            return rows_of(picture, np.uint8)
        factor = max(1, min(frame.width, frame.height) // (2 * self._plan.spec.frame_size))
        picture = self._reformatter.reformat(
            frame,
            width=frame.width // factor,
            height=frame.height // factor,
            format="rgb48le",
            src_colorspace=matrix_of(frame),
            interpolation="AREA",
            threads=1,
        )
        return show_on_sdr(
            rows_of(picture, np.uint16), primaries=frame.color_primaries, transfer=frame.color_trc
        )


class _Skipper:
    """Holds packets until the frame that follows each on screen is known, and remembers the skipped frames.

    A packet's frame is on screen from its timestamp to the next higher one. No packet to come has a timestamp below
    the decoding time of the newest, so up to there all are known.
    """

    def __init__(self, is_intra_only: bool) -> None:
        self.is_intra_only = is_intra_only
        self.skipped_pts: list[int] = []
        self._waiting: deque[Any] = deque()
        self._recent_pts: list[int] = []  # sorted
        self._newest_dts = -(1 << 63)

    def put(self, packet: Any) -> None:
        if packet.dts is not None:
            self._newest_dts = max(self._newest_dts, packet.dts)
        if packet.pts is None or packet.pts < self._newest_dts:
            raise SkippingInexact("a packet has no timestamp, or one before its decoding time")
        insort(self._recent_pts, packet.pts)
        self._waiting.append(packet)

    def take(self, *, is_last: bool) -> list[tuple[Any, int | None]]:
        """Yield packets in file order, each with the timestamp that follows on screen, or None if it is unknown."""
        taken: list[tuple[Any, int | None]] = []
        while self._waiting:
            position = bisect_right(self._recent_pts, self._waiting[0].pts)
            follower = self._recent_pts[position] if position < len(self._recent_pts) else None
            if not is_last and (follower is None or follower > self._newest_dts):
                if len(self._waiting) < MAX_QUEUED_PACKETS:
                    break
                follower = None
            taken.append((self._waiting.popleft(), follower))
        del self._recent_pts[: -4 * MAX_QUEUED_PACKETS]
        return taken

    def check(self, frame: Any) -> None:
        """Refuse frames for which it is not sure that they do without the others."""
        if frame.interlaced_frame:
            raise SkippingInexact("the fields of one frame may come in two packets")
        if frame.is_corrupt:
            raise SkippingInexact("what is missing of a frame is made up from those before it")

    def forget(self, pts: int) -> None:
        """Forget the frames skipped before a frame: all times before it are decided."""
        self.skipped_pts = [skipped for skipped in self.skipped_pts if skipped > pts]

    def has_between(self, pts: int, seconds: Any, until: float) -> bool:
        """Whether a frame was left out that would have come on screen after one and up to a time."""
        return any(
            pts < skipped and seconds(skipped) <= until + TIME_TOLERANCE_SECONDS
            for skipped in self.skipped_pts
        )


def _can_skip_exactly(codec: Any) -> bool:
    return bool(codec.intra_only) or codec.canonical_name in EXACT_SKIP_CODECS
