"""Every format says what the cut says, at every rate, and hostile names stay in their field."""

from __future__ import annotations

import csv
import io
import json
import re
from fractions import Fraction
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from service.exports.event import Cut, NothingToExport, build_cut, relink
from service.exports.formats import FORMATS, FormatName, write
from service.exports.timecode import RATES

HOSTILE = "=cmd|' /C'!A0\n<b>]]>\"'`;\t\u202egnp\x00" + "x" * 300 + ".wav"
PATH = '/media/müll & co/a\nb".wav'


def _asset(number: int, **media: Any) -> dict[str, Any]:
    facts = {"has_video": True, "has_audio": True, "duration_seconds": 60.0, "frame_rate": 25.0}
    return {
        "asset_id": f"{number:064x}",
        "path": f"/media/clips/take {number}.mov",
        "modalities": ["audio", "video"],
        "media": {**facts, "num_channels": 2, "sample_rate_hz": 48_000, **media},
        "metadata": {},
    }


def _item(number: int, **fields: Any) -> dict[str, Any]:
    return {"asset_id": f"{number:064x}", "start_seconds": 2.0, "end_seconds": 6.5, "note": "loud", **fields}


def _cut(rate: str = "25", items: list[dict[str, Any]] | None = None, **media: Any) -> Cut:
    same = {key: value for key, value in media.items() if key == "frame_rate"}
    files = (_asset(1, **media), _asset(2, **same), _asset(3, has_video=False))
    assets = {one["asset_id"]: one for one in files}
    chosen = items or [_item(1), _item(2, modality="video"), _item(3, start_seconds=None, end_seconds=None)]
    return build_cut(chosen, assets, rate=RATES[rate], title="rain")


@pytest.mark.parametrize("name", RATES)
def test_timecode_counts_up_and_back(name: str) -> None:
    rate = RATES[name]
    seen = [rate.timecode(frame) for frame in range(0, 25 * 3600 * rate.base, 997)]
    day = rate.count("23:59:59:00") + rate.base  # frames of a day as counted
    assert [rate.count(text) for text in seen] == [
        frame % day for frame in range(0, 25 * 3600 * rate.base, 997)
    ]
    assert rate.count(rate.timecode(rate.count("00:59:59:00") + rate.base)) == rate.count("01:00:00:00")
    hour = rate.count("01:00:00:00") / rate.rate
    assert (abs(hour - 3600) < Fraction(1, 5)) == (rate.is_drop or not rate.is_ntsc)


@pytest.mark.parametrize(
    ("name", "frame", "text"),
    [  # SMPTE ST 12-1
        ("29.97df", 1799, "00:00:59;29"),
        ("29.97df", 1800, "00:01:00;02"),
        ("29.97df", 17981, "00:09:59;29"),
        ("29.97df", 17982, "00:10:00;00"),
        ("29.97df", 107892, "01:00:00;00"),
        ("59.94df", 3599, "00:00:59;59"),
        ("59.94df", 3600, "00:01:00;04"),
        ("59.94df", 215784, "01:00:00;00"),
        ("29.97", 107892, "00:59:56:12"),
        ("23.976", 86400, "01:00:00:00"),
        ("50", 180049, "01:00:00:49"),
    ],
)
def test_drop_frame_numbers(name: str, frame: int, text: str) -> None:
    assert RATES[name].timecode(frame) == text


def test_timecode_is_that_of_another_program() -> None:
    timecode = pytest.importorskip("timecode")
    for name, theirs in (
        ("29.97df", "29.97"),
        ("59.94df", "59.94"),
        ("25", "25"),
        ("24", "24"),
        ("60", "60"),
    ):
        for frame in range(0, 200_000, 1_777):
            other = timecode.Timecode(theirs, frames=frame + 1)
            assert str(other).replace(";", ":") == RATES[name].timecode(frame).replace(";", ":")


@pytest.mark.parametrize(
    ("rate", "media", "first"),
    [
        ("25", {"timecode": "10:00:00:00"}, "10:00:02:00"),
        ("29.97df", {"timecode": "01:00:59;28", "frame_rate": 30000 / 1001}, "01:01:02;00"),
        ("29.97", {"timecode": "01:00:59:28", "frame_rate": 30000 / 1001}, "01:01:01:28"),
        ("25", {"time_reference_samples": 3600 * 48_000}, "01:00:02:00"),
        ("24", {"timecode": "10:00:00:12"}, "10:00:02:12"),  # 12/25 s are 11.52 frames of 24
        ("25", {"timecode": "rubbish"}, "00:00:02:00"),
        ("25", {"timecode": "99:99:99:99"}, "00:00:02:00"),
    ],
)
def test_source_timecode(rate: str, media: dict[str, Any], first: str) -> None:
    (event,) = _cut(rate, [_item(1)], **media).events
    assert RATES[rate].timecode(event.source_start + event.first) == first


def test_an_edl_says_what_the_cut_says() -> None:
    lines = write(_cut(timecode="10:00:00:00"), "edl").decode().splitlines()
    assert lines[:2] == ["TITLE: rain", "FCM: NON-DROP FRAME"]
    events = [line.split() for line in lines if line[:3].isdigit()]
    assert [event[2] for event in events] == ["B", "V", "A"]
    assert events[0][4:] == [
        "10:00:02:00",
        "10:00:06:12",
        "01:00:00:00",
        "01:00:04:12",
    ]  # 6.5 s are 162.5 frames
    assert events[2][6] == events[1][7]
    assert events[2][7] == "01:01:08:24"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rate", RATES)
def test_hostile_names_stay_in_their_field(name: FormatName, rate: str) -> None:
    assets = {
        f"{1:064x}": {**_asset(1), "path": f"/media/x/{HOSTILE}", "metadata": {"scene": HOSTILE}},
        f"{2:064x}": {**_asset(2), "path": PATH},
    }
    plain = build_cut(
        [_item(1), _item(2)], {key: _asset(n) for n, key in enumerate(assets)}, rate=RATES[rate], title="t"
    )
    items = [_item(1, note=HOSTILE, query=HOSTILE), _item(2, note="@SUM(1)")]
    cut = build_cut(items, assets, rate=RATES[rate], title=HOSTILE)
    text, plain_text = write(cut, name).decode("utf-8-sig"), write(plain, name).decode("utf-8-sig")
    assert "\x00" not in text
    assert "\u202e" not in text or name == "json"  # which is for programs
    if name in ("fcpxml", "xmeml"):
        found = [node.tag for node in ET.fromstring(text).iter()]
        assert found == [node.tag for node in ET.fromstring(plain_text).iter()]
    elif name in ("otio", "json"):
        assert json.loads(text).keys() == json.loads(plain_text).keys()
    elif name == "csv":
        rows = list(csv.reader(io.StringIO(text)))
        assert [len(row) for row in rows] == [14, 14, 14]
        assert not any(cell[:1] in "=+-@\t\r" for row in rows[1:] for cell in row if cell)
    else:
        more = 2 if name == "edl" else 0  # comments of what it was found with
        assert len(text.splitlines()) <= len(plain_text.splitlines()) + more
        mark = "\t" if name in ("ale", "avid-markers", "audition", "protools") else None
        counts = (
            [[line.count(mark) for line in one.splitlines()] for one in (text, plain_text)]
            if mark
            else [0, 0]
        )
        assert counts[0] == counts[1]


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.suffix == ".csv"])
@pytest.mark.parametrize("sign", "=+-@＝＠")
def test_no_table_holds_a_formula(name: FormatName, sign: str) -> None:
    path = f"/media/{sign}cmd|'x'!A0.wav"
    items = [_item(1, note=f"{sign}1+1", query=f"{sign}2")]
    cut = build_cut(items, {f"{1:064x}": {**_asset(1), "path": path}}, rate=RATES["25"], title="t")
    cells = re.split("[\t,\n]", write(cut, name).decode("utf-8-sig").replace('"', ""))
    assert not [cell for cell in cells if cell.startswith(sign)]
    assert any(cell.startswith(f"'{sign}cmd") for cell in cells)


def test_what_files_and_people_say_is_exported() -> None:
    said = {"scene": "12A", "take": "3", "title": "Gate"}
    assets = {f"{1:064x}": {**_asset(1, said=said), "metadata": {"take": 4}}}
    cut = build_cut([_item(1)], assets, rate=RATES["25"], title="t")
    (event,) = json.loads(write(cut, "json"))["events"]
    assert event["metadata"] == {**said, "take": 4}
    head, row = (line.split("\t") for line in write(cut, "ale").decode().splitlines() if line.count("\t") > 3)
    assert dict(zip(head, row, strict=True)).items() >= {"Scene": "12A", "Take": "4"}.items()


def test_paths_are_relinked() -> None:
    pairs = [("/media", "/Volumes/nas"), ("/media/clips", "Z:\\clips"), ("/med", "/wrong")]
    assert relink("/media/clips/a/b.wav", pairs) == "Z:\\clips\\a\\b.wav"
    assert relink("/media/clipsy/b.wav", pairs) == "/Volumes/nas/clipsy/b.wav"
    assert relink("/mediathek/b.wav", pairs) == "/mediathek/b.wav"
    cut = build_cut([_item(1)], {f"{1:064x}": _asset(1)}, rate=RATES["25"], title="", path_map=pairs)
    assert cut.events[0].url == "file:///Z:/clips/take%201.mov"
    assert cut.events[0].name == "take 1.mov"


def test_what_is_not_there_is_left_out() -> None:
    items = [_item(9), _item(3, modality="video"), _item(1, start_seconds=70.0, end_seconds=80.0), _item(1)]
    cut = _cut(items=items)
    assert (len(cut.events), cut.num_left_out) == (1, 3)
    with pytest.raises(NothingToExport):
        _cut(items=items[:3])


READERS = {"edl": "cmx_3600", "xmeml": "fcp_xml", "otio": "otio_json", "ale": "ale", "fcpxml": "fcpx_xml"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("rate", RATES)
def test_another_program_reads_the_same(name: FormatName, rate: str) -> None:
    """OpenTimelineIO and its adapters, if they are installed."""
    otio = pytest.importorskip("opentimelineio")
    if READERS[name] not in otio.adapters.available_adapter_names():
        pytest.skip(f"no adapter {READERS[name]}")
    cut = _cut(rate, timecode="10:00:00:00", frame_rate=float(RATES[rate].rate))
    more = {"rate": float(cut.rate.rate)} if name == "edl" else {}
    if name == "ale" and cut.rate.is_drop:
        pytest.skip("the adapter knows no drop-frame rates")
    if name == "fcpxml" and cut.rate.is_ntsc:
        pytest.skip("the adapter takes 24000/1001 for 23; times are read exactly below")
    read = otio.adapters.read_from_string(write(cut, name).decode(), READERS[name], **more)
    clips = list(read.find_clips())
    rates = {round(one.source_range.duration.rate, 2) for one in clips}
    assert len(clips) >= len(cut.events)
    assert rates <= {round(float(cut.rate.rate), 2), float(cut.rate.base)}
    found = {(round(c.source_range.start_time.value), round(c.source_range.duration.value)) for c in clips}
    for event in cut.events:
        starts = {event.source_start + event.first, event.first}
        assert any((start, event.duration) in found for start in starts), (found, event)


@pytest.mark.parametrize("name", RATES)
def test_fcpxml_times_are_whole_frames_on_the_clock_of_the_rate(name: str) -> None:
    """As Final Cut writes them: N x 1001/30000s is never reduced to another clock, so a frame is seen as one."""
    rate = RATES[name]
    cut = _cut(name, timecode="10:00:00:00", frame_rate=float(rate.rate))
    root = ET.fromstring(write(cut, "fcpxml"))
    clock = root.find("resources/format").get("frameDuration", "").partition("/")[2]  # type: ignore[union-attr]
    assert clock == f"{rate.rate.numerator}s"

    def read(node: ET.Element, key: str) -> int:
        text = node.get(key, "")
        over, _, under = text.removesuffix("s").partition("/")
        assert text.endswith("s"), text
        assert under in ("", clock[:-1]), text
        frames = Fraction(int(over), int(under or 1)) * rate.rate
        assert frames.denominator == 1, text
        return frames.numerator

    assets = {one.get("id"): one for one in root.iter("asset")}
    found = []
    for clip in root.iter("asset-clip"):
        asset = assets[clip.get("ref")]
        times = [read(clip, key) for key in ("offset", "start", "duration")]
        found.append((*times, read(asset, "start"), read(asset, "duration")))
    assert found == [
        (cut.start + one.record, one.source_start + one.first, one.duration, one.source_start, one.length)
        for one in cut.events
    ]
    (sequence,) = root.iter("sequence")
    assert (read(sequence, "tcStart"), read(sequence, "duration")) == (cut.start, cut.duration)


@pytest.mark.parametrize("name", ["24", "25", "29.97df"])
@pytest.mark.parametrize(
    ("own", "timecode"),
    [("23.976", "10:00:00:12"), ("50", "10:00:00:12"), ("59.94df", "10:00:00;12"), ("8", None)],
)
def test_fcpxml_gives_a_file_of_another_rate_a_format_of_its_own(
    name: str, own: str, timecode: str | None
) -> None:
    """Its frames are counted on its own clock, from its own timecode; the cut stays on the clock of the cut."""
    rate = RATES[name]
    file_rate = RATES[own].rate if own in RATES else Fraction(own)
    cut = _cut(name, [_item(1)], timecode=timecode, frame_rate=float(file_rate))
    root = ET.fromstring(write(cut, "fcpxml"))
    formats = {one.get("id"): one.get("frameDuration", "") for one in root.iter("format")}

    def read(text: str | None) -> Fraction:
        over, _, under = (text or "").removesuffix("s").partition("/")
        return Fraction(int(over), int(under or 1))

    (asset,), (clip,), (event,) = root.iter("asset"), root.iter("asset-clip"), cut.events
    assert read(formats[asset.get("format")]) == 1 / file_rate
    assert read(formats["r1"]) == 1 / rate.rate
    start = RATES[own].count(timecode) if timecode else 0
    first = round(Fraction(event.start_seconds) * file_rate)
    assert read(asset.get("start")) * file_rate == start
    assert read(clip.get("start")) * file_rate == start + first
    assert read(asset.get("duration")) * file_rate == round(60 * file_rate)
    assert read(clip.get("duration")) * rate.rate == event.duration
    assert clip.get("tcFormat") == ("DF" if own.endswith("df") else "NDF")


@pytest.mark.parametrize("name", RATES)
def test_an_edl_counts_as_its_rate_does(name: str) -> None:
    rate, items = RATES[name], [_item(1, start_seconds=n * 0.7, end_seconds=n * 0.7 + 31) for n in range(12)]
    cut = _cut(name, items, timecode="10:00:58:00")
    lines = [line.split()[4:] for line in write(cut, "edl").decode().splitlines() if line[:3].isdigit()]
    assert [[rate.count(text) for text in line] for line in lines] == [
        [one.source_start + one.first, one.source_start + one.stop, place, place + one.duration]
        for one in cut.events
        for place in (cut.start + one.record,)
    ]
    assert {text[-3] for line in lines for text in line} == {";" if rate.is_drop else ":"}


def test_reaper_reads_regions_and_items() -> None:
    rpp = pytest.importorskip("rpp")
    project = rpp.loads(write(_cut(), "reaper").decode())
    regions = [child for child in project if isinstance(child, list) and child[0] == "MARKER"]
    assert [float(region[2]) for region in regions] == pytest.approx([0, 4.48, 4.48, 8.96, 8.96, 68.96])
    assert [item.find(".//SOURCE").attrib[0] for item in project.findall(".//ITEM")] == [
        "VIDEO",
        "VIDEO",
        "WAVE",
    ]
