"""What files say of themselves, under the same keys whoever wrote it, and nothing that harms."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from models.media.charsets import read_text
from models.media.clip import ClipSpec, MediaInfo, decode_segments, probe_media
from models.media.said import (
    BEXT,
    MAX_ALL_CHARS,
    MAX_CHARS,
    TAGS,
    SaidKey,
    join,
    read_packet,
    read_sidecar,
    read_tags,
)
from models.media.said_xml import IXML_KEYS, XMP_KEYS, read_ixml
from models.media.ucs import read_ucs

SOUND = ("-f", "lavfi", "-i", "sine=d=0.2:r=8000")
PICTURE = ("-f", "lavfi", "-i", "testsrc=s=64x64:r=5:d=0.4")
TAGGED = {"title": "Old gate", "artist": "Åsa 風", "album": "Farm", "genre": "FX", "comment": "north side"}
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Gate</rdf:li><rdf:li xml:lang="de">Tor</rdf:li></rdf:Alt></dc:title>
<dc:subject><rdf:Bag><rdf:li>wood</rdf:li><rdf:li>creak</rdf:li></rdf:Bag></dc:subject>
<dc:creator><rdf:Seq><rdf:li>Ann</rdf:li><rdf:li>Bo</rdf:li></rdf:Seq></dc:creator>
<dc:description>rusty &amp; old</dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"""
IXML = """<?xml version="1.0" encoding="UTF-8"?><BWFXML><PROJECT>Farm</PROJECT><SCENE>12A</SCENE><TAKE>3</TAKE>
<TAPE>Day 2</TAPE><NOTE>wind</NOTE><SPEED>
<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>1</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>
<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>5</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO></SPEED></BWFXML>"""
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>' + XMP.replace("Gate", "&c;")


def make(path: Path, *arguments: str, **tags: str) -> MediaInfo:
    """A small file with these tags, and what Foley says of it."""
    given = [part for name, text in tags.items() for part in ("-metadata", f"{name}={text}")]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments, *given, path], check=True)
    return probe_media(path)


def add_chunks(path: Path, *chunks: tuple[bytes, bytes]) -> MediaInfo:
    """A WAV file with further chunks at its end, and what Foley says of it."""
    data = path.read_bytes()
    for name, content in chunks:
        data += struct.pack("<4sI", name, len(content)) + content + bytes(len(content) % 2)
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    return probe_media(path)


@pytest.mark.parametrize("name", ["riff.wav", "id3.mp3", "vorbis.ogg", "vorbis.flac", "itunes.m4a"])
def test_tags_have_the_same_keys_in_every_container(tmp_path: Path, name: str) -> None:
    codec = ("-c:a", "flac") if name.endswith(".ogg") else ()
    assert make(tmp_path / name, *SOUND, *codec, **TAGGED).said == TAGGED


def test_tags_of_quicktime_and_matroska(tmp_path: Path) -> None:
    tags = ("-movflags", "use_metadata_tags")
    said = make(
        tmp_path / "a.mov", *PICTURE, *tags, **{"com.apple.quicktime.keywords": "gate, wood"}, **TAGGED
    ).said
    assert said.items() >= {**TAGGED, "keywords": ["gate", "wood"]}.items()
    assert make(tmp_path / "a.mkv", *PICTURE, **TAGGED).said == TAGGED


def test_broadcast_wave_and_ixml(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    info = make(
        path, *SOUND, "-write_bext", "1", description="gate é", originator="Rec", coding_history="A=PCM"
    )
    bext = {"description": "gate é", "originator": "Rec", "coding_history": "A=PCM"}
    assert info.said.items() >= bext.items()
    info = add_chunks(path, (b"iXML", IXML.encode() + b"\0\0\0"))
    said = {"project": "Farm", "scene": "12A", "take": "3", "tape": "Day 2", "note": "wind"}
    assert info.said.items() >= {**bext, **said}.items()
    assert read_ixml(IXML.encode())[1] == (1 << 32) + 5
    assert info.time_reference_samples == 0, "the bext chunk counts before iXML"


def test_time_of_ixml_where_nothing_else_says_one(tmp_path: Path) -> None:
    make(tmp_path / "a.wav", *SOUND)
    assert add_chunks(tmp_path / "a.wav", (b"iXML", IXML.encode())).time_reference_samples == (1 << 32) + 5


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("Geräusch über", "cp1252"), ("«été» – naïve", "cp1252"), ("ドアの音", "cp932"), ("東京駅", "cp932"),
        ("日本 é", "utf-8"), ("Öl", "latin-1"), ("\x81ab\xe9", "latin-1"),
    ],
)  # fmt: skip
def test_encodings_that_nobody_declares(text: str, charset: str) -> None:
    assert read_text(text.encode(charset)) == text


def test_text_that_a_field_cut_within_a_sign() -> None:
    assert read_text("Café é".encode()[:-1]) == "Café "


def test_tags_in_other_encodings_are_read_from_their_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a.wav", *SOUND, "-bitexact")
    words = {
        b"INAM": "Geräusch".encode("cp1252"),
        b"IART": "ドアの音".encode("cp932"),
        b"IKEY": b"gate; wood;gate\0\0",
    }
    content = b"INFO" + b"".join(
        struct.pack("<4sI", name, len(text)) + text + bytes(len(text) % 2) for name, text in words.items()
    )
    said = add_chunks(tmp_path / "a.wav", (b"LIST", content)).said
    assert said == {"title": "Geräusch", "artist": "ドアの音", "keywords": ["gate", "wood"]}


def test_an_xmp_file_counts_before_the_tags(tmp_path: Path) -> None:
    make(tmp_path / "a.wav", *SOUND, **TAGGED)
    said = decode_segments(tmp_path / "a.wav", ClipSpec(), sidecar=XMP.encode()).info.said
    assert said == {
        **TAGGED, "title": "Gate", "keywords": ["wood", "creak"], "artist": "Ann, Bo", "description": "rusty & old",
        "rating": "4",
    }  # fmt: skip
    assert read_sidecar(XMP.encode("utf-16")) == read_sidecar(XMP.encode())


INSIDE = {
    "title": "Gate", "keywords": ["wood", "creak"], "artist": "Ann, Bo", "description": "rusty & old", "rating": "4",
}  # fmt: skip
XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
W64 = bytes.fromhex("F3ACD3118CD100C04F8EDB8A")


def add_box(path: Path, content: bytes, kind: bytes = b"uuid") -> MediaInfo:
    """An MP4 with a further box at its end, and what Foley says of it."""
    path.write_bytes(path.read_bytes() + struct.pack(">I4s", len(content) + 8, kind) + content)
    return probe_media(path)


def add_frame(path: Path, frame: bytes) -> MediaInfo:
    """An MP3 with a further frame PRIV in its ID3 tag, and what Foley says of it."""
    data = path.read_bytes()

    def spread(number: int) -> bytes:
        return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))

    old = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    new = b"PRIV" + spread(len(frame)) + b"\0\0" + frame
    path.write_bytes(data[:6] + spread(old + len(new)) + new + data[10:])
    return probe_media(path)


def test_xmp_inside_a_file_counts_before_its_tags_and_an_xmp_file_before_it(tmp_path: Path) -> None:
    packet, expected = XMP.replace("Gate", "Gäte\\x41").encode(), {**TAGGED, **INSIDE, "title": "Gäte\\x41"}
    riff, apple, mpeg = tmp_path / "a.wav", tmp_path / "a.m4a", tmp_path / "a.mp3"
    for path in (riff, apple, mpeg):
        make(path, *SOUND, **TAGGED)
    ixml = (
        b"iXML",
        IXML.replace("<NOTE>", "<BEXT><BWF_DESCRIPTION>x</BWF_DESCRIPTION></BEXT><NOTE>").encode(),
    )
    assert add_chunks(riff, ixml, (b"_PMX", packet)).said.items() >= expected.items()
    assert add_box(apple, XMP_BOX + packet).said == expected
    assert add_frame(mpeg, b"XMP\0" + packet).said == expected
    sidecar = XMP.replace("Gate", "Beside").encode()
    assert decode_segments(apple, ClipSpec(), sidecar=sidecar).info.said["title"] == "Beside"


def test_xmp_of_quicktime_and_avi(tmp_path: Path) -> None:
    movie, avi = tmp_path / "a.mov", tmp_path / "a.avi"
    make(movie, *PICTURE, "-movflags", "empty_moov")
    data, box = movie.read_bytes(), struct.pack(">I4s", len(XMP) + 8, b"XMP_") + XMP.encode()
    box = struct.pack(">I4s", len(box) + 12, b"udta") + box + bytes(4)  # which QuickTime ends with zeros
    place = data.index(b"moov") - 4
    size = int.from_bytes(data[place : place + 4], "big")
    end = place + size
    if data.find(b"udta", place, end) > 0:
        data = data.replace(b"udta", b"free", 1)
    data = data[:place] + struct.pack(">I", size + len(box)) + data[place + 4 : end] + box + data[end:]
    movie.write_bytes(data)
    assert probe_media(movie).said == INSIDE
    make(avi, *PICTURE, "-bitexact")
    assert add_chunks(avi, (b"_PMX", XMP.encode())).said == INSIDE


def test_hostile_xmp_inside_a_file(tmp_path: Path) -> None:
    wave, apple, mpeg = tmp_path / "a.wav", tmp_path / "a.m4a", tmp_path / "a.mp3"
    for path in (wave, apple, mpeg):
        make(path, *SOUND, "-bitexact")
    long = XMP.encode() + b" " * (1 << 20)
    add_chunks(wave, (b"_PMX", long))
    assert add_chunks(wave, (b"_PMX", BOMB.encode())).said == {}
    add_box(apple, XMP_BOX + long)
    add_box(apple, b"\0" * 16 + XMP.encode())  # of another UUID
    assert add_box(apple, XMP_BOX + BOMB.encode()).said == {}
    add_frame(mpeg, b"XMP\0" + BOMB.encode())
    assert probe_media(mpeg).said == {}
    for escaped in ("\\N{DIGIT ONE}", "\\u0041", "\\", "é", "\\xzz", "<a>" * (2 << 20)):
        held = SimpleNamespace(metadata={"id3v2_priv.XMP": escaped})
        assert read_packet(-1, held) == {}, escaped[:20]


def test_wave64_has_the_same_chunks_and_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.w64"
    make(path, *SOUND)
    bext = bytearray(b"gate".ljust(602, b"\0"))
    bext[338:346] = (96_000).to_bytes(8, "little")
    title = "Tür\0".encode("utf-16-le")
    summary = struct.pack("<I4sI", 1, b"INAM", len(title)) + title
    data = path.read_bytes()
    for guid, content in (
        (b"bext" + W64, bytes(bext)),
        (b"iXML" + W64, IXML.encode()),
        (bytes.fromhex("BC945F925A52D21186DC00C04F8EDB8A"), summary),
    ):
        data += guid + struct.pack("<Q", 24 + len(content)) + content + bytes(-len(content) % 8)
    path.write_bytes(data)
    info = probe_media(path)
    assert info.said.items() >= {"description": "gate", "scene": "12A", "take": "3", "title": "Tür"}.items()
    assert info.time_reference_samples == 96_000, "the bext chunk counts before iXML"
    path.write_bytes(data[: data.index(b"iXML")] + b"iXML" + W64 + b"\xff" * 8 + IXML.encode())
    assert "scene" not in probe_media(path).said


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {}),
        (b"\0" * 1000, {}),
        (b"no xml", {}),
        (BOMB.encode(), {}),
        (BOMB.encode("utf-16"), {}),
        (b"<a>" * 100_000, {}),
        (XMP.encode() + b" " * (1 << 20), {}),
        (XMP[: XMP.index("<dc:subject")].encode(), {"rating": "4", "title": "Gate"}),
        (
            XMP.replace("old", "\0 old").encode(),
            {"rating": "4", "title": "Gate", "keywords": ["wood", "creak"], "artist": "Ann, Bo"},
        ),
    ],
)
def test_broken_and_hostile_xmp(data: bytes, expected: dict[str, object]) -> None:
    assert read_sidecar(data) == expected


def test_hostile_values_are_cut_and_cleaned(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    make(path, *SOUND, "-bitexact")
    comment = b"ICMT" + struct.pack("<I", 10 << 20) + b"x" * (10 << 20)
    said = add_chunks(
        path, (b"LIST", b"INFO" + comment), (b"iXML", b"<BWFXML><SCENE>1</SCENE><TAKE>&x;")
    ).said
    assert said == {"comment": "x" * MAX_CHARS, "scene": "1"}
    hostile = {
        "title": "\u202egnp.\x1b[31ma\x00",
        "artist": " \u200b\n",
        "genre": "y" * 9000,
        "keywords": "k," * 9000,
    }
    said = read_tags(SimpleNamespace(metadata=hostile, streams=[]))
    assert said["title"] == "gnp.[31ma"
    assert (len(said["genre"]), said["keywords"], "artist" in said) == (MAX_CHARS, ["k"], False)
    many = join({str(number): "x" * MAX_CHARS for number in range(99)})
    assert sum(map(len, many.values())) <= MAX_ALL_CHARS


def test_names_of_the_universal_category_system() -> None:
    assert read_ucs("/a_b/GUNAuto-EXT_UZI 9mm-Rapid Fire_TN_NONE_416-MKH_2.wav") == {
        "ucs_category_id": "GUNAuto", "ucs_category": "GUNS-AUTOMATIC", "ucs_user_category": "EXT",
        "ucs_fx_name": "UZI 9mm-Rapid Fire", "ucs_creator": "TN", "ucs_source": "NONE", "ucs_user_data": "416-MKH_2",
    }  # fmt: skip
    for name in (
        "VIDEO_take_2.mp4",
        "gunauto_a_b_c.wav",
        "GUNAuto.wav",
        "GUNAutoX_a_b_c.wav",
        "",
        "_.wav",
        "\udce9_a.wav",
    ):
        assert read_ucs(name) == {}


def test_every_key_is_one_that_the_description_of_the_api_names() -> None:
    by_name = read_ucs("GUNAuto-EXT_Uzi_TN_NONE_416.wav")
    keys = (
        {key for _, key in TAGS} | set(BEXT) | {*XMP_KEYS.values()} | {*IXML_KEYS.values()} | by_name.keys()
    )
    assert keys == set(get_args(SaidKey))
