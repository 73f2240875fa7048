"""Still pictures as queries: what a viewer shows is what the encoder sees, and damage is said."""

from __future__ import annotations

import io
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.media.clip import (
    BrokenMedia,
    DecodeLimits,
    MediaInfo,
    NoStream,
    NotMedia,
    TooComplex,
    decode_segments,
)
from models.media.query import decode_query, probe_query
from models.media.timeline import ClipSpec

SPEC = ClipSpec(num_moments=4, frame_size=32)


def make_picture(width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """A smooth picture whose four corners differ."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    return np.stack([red, green, 128 + 0 * red], axis=-1).astype(np.uint8)


def save(path: Path, picture: Image.Image, kind: str, **options: Any) -> Path:
    picture.save(path, kind, **options)
    return path


def read(path: Path, spec: ClipSpec = SPEC) -> NDArray[np.uint8]:
    """The frame of a picture; all frames of its clip are equal."""
    (clip,) = decode_query(path, spec, limits=DecodeLimits()).clips
    assert clip.frames is not None
    assert (clip.samples, clip.is_static, clip.end_seconds) == (None, True, spec.segment_seconds)
    assert len(clip.frames) == spec.frames_per_segment
    assert (clip.frames == clip.frames[0]).all()
    return np.asarray(clip.frames[0])


def square(pixels: NDArray[np.uint8], size: int = 32) -> NDArray[np.int64]:
    """The middle of a picture as a square."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    cut = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
        ("PNG", {}, 1),
        ("WEBP", {"lossless": True}, 1),
        ("WEBP", {"quality": 95}, 8),
        ("AVIF", {"quality": 95}, 8),
    ],
)
def test_every_kind_is_equal_frames(
    tmp_path: Path, kind: str, options: dict[str, Any], tolerance: int
) -> None:
    pixels = make_picture()
    path = save(tmp_path / "x", Image.fromarray(pixels), kind, **options)
    assert np.abs(read(path) - square(pixels)).max() <= tolerance
    info = probe_query(path, DecodeLimits())
    assert (info.width, info.height, info.has_video, info.has_audio) == (96, 64, True, False)
    assert (info.duration_seconds, info.container, info.is_static) == (None, kind.lower(), True)


def test_a_picture_is_what_a_film_of_it_shows(tmp_path: Path) -> None:
    pixels = make_picture(130, 70)
    still = save(tmp_path / "x.png", Image.fromarray(pixels), "PNG")
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=4)
        stream.width, stream.height, stream.pix_fmt = 130, 70, "bgr0"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 4)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for spec in (SPEC, ClipSpec(num_moments=1, num_frames=3, frame_size=48, frame_shape="stretch")):
        (clip,) = decode_segments(tmp_path / "x.mkv", spec).clips
        assert clip.frames is not None
        assert np.abs(read(still, spec).astype(int) - clip.frames[0]).max() <= 1
    every = ClipSpec(num_moments=1, frame_times="all", frame_size=32)
    (clip,) = decode_query(still, every).clips
    assert clip.frames is not None
    assert len(clip.frames) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_it_is_turned_as_its_metadata_says(tmp_path: Path, kind: str, orientation: int) -> None:
    pixels = make_picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = (
        {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    )
    path = save(tmp_path / "x", Image.fromarray(pixels), kind, exif=exif, **options)
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.abs(read(path) - square(upright)).max() <= 1
    info = probe_query(path, DecodeLimits())
    assert (info.height, info.width) == upright.shape[:2]


def test_damaged_metadata_is_no_damaged_picture(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(make_picture()).save(content, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    (tmp_path / "x").write_bytes(content.getvalue())
    assert read(tmp_path / "x").shape == (32, 32, 3)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (200, 0, 0, 255)
    found = read(save(tmp_path / "x.png", Image.fromarray(pixels), "PNG"))
    assert found[16, 4].tolist() == [200, 0, 0]
    assert found[16, 28].tolist() == [255, 255, 255]
    palette = Image.fromarray(pixels).convert("P")
    found = read(save(tmp_path / "y.png", palette, "PNG", transparency=palette.getpixel((60, 5))))
    assert found[16, 28].tolist() == [255, 255, 255]


def write_png(path: Path, pixels: NDArray[np.uint16], *, colour: int) -> Path:
    """Write a PNG of 16 bits, as Pillow does not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def test_sixteen_bits_and_four_inks(tmp_path: Path) -> None:
    eight = make_picture(64, 64)
    sixteen = eight.astype(np.uint16) << 8
    grey = read(write_png(tmp_path / "grey.png", sixteen[:, :, 0], colour=0))
    assert np.abs(grey[:, :, 0] - square(eight)[:, :, 0]).max() <= 1
    assert (grey[:, :, 0] == grey[:, :, 2]).all()
    colours = read(write_png(tmp_path / "rgb.png", sixteen, colour=2))
    assert np.abs(colours - square(eight)).max() <= 1
    inks = Image.new("CMYK", (64, 64), (0, 255, 255, 0))  # red
    found = read(save(tmp_path / "x.jpg", inks, "JPEG", quality=95))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_counts(tmp_path: Path, kind: str) -> None:
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("#c80000", "#0000c8"))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    path = save(tmp_path / "x", red, kind, save_all=True, append_images=[blue], duration=100, **options)
    assert read(path)[5, 5].tolist() == [200, 0, 0]


def test_too_large_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    small = write_png(tmp_path / "small.png", np.zeros((1, 1), np.uint16), colour=0).read_bytes()
    for width, height in ((9000, 4000), (4400, 8000), (60_000, 60_000)):
        header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
        (tmp_path / "bomb.png").write_bytes(
            small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
        )
        for refused in (probe_query, lambda path, limits: decode_query(path, SPEC, limits=limits)):
            with pytest.raises(TooComplex, match="may have at most 8192 x 4320 pixels"):
                refused(tmp_path / "bomb.png", DecodeLimits())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_a_truncated_picture_is_damaged(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = save(tmp_path / "x", Image.fromarray(noise), kind).read_bytes()
    for length in (len(whole) // 2, 40, 16):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises((BrokenMedia, NotMedia)) as refused:
            read(tmp_path / "cut")
        assert refused.value.code in ("broken_media", "not_media")


def test_what_is_no_picture_or_of_another_kind(tmp_path: Path) -> None:
    refusals: dict[bytes, tuple[type[Exception], str]] = {
        b"\xff\xd8\xff" + bytes(500): (BrokenMedia, "the picture is damaged"),
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500): (NotMedia, "HEIC picture"),
        b"II*\0" + bytes(500): (NotMedia, r"picture file \(TIFF or camera raw\)"),
    }
    for content, (kind, words) in refusals.items():
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(kind, match=words):
            read(tmp_path / "x")
    path = save(tmp_path / "x.jpg", Image.fromarray(make_picture()), "JPEG")
    with pytest.raises(NoStream, match="has no audio"):
        decode_query(path, SPEC, modalities=("audio",))
    with pytest.raises(NotMedia, match="only sound and film are read"):  # a library holds none
        decode_segments(path, SPEC)
    descriptor = os.open(path, os.O_RDONLY)
    assert isinstance(probe_query(descriptor, DecodeLimits()), MediaInfo)  # as a decode worker is given it
    os.close(descriptor)
