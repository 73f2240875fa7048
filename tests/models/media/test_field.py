"""Files as people of the field have them; what is right comes from how each was made, and from the `ffmpeg` command.

../shared/cases/README.md tells of each file how it was made.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from numpy.typing import NDArray

from models.media.clip import (
    ClipSpec,
    DecodedMedia,
    DecodeLimits,
    Encrypted,
    TooComplex,
    decode_segments,
    probe_media,
)
from tests.support.media_files import AudioTrack, make_tone, write_media

RATE_HZ = 16_000


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    return shared / "cases"


def decode(path: Path) -> DecodedMedia:
    return decode_segments(path, ClipSpec())


def frames_of(path: Path) -> NDArray[np.float64]:
    frames = decode(path).clips[0].frames
    assert frames is not None
    return frames.astype(float)


def samples_of(path: Path) -> NDArray[np.float32]:
    samples = decode(path).clips[0].samples
    assert samples is not None
    return samples


def loudest_hz(samples: NDArray[np.float32] | None) -> float:
    assert samples is not None
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * RATE_HZ / len(samples))


@pytest.mark.parametrize(
    ("name", "start_seconds", "moment"), [("trim_end.mov", 0.0, 0), ("trim_both.mov", 3.0, 8)]
)
def test_what_an_edit_list_cuts_away_is_not_seen_or_heard(
    cases: Path, name: str, start_seconds: float, moment: int
) -> None:
    """The control is the same film uncut: at this moment, 0 or 5 s into it, both show the same frame."""
    trimmed, whole = decode(cases / name), decode(cases / "cnt.mov")
    assert trimmed.info.duration_seconds == pytest.approx(4.0, abs=0.05)
    assert [(clip.start_seconds, clip.end_seconds) for clip in trimmed.clips] == [(0.0, pytest.approx(4.0))]
    heard, source = trimmed.clips[0].samples, whole.clips[0].samples
    assert heard is not None
    assert source is not None
    first = round(start_seconds * RATE_HZ)
    middle = slice(RATE_HZ, 3 * RATE_HZ)
    assert np.abs(heard[middle] - source[first:][middle]).max() < 0.02
    ours, shown = trimmed.clips[0].frames, whole.clips[0].frames
    assert ours is not None
    assert shown is not None
    assert (ours[moment] == shown[moment]).all()
    assert not (ours[moment] == shown[moment + 1]).all()


def test_a_file_of_too_many_edits_is_refused(cases: Path) -> None:
    with pytest.raises(TooComplex, match="a file may have at most 1 edits, this one has 2"):
        probe_media(cases / "trim_end.mov", DecodeLimits(max_edits=1))


@pytest.mark.parametrize("name", ["adpcm.wav", "pcm_half.wav"])
def test_chunks_are_the_whole_though_the_header_tells_a_wrong_byte_rate(cases: Path, name: str) -> None:
    whole = decode(cases / name)
    assert len(whole.clips) == 13
    for segment, clip in enumerate(whole.clips):
        chunk = decode_segments(cases / name, ClipSpec(), first=segment, count=1)
        assert chunk.is_last == (segment == 12)
        assert chunk.clips[0].samples is not None
        assert clip.samples is not None
        assert np.abs(chunk.clips[0].samples - clip.samples).max() < 1e-3


@functools.cache
def rising_tones() -> NDArray[np.int16]:
    """45 s of two channels, interleaved."""
    times = np.arange(45 * 44_100) / 44_100
    tones = [0.3 * np.sin(2 * np.pi * (start + 4 * times) * times) for start in (200, 310)]
    return np.round(32767 * np.stack(tones, axis=1)).astype(np.int16).reshape(1, -1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.wav", "adpcm_ima_wav"),
        ("a.wav", "adpcm_ms"),
        ("a.wav", "pcm_mulaw"),
        ("a.w64", "pcm_s24le"),
        ("a.aiff", "pcm_s16be"),
        ("a.au", "pcm_s16be"),
        ("a.caf", "pcm_s16be"),
        ("a.wv", "wavpack"),
        ("a.tta", "tta"),
        ("a.flac", "flac"),
        ("a.ogg", "libvorbis"),
        ("a.mp3", "mp3"),
        ("a.aac", "aac"),
        ("a.ac3", "ac3"),
        ("a.m4a", "aac"),
        ("a.wav", "adpcm_yamaha"),
        ("a.mkv", "adpcm_yamaha"),
        ("a.wav", "wmav2"),
    ],
)
def test_chunks_are_the_whole(tmp_path: Path, name: str, codec: str) -> None:
    """Two tones that rise, so that sound from another place is other sound."""
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        try:
            stream = container.add_stream(codec, rate=44_100, layout="stereo")
        except (av.error.FFmpegError, ValueError) as error:
            pytest.skip(f"this build of FFmpeg has no encoder for {codec}: {error}")
        if codec == "wmav2":  # has no bit rate of its own
            stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(rising_tones(), format="s16", layout="stereo")
        frame.rate, frame.pts = 44_100, 0
        resampler = av.AudioResampler(
            format=stream.format.name, layout="stereo", rate=44_100, frame_size=stream.frame_size or 4096
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    whole = decode(path)
    for segment in (1, 3):
        chunk = decode_segments(path, ClipSpec(), first=segment, count=1).clips[0].samples
        piece = whole.clips[segment].samples
        assert chunk is not None
        assert piece is not None
        assert np.abs(chunk - piece).max() < 1e-3


def test_sound_is_of_the_programme_of_the_picture(cases: Path) -> None:
    assert loudest_hz(samples_of(cases / "twoprog.ts")) == pytest.approx(300, abs=2)


def test_avchd_is_read(cases: Path) -> None:
    assert decode(cases / "00000.MTS").info.has_audio


def test_high_dynamic_range_looks_like_the_same_master_in_sdr(cases: Path) -> None:
    """The control is the picture as it was read before: without the tone map it is grey."""
    ours, master = frames_of(cases / "hdr_smpte2084.mov"), frames_of(cases / "sdr.mov")
    assert np.abs(ours - master).mean() < 9
    assert np.corrcoef(ours.ravel(), master.ravel())[0, 1] > 0.99
    assert abs(ours.std() - master.std()) < 8


def test_pixels_that_are_not_square_are_shown_as_they_should(cases: Path) -> None:
    info = decode(cases / "sar.mov").info
    assert (info.width, info.height) == (1024, 576)
    assert probe_media(cases / "sar.mov").width == 1024
    assert np.abs(frames_of(cases / "sar.mov") - frames_of(cases / "square.mov")).mean() < 1.5


@pytest.mark.parametrize(("name", "is_out_of_phase"), [("dualmono.mov", False), ("oop.wav", True)])
def test_sound_on_one_track_or_in_opposite_phase_is_heard(
    cases: Path, name: str, is_out_of_phase: bool
) -> None:
    decoded = decode(cases / name)
    assert decoded.clips[0].samples is not None
    assert np.sqrt(np.mean(decoded.clips[0].samples ** 2)) > 0.05
    assert decoded.info.is_out_of_phase == is_out_of_phase


def write_tracks(path: Path, pitches: list[float], languages: list[str]) -> Path:
    """Stereo tracks of two seconds in PCM, each of one pitch; 0 is silence."""
    times = np.arange(2 * RATE_HZ) / RATE_HZ
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE_HZ, layout="stereo") for _ in pitches]
        for stream, pitch, language in zip(streams, pitches, languages, strict=True):
            stream.metadata["language"] = language
            pcm = np.round(12_000 * np.sin(2 * np.pi * pitch * times)).astype(np.int16).repeat(2)
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="stereo")
            frame.rate, frame.pts = RATE_HZ, 0
            for part in (frame, None):
                container.mux(stream.encode(part))
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
@pytest.mark.parametrize(("pitches", "heard"), [([0, 700], 700), ([0, 0, 900], 900), ([300, 700], 300)])
def test_a_silent_track_hides_no_loud_one_behind_it(
    tmp_path: Path, name: str, pitches: list[float], heard: float
) -> None:
    path = write_tracks(tmp_path / name, pitches, ["eng", "fra", "deu"][: len(pitches)])
    decoded = decode(path)
    assert loudest_hz(decoded.clips[0].samples) == pytest.approx(heard, abs=2)
    assert decoded.info.is_silent is False


def write_broadcast(path: Path, format: str, pitches: list[float], programmes: int = 1) -> Path:
    """A picture and stereo tracks of two seconds in MP2 at one bit rate, each of one pitch; 0 is silence."""
    sounds = [f"sine=f={pitch}:d=2" if pitch else "anullsrc=d=2" for pitch in pitches]
    sources = [word for source in ("testsrc2=d=2:s=64x64", *sounds) for word in ("-f", "lavfi", "-i", source)]
    maps = [word for number in range(len(sounds) + 1) for word in ("-map", str(number))]
    names = [
        f"program_num={n + 1}:" + ":".join(f"st={s}" for s in ((0, 1), (2,))[n]) for n in range(programmes)
    ]
    groups = [word for name in names if programmes > 1 for word in ("-program", name)]
    codecs = ["-c:v", "mpeg2video", "-c:a", "mp2", "-b:a", "128k", "-ac", "2", "-ar", "48000"]
    subprocess.run(
        ["ffmpeg", "-v", "error", *sources, *maps, *codecs, *groups, "-f", format, path], check=True
    )
    return path


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the command ffmpeg")
@pytest.mark.parametrize(
    ("format", "programmes", "heard"), [("mpegts", 1, 700), ("mpeg", 1, 700), ("mpegts", 2, None)]
)
def test_a_silent_track_of_a_programme_hides_no_loud_one_of_it(
    tmp_path: Path, format: str, programmes: int, heard: float | None
) -> None:
    """The sound of another programme is not heard instead: the control."""
    decoded = decode(write_broadcast(tmp_path / "a.ts", format, [0, 700], programmes))
    if heard is None:
        assert decoded.info.is_silent
    else:
        assert loudest_hz(decoded.clips[0].samples) == pytest.approx(heard, abs=2)


def test_a_change_of_a_track_behind_a_silent_one_is_no_change_of_tags(tmp_path: Path) -> None:
    paths = [write_tracks(tmp_path / f"{pitch}.mkv", [0, pitch], ["eng", "fra"]) for pitch in (700, 900)]
    first, second = (
        decode_segments(path, ClipSpec(), hashes_packets=True).info.packets_hash for path in paths
    )
    assert first != second


def test_a_chain_whose_second_part_ffmpeg_refuses_is_no_whole_file(tmp_path: Path) -> None:
    """One channel, then two: the decoder library stops at the joint."""
    path = tmp_path / "chain.ogg"
    content = b""
    for layout in ("mono", "stereo"):
        track = AudioTrack(
            samples=make_tone(2, 48_000, [440] * (1 + (layout == "stereo"))), layout=layout, codec="libopus"
        )
        content += write_media(path, audio=track).read_bytes()
    path.write_bytes(content)
    decoded = decode(path)
    assert decoded.is_partial or decoded.info.duration_seconds == pytest.approx(4, abs=0.1)


def test_joined_files_are_read_to_their_end(cases: Path) -> None:
    ogg, flac = decode(cases / "chain.ogg"), decode(cases / "chain.flac")
    assert ogg.info.duration_seconds == pytest.approx(7.0, abs=0.05)
    assert not ogg.is_partial
    assert flac.info.duration_seconds == pytest.approx(
        6.744, abs=0.11
    )  # the ffmpeg command; a frame has 0.1 s
    assert flac.is_partial, "what FFmpeg cannot read whole is not called whole"


def test_streams_that_are_neither_sound_nor_picture_do_not_count(cases: Path) -> None:
    assert decode(cases / "subs36.mkv").clips[0].frames is not None


def test_an_estimated_length_is_no_declaration(cases: Path) -> None:
    decoded = decode(cases / "est.aac")
    assert not decoded.is_partial
    assert decoded.info.duration_seconds == pytest.approx(28.032, abs=0.1)
    assert probe_media(cases / "est.aac").duration_seconds is None


def test_encrypted_media_is_named(cases: Path) -> None:
    with pytest.raises(Encrypted, match="encrypted"):
        decode(cases / "cenc.mp4")


@pytest.mark.parametrize("name", ["x.wv", "x.tta"])
def test_sound_of_archives_is_decoded(cases: Path, name: str) -> None:
    assert np.sqrt(np.mean(samples_of(cases / name) ** 2)) == pytest.approx(0.0884, abs=0.002)
