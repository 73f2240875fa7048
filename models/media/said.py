"""What a file says of itself: tags of its container, Broadcast Wave and iXML, XMP inside it and beside it.

`MediaInfo.said` has it under the same keys for all of them. Where several sources name a key, the XMP file counts
before the XMP packet inside, that before iXML, and iXML before tags. Values are bounded, without control characters.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, cast

from models.media.charsets import read_text, restore_text
from models.media.edits import FILE_TYPES, find_boxes, iterate_boxes
from models.media.said_xml import MAX_XML_BYTES, read_ixml, read_xmp

SaidKey = Literal[
    "title", "artist", "album", "album_artist", "composer", "genre", "comment", "description", "copyright", "date",
    "keywords", "publisher", "track", "disc", "bpm", "musical_key", "engineer", "rating", "label", "originator",
    "originator_reference", "coding_history", "project", "scene", "take", "tape", "note", "ucs_category_id",
    "ucs_category", "ucs_user_category", "ucs_fx_name", "ucs_creator", "ucs_source", "ucs_user_data",
]  # fmt: skip
Said = dict[SaidKey, str | list[str]]
Texts = dict[str, str | list[str]]

MAX_CHARS = 2000
"""Characters of a value; a longer one is cut."""
MAX_ALL_CHARS = 16_000
"""Characters of all values of a file: they are stored with each of its segments."""
MAX_KEYWORDS = 64
MAX_CHUNKS = 256
BEXT = {
    "description": (0, 256),
    "originator": (256, 288),
    "originator_reference": (288, 320),
    "date": (320, 330),
    "coding_history": (602, None),
}
"""Where the fields of a bext chunk lie (EBU Tech 3285); FFmpeg takes the first for a comment."""
TIME_REFERENCE = slice(338, 346)
MAX_SAMPLES = 10**18
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
ID3_XMP = "id3v2_priv.XMP"
"""Name FFmpeg gives to an ID3 frame PRIV of owner XMP; bytes that are not plain ASCII are escaped: `\\x0a`."""
NO_ESCAPE = re.compile(r"\\(?!x[0-9a-f]{2})")
WAVE64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"
WAVE64_CHUNK = bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""The end of the GUID of a chunk in Wave64; before it stands the name it has in a WAV."""
APPLE = "com.apple.quicktime."
TAGS = (
    ("title", "title"), ("artist", "artist"), ("author", "artist"), ("performer", "artist"), ("album", "album"),
    ("album_artist", "album_artist"), ("composer", "composer"), ("genre", "genre"), ("comment", "comment"),
    ("description", "description"), ("synopsis", "description"), ("isbj", "description"), ("copyright", "copyright"),
    ("date", "date"), ("date_recorded", "date"), ("date_released", "date"),
    ("creationdate", "date"), ("year", "date"), ("creation_time", "date"), ("keywords", "keywords"),
    ("ikey", "keywords"), ("publisher", "publisher"), ("track", "track"), ("disc", "disc"), ("tbpm", "bpm"),
    ("bpm", "bpm"), ("tkey", "musical_key"), ("ieng", "engineer"),
    ("project", "project"),
    ("scene", "scene"), ("take", "take"), ("tape", "tape"), ("reel_name", "tape"), ("note", "note"),
    ("rating", "rating"),
)  # fmt: skip
"""Names of tags as FFmpeg has them, in small letters, and their keys; the first that a file has counts."""


def read_tags(container: Any) -> Texts:
    """What the tags of a PyAV container and its streams say; their text was decoded with `surrogateescape`."""
    tags: dict[str, str] = {}
    for held in (container.metadata, *(stream.metadata for stream in container.streams)):
        for name, text in held.items():
            tags.setdefault(name.casefold().removeprefix(APPLE), text)
    if "T" not in tags.get("creation_time", "T"):
        del tags["creation_time"]  # that of a bext chunk is a time without a day
    said: dict[str, list[str]] = {}
    for name, key in TAGS:
        if tags.get(name, "").strip() and key not in said:
            said[key] = [restore_text(tags[name][: 8 * MAX_CHARS])]
    return tidy(said)


def read_wave(descriptor: int) -> tuple[Texts, int | None]:
    """What the XMP, iXML and bext chunks of a WAV, Wave64 or AVI say, and the samples since midnight."""
    chunks = _find_chunks(descriptor, (b"_PMX", b"iXML", b"bext"))
    said, samples = read_ixml(chunks.get(b"iXML", b""))
    bext = chunks.get(b"bext", b"")
    if len(bext) >= TIME_REFERENCE.stop:
        samples = int.from_bytes(bext[TIME_REFERENCE], "little")
    fields = {key: bext[first:stop].split(b"\0")[0] for key, (first, stop) in BEXT.items()}
    by_bext = tidy({key: [read_text(text)] for key, text in fields.items()})
    said_of_all = {**by_bext, **tidy(said), **tidy(read_xmp(chunks.get(b"_PMX", b"")))}
    return said_of_all, None if samples is None or samples >= MAX_SAMPLES else samples


def read_packet(descriptor: int, container: Any) -> Texts:
    """What the XMP packet of an MP4, a MOV or an ID3 tag says."""
    escaped = container.metadata.get(ID3_XMP, "")
    if not escaped:
        return tidy(read_xmp(_find_xmp_box(descriptor)))
    if not escaped.isascii() or len(escaped) > 4 * MAX_XML_BYTES or NO_ESCAPE.search(escaped):
        return {}
    return tidy(read_xmp(escaped.encode().decode("unicode_escape").encode("latin-1")))


def _find_xmp_box(descriptor: int) -> bytes:
    """The packet in the box of Adobe's UUID, or that of QuickTime among its user data; empty if it is too large."""
    size_bytes = os.fstat(descriptor).st_size
    for number, (kind, low, high) in enumerate(iterate_boxes(descriptor, 0, size_bytes)):
        if number == 0 and kind not in FILE_TYPES:
            break
        found = None
        if kind == b"uuid" and os.pread(descriptor, len(XMP_BOX), low) == XMP_BOX:
            found = (low + len(XMP_BOX), high)
        elif kind == b"moov" and (held := next(find_boxes(descriptor, low, high, b"udta"), None)):
            found = next(find_boxes(descriptor, *held, b"XMP_"), None)
        if found is not None and found[1] - found[0] <= MAX_XML_BYTES:
            return os.pread(descriptor, found[1] - found[0], found[0])
    return b""


def read_sidecar(data: bytes) -> Texts:
    """What an XMP file says."""
    return tidy(read_xmp(data))


def join(*sources: Mapping[Any, str | list[str]]) -> Said:
    """All of several sources, the earlier one where they name the same key, within the bounds of a file."""
    joined: Texts = {}
    num_left = MAX_ALL_CHARS
    for key, value in ((key, value) for source in sources for key, value in source.items()):
        if key == "comment" and value == joined.get("description"):  # so FFmpeg calls that of a bext chunk
            continue
        size = len(value) if isinstance(value, str) else sum(map(len, value))
        if key not in joined and size <= num_left:
            joined[key] = value
            num_left -= size
    return cast(Said, joined)


def tidy(said: Mapping[str, Sequence[str]]) -> Texts:
    """Clean texts: keywords become a list, all else one text."""
    tidied: Texts = {}
    for key, texts in said.items():
        if key == "keywords":
            parts = (part for text in texts for part in re.split(r"[;,\n]", text[: 8 * MAX_CHARS]))
            words = dict.fromkeys(filter(None, map(_clean, islice(parts, 8 * MAX_KEYWORDS))))
            if words:
                tidied[key] = list(words)[:MAX_KEYWORDS]
        elif text := _clean(", ".join(texts[:MAX_KEYWORDS])):
            tidied[key] = text
    return tidied


def _clean(text: str) -> str:
    lines = text[: 2 * MAX_CHARS].replace("\r\n", "\n").replace("\r", "\n")
    kept: Iterable[str] = (
        sign for sign in lines if sign in "\n\t\u200c\u200d" or unicodedata.category(sign)[0] != "C"
    )
    return "".join(kept).strip()[:MAX_CHARS]


def _find_chunks(descriptor: int, names: Sequence[bytes]) -> dict[bytes, bytes]:
    """The first chunk of each name in a RIFF, RF64, BW64 or Wave64 file; none that is too large."""
    chunks: dict[bytes, bytes] = {}
    head = os.pread(descriptor, 40, 0)
    is_wave64 = head[:16] == WAVE64 and head[24:] == b"wave" + WAVE64_CHUNK
    if not is_wave64 and (
        head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:12] not in (b"WAVE", b"AVI ")
    ):
        return chunks
    place, long_size = 40 if is_wave64 else 12, 0
    length, step = (24, 8) if is_wave64 else (8, 2)
    for _ in range(MAX_CHUNKS):
        head = os.pread(descriptor, length, place)
        if len(head) < length or len(chunks) == len(names):
            break
        found, size = head[:4], int.from_bytes(head[-8:] if is_wave64 else head[4:], "little")
        if is_wave64:
            size -= length
            if size < 0 or head[4:16] != WAVE64_CHUNK:
                found, size = b"", max(size, 0)
        if found in names and found not in chunks and size <= MAX_XML_BYTES:
            chunks[found] = os.pread(descriptor, size, place + length)
        if found == b"ds64":
            long_size = int.from_bytes(os.pread(descriptor, 8, place + 16), "little")
        size = long_size if found == b"data" and size == 0xFFFFFFFF and not is_wave64 else size
        place += length + size + -size % step
        if place >= 1 << 62:
            break
    return chunks
