"""What XML says of a file, in its iXML chunk or in an XMP file beside it, read without trust.

No document type is accepted, so no entity exists; size, depth and number of texts are bounded. Of a damaged document
counts what comes before the fault.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from xml.parsers import expat

from models.media.charsets import read_text

MAX_XML_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_TEXTS = 10_000
NUMBER = re.compile(r"[0-9]{1,10}")
MARKS_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

DC, XMP = "http://purl.org/dc/elements/1.1/ ", "http://ns.adobe.com/xap/1.0/ "
DYNAMIC_MEDIA = "http://ns.adobe.com/xmp/1.0/DynamicMedia/ "
XMP_KEYS = {
    DC + "title": "title",
    DC + "description": "description",
    DC + "subject": "keywords",
    DC + "creator": "artist",
    DC + "rights": "copyright",
    XMP + "Rating": "rating",
    XMP + "Label": "label",
    XMP + "CreateDate": "date",
    **{DYNAMIC_MEDIA + name: name for name in ("artist", "album", "genre", "composer", "scene")},
    DYNAMIC_MEDIA + "tapeName": "tape",
    DYNAMIC_MEDIA + "takeNumber": "take",
    DYNAMIC_MEDIA + "logComment": "comment",
    DYNAMIC_MEDIA + "projectName": "project",
}
IXML_KEYS = {
    **{("bwfxml", name): name for name in ("project", "scene", "take", "tape", "note")},
    ("bext", "bwf_description"): "description",
    ("bext", "bwf_originator"): "originator",
    ("aswg", "catid"): "ucs_category_id",
    ("aswg", "fxname"): "ucs_fx_name",
    ("aswg", "creatorid"): "ucs_creator",
    ("aswg", "sourceid"): "ucs_source",
}


class _Refused(Exception):
    """The document asks for more than it may."""


def read_xmp(data: bytes) -> dict[str, list[str]]:
    """What an XMP document says, by key; of texts in several languages the first."""
    said: dict[str, list[str]] = {}
    for path, text in _texts(data):
        for place, name in enumerate(path):
            if (key := XMP_KEYS.get(name)) is not None:
                below = path[place + 1 :]
                is_list = any(part.endswith((" Bag", " Seq")) for part in below)
                is_language = bool(below) and below[-1].endswith(" lang")
                if text.strip() and not is_language and (is_list or key not in said):
                    said.setdefault(key, []).append(text)
                break
    return said


def read_ixml(data: bytes) -> tuple[dict[str, list[str]], int | None]:
    """What an iXML document says, by key, and its samples since midnight."""
    said: dict[str, list[str]] = {}
    stamps: dict[str, int] = {}
    for path, text in _texts(data):
        *_, above, name = ("", *(part.casefold() for part in path))
        key = IXML_KEYS.get((above, name))
        if key is not None and text.strip():
            said.setdefault(key, [text])
        stem, _, end = name.rpartition("_")
        if above == "speed" and stem == "timestamp_samples_since_midnight" and NUMBER.fullmatch(text.strip()):
            stamps.setdefault(end, int(text))
    if "lo" not in stamps or max(stamps.values()) >= 1 << 32:
        return said, None
    return said, (stamps.get("hi", 0) << 32) + stamps["lo"]


def _texts(data: bytes) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts of elements and attributes, each with the names down to it: `namespace name`."""
    path: list[str] = []
    pieces: list[list[str]] = []
    found: list[tuple[tuple[str, ...], str]] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(path) >= MAX_DEPTH or len(found) + len(attributes) >= MAX_TEXTS:
            raise _Refused
        path.append(name)
        pieces.append([])
        found.extend(((*path, attribute), value) for attribute, value in attributes.items())

    def end(_: str) -> None:
        found.append((tuple(path), "".join(pieces.pop())))
        path.pop()

    def refuse(*_: object) -> None:
        raise _Refused

    if len(data) > MAX_XML_BYTES:
        return
    text = data.decode("utf-16", "replace") if data.startswith(MARKS_16) else read_text(data)
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")  # whatever the document declares
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = lambda piece: pieces[-1].append(piece)
    parser.StartDoctypeDeclHandler = refuse
    with contextlib.suppress(expat.ExpatError, _Refused):
        parser.Parse(text.strip("\0\ufeff \r\n\t").encode("utf-8", "replace"), True)
    yield from found
