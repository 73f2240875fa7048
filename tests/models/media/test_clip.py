"""Whole files: every file of the shared media against its manifest and a plain decoder, chunks, and odd files."""

from __future__ import annotations

import csv
import functools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from models.media.clip import (
    BrokenMedia,
    Clip,
    ClipSpec,
    DecodedMedia,
    EmptyFile,
    NoStream,
    NotMedia,
    decode_clip,
    decode_segments,
    probe_media,
    segment_bounds,
)
from tests.support.media_files import (
    AudioTrack,
    PlainMedia,
    VideoTrack,
    crop_plainly,
    decode_frames_plainly,
    decode_plainly,
    every,
    make_tone,
    measure_tone,
    paint_number,
    read_number,
    resample_plainly,
    write_media,
)
from tests.support.paths import MEDIA as OUR_MEDIA

SPEC = ClipSpec()
RATE = 16000

SHARED = [
    "v01_mdn_pig_h264_aac.mp4",
    "v05_nasa_multistream.mp4",
    "v06_bbb_30s_vp8_vorbis.webm",
    "v12_rot90_noaudio.mov",
    "v20_elf_mpegts_h264_aac.ts",
    "v22_crystal_av1_opus.mkv",
    "v25_pig_vfr.mp4",
    "v26_monster_noaudio.mp4",
    "a01_typing_s16.wav",
    "a04_robin_vorbis.ogg",
    "a21_speech_u8_8k.wav",
    "a24_jazzguitar_aac.m4a",
    "a28_vibeace_cover.mp3",
    "a30_surround51.flac",
]


def find_media(name: str, request: pytest.FixtureRequest) -> Path:
    """Our own copy where there is one, else the shared file."""
    ours = OUR_MEDIA / name
    return ours if ours.exists() else request.getfixturevalue("shared_media") / name


def read_manifest(shared_media: Path) -> dict[str, dict[str, str]]:
    with (shared_media / "manifest.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


@functools.cache
def decode_once(path: Path) -> DecodedMedia:
    return decode_segments(path, SPEC)


@functools.cache
def decode_plainly_once(path: Path) -> PlainMedia:
    return decode_plainly(path)


def join_sound(decoded: DecodedMedia) -> np.ndarray:
    return np.concatenate([clip.samples for clip in decoded.clips if clip.samples is not None])


def test_the_manifest_names_what_is_tested(shared_media: Path) -> None:
    assert sorted(read_manifest(shared_media)) == sorted(
        [*SHARED, "v17_zero_bytes.webm", "v30_truncated_nomoov.mp4"]
    )


@pytest.mark.parametrize("name", SHARED)
def test_facts_are_those_of_the_manifest(name: str, shared_media: Path) -> None:
    row = read_manifest(shared_media)[name]
    info = decode_once(shared_media / name).info
    assert info.container == row["container"]
    # To one frame of sound: decoders and headers count its last frame differently.
    assert info.duration_seconds == pytest.approx(float(row["duration_s"]), abs=0.03)
    assert info.is_duration_measured
    has_video = bool(row["vcodec"])
    assert (info.has_video, info.has_audio) == (has_video, bool(row["acodec"]))
    assert info.audio_codec == (av.Codec(row["acodec"], "r").canonical_name if row["acodec"] else None)
    assert info.video_codec == (av.Codec(row["vcodec"], "r").canonical_name if has_video else None)
    if has_video and "multistream" not in name:
        size = tuple(map(int, row["resolution"].split("x")))
        turn = int(row["rotation"] or 0)
        assert (info.width, info.height) == (size[::-1] if turn else size)
        assert info.rotation_degrees == turn
        assert info.frame_rate == pytest.approx(float(row["fps"]), abs=0.01)
    if row["acodec"] and "multistream" not in name:
        assert (info.num_channels, info.sample_rate_hz) == (int(row["channels"]), int(row["sample_rate"]))


@pytest.mark.parametrize("name", [name for name in SHARED if name.startswith("v")])
def test_frames_are_those_of_a_plain_decoder(name: str, request: pytest.FixtureRequest) -> None:
    path = find_media(name, request)
    plain = decode_plainly_once(path)
    decoded = decode_once(path)
    assert decoded.info.duration_seconds == pytest.approx(plain.end, abs=1e-3)
    bounds = segment_bounds(decoded.info.duration_seconds, SPEC)
    assert [(clip.start_seconds, clip.end_seconds) for clip in decoded.clips] == bounds
    chosen = []
    for clip in decoded.clips:
        assert clip.frames.shape == (16, 224, 224, 3)
        assert clip.frames.dtype == np.uint8
        wanted = clip.start_seconds + (clip.end_seconds - clip.start_seconds) * np.arange(16) / 16
        picks = np.maximum(np.searchsorted(plain.times, wanted + 1e-6, side="right") - 1, 0).tolist()
        np.testing.assert_allclose(clip.frame_times_seconds, plain.times[picks], atol=1e-9)
        chosen += zip(picks, clip.frames, strict=True)
    expected = decode_frames_plainly(path, plain, {pick for pick, _ in chosen})
    for pick, frame in chosen:
        # One grey level: the crop's box starts between two pixels of the source.
        assert np.abs(frame.astype(int) - crop_plainly(expected[pick])).max() <= 1


@pytest.mark.parametrize("name", [name for name in SHARED if "noaudio" not in name])
def test_sound_is_that_of_a_plain_decoder(name: str, request: pytest.FixtureRequest) -> None:
    path = find_media(name, request)
    plain = decode_plainly_once(path)
    expected = resample_plainly(plain.samples, plain.rate)
    samples = join_sound(decode_once(path))[round(plain.audio_start * RATE) :]
    # Matroska rounds its times to 1 ms, which moves the sound by up to 16 samples; the others keep it in place.
    lags = range(17) if path.suffix in (".mkv", ".webm") else (0,)
    count = min(len(samples) - lags[-1], len(expected)) - 100
    loudness = float(np.sqrt(np.mean(expected[:count] ** 2)))
    assert np.sqrt(np.mean(samples[:count] ** 2)) == pytest.approx(loudness, rel=0.01)
    errors = [np.sqrt(np.mean((samples[lag : count + lag] - expected[:count]) ** 2)) for lag in lags]
    # Half a sample off is a tenth of the loudness in speech and music.
    assert min(errors) < (0.15 if len(lags) > 1 else 1e-4) * loudness


def test_broken_shared_files(shared_media: Path) -> None:
    with pytest.raises(EmptyFile):
        decode_segments(shared_media / "v17_zero_bytes.webm", SPEC)
    with pytest.raises(NotMedia):
        decode_segments(shared_media / "v30_truncated_nomoov.mp4", SPEC)


def test_turned_pictures_stand_upright() -> None:
    path = OUR_MEDIA / "v12_rot90_noaudio.mov"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    clip = decode_clip(path, SPEC)
    assert stored.shape == (320, 568, 3)
    clockwise = np.ascontiguousarray(np.rot90(stored, -1))
    assert np.abs(clip.frames[0].astype(int) - crop_plainly(clockwise)).max() <= 1


TONE, TONE_48 = (make_tone(24.2, rate, [300, 500]) for rate in (44_100, 48_000))
LONG = {
    "mp4": (
        VideoTrack(times=every(24.5, 10), gop=60),
        AudioTrack(samples=TONE, rate=44100),
    ),
    "open gop mp4": (
        VideoTrack(times=every(24.5, 10), options={"x264-params": "open-gop=1:keyint=100"}),
        AudioTrack(samples=TONE, rate=44100),
    ),
    "no key frames mp4": (VideoTrack(times=every(24.5, 10), gop=50, options={"intra-refresh": "1"}), None),
    "webm": (
        VideoTrack(times=every(24.5, 10), codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"}),
        AudioTrack(samples=TONE_48, codec="libopus"),
    ),
    "mkv": (
        VideoTrack(times=every(24.5, 10)),
        AudioTrack(samples=TONE, rate=44100),
    ),
    "ts": (
        VideoTrack(times=every(24.5, 10)),
        AudioTrack(samples=TONE, rate=44100),
    ),
    "mpg": (
        VideoTrack(times=every(24.5, 25), codec="mpeg2video", gop=12),
        AudioTrack(samples=TONE, rate=44100, codec="mp2"),
    ),
    "avi": (
        VideoTrack(times=every(24.5, 10), codec="mpeg4"),
        AudioTrack(samples=TONE, rate=44100, codec="libmp3lame"),
    ),
    "flv": (
        VideoTrack(times=every(24.5, 10)),
        AudioTrack(samples=TONE, rate=44100),
    ),
    "mp3": (None, AudioTrack(samples=TONE, rate=44100, codec="libmp3lame")),
    "flac": (None, AudioTrack(samples=TONE, rate=44100, codec="flac")),
    "wav": (None, AudioTrack(samples=TONE, rate=44100, codec="pcm_s16le")),
    "opus": (None, AudioTrack(samples=TONE_48, codec="libopus")),
}


@pytest.mark.parametrize("name", LONG)
def test_chunks_are_the_whole(name: str, tmp_path: Path) -> None:
    video, audio = LONG[name]
    suffix = name.split()[-1]
    path = write_media(
        tmp_path / f"long.{suffix}",
        video=video,
        audio=audio,
        container_format={"opus": "ogg", "mpg": "vob"}.get(suffix),
    )
    whole = decode_segments(path, SPEC)
    assert len(whole.clips) == 3
    assert whole.is_last
    # A shift of 1 ms, the clock of the container, is 0.9 rad at 500 Hz at most; else it is the same to 1e-3.
    tolerance = 0.05 if suffix in ("mkv", "flv") else 1e-3
    for first, count in ((0, 1), (1, 1), (2, 1)):
        part = decode_segments(path, SPEC, first=first, count=count)
        assert part.is_last == (first + count == 3)
        for clip, expected in zip(part.clips, whole.clips[first : first + count], strict=True):
            assert clip.start_seconds == expected.start_seconds
            assert clip.end_seconds == pytest.approx(expected.end_seconds, abs=1e-3)
            assert_same_frames(clip, expected)
            if expected.samples is not None:
                count_samples = min(len(clip.samples), len(expected.samples))
                assert abs(len(clip.samples) - len(expected.samples)) <= 16
                difference = clip.samples[:count_samples] - expected.samples[:count_samples]
                # The very end apart, where AAC makes up noise for the cut tone.
                assert np.abs(difference[: count_samples - 2000]).max() <= tolerance
    after = decode_segments(path, SPEC, first=3, count=5)
    assert (after.clips, after.is_last) == ((), True)


def assert_same_frames(clip: Clip, expected: Clip) -> None:
    assert (clip.frames is None) == (expected.frames is None)
    if expected.frames is not None:
        np.testing.assert_array_equal(clip.frame_times_seconds, expected.frame_times_seconds)
        np.testing.assert_array_equal(clip.frames, expected.frames)


def test_the_whole_file_is_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[object] = []
    monkeypatch.setattr(
        "models.media.reading._seek", lambda media, plan, margin: sought.append(margin) or False
    )
    audio = AudioTrack(samples=make_tone(24, 48000, [300, 500]))
    path = write_media(tmp_path / "long.mp4", video=VideoTrack(times=every(24, 25)), audio=audio)
    assert len(decode_segments(path, SPEC).clips) == 3
    assert sought == [None]  # read once, from the start


def write_duration(path: Path, seconds: float) -> None:
    """Let the header of a Matroska file lie."""
    content = bytearray(path.read_bytes())
    place = content.index(b"\x44\x89\x88") + 3
    content[place : place + 8] = np.array(1000 * seconds, ">f8").tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize("declared", [0.5, 3.0, 6.9, 8.0, 14.0, 60.0])
def test_frames_lie_by_the_true_end_whatever_the_header_says(declared: float, tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mkv", video=VideoTrack(times=every(7, 25)))
    write_duration(path, declared)
    assert probe_media(path).duration_seconds == declared
    decoded = decode_segments(path, SPEC)
    assert decoded.info.duration_seconds == pytest.approx(7, abs=0.01)
    assert [read_number(frame) for frame in decoded.clips[0].frames] == [
        int(25 * 7 * i / 16 + 1e-3) for i in range(16)
    ]
    assert decoded.is_partial == (declared > 7 / 0.95)


def test_a_file_that_does_not_know_its_length(tmp_path: Path) -> None:
    path = write_media(tmp_path / "live.mkv", video=VideoTrack(times=every(13, 25)), options={"live": "1"})
    assert probe_media(path).duration_seconds is None
    decoded = decode_segments(path, SPEC)
    second = decoded.clips[1]
    assert second.end_seconds == pytest.approx(13, abs=0.01)
    assert [read_number(frame) for frame in second.frames] == [
        int(250 + 25 * 3 * i / 16 + 1e-3) for i in range(16)
    ]


@pytest.mark.parametrize("suffix", ["mkv", "flac", "mp4"])
def test_half_a_file_is_partial(suffix: str, tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(8, 48000, [300, 500]), codec="flac" if suffix == "flac" else "aac")
    video = None if suffix == "flac" else VideoTrack(times=every(8, 25))
    options = {"movflags": "faststart"} if suffix == "mp4" else None
    path = write_media(tmp_path / f"clip.{suffix}", video=video, audio=audio, options=options)
    assert not decode_segments(path, SPEC).is_partial
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    decoded = decode_segments(path, SPEC)
    assert decoded.is_partial
    assert 1 < decoded.info.duration_seconds < 7


def tone_of(path: Path) -> tuple[np.ndarray, int]:
    plain = decode_plainly(path)
    return plain.samples, plain.rate


def test_sound_longer_than_the_picture_and_the_other_way_round(tmp_path: Path) -> None:
    tone = make_tone(24, 48000, [300, 500])
    path = write_media(
        tmp_path / "a.mp4", video=VideoTrack(times=every(12, 25)), audio=AudioTrack(samples=tone)
    )
    clips = decode_segments(path, SPEC).clips
    assert [clip.frames is not None for clip in clips] == [True, True, False]
    assert [clip.samples is not None for clip in clips] == [True, True, True]
    # In the second segment the last frame is held.
    assert read_number(clips[1].frames[15]) == 299
    path = write_media(
        tmp_path / "b.mp4",
        video=VideoTrack(times=every(24, 25)),
        audio=AudioTrack(samples=tone[:, : 48000 * 12]),
    )
    clips = decode_segments(path, SPEC).clips
    assert [clip.samples is None for clip in clips] == [False, False, True]
    assert [clip.num_heard for clip in clips] == [
        160_000,
        pytest.approx(32_000, abs=342),
        0,
    ]  # AAC fills up its last frame
    assert len(clips[1].samples) == 160_000
    assert clips[1].samples[clips[1].num_heard - 1600 : clips[1].num_heard].any()
    assert not clips[1].samples[clips[1].num_heard :].any()
    assert len(resample_plainly(*tone_of(path))) == pytest.approx(160_000 + clips[1].num_heard, abs=2)


def test_a_picture_that_comes_late(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(24, 48000, [300, 500]))
    path = write_media(tmp_path / "a.mkv", video=VideoTrack(times=every(12, 25, start=12.0)), audio=audio)
    clips = decode_segments(path, SPEC).clips
    assert [clip.frames is not None for clip in clips] == [False, True, True]
    assert [read_number(frame) for frame in clips[1].frames[:4]] == [0, 0, 0, 0]
    assert read_number(clips[1].frames[15]) == int(25 * (9.375 - 2))


@pytest.mark.parametrize(("duration", "lengths"), [(0.2, [0.2]), (10.6, [10]), (11.4, [10, 1.4])])
def test_a_rest_under_a_second_is_dropped(duration: float, lengths: list[float], tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", video=VideoTrack(times=every(duration, 25)))
    found = [clip.end_seconds - clip.start_seconds for clip in decode_segments(path, SPEC).clips]
    assert found == pytest.approx(lengths, abs=0.01)


def test_a_stretch_without_anything_is_left_out_but_is_no_end(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(32, 48000, [300, 500]), codec="pcm_s16le", left_out=(5.0, 25.0))
    path = write_media(tmp_path / "gap.mkv", audio=audio)
    assert [clip.start_seconds for clip in decode_segments(path, SPEC).clips] == [0, 20, 30]
    middle = decode_segments(path, SPEC, first=1, count=1)
    assert (middle.clips, middle.is_last) == ((), False)


def test_asking_for_one_modality(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(4, 48000, [300, 500]))
    path = write_media(tmp_path / "a.mp4", video=VideoTrack(times=every(4, 25)), audio=audio)
    both = decode_segments(path, SPEC).clips[0]
    (heard,) = decode_segments(path, SPEC, modalities=["audio"]).clips
    (seen,) = decode_segments(path, SPEC, modalities=["video"]).clips
    assert heard.frames is None
    assert seen.samples is None
    np.testing.assert_array_equal(heard.samples, both.samples)
    assert_same_frames(seen, both)
    silent = write_media(tmp_path / "b.mp4", video=VideoTrack(times=every(4, 25)))
    with pytest.raises(NoStream, match="the file has no audio that can be decoded"):
        decode_segments(silent, SPEC, modalities=["audio"])


def test_cover_art_is_not_video(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=48000, layout="mono")
        cover = container.add_stream("png")
        cover.width = cover.height = 64
        cover.pix_fmt = "rgb24"
        cover.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(make_tone(2, 48000, [300]), format="fltp", layout="mono")
        frame.rate, frame.pts = 48000, 0
        packets = [*sound.encode(frame), *sound.encode(None)]
        picture = av.VideoFrame.from_ndarray(paint_number(1), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 25)
        for packet in [*cover.encode(picture), *cover.encode(None), *packets]:
            container.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.best("video") is not None
    decoded = decode_segments(path, SPEC)
    assert not decoded.info.has_video
    assert decoded.clips[0].frames is None
    assert measure_tone(decoded.clips[0].samples[4000:28000], RATE, 300) == pytest.approx(0.5, abs=0.05)


def test_what_an_edit_list_cuts_away_is_not_there(tmp_path: Path) -> None:
    source = write_media(
        tmp_path / "whole.mp4",
        video=VideoTrack(times=every(8, 25)),
        audio=AudioTrack(samples=make_tone(8, 48000, [300, 500])),
    )
    path = tmp_path / "cut.mp4"  # the muxer writes an edit list for what has negative times
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new,
    ):
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.pts -= round(2.5 / packet.time_base)
                packet.dts -= round(2.5 / packet.time_base)
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    decoded = decode_segments(path, SPEC)
    (clip,) = decoded.clips
    assert clip.end_seconds == pytest.approx(5.5, abs=0.05)
    wanted = [2.5 + clip.end_seconds * i / 16 for i in range(16)]
    assert [read_number(frame) for frame in clip.frames] == [int(25 * time + 1e-3) for time in wanted]
    assert (clip.frame_times_seconds >= 0).all()
    assert len(clip.samples) == pytest.approx(5.5 * RATE, abs=0.05 * RATE)
    assert not decoded.is_partial


def test_nothing_that_decodes_is_broken_media(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mkv", video=VideoTrack(times=every(2, 25), gop=250))
    content = bytearray(path.read_bytes())
    start = content.index(b"\x1f\x43\xb6\x75") + 40  # the first cluster
    content[start:] = bytes(byte ^ 0x5A if i % 3 else byte for i, byte in enumerate(content[start:]))
    path.write_bytes(content)
    with pytest.raises(BrokenMedia, match="nothing in it decodes"):
        decode_segments(path, SPEC)


def test_one_clip(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", video=VideoTrack(times=every(13, 25)))
    assert decode_clip(path, SPEC, segment_index=1).start_seconds == 10
    with pytest.raises(BrokenMedia, match="no segment 2"):
        decode_clip(path, SPEC, segment_index=2)
    with pytest.raises(ValueError, match="got 0 and 0"):
        decode_segments(path, SPEC, count=0)


def test_a_clip_checks_itself() -> None:
    frames, times = np.zeros((16, 8, 8, 3), np.uint8), np.zeros(16)
    good = {
        "start_seconds": 0.0,
        "end_seconds": 1.0,
        "frames": frames,
        "frame_times_seconds": times,
        "samples": None,
    }
    Clip(**good)
    with pytest.raises(ValueError, match=r"0 <= start < end, got \[0.0, 0.0\)"):
        Clip(**{**good, "end_seconds": 0.0})
    with pytest.raises(ValueError, match="go together"):
        Clip(**{**good, "frame_times_seconds": None})
    with pytest.raises(ValueError, match=r"frames must be \(F, H, W, 3\), got \(8, 8, 3\)"):
        Clip(**{**good, "frames": frames[0]})
    with pytest.raises(ValueError, match=r"samples must be \(S,\), got \(1, 5\)"):
        Clip(**{**good, "samples": np.zeros((1, 5), np.float32)})
