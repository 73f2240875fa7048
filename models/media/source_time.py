"""When a file says that it begins: timecode of its picture, time reference of its sound."""

from __future__ import annotations

import re
from typing import Any

TIMECODE = re.compile(r"\d{2}:\d{2}:\d{2}[:;.,]\d{2,3}", re.ASCII)
REFERENCE = re.compile(r"[0-9]{1,18}", re.ASCII)


def read_source_time(container: Any) -> dict[str, Any]:
    """Read `timecode` and `time_reference_samples` as `MediaInfo` has them.

    Args:
        container: The PyAV container.

    Returns:
        What of both the file says well-formed.
    """
    found: dict[str, Any] = {}
    for said in (container.metadata, *(stream.metadata for stream in container.streams)):
        timecode, reference = said.get("timecode", ""), said.get("time_reference", "")
        if "timecode" not in found and TIMECODE.fullmatch(timecode):
            found["timecode"] = timecode
        if "time_reference_samples" not in found and REFERENCE.fullmatch(reference):
            found["time_reference_samples"] = int(reference)
    return found
