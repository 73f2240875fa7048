"""Cuts as lines of text: CMX 3600 EDL, Avid ALE and locators, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import PurePath

from service.exports.event import Cut, Event

MAX_TITLE_CHARS = 70
REEL_CHARS = 8
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # spreadsheets read wide signs, too
CSV_COLUMNS = (
    "number", "name", "path", "start_seconds", "end_seconds", "source_in", "source_out", "record_in", "record_out",
    "audio", "video", "note", "query", "asset_id",
)  # fmt: skip


def write_edl(cut: Cut) -> str:
    """CMX 3600: one event a part, its file in comments."""
    rate = cut.rate
    lines = [
        f"TITLE: {cut.title[:MAX_TITLE_CHARS]}",
        f"FCM: {'DROP FRAME' if rate.is_drop else 'NON-DROP FRAME'}",
        "",
    ]
    for number, event in enumerate(cut.events, start=1):
        channels = "B" if event.has_video and event.has_audio else "V" if event.has_video else "A"
        times = " ".join(_times(cut, event))
        lines += [
            f"{number:03d}  {_reel(event):<{REEL_CHARS}} {channels:<5} C        {times}",
            f"* FROM CLIP NAME: {event.name}",
            f"* SOURCE FILE: {one_line(event.path)}",
        ]
        lines += [f"* COMMENT: {text}" for text in (event.note, event.query) if text]
    return "\r\n".join([*lines, ""])


def write_ale(cut: Cut) -> str:
    """Avid Log Exchange: a row a part, with tabs between."""
    columns = (
        "Name",
        "Tracks",
        "Start",
        "End",
        "Duration",
        "Source File",
        "Source Path",
        "Comments",
        "Scene",
        "Take",
    )
    rows = []
    for event in cut.events:
        source_in, source_out, *_ = _times(cut, event)
        channels = "".join(f"A{number}" for number in range(1, min(event.num_channels, 24) + 1))
        tracks = ("V" if event.has_video else "") + (channels if event.has_audio else "")
        duration = cut.rate.timecode(event.duration)
        path = one_line(event.path)
        slate = (one_line(str(event.metadata.get(key, ""))) for key in ("scene", "take"))
        rows.append(
            (event.name, tracks, source_in, source_out, duration, event.name, path, event.note, *slate)
        )
    head = ["Heading", "FIELD_DELIM\tTABS", "VIDEO_FORMAT\t1080", "AUDIO_FORMAT\t48khz"]
    head += [f"FPS\t{cut.rate.name.removesuffix('df')}", "", "Column", "\t".join(columns), "", "Data"]
    return "\n".join([*head, *("\t".join(row) for row in rows), ""])


def write_avid_markers(cut: Cut) -> str:
    """Avid locators: user, timecode, track, colour, comment, length."""
    lines = []
    for event in cut.events:
        place = cut.rate.timecode(cut.start + event.record)
        track = "V1" if event.has_video else "A1"
        lines.append(f"Foley\t{place}\t{track}\tgreen\t{event.label}\t{event.duration}")
    return "\n".join([*lines, ""])


def write_csv(cut: Cut) -> str:
    """A table of the parts; text that a spreadsheet would run gets an apostrophe."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(CSV_COLUMNS)
    for number, event in enumerate(cut.events, start=1):
        flags = ("yes" if event.has_audio else "no", "yes" if event.has_video else "no")
        span = (f"{event.start_seconds:.6f}", f"{event.end_seconds:.6f}")
        text = (event.name, one_line(event.path), event.note, event.query)
        name, path, note, query = map(without_formula, text)
        writer.writerow((number, name, path, *span, *_times(cut, event), *flags, note, query, event.asset_id))
    return file.getvalue()


def write_json(cut: Cut) -> str:
    """Everything that is known of the parts."""
    events = [
        {
            **{name: value for name, value in asdict(event).items() if name != "own"},
            **dict(
                zip(("source_in", "source_out", "record_in", "record_out"), _times(cut, event), strict=True)
            ),
        }
        for event in cut.events
    ]
    document = {"title": cut.title, "frame_rate": cut.rate.name, "events": events}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _times(cut: Cut, event: Event) -> tuple[str, str, str, str]:
    """Timecode of the part in its file and in the cut: first frame, and the one after the last."""
    source, record = event.source_start + event.first, cut.start + event.record
    frames = (source, source + event.duration, record, record + event.duration)
    first, second, third, fourth = map(cut.rate.timecode, frames)
    return first, second, third, fourth


def _reel(event: Event) -> str:
    stem = re.sub(r"[^A-Za-z0-9]", "", PurePath(event.name).stem)
    return stem[:REEL_CHARS].upper() or "AX"


def without_formula(text: str) -> str:
    """Text with an apostrophe before it if a spreadsheet would run it."""
    return f"'{text}" if text.startswith(FORMULA) else text


def one_line(text: str) -> str:
    """Text without what would end its line or turn its order."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", " ", text)
