"""Cuts as markers and regions for sound programs: Reaper, Audition, Pro Tools."""

from __future__ import annotations

import csv
import io
from pathlib import PurePath

from service.exports.event import Cut, Event
from service.exports.lists import one_line, without_formula

SAMPLE_RATE_HZ = 48_000
REAPER_SOURCES = {".mp3": "MP3", ".flac": "FLAC", ".ogg": "VORBIS", ".wv": "WAVPACK"}


def write_reaper(cut: Cut) -> str:
    """A Reaper project: a region for each part, and the parts themselves on one track."""
    drop = 1 if cut.rate.is_drop else 0
    lines = [
        '<REAPER_PROJECT 0.1 "6.0" 0',
        f"  TIMEBASE 1\n  SAMPLERATE {SAMPLE_RATE_HZ} 0 0",
        f"  PROJOFFS {float(cut.start / cut.rate.rate):.9f} 0 0",
        f"  SMPTESYNC 0 {float(cut.rate.rate):.6f} 100 40 1000 300 0 0 {drop} 0 0",
    ]
    for number, event in enumerate(cut.events, start=1):
        start, end = _span(cut, event)
        lines.append(f"  MARKER {number} {start:.9f} {_quote(event.label)} 1 0 1 R")
        lines.append(f'  MARKER {number} {end:.9f} "" 1')
    lines += ["  <TRACK", f"    NAME {_quote(cut.title)}"]
    for event in cut.events:
        start, end = _span(cut, event)
        kind = (
            "VIDEO"
            if event.is_picture_file
            else REAPER_SOURCES.get(PurePath(event.name).suffix.lower(), "WAVE")
        )
        lines += [
            "    <ITEM",
            f"      POSITION {start:.9f}",
            f"      LENGTH {end - start:.9f}",
            f"      SOFFS {event.start_seconds:.9f}",
            f"      NAME {_quote(event.name)}",
            f"      <SOURCE {kind}",
            f"        FILE {_quote(one_line(event.path))}",
            "      >",
            "    >",
        ]
    return "\n".join([*lines, "  >", ">", ""])


def write_reaper_csv(cut: Cut) -> str:
    """What Reaper's region and marker manager imports."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("#", "Name", "Start", "End", "Length"))
    for number, event in enumerate(cut.events, start=1):
        start, end = _span(cut, event)
        writer.writerow((f"R{number}", without_formula(event.label), *map(_clock, (start, end, end - start))))
    return file.getvalue()


def write_audition(cut: Cut) -> str:
    """What Audition's panel of markers imports: tabs between, times in decimals."""
    lines = ["Name\tStart\tDuration\tTime Format\tType\tDescription"]
    for event in cut.events:
        start, end = _span(cut, event)
        name, note = map(without_formula, (event.name, event.note))
        lines.append(f"{name}\t{_clock(start)}\t{_clock(end - start)}\tdecimal\tCue\t{note}")
    return "\n".join([*lines, ""])


def write_protools(cut: Cut) -> str:
    """Pro Tools' session information as text, with its listing of markers."""
    name = cut.rate.name
    kind = f"{name.removesuffix('df')} Drop Frame" if cut.rate.is_drop else f"{name} Frame"
    lines = [
        f"SESSION NAME:\t{cut.title}",
        f"SAMPLE RATE:\t{SAMPLE_RATE_HZ:.6f}",
        "BIT DEPTH:\t24-bit",
        f"SESSION START TIMECODE:\t{cut.rate.timecode(cut.start)}",
        f"TIMECODE FORMAT:\t{kind}",
        "# OF AUDIO TRACKS:\t0\n# OF AUDIO CLIPS:\t0\n# OF AUDIO FILES:\t0\n\n",
        "M A R K E R S  L I S T I N G",
        "#   \tLOCATION     \tTIME REFERENCE    \tUNITS    \tNAME                             \tCOMMENTS",
    ]
    for number, event in enumerate(cut.events, start=1):
        samples = round(event.record * SAMPLE_RATE_HZ / cut.rate.rate)
        place = cut.rate.timecode(cut.start + event.record)
        lines.append(f"{number:<4}\t{place:<13}\t{samples:<18}\tSamples  \t{event.name:<33}\t{event.note}")
    return "\n".join([*lines, ""])


def _span(cut: Cut, event: Event) -> tuple[float, float]:
    """Start and end of a part in the cut, in seconds from its start."""
    return float(event.record / cut.rate.rate), float((event.record + event.duration) / cut.rate.rate)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours = f"{minutes // 60}:{minutes % 60:02}" if minutes >= 60 else str(minutes)
    return f"{hours}:{rest // 1000:02}.{rest % 1000:03}"


def _quote(text: str) -> str:
    """Text in the quotes that it does not hold, as Reaper reads them."""
    for mark in "\"'`":
        if mark not in text:
            return f"{mark}{text}{mark}"
    return "`" + text.replace("`", "'") + "`"
