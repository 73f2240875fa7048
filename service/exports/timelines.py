"""Cuts as timelines: FCPXML 1.11, Final Cut 7 XML (Premiere, Resolve), OpenTimelineIO.

OpenTimelineIO's JSON is written here, so exporting needs no further package; tests read it with the library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any
from xml.etree import ElementTree as ET  # nothing is parsed

from service.exports.event import Cut, Event
from service.exports.timecode import FrameRate


def write_fcpxml(cut: Cut) -> str:
    """FCPXML 1.11: one project, the parts in its spine; a format for the cut and for each other rate of a file."""
    rate = cut.rate
    root = ET.Element("fcpxml", version="1.11")
    resources = ET.SubElement(root, "resources")
    rates = dict.fromkeys([rate.rate, *(event.own.rate.rate for event in cut.events if event.own)])
    formats = {one: f"r{number}" for number, one in enumerate(rates, start=1)}
    for one, identity in formats.items():
        facts = {"id": identity, "name": "FFVideoFormatRateUndefined", "frameDuration": _time(1, one)}
        ET.SubElement(resources, "format", facts)
    ids: dict[str, str] = {}
    for event in cut.events:
        if event.asset_id not in ids:
            ids[event.asset_id] = f"r{len(formats) + len(ids) + 1}"
            _add_asset(resources, ids[event.asset_id], event, rate, formats)
    event_node = ET.SubElement(ET.SubElement(root, "library"), "event", name=cut.title)
    project = ET.SubElement(event_node, "project", name=cut.title)
    counting = "DF" if rate.is_drop else "NDF"
    sequence = ET.SubElement(
        project, "sequence", format="r1", duration=_seconds(cut.duration, rate),
        tcStart=_seconds(cut.start, rate), tcFormat=counting,
    )  # fmt: skip
    spine = ET.SubElement(sequence, "spine")
    for event in cut.events:
        facts = {
            "ref": ids[event.asset_id],
            "name": event.name,
            "offset": _seconds(cut.start + event.record, rate),
            "start": _seconds(event.source_start + event.first, rate),
            "duration": _seconds(event.duration, rate),
            "tcFormat": counting,
        }
        if own := event.own:
            facts["start"] = _seconds(own.source_start + own.first, own.rate)
            facts["tcFormat"] = "DF" if own.rate.is_drop else "NDF"
        if (event.has_video, event.has_audio) != (event.is_picture_file, event.is_sound_file):
            facts["srcEnable"] = "video" if event.has_video else "audio"
        clip = ET.SubElement(spine, "asset-clip", facts)
        if event.note:
            ET.SubElement(clip, "note").text = event.note
    return '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n' + _to_text(root)


def _add_asset(
    resources: ET.Element, identity: str, event: Event, rate: FrameRate, formats: Mapping[Fraction, str]
) -> None:
    counted, rate = (event.own, event.own.rate) if event.own else (event, rate)
    facts = {"id": identity, "name": event.name, "start": _seconds(counted.source_start, rate)}
    facts["duration"] = _seconds(counted.length, rate)
    if event.is_picture_file:
        facts |= {"hasVideo": "1", "format": formats[rate.rate], "videoSources": "1"}
    if event.is_sound_file:
        facts |= {"hasAudio": "1", "audioSources": "1", "audioChannels": str(event.num_channels)}
        facts["audioRate"] = str(event.sample_rate_hz)
    asset = ET.SubElement(resources, "asset", facts)
    ET.SubElement(asset, "media-rep", kind="original-media", src=event.url)


def _seconds(frames: int, rate: FrameRate) -> str:
    return _time(frames, rate.rate)


def _time(frames: int, rate: Fraction) -> str:
    """A time as Final Cut writes it: whole seconds, or frames in parts of the rate's clock (`30030/30000s`)."""
    units, clock = frames * rate.denominator, rate.numerator
    return f"{units // clock}s" if units % clock == 0 else f"{units}/{clock}s"


def write_xmeml(cut: Cut) -> str:
    """Final Cut 7 XML, version 5: a track of pictures and one of sound."""
    root = ET.Element("xmeml", version="5")
    sequence = ET.SubElement(root, "sequence", id="sequence-1")
    _add_text(sequence, name=cut.title, duration=cut.duration)
    _add_rate(sequence, cut)
    _add_timecode(sequence, cut, cut.start)
    media = ET.SubElement(sequence, "media")
    known: set[str] = set()
    for kind in ("video", "audio"):
        track = ET.SubElement(ET.SubElement(media, kind), "track")
        for number, event in enumerate(cut.events, start=1):
            if event.has_video if kind == "video" else event.has_audio:
                _add_clip(track, f"{kind}-{number}", kind, cut, event, known)
    return '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE xmeml>\n' + _to_text(root)


def _add_clip(track: ET.Element, identity: str, kind: str, cut: Cut, event: Event, known: set[str]) -> None:
    clip = ET.SubElement(track, "clipitem", id=identity)
    _add_text(clip, name=event.name, enabled="TRUE", duration=event.length)
    _add_rate(clip, cut)
    end = event.record + event.duration
    _add_text(clip, start=event.record, end=end, **{"in": event.first, "out": event.stop})
    file_id = f"file-{event.asset_id}"
    file = ET.SubElement(clip, "file", id=file_id)
    if file_id not in known:
        known.add(file_id)
        url = event.url.replace("file:///", "file://localhost/", 1)
        _add_text(file, name=event.name, pathurl=url, duration=event.length)
        _add_rate(file, cut)
        _add_timecode(file, cut, event.source_start)
        streams = ET.SubElement(file, "media")
        if event.is_picture_file:
            ET.SubElement(streams, "video")
        if event.is_sound_file:
            audio = ET.SubElement(streams, "audio")
            _add_text(audio, channelcount=event.num_channels)
    source = ET.SubElement(clip, "sourcetrack")
    _add_text(source, mediatype=kind, trackindex=1)
    if event.note:
        _add_text(ET.SubElement(clip, "logginginfo"), lognote=event.note)


def _add_rate(parent: ET.Element, cut: Cut) -> None:
    _add_text(
        ET.SubElement(parent, "rate"), timebase=cut.rate.base, ntsc="TRUE" if cut.rate.is_ntsc else "FALSE"
    )


def _add_timecode(parent: ET.Element, cut: Cut, frame: int) -> None:
    timecode = ET.SubElement(parent, "timecode")
    _add_rate(timecode, cut)
    counting = "DF" if cut.rate.is_drop else "NDF"
    _add_text(timecode, string=cut.rate.timecode(frame), frame=frame, displayformat=counting)


def _add_text(parent: ET.Element, **values: object) -> None:
    for name, value in values.items():
        ET.SubElement(parent, name).text = str(value)


def _to_text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def write_otio(cut: Cut) -> str:
    """OpenTimelineIO: a track of pictures and one of sound, gaps where a part lacks one of them."""
    rate = float(cut.rate.rate)
    tracks = [
        {
            "OTIO_SCHEMA": "Track.1",
            "name": name,
            "kind": kind,
            "children": list(_otio_children(cut, is_video=kind == "Video")),
            "metadata": {},
        }
        for name, kind in (("V1", "Video"), ("A1", "Audio"))
    ]
    document = {
        "OTIO_SCHEMA": "Timeline.1",
        "name": cut.title,
        "global_start_time": _otio_time(cut.start, rate),
        "metadata": {},
        "tracks": {"OTIO_SCHEMA": "Stack.1", "name": "tracks", "children": tracks, "metadata": {}},
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _otio_children(cut: Cut, *, is_video: bool) -> Iterator[dict[str, Any]]:
    rate = float(cut.rate.rate)
    for event in cut.events:
        if not (event.has_video if is_video else event.has_audio):
            yield {
                "OTIO_SCHEMA": "Gap.1", "name": "", "source_range": _otio_range(0, event.duration, rate),
                "metadata": {},
            }  # fmt: skip
            continue
        yield {
            "OTIO_SCHEMA": "Clip.1",
            "name": event.name,
            "source_range": _otio_range(event.source_start + event.first, event.duration, rate),
            "media_reference": {
                "OTIO_SCHEMA": "ExternalReference.1",
                "target_url": event.url,
                "available_range": _otio_range(event.source_start, max(event.length, event.stop), rate),
                "metadata": {},
            },
            "metadata": {"foley": {"asset_id": event.asset_id, "note": event.note, "query": event.query}},
        }


def _otio_range(start: int, duration: int, rate: float) -> dict[str, Any]:
    times = {"start_time": _otio_time(start, rate), "duration": _otio_time(duration, rate)}
    return {"OTIO_SCHEMA": "TimeRange.1", **times}


def _otio_time(value: int, rate: float) -> dict[str, Any]:
    return {"OTIO_SCHEMA": "RationalTime.1", "rate": rate, "value": float(value)}
