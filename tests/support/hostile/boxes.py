"""MP4, Matroska, FLAC and WAV files byte by byte, so that any field can hold anything."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

MATRIX = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def box(kind: bytes, *parts: bytes) -> bytes:
    """One box of MP4."""
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


@dataclass(frozen=True, kw_only=True)
class Track:
    """A track whose samples may lie anywhere in the file, many at one place."""

    codec: bytes = b"jpeg"
    handler: bytes = b"vide"
    width: int = 64
    height: int = 64
    timescale: int = 1000
    deltas: Sequence[tuple[int, int]] = ((10, 100),)  # so many samples last so many ticks each
    num_samples: int = 10
    sample_bytes: int = 0
    offset: int = 0
    edits: Sequence[tuple[int, int]] = ()  # length and start of each
    reference: bytes = full(b"url ", flags=1)
    extra: bytes = b""

    def to_bytes(self, number: int) -> bytes:
        """The `trak` box."""
        header = full(
            b"tkhd",
            struct.pack(">IIIII8x", 0, 0, number, 0, 1000),
            struct.pack(">hhhh", 0, 0, 0, 0) + MATRIX,
            struct.pack(">II", self.width << 16 & 0xFFFFFFFF, self.height << 16 & 0xFFFFFFFF),
            flags=3,
        )
        edits = b""
        if self.edits:
            entries = b"".join(struct.pack(">iiI", length, start, 1 << 16) for length, start in self.edits)
            edits = box(b"edts", full(b"elst", struct.pack(">I", len(self.edits)), entries))
        ticks = min(sum(count * delta for count, delta in self.deltas), 0xFFFFFFFF)
        media = box(
            b"mdia",
            full(b"mdhd", struct.pack(">IIIIHH", 0, 0, self.timescale, ticks, 0x55C4, 0)),
            full(b"hdlr", bytes(4) + self.handler + bytes(13)),
            box(b"minf", full(b"vmhd", bytes(8), flags=1), self._data_information(), self._table()),
        )
        return box(b"trak", header, edits, media, self.extra)

    def _data_information(self) -> bytes:
        return box(b"dinf", full(b"dref", struct.pack(">I", 1), self.reference))

    def _table(self) -> bytes:
        entry = box(
            self.codec,
            struct.pack(">6xH16xHHIIIH32xHh", 1, self.width, self.height, 72 << 16, 72 << 16, 0, 1, 24, -1),
        )
        count = self.num_samples
        return box(
            b"stbl",
            full(b"stsd", struct.pack(">I", 1), entry),
            full(
                b"stts", struct.pack(">I", len(self.deltas)), *(struct.pack(">II", *d) for d in self.deltas)
            ),
            full(b"stsc", struct.pack(">IIII", 1, 1, 1, 1)),
            full(b"stsz", struct.pack(">II", self.sample_bytes, count)),
            full(b"stco", struct.pack(">I", count), struct.pack(">I", self.offset) * count),
        )


HEAD = box(b"ftyp", b"isom", bytes(4), b"isommp41")
DATA_OFFSET = len(HEAD) + 8


def mp4(*tracks: Track, data: bytes = b"", timescale: int = 1000, duration: int = 1000) -> bytes:
    """A file with these tracks; the data begin at `DATA_OFFSET`."""
    header = full(
        b"mvhd",
        struct.pack(">IIIIIH10x", 0, 0, timescale, duration, 1 << 16, 1 << 8),
        MATRIX,
        bytes(24),
        struct.pack(">I", len(tracks) + 1),
    )
    traks = (track.to_bytes(number) for number, track in enumerate(tracks, 1))
    return HEAD + box(b"mdat", data) + box(b"moov", header, *traks)


def ebml(kind: str, content: bytes) -> bytes:
    """One element of Matroska; the id in hexadecimal."""
    return bytes.fromhex(kind) + struct.pack(">Q", 1 << 56 | len(content)) + content


def matroska(*elements: bytes) -> bytes:
    """A file with these elements in its segment."""
    return ebml("1A45DFA3", ebml("4282", b"matroska")) + ebml("18538067", b"".join(elements))


def crc(data: bytes, polynomial: int, bits: int) -> int:
    """The checksum of FLAC: no reflection, starts at 0."""
    value, top, mask = 0, 1 << (bits - 1), (1 << bits) - 1
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value


def silent_flac(hours: float, *, declared_samples: int) -> bytes:
    """Silence at 8 kHz in frames of 16 bytes for each 8 s; a declared length of 0 is an unknown one."""
    size = 65_535
    count = round(hours * 3600 * 8000 / size)
    packed = 8000 << 44 | 0 << 41 | 15 << 36 | declared_samples
    info = struct.pack(">HH6x", size, size) + packed.to_bytes(8, "big") + bytes(16)
    frames = []
    for number in range(count):
        head = (
            b"\xff\xf8\x74\x08" + chr(number).encode("utf-8", "surrogatepass") + struct.pack(">H", size - 1)
        )
        frame = head + bytes([crc(head, 0x07, 8)]) + b"\x00\x00\x00"
        frames.append(frame + struct.pack(">H", crc(frame, 0x8005, 16)))
    return b"fLaC\x80" + len(info).to_bytes(3, "big") + info + b"".join(frames)


@dataclass(frozen=True, kw_only=True)
class Wav:
    """A WAV file whose header may say anything."""

    kind: int = 1
    num_channels: int = 1
    rate_hz: int = 16_000
    bits: int = 16
    data: bytes = field(default=bytes(32_000))
    riff_bytes: int | None = None
    data_bytes: int | None = None

    def to_bytes(self) -> bytes:
        """The file."""
        align = self.num_channels * self.bits // 8
        rate = self.rate_hz * align & 0xFFFFFFFF
        head = struct.pack(
            "<HHIIHH", self.kind, self.num_channels, self.rate_hz, rate, align & 0xFFFF, self.bits
        )
        size = len(self.data) if self.data_bytes is None else self.data_bytes
        body = (
            b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + self.data
        )
        riff = len(body) if self.riff_bytes is None else self.riff_bytes
        return b"RIFF" + struct.pack("<I", riff) + body
