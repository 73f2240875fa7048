"""The edit lists of an MP4 or MOV: which parts of its tracks a player shows, and in which order.

A phone or QuickTime trims without rewriting: what is cut away stays in the file, and the edit list leaves it out.
FFmpeg applies long lists itself, but moves the first frame of each part to its start, and repeats the index of a track
for every entry: a file of 225 KB can take 2 GB that way. So the number of entries is limited, and the common kind, one
part of each track, is cut here to the frame.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BOXES = 10_000
MAX_ENTRIES_READ = 64
HEADER_BYTES = 16
FILE_TYPES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
Spans = tuple[tuple[float, float], ...]
"""Stretches of time, half-open, in order, in seconds of the timeline that a player shows."""
EVERYTHING: Spans = ((0.0, math.inf),)
MIN_CUT_SECONDS = 0.1
"""An edit that cuts less off the end cuts what the codec padded."""


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What the edit lists of a file ask for."""

    num_entries: int = 0
    """Entries of all lists."""
    are_many: bool = False
    """Whether a track is shown in several parts."""
    shown: tuple[Spans, ...] = ()
    """For each track when it is shown: between them are empty edits; no span if it has no edit, or an unclear one."""


def read_edits(descriptor: int) -> Edits:
    """Read the edit lists of an open file, whose position is kept; a file that is no MP4 or MOV has none."""
    size_bytes = os.fstat(descriptor).st_size
    first = next(iterate_boxes(descriptor, 0, size_bytes), None)
    if first is None or first[0] not in FILE_TYPES:
        return Edits()
    num_entries, are_many, timescale = 0, False, 0
    shown: list[Spans] = []
    for moov in find_boxes(descriptor, 0, size_bytes, b"moov"):
        for header in find_boxes(descriptor, *moov, b"mvhd"):
            timescale = _read_timescale(descriptor, header[0])
        for track in find_boxes(descriptor, *moov, b"trak"):
            lists = [
                entries
                for edts in find_boxes(descriptor, *track, b"edts")
                for entries in find_boxes(descriptor, *edts, b"elst")
            ]
            found = [_read_list(descriptor, low) for low, _ in lists]
            num_entries += sum(number for number, _, _ in found)
            are_many = are_many or any(parts > 1 for _, parts, _ in found)
            shown.append(_join(found[0][2], timescale) if len(found) == 1 and timescale else ())
    return Edits(num_entries=num_entries, are_many=are_many, shown=tuple(shown))


def _read_timescale(descriptor: int, low: int) -> int:
    content = os.pread(descriptor, 24, low)
    return int.from_bytes(content[20:24] if content[:1] == b"\1" else content[12:16], "big")


def _read_list(descriptor: int, low: int) -> tuple[int, int, list[tuple[int, bool]]]:
    """Entries of a list, how many of them show something, and ticks and that of each; none if one has no end."""
    head = os.pread(descriptor, 8, low)
    number, size = int.from_bytes(head[4:], "big"), 20 if head[:1] == b"\1" else 12
    width = 8 if size == 20 else 4
    content = os.pread(descriptor, min(number, MAX_ENTRIES_READ) * size, low + 8)
    entries = [content[start : start + size] for start in range(0, len(content) - size + 1, size)]
    durations = [int.from_bytes(entry[:width], "big") for entry in entries]
    shown = [int.from_bytes(entry[width : 2 * width], "big", signed=True) >= 0 for entry in entries]
    is_ended = number == len(entries) and all(durations)
    parts = list(zip(durations, shown, strict=True)) if is_ended else []
    return number, sum(shown) if number == len(entries) else number, parts


def _join(parts: list[tuple[int, bool]], timescale: int) -> Spans:
    spans: list[tuple[float, float]] = []
    end = 0
    for ticks, is_shown in parts:
        start, end = end, end + ticks
        if is_shown and spans and spans[-1][1] == start / timescale:
            spans[-1] = (spans[-1][0], end / timescale)
        elif is_shown:
            spans.append((start / timescale, end / timescale))
    return tuple(spans)


def leave_padding(spans: Spans, stored_end: float) -> Spans:
    """The spans of a track, without an end that cuts nothing but what the codec padded; infinite is not known."""
    if not spans or spans[-1][1] < stored_end - MIN_CUT_SECONDS < math.inf:
        return spans
    return (*spans[:-1], (spans[-1][0], math.inf))


def find_boxes(descriptor: int, start: int, stop: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of what each box of a kind holds."""
    return ((low, high) for kind, low, high in iterate_boxes(descriptor, start, stop) if kind == wanted)


def iterate_boxes(descriptor: int, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of what each box between two offsets holds."""
    for _ in range(MAX_BOXES):
        header = os.pread(descriptor, HEADER_BYTES, start) if start < stop else b""
        if len(header) < 8:
            return
        size, kind, length = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1:
            size, length = int.from_bytes(header[8:16], "big"), 16
        elif size == 0:
            size = stop - start
        if size < length:
            return
        yield kind, start + length, min(start + size, stop)
        start += size
