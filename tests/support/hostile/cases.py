"""The table of hostile files: how each is made and what becomes of it.

An outcome is `ok`, `partial` (less decodes than the header declares) or the code of an error.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.hostile.boxes import DATA_OFFSET, HEAD, Track, Wav, box, ebml, mp4, silent_flac
from tests.support.hostile.sources import PICTURE, SOUND, good, jpeg
from tests.support.media_files import AudioTrack, VideoTrack, every, make_tone, write_media

MIB = 1 << 20
Content = Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile file."""

    name: str
    content: Content
    outcome: str
    file_name: str = "file.mp4"

    @property
    def outcomes(self) -> set[str]:
        """What may become of it: the slow ones run out of time on a slow machine."""
        return {self.outcome, "decode_timed_out"} if self.name in SLOW else {self.outcome}

    def write(self, folder: Path) -> Path:
        """Make it in a folder of its own."""
        place = folder / self.name.replace(" ", "_").replace("/", "_")
        place.mkdir(parents=True)
        path = place / os.fsdecode(os.fsencode(self.file_name))
        path.write_bytes(self.content())
        return path


def _random(count: int) -> bytes:
    return random.Random(0).randbytes(count)


def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(20 * MIB))
    return buffer.getvalue()


NOT_MEDIA: dict[str, Content] = {
    "one byte": lambda: b"\0",
    "random 1 KB": lambda: _random(1000),
    "random 1 MB": lambda: _random(MIB),
    "zeros": lambda: bytes(100_000),
    "html": lambda: b"<!doctype html><html><body>hello</body></html>" * 40,
    "json": lambda: b'{"a": [1, 2, 3]}' * 40,
    "pdf": lambda: b"%PDF-1.4\n" + b"1 0 obj\n" * 100,
    "elf": lambda: b"\x7fELF\x02\x01\x01" + bytes(500),
    "zip bomb": _zip_bomb,
    "gzip of a good file": lambda: gzip.compress(good("wav"), mtime=0),
    "text": lambda: b"hello world\n" * 200,
    "lyrics": lambda: b"[00:01.00]hello\n[00:02.00]world\n" * 20,
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "dash": lambda: b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    "subtitles": lambda: b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 20,
    "picture": jpeg,
}


def _without_moov() -> bytes:
    content = good("mp4")
    return content[: content.index(b"moov") - 4]


def _half(suffix: str) -> Content:
    # Two seconds, so that half of them is more than the header alone.
    return lambda: good(suffix, 2.0)[: len(good(suffix, 2.0)) // 2]


def _head(suffix: str) -> Content:
    return lambda: good(suffix)[:64]


def _subtitles_only() -> bytes:
    return mp4(Track(handler=b"sbtl", codec=b"tx3g", sample_bytes=2, offset=DATA_OFFSET), data=bytes(2))


def _still(**changes: object) -> bytes:
    """A file of ten samples that are all the same JPEG."""
    track = Track(sample_bytes=len(jpeg()), offset=DATA_OFFSET)
    return mp4(replace(track, **changes), data=jpeg())  # type: ignore[arg-type]


def _not_a_number() -> bytes:
    samples = struct.pack("<8f", *[float("nan"), float("inf"), -float("inf"), 1e38, 0.5, -0.5, 0.0, 3e38])
    return Wav(kind=3, bits=32, data=samples * 4000).to_bytes()


def _latin1_tags() -> bytes:
    tag = "Café à la crème".encode("latin-1")
    entry = b"INAM" + struct.pack("<I", len(tag) + 1) + tag + b"\0"
    listing = b"INFO" + entry
    content = bytearray(Wav().to_bytes() + b"LIST" + struct.pack("<I", len(listing)) + listing)
    content[4:8] = struct.pack("<I", len(content) - 8)
    return bytes(content)


def _written(name: str, **tracks: object) -> Content:
    def write() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return write_media(Path(folder) / name, **tracks).read_bytes()  # type: ignore[arg-type]

    return write


def _surround() -> bytes:
    tones = make_tone(1.0, 48_000, [300.0 + 50 * channel for channel in range(8)])
    return _written("a.webm", audio=AudioTrack(samples=tones, codec="libopus", layout="7.1"))()


def _changing_size() -> bytes:
    """Two stretches of H.264 of different sizes, one after the other, as a switched broadcast has them."""
    small = _written("a.ts", video=VideoTrack(times=every(1.0, 25)))()
    large = _written("a.ts", video=VideoTrack(times=every(1.0, 25, start=1.0), side=128))()
    return small + large


DAMAGED: dict[str, tuple[Content, str]] = {
    "mp4 without moov": (_without_moov, "not_media"),
    "half an mp4": (_half("mp4"), "not_media"),
    **{f"half a {suffix}": (_half(suffix), "partial") for suffix in ("mkv", "webm", "flac", "mp3")},
    "half an avi": (_half("avi"), "partial"),
    "half a wav": (_half("wav"), "ok"),  # FFmpeg takes its length from the file
    "half an ogg": (_half("ogg"), "ok"),  # these two declare none
    "half a ts": (_half("ts"), "ok"),
    "half an flv": (_half("flv"), "partial"),
    "half an aiff": (_half("aiff"), "partial"),
    **{f"64 bytes of {suffix}": (_head(suffix), "not_media") for suffix in (*SOUND, *PICTURE)},
    "64 bytes of aiff": (_head("aiff"), "broken_media"),  # the whole header and no sound
    "mp4 without tracks": (mp4, "no_stream"),
    "subtitles alone": (_subtitles_only, "no_stream"),
    "unknown codec": (lambda: _still(codec=b"zzzz"), "no_stream"),
    "timescale 0": (lambda: _still(timescale=0, deltas=[(10, 1)]), "ok"),
    "wav of 0 Hz": (lambda: Wav(rate_hz=0).to_bytes(), "not_media"),
    "wav of 0 channels": (lambda: Wav(num_channels=0).to_bytes(), "broken_media"),
    "wav of 65535 channels": (lambda: Wav(num_channels=65_535).to_bytes(), "broken_media"),
    "wav of 100 channels": (lambda: Wav(num_channels=100).to_bytes(), "too_complex"),
    "wav of 0 bit": (lambda: Wav(bits=0).to_bytes(), "no_stream"),
    "wav that is not a number": (_not_a_number, "ok"),
    "wav that claims 4 GB": (lambda: Wav(riff_bytes=2**32 - 1, data_bytes=2**32 - 1).to_bytes(), "ok"),
    "wav of a codec nobody knows": (lambda: Wav(kind=0x7777).to_bytes(), "no_stream"),
    "latin-1 tags": (_latin1_tags, "ok"),
    "7.1 Opus": (_surround, "ok"),
    "size change in mid-stream": (_changing_size, "ok"),
    "ts after itself": (lambda: good("ts") * 2, "ok"),
}


def _many_pictures() -> bytes:
    """100,000 times one picture, in a second."""
    picture = jpeg(640, 360)
    track = Track(
        width=640,
        height=360,
        timescale=100_000,
        deltas=[(100_000, 1)],
        num_samples=100_000,
        sample_bytes=len(picture),
        offset=DATA_OFFSET,
    )
    return mp4(track, data=picture)


def _huge_picture() -> bytes:
    """A picture whose header says 12,000 × 12,000, in a file that says 64 × 64."""
    content = bytearray(jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 12_000, 12_000)
    return mp4(Track(sample_bytes=len(content), offset=DATA_OFFSET), data=bytes(content))


def _many_tags() -> bytes:
    tags = (
        ebml("7373", ebml("63C0", b"") + ebml("67C8", ebml("45A3", b"NAME%d" % i) + ebml("4487", b"v")))
        for i in range(5000)
    )
    return _with_elements(ebml("1254C367", b"".join(tags)))


def _deep_tags() -> bytes:
    tag = b""
    for _ in range(2000):
        tag = ebml("67C8", ebml("45A3", b"N" * 50) + ebml("4487", b"v") + tag)
    return _with_elements(ebml("1254C367", ebml("7373", ebml("63C0", b"") + tag)))


def _with_elements(*elements: bytes) -> bytes:
    """A good Matroska file with more elements before its first cluster."""
    content = good("mkv")
    segment = content.index(bytes.fromhex("18538067"))
    cluster = content.index(bytes.fromhex("1F43B675"))
    inside = content[segment + 12 : cluster] + b"".join(elements) + content[cluster:]
    return content[:segment] + ebml("18538067", inside)


def _deep_atoms() -> bytes:
    content = b""
    for _ in range(5000):
        content = struct.pack(">I", len(content) + 8) + b"moov" + content
    return HEAD + content


def _compressed_header() -> bytes:
    """A header of 500 MB of zeros, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (500 * MIB % 65_521) << 16 | 1  # Adler-32 of zeros
    packed = b"\x78\xda" + block * 500 + packer.flush() + struct.pack(">I", checksum)
    header = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", struct.pack(">I", 500 * MIB), packed))
    return HEAD + box(b"mdat") + box(b"moov", header)


def _far_apart() -> bytes:
    return _written("a.mkv", video=VideoTrack(times=[0.0, 24 * 86_400.0], gop=1))()


BOMBS: dict[str, tuple[Content, str]] = {
    "FLAC of 9.5 h": (lambda: silent_flac(9.5, declared_samples=0), "too_long"),
    "FLAC that declares 9.5 h": (lambda: silent_flac(0.01, declared_samples=273_600_000), "too_long"),
    "100,000 pictures in a second": (_many_pictures, "ok"),
    "header of 12000 x 12000 and a small picture": (lambda: _still(width=12_000, height=12_000), "ok"),
    "picture of 12000 x 12000": (_huge_picture, "broken_media"),
    "2000 edits": (lambda: _still(edits=[(1, 0)] * 2000), "ok"),
    "225 KB of edits": (lambda: _still(edits=[(1000, i % 900) for i in range(18_000)]), "too_complex"),
    "5000 tags": (_many_tags, "decode_timed_out"),
    "2000 tags in each other": (_deep_tags, "ok"),
    "20,000 tracks": (lambda: mp4(*[Track()] * 20_000), "too_complex"),
    "atoms 5000 deep": (_deep_atoms, "not_media"),
    "500 MB header in 500 KB": (_compressed_header, "no_stream"),
    "24 days in 3 KB": (_far_apart, "too_long"),
}

SLOW = {"5000 tags", "500 MB header in 500 KB", "100,000 pictures in a second", "20,000 tracks"}
MAX_SECONDS = 60.0
"""How long a file may last in these tests."""

NAMES = (
    "concat:a|b",
    "subfile,,start,0,end,0,,:x",
    "crypto+file:x",
    "tcp:127.0.0.1:1",
    "data:,x",
    "%03d.png",
)

CASES: tuple[Case, ...] = (
    Case(name="empty", content=bytes, outcome="empty"),
    *(Case(name=name, content=content, outcome="not_media") for name, content in NOT_MEDIA.items()),
    *(Case(name=name, content=content, outcome=outcome) for name, (content, outcome) in DAMAGED.items()),
    *(Case(name=name, content=content, outcome=outcome) for name, (content, outcome) in BOMBS.items()),
    *(
        Case(name=f"named {name}", content=lambda: good("wav"), outcome="ok", file_name=name)
        for name in NAMES
    ),
    Case(name="named \udcff\udcfe", content=lambda: good("wav"), outcome="ok", file_name="\udcff\udcfe.wav"),
)
