"""Frame rates and SMPTE timecode, with and without drop-frame counting.

    RATES["29.97df"].timecode(1800)                  # '00:01:00;02'
    RATES["29.97df"].count("00:01:00;02")            # 1800

Drop-frame counting leaves out the numbers 0 and 1 (0 to 3 at 59.94) of each minute that is not a multiple of ten, so
that 29.97 frames a second, counted as 30, keep up with the clock (SMPTE ST 12-1). No frame is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

TIMECODE = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})([:;.,])(\d{2,3})")
DAY_HOURS = 24


@dataclass(frozen=True)
class FrameRate:
    """Frames a second, and how they are counted: `base` a second; `num_dropped` numbers of most minutes are unused."""

    name: str
    rate: Fraction
    base: int
    num_dropped: int = 0

    @property
    def is_drop(self) -> bool:
        """Whether frames are counted with drop-frame timecode."""
        return self.num_dropped > 0

    @property
    def is_ntsc(self) -> bool:
        """Whether the true rate is 1000/1001 of the counted one."""
        return self.rate != self.base

    def frames(self, seconds: float) -> int:
        """How many frames begin before a time, to the nearest."""
        return round(Fraction(seconds) * self.rate)

    def timecode(self, frames: int) -> str:
        """The timecode of a frame; after 24 hours it begins again."""
        number = frames
        if self.is_drop:
            minute = 60 * self.base - self.num_dropped
            tens = 10 * minute + self.num_dropped
            whole, rest = divmod(frames, tens)
            later = max(0, (rest - self.num_dropped) // minute)
            number += self.num_dropped * (9 * whole + later)
        seconds, frame = divmod(number, self.base)
        hours = seconds // 3600 % DAY_HOURS
        mark = ";" if self.is_drop else ":"
        return f"{hours:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{frame:02}"

    def count(self, timecode: str) -> int:
        """The frame of a timecode; raises ValueError if it is none at this rate."""
        found = TIMECODE.fullmatch(timecode)
        if found is None:
            raise ValueError(f"no timecode: {timecode[:40]!r}")
        hours, minutes, seconds, frame = (int(found[part]) for part in (1, 2, 3, 5))
        if minutes > 59 or seconds > 59 or frame >= self.base:
            raise ValueError(f"{timecode} is no timecode of {self.name} frames a second")
        total = (hours * 3600 + minutes * 60 + seconds) * self.base + frame
        all_minutes = 60 * hours + minutes
        return total - self.num_dropped * (all_minutes - all_minutes // 10)


def _ntsc(base: int) -> Fraction:
    return Fraction(base * 1000, 1001)


RATES: Mapping[str, FrameRate] = {
    one.name: one
    for one in (
        FrameRate("23.976", _ntsc(24), 24),
        FrameRate("24", Fraction(24), 24),
        FrameRate("25", Fraction(25), 25),
        FrameRate("29.97df", _ntsc(30), 30, 2),
        FrameRate("29.97", _ntsc(30), 30),
        FrameRate("30", Fraction(30), 30),
        FrameRate("50", Fraction(50), 50),
        FrameRate("59.94df", _ntsc(60), 60, 4),
        FrameRate("59.94", _ntsc(60), 60),
        FrameRate("60", Fraction(60), 60),
    )
}


def find_rate(frame_rate: float, *, is_drop: bool = False) -> FrameRate:
    """The rate of a file from its frames a second: one of `RATES` if that is within .05 %, else as it is."""
    near = [one for one in RATES.values() if abs(float(one.rate) / frame_rate - 1) < 5e-4]
    if near:
        return min(near, key=lambda one: one.is_drop != is_drop)
    return FrameRate(
        f"{frame_rate:g}", Fraction(frame_rate).limit_denominator(1001), max(1, round(frame_rate))
    )


def carry_over(timecode: str, frame_rate: float, rate: FrameRate) -> int:
    """The frame at which a file of another rate begins: the same hours, minutes and seconds, and the part of a second.

    Raises ValueError if it is no timecode.
    """
    found = TIMECODE.fullmatch(timecode)
    if found is None or not 0 < frame_rate < 1000:
        raise ValueError(f"no timecode: {timecode[:40]!r}")
    base = max(1, round(frame_rate))
    whole = rate.count(":".join(found.group(1, 2, 3)) + ":00")
    return whole + min(round(int(found[5]) * rate.base / base), rate.base - 1)
