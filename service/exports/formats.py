"""Every format a cut can be written in.

write(cut, "edl")    # bytes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from service.exports.event import Cut
from service.exports.lists import write_ale, write_avid_markers, write_csv, write_edl, write_json
from service.exports.markers import write_audition, write_protools, write_reaper, write_reaper_csv
from service.exports.timelines import write_fcpxml, write_otio, write_xmeml

FormatName = Literal[
    "edl", "fcpxml", "xmeml", "otio", "reaper", "reaper-csv", "audition", "protools", "ale", "avid-markers", "csv",
    "json",
]  # fmt: skip
RateName = Literal["23.976", "24", "25", "29.97df", "29.97", "30", "50", "59.94df", "59.94", "60"]


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    title: str
    suffix: str
    media_type: str
    write: Callable[[Cut], str]
    has_mark: bool = False
    """Whether it begins with a byte order mark: spreadsheets take it for another charset otherwise."""


FORMATS: Mapping[FormatName, Format] = {
    "edl": Format("CMX 3600 EDL", ".edl", "text/plain", write_edl),
    "fcpxml": Format("Final Cut Pro XML 1.11", ".fcpxml", "application/xml", write_fcpxml),
    "xmeml": Format("Final Cut 7 XML (Premiere, Resolve)", ".xml", "application/xml", write_xmeml),
    "otio": Format("OpenTimelineIO", ".otio", "application/json", write_otio),
    "reaper": Format("Reaper project with regions", ".rpp", "text/plain", write_reaper),
    "reaper-csv": Format("Reaper regions and markers", ".csv", "text/csv", write_reaper_csv),
    "audition": Format("Audition markers", ".csv", "text/csv", write_audition),
    "protools": Format("Pro Tools markers as text", ".txt", "text/plain", write_protools),
    "ale": Format("Avid Log Exchange", ".ale", "text/plain", write_ale),
    "avid-markers": Format("Avid locators", ".txt", "text/plain", write_avid_markers),
    "csv": Format("CSV", ".csv", "text/csv", write_csv, has_mark=True),
    "json": Format("JSON", ".json", "application/json", write_json),
}
assert tuple(FORMATS) == get_args(FormatName)


def write(cut: Cut, name: FormatName) -> bytes:
    """A cut as the content of a file, UTF-8."""
    kind = FORMATS[name]
    content = kind.write(cut).encode("utf-8", "replace")
    return b"\xef\xbb\xbf" + content if kind.has_mark else content
