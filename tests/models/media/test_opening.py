"""Opening files nobody trusts: only regular files, only media, no other file, and one clear error each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import struct
from dataclasses import asdict
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.media.clip import (
    BrokenMedia,
    ClipSpec,
    ClipTooLong,
    DecodeLimits,
    EmptyFile,
    NoStream,
    NotARegularFile,
    NotMedia,
    TooComplex,
    UnreadableClip,
    decode_segments,
    hash_media,
    probe_media,
)
from tests.support.media_files import AudioTrack, VideoTrack, every, make_tone, write_media
from tests.support.paths import MEDIA

SPEC = ClipSpec()
BIRD, TURNED = MEDIA / "a04_robin_vorbis.ogg", MEDIA / "v12_rot90_noaudio.mov"

NOT_MEDIA = {
    "one byte": b"\0",
    "zeros": bytes(100_000),
    "html": b"<!doctype html><html><body>hello</body></html>" * 40,
    "json": b'{"a": [1, 2, 3]}' * 40,
    "pdf": b"%PDF-1.4\n" + b"1 0 obj\n" * 100,
    "text": b"hello world\n" * 200,
    "lyrics": b"[00:01.00]hello\n[00:02.00]world\n" * 20,
    "subtitles": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 20,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    "zip": b"PK\x03\x04" + bytes(60),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
}


@pytest.mark.parametrize("name", NOT_MEDIA)
@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_what_is_not_media_is_refused(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(NOT_MEDIA[name])
    with pytest.raises(NotMedia, match="not a supported media file"):
        decode_segments(path, SPEC)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(min_size=1, max_size=3000))
def test_random_bytes_give_one_of_our_errors(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(content)
    with pytest.raises(UnreadableClip):
        decode_segments(path, SPEC)


@settings(max_examples=60, deadline=None)
@given(
    cut=st.integers(1, 40_000),
    flips=st.lists(st.tuples(st.integers(0, 39_999), st.integers(1, 255)), max_size=30),
    source=st.sampled_from([BIRD, TURNED]),
)
def test_damaged_media_decode_or_give_one_of_our_errors(
    cut: int, flips: list[tuple[int, int]], source: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(source.read_bytes()[:cut])
    for position, flip in flips:
        content[position % len(content)] ^= flip
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        clips = decode_segments(path, SPEC).clips
    except UnreadableClip:
        return
    assert all(clip.frames is not None or clip.samples is not None for clip in clips)


def test_an_empty_file_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.webm"
    path.touch()
    for use in (lambda: decode_segments(path, SPEC), lambda: probe_media(path), lambda: hash_media(path)):
        with pytest.raises(EmptyFile, match="0 bytes"):
            use()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    link, pipe, folder = tmp_path / "link.mp4", tmp_path / "pipe.mp4", tmp_path / "folder.mp4"
    link.symlink_to(TURNED)
    os.mkfifo(pipe)
    folder.mkdir()
    for path, reason in [
        (link, "symbolic link"),
        (pipe, "type 'p'"),
        (folder, "type 'd'"),
        (Path("/dev/zero"), "type 'c'"),
        (tmp_path / "missing.mp4", "No such file"),
        (Path("a\0b"), "null"),
    ]:
        with pytest.raises(NotARegularFile, match=reason):
            decode_segments(path, SPEC)
        with pytest.raises(NotARegularFile, match=reason):
            hash_media(path)


def test_a_name_that_is_not_utf8_or_looks_like_an_address_is_only_a_name(tmp_path: Path) -> None:
    content = TURNED.read_bytes()
    for name in (b"\xff\xfe.mov", b"concat:a|b", b"%03d.png", b"-y"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(content)
        assert probe_media(path).has_video


def make_playlists(target: Path) -> dict[str, bytes]:
    """Files that make FFmpeg open another one, or the network."""
    name = str(target).encode()
    hls = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n"
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    return {
        "list.m3u8": hls + b"#EXTINF:2,\n" + name + b"\n#EXT-X-ENDLIST\n",
        "hls.mp4": hls + b"#EXTINF:2,\nfile://" + name + b"\n#EXT-X-ENDLIST\n",
        "key.m3u8": hls
        + b'#EXT-X-KEY:METHOD=AES-128,URI="'
        + name
        + b'"\n#EXTINF:2,\nx.ts\n#EXT-X-ENDLIST\n',
        "list.ffconcat": b"ffconcat version 1.0\nfile '" + name + b"'\n",
        "relative.txt": b"ffconcat version 1.0\nfile " + target.name.encode() + b"\n",
        "cast.sdp": sdp + b"a=rtpmap:96 H264/90000\n",
    }


def test_playlists_open_nothing(tmp_path: Path) -> None:
    secret = write_media(tmp_path / "secret.ts", video=VideoTrack(times=every(2, 25)))
    for name, content in make_playlists(secret).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NotMedia):
            decode_segments(tmp_path / name, SPEC)
    # The control: FFmpeg, given the name, does read the other file.
    with av.open(str(tmp_path / "list.m3u8")) as container:
        assert next(container.decode(video=0)).width == 64


def test_every_error_travels_between_processes() -> None:
    kinds = [BrokenMedia, ClipTooLong, EmptyFile, NoStream, NotARegularFile, NotMedia, TooComplex]
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        copy = pickle.loads(pickle.dumps(kind("the reason")))
        assert (type(copy), str(copy), copy.code) == (kind, "the reason", kind.code)


def test_ffmpeg_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "damaged.mov"
    content = bytearray(TURNED.read_bytes())
    content[3000:9000:7] = bytes(len(content[3000:9000:7]))
    path.write_bytes(content)
    with contextlib.suppress(UnreadableClip):
        decode_segments(path, SPEC)
    assert capfd.readouterr() == ("", "")


def test_limits(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "clip.mp4",
        video=VideoTrack(times=every(3, 25)),
        audio=AudioTrack(samples=make_tone(3, 48000, [300, 300])),
    )
    for limits, kind, reason in [
        (
            DecodeLimits(max_duration_seconds=2.5),
            ClipTooLong,
            r"may last at most 2\.5 s, this one has 3\.0 s",
        ),
        (DecodeLimits(max_streams=1), TooComplex, "1 streams of sound and picture, this one has 2"),
        (DecodeLimits(max_frame_width=32), TooComplex, "32 x 4320 pixels, this one has 64 x 64"),
        (DecodeLimits(max_frame_height=63), TooComplex, "8192 x 63 pixels, this one has 64 x 64"),
    ]:
        with pytest.raises(kind, match=reason):
            decode_segments(path, SPEC, limits=limits)
    with pytest.raises(ValueError, match="max_streams must be positive, got 0"):
        DecodeLimits(max_streams=0)


def test_a_crowd_of_streams_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "crowd.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(40)]
        for stream in streams:
            frame = av.AudioFrame(format="s16", layout="mono", samples=800)
            frame.planes[0].update(bytes(1600))
            frame.rate, frame.pts = 8000, 0
            container.mux(stream.encode(frame))
    with pytest.raises(
        TooComplex, match="a file may have at most 32 streams of sound and picture, this one has 40"
    ):
        decode_segments(path, SPEC)


def test_decoding_is_held_to_the_limit_whatever_the_header_says(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(6, 48000, [300, 300]), codec="pcm_s16le")
    path = write_media(tmp_path / "clip.mkv", audio=audio)
    content = bytearray(path.read_bytes())
    place = content.index(b"\x44\x89\x88") + 3  # Duration: 8 bytes of float, in milliseconds
    assert struct.unpack(">d", content[place : place + 8])[0] == pytest.approx(6000, abs=100)
    content[place : place + 8] = struct.pack(">d", 1000.0)
    path.write_bytes(content)
    assert probe_media(path).duration_seconds == 1.0
    with pytest.raises(ClipTooLong, match="a file may last at most 5 s"):
        decode_segments(path, SPEC, limits=DecodeLimits(max_duration_seconds=5))
    assert decode_segments(path, SPEC).clips[0].end_seconds == pytest.approx(6, abs=0.01)


def test_what_the_header_says_is_refused_at_once(tmp_path: Path) -> None:
    path = write_media(tmp_path / "days.mkv", video=VideoTrack(times=[0.0, 24 * 86400.0], gop=1))
    assert path.stat().st_size < 4000
    with pytest.raises(ClipTooLong, match="a file may last at most 14400 s"):
        decode_segments(path, SPEC)


def test_a_picture_far_too_large_is_told_the_limit(tmp_path: Path) -> None:
    video = VideoTrack(times=[0.0, 0.5], codec="mjpeg", pixel_format="yuvj420p")
    path = write_media(tmp_path / "a.mp4", video=video)
    with pytest.raises(BrokenMedia, match="a picture may have at most 32 x 16 pixels"):
        decode_segments(path, SPEC, limits=DecodeLimits(max_frame_width=32, max_frame_height=16))


def test_facts_are_held_to_the_limits_of_the_caller() -> None:
    assert probe_media(BIRD, DecodeLimits(max_channels=2)).num_channels == 2
    with pytest.raises(TooComplex, match="sound may have at most 1 channels, this one has 2"):
        probe_media(BIRD, DecodeLimits(max_channels=1))


def test_hashing(tmp_path: Path) -> None:
    digest, size_bytes, modified_ns = hash_media(BIRD)
    assert digest == hashlib.sha256(BIRD.read_bytes()).hexdigest()
    assert (size_bytes, modified_ns) == (BIRD.stat().st_size, BIRD.stat().st_mtime_ns)
    info = probe_media(BIRD)
    assert (info.size_bytes, info.modified_ns) == (size_bytes, modified_ns)


def test_facts() -> None:
    bird, turned = probe_media(BIRD), probe_media(TURNED)
    assert (bird.container, bird.audio_codec, bird.num_channels, bird.sample_rate_hz) == (
        "ogg",
        "vorbis",
        2,
        44100,
    )
    assert (bird.has_audio, bird.has_video, bird.video_codec, bird.width) == (True, False, None, None)
    assert (turned.has_audio, turned.has_video, turned.video_codec) == (False, True, "h264")
    assert (turned.width, turned.height, turned.rotation_degrees) == (320, 568, -90)
    assert (turned.duration_seconds, turned.frame_rate) == pytest.approx((0.1, 30))
    assert not turned.is_duration_measured
    assert json.loads(json.dumps(asdict(turned))) == asdict(turned)
    measured = decode_segments(TURNED, SPEC).info
    assert measured.is_duration_measured
    assert (measured.width, measured.height, measured.rotation_degrees) == (320, 568, -90)


def test_tags_in_another_alphabet_do_no_harm(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(1, 48000, [300, 300]), codec="pcm_s16le")
    path = write_media(tmp_path / "tags.wav", audio=audio, metadata={"title": "Caxxx"})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Caxxx", "Cafés".encode("latin-1")))
    assert content != path.read_bytes()
    assert decode_segments(path, SPEC).clips[0].samples is not None
