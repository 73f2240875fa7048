"""Pictures and encrypted media, refused by name; the same media without its encryption is read."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from models.media.clip import ClipSpec, Encrypted, NotMedia, decode_segments, probe_media
from tests.support.media_files import AudioTrack, VideoTrack, every, make_tone, write_media

SPEC = ClipSpec(segment_seconds=1.0, frame_size=32)
SOUND = AudioTrack(samples=make_tone(1.0, 48_000, (440.0, 440.0)), codec="mp2")


@pytest.mark.parametrize(
    ("ending", "name"),
    [
        ("jpg", "JPEG"),
        ("png", "PNG"),
        ("webp", "WebP"),
        ("gif", "GIF"),
        ("bmp", "BMP"),
        ("tiff", "TIFF"),
        ("avif", "HEIF"),
        ("jp2", "JPEG 2000"),
    ],
)
def test_a_photograph_is_named_and_not_called_broken(tmp_path: Path, ending: str, name: str) -> None:
    path = tmp_path / f"x.{ending}"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    with pytest.raises(NotMedia, match=rf"a picture file \({name}"):
        probe_media(path)


@pytest.mark.parametrize(
    "head", [b"\0\0\0\x18ftypheic" + bytes(90), b"8BPS" + bytes(90), b"II*\0" + bytes(90)]
)
def test_pictures_are_told_by_their_first_bytes(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "x.mp4").write_bytes(head)
    with pytest.raises(NotMedia, match="a picture file"):
        probe_media(tmp_path / "x.mp4")


def protect(content: bytes, entries: dict[bytes, bytes]) -> bytes:
    """An MP4 with its sample entries renamed, and the name of before in a `sinf` box at their end, as shops sell it."""
    for old, new in entries.items():
        at = content.index(
            old + bytes(6) + b"\0\1"
        )  # the entry: its kind, 6 reserved bytes, a data reference
        (size,) = struct.unpack(">I", content[at - 4 : at])
        frma = struct.pack(">I4s4s", 12, b"frma", old)
        schm = struct.pack(">I4sI4sI", 20, b"schm", 0, b"itun", 0)
        sinf = struct.pack(">I4s", 8 + len(frma) + len(schm), b"sinf") + frma + schm
        end = at - 4 + size
        content = content[:at] + new + content[at + 4 : end] + sinf + content[end:]
        for box in (b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
            place = content.rindex(box, 0, at) - 4
            (size,) = struct.unpack(">I", content[place : place + 4])
            content = content[:place] + struct.pack(">I", size + len(sinf)) + content[place + 4 :]
        (size,) = struct.unpack(">I", content[at - 4 : at])
        content = content[: at - 4] + struct.pack(">I", size + len(sinf)) + content[at:]
    return content


@pytest.mark.parametrize(
    "entries",
    [{b"mp4a": b"drms", b"avc1": b"drmi"}, {b"mp4a": b"drms"}, {b"avc1": b"drmi"}, {b"mp4a": b"aavd"}],
)
def test_what_a_shop_sold_is_encrypted(tmp_path: Path, entries: dict[bytes, bytes]) -> None:
    video, sound = VideoTrack(times=every(1.0, 25)), AudioTrack(samples=SOUND.samples)
    path = write_media(tmp_path / "x.mp4", video=video, audio=sound)
    assert decode_segments(path, SPEC).clips
    path.write_bytes(protect(path.read_bytes(), entries))
    with av.open(str(path)) as container:
        assert len(container.streams) == 2, "the boxes are whole"
    with pytest.raises(Encrypted, match="only a player that has its key"):
        decode_segments(path, SPEC)


def scramble_transport(content: bytes, stride: int) -> bytes:
    """What a broadcaster sends without a card: all packets of sound and picture scrambled, and marked so."""
    packets = np.frombuffer(content, np.uint8).reshape(-1, stride).copy()
    head = packets[:, stride - 188 :]
    pids = (head[:, 1].astype(int) & 0x1F) << 8 | head[:, 2]
    chosen = np.isin(pids, [0x100, 0x101] if stride == 188 else [0x1011, 0x1100])  # FFmpeg's own
    head[chosen, 3] |= 0x80
    head[chosen, 4:] ^= np.random.default_rng(0).integers(0, 256, (chosen.sum(), 184), np.uint8)
    return packets.tobytes()


@pytest.mark.parametrize("stride", [188, 192])
def test_a_scrambled_broadcast_is_encrypted(tmp_path: Path, stride: int) -> None:
    path = write_media(
        tmp_path / "x.ts",
        video=VideoTrack(times=every(1.0, 25)),
        audio=SOUND,
        container_format="mpegts",
        options={"mpegts_m2ts_mode": str(int(stride == 192))},
    )
    assert decode_segments(path, SPEC).clips
    path.write_bytes(scramble_transport(path.read_bytes(), stride))
    with pytest.raises(Encrypted):
        decode_segments(path, SPEC)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_copied_dvd_is_encrypted(tmp_path: Path, share: float) -> None:
    """CSS scrambles some sectors of 2,048 bytes from their 129th byte on; byte 20 says which."""
    path = write_media(
        tmp_path / "x.vob",
        video=VideoTrack(times=every(1.0, 25), codec="mpeg2video", side=256, options={"b": "4000000"}),
        audio=SOUND,
        container_format="dvd",
    )
    sectors = np.frombuffer(path.read_bytes(), np.uint8)
    sectors = sectors[: len(sectors) // 2048 * 2048].reshape(-1, 2048).copy()
    rng = np.random.default_rng(0)
    chosen = (rng.random(len(sectors)) < share) & (sectors[:, 17] == 0xE0)
    sectors[chosen, 20] |= 0x30
    sectors[chosen, 128:] ^= rng.integers(0, 256, (chosen.sum(), 1920), np.uint8)
    path.write_bytes(sectors.tobytes())
    if not share:
        assert decode_segments(path, SPEC).clips
        return
    with pytest.raises(Encrypted):
        decode_segments(path, SPEC)
