"""Files that people have beside sound and film, told by their bytes so that a refusal names them.

A photograph is no broken film, and a film from a shop or a scrambled recording is no damaged one.
"""

from __future__ import annotations

import os
import re

from models.media.edits import find_boxes, iterate_boxes
from models.media.tracks import MPEG_STREAMS
from models.media.unreadable import Encrypted, NotMedia

PICTURES = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"....ftyp(heic|heix|mif1|avif)", re.DOTALL), "HEIF"),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0"), "TIFF or camera raw"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  "), "JPEG 2000"),
)
"""How picture files begin, and what they are called."""
ENCRYPTED_ENTRIES = frozenset({b"encv", b"enca", b"drmi", b"drms", b"aavd"})
"""Sample entries of an MP4 whose media is encrypted: CENC, FairPlay, Audible."""
SAMPLES, SAMPLE_BYTES = 16, 1 << 16
"""How much of an MPEG stream is looked at, evenly spread."""
TS_STRIDES = (188, 192, 204)
TS_SHARE = 0.5
"""A transport stream in which more packets are scrambled is refused; one that starts scrambled may go on clear."""
PES_SHARE = 0.05
"""Of a DVD up to half of all sectors are scrambled, and all pictures need them."""
PES_HEADER = re.compile(rb"\0\0\x01[\xbd\xc0-\xef]..([\x80-\xbf])", re.DOTALL)


def refuse_picture(descriptor: int) -> None:
    """Refuse a still picture by name, or a small animation without sound.

    Args:
        descriptor: The open file; its position is kept.

    Raises:
        NotMedia: If it is one.
    """
    head = os.pread(descriptor, 32, 0)
    for start, name in PICTURES:
        if start.match(head):
            raise NotMedia(f"this is a picture file ({name}); only sound and film are read")


def refuse_encrypted(descriptor: int, container: str) -> None:
    """Refuse a file that says that it is encrypted; what only its packets say comes to light when they are read.

    Args:
        descriptor: The open file; its position is kept.
        container: FFmpeg's name of its format.

    Raises:
        Encrypted: If it is.
    """
    is_encrypted = has_encrypted_tracks(descriptor) if "mp4" in container else False
    if is_encrypted or (container in MPEG_STREAMS and is_scrambled(descriptor)):
        raise Encrypted()


def has_encrypted_tracks(descriptor: int) -> bool:
    """Whether an MP4 or MOV has a track of sound or pictures that only a licensed player opens."""
    found = [(0, os.fstat(descriptor).st_size)]
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        found = [box for part in found for box in find_boxes(descriptor, *part, kind)]
    entries = (entry for low, high in found for entry in iterate_boxes(descriptor, low + 8, high))
    return any(kind in ENCRYPTED_ENTRIES for kind, _, _ in entries)


def is_scrambled(descriptor: int) -> bool:
    """Whether a transport stream is scrambled by its provider, or a program stream as DVDs are (CSS)."""
    step = max(SAMPLE_BYTES, os.fstat(descriptor).st_size // SAMPLES)
    samples = [os.pread(descriptor, SAMPLE_BYTES, number * step) for number in range(SAMPLES)]
    controls = [byte for sample in samples for byte in _transport_controls(sample)]
    if controls:
        return sum(byte & 0xC0 != 0 for byte in controls) > TS_SHARE * len(controls)
    flags: list[int] = [match[1][0] for sample in samples for match in PES_HEADER.finditer(sample)]
    return sum(flag & 0x30 != 0 for flag in flags) > PES_SHARE * len(flags)


def _transport_controls(sample: bytes) -> bytes:
    """The fourth byte of every packet that carries something; nothing if these are no transport packets."""
    for stride in TS_STRIDES:
        for start in range(stride):
            packets = range(start, len(sample) - 3, stride)
            if len(packets) > 4 and all(sample[at] == 0x47 for at in packets):
                return bytes(sample[at + 3] for at in packets if sample[at + 1] & 0x1F != 0x1F)
    return b""
