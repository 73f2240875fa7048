"""Every extension that the scanner lists is decoded: one small file for each, as its makers write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from models.media.clip import ClipSpec, decode_segments
from models.media.opening import CONTAINERS
from service.library.scanning import MEDIA_EXTENSIONS, FoundFile, find_files
from tests.support.media_files import AudioTrack, VideoTrack, every, make_tone, write_media

SECONDS = 1.0
WITHOUT_ENCODER = {".ape": ("ape", "ape"), ".spx": ("ogg", "speex")}
"""FFmpeg reads these and cannot write them: container and codec."""


class Kind(NamedTuple):
    """FFmpeg's muxer, and the coders of picture and sound that such files have."""

    muxer: str
    video: str | None = None
    audio: str | None = None
    rate: int = 48_000


MP4, MPEG_TS = Kind("mp4", "libx264", "aac"), Kind("mpegts", "libx264", "mp2")
MPEG_PS, ASF = Kind("dvd", "mpeg2video", "mp2"), Kind("asf", "wmv2", "wmav2")
WEBM, AIFF = Kind("webm", "libvpx", "libopus"), Kind("aiff", audio="pcm_s16be")
ADTS, AU, WAV = Kind("adts", audio="aac"), Kind("au", audio="pcm_s16be"), Kind("wav", audio="pcm_s16le")
KINDS = {
    **dict.fromkeys((".mp4", ".m4v", ".f4v"), MP4),
    **dict.fromkeys((".mov", ".qt"), Kind("mov", "mjpeg", "pcm_s16le")),
    **dict.fromkeys((".3gp", ".3g2"), Kind("3gp", "mpeg4", "libopencore_amrnb", 8000)),
    **dict.fromkeys((".m4a", ".m4b"), Kind("ipod", audio="alac")),
    **dict.fromkeys((".m2t", ".tod"), MPEG_TS),
    **dict.fromkeys((".m2ts", ".mts"), Kind("mpegts", "libx264", "ac3")),
    **dict.fromkeys((".mpg", ".mpeg", ".mpe", ".vob", ".mod"), MPEG_PS),
    **dict.fromkeys((".asf", ".wmv"), ASF),
    **dict.fromkeys((".aif", ".aiff", ".aifc"), AIFF),
    **dict.fromkeys((".aac", ".adts"), ADTS),
    **dict.fromkeys((".au", ".snd"), AU),
    **dict.fromkeys((".wav", ".wave"), WAV),
    **dict.fromkeys((".oga", ".ogg"), Kind("ogg", audio="flac")),
    **dict.fromkeys((".ogv", ".ogm"), Kind("ogg", "libvpx", "libopus")),
    ".ac3": Kind("ac3", audio="ac3"),
    ".amr": Kind("amr", audio="libopencore_amrnb", rate=8000),
    ".avi": Kind("avi", "mpeg4", "libmp3lame"),
    ".caf": Kind("caf", audio="alac"),
    ".dv": Kind("dv", "dvvideo", "pcm_s16le"),
    ".eac3": Kind("eac3", audio="eac3"),
    ".flac": Kind("flac", audio="flac"),
    ".flv": Kind("flv", "flv", "libmp3lame", 44_100),
    ".m2v": Kind("mpeg2video", "mpeg2video"),
    ".mka": Kind("matroska", audio="libopus"),
    ".mkv": Kind("matroska", "libx264", "flac"),
    ".mp2": Kind("mp2", audio="mp2"),
    ".mp3": Kind("mp3", audio="libmp3lame"),
    ".mxf": Kind("mxf", "mpeg2video", "pcm_s16le"),
    ".opus": Kind("opus", audio="libopus"),
    ".tta": Kind("tta", audio="tta"),
    ".w64": Kind("w64", audio="pcm_s16le"),
    ".weba": Kind("webm", audio="libopus"),
    ".webm": WEBM,
    ".wma": Kind("asf", audio="wmav2"),
    ".wv": Kind("wv", audio="wavpack"),
}


def write_dv(path: Path) -> None:
    """A second of a DV tape: its pictures have one size only."""
    with av.open(str(path), "w", format="dv") as container:
        video: Any = container.add_stream("dvvideo", rate=25)
        video.width, video.height, video.pix_fmt = 720, 576, "yuv420p"
        audio: Any = container.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        tone = (make_tone(SECONDS, 48_000, (440.0, 440.0)).T * 32767).astype(np.int16)
        for number in range(25):
            picture = np.full((576, 720, 3), 9 * number, np.uint8)
            sound = tone[1920 * number : 1920 * (number + 1)].reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="s16", layout="stereo")
            frame.sample_rate, frame.pts = 48_000, 1920 * number
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(audio.encode(frame))


def write_kind(path: Path, kind: Kind) -> None:
    layout = "mono" if kind.rate == 8000 else "stereo"
    tone = make_tone(SECONDS, kind.rate, (440.0,) if layout == "mono" else (440.0, 440.0))
    write_media(
        path,
        video=kind.video
        and VideoTrack(times=every(SECONDS, 25), codec=kind.video, pixel_format=_format(kind.video)),
        audio=kind.audio and AudioTrack(samples=tone, rate=kind.rate, codec=kind.audio, layout=layout),
        container_format=kind.muxer,
        options={"mpegts_m2ts_mode": str(int(path.suffix in {".mts", ".m2ts"}))}
        if kind.muxer == "mpegts"
        else None,
    )


def _format(codec: str) -> str:
    return "yuvj420p" if codec == "mjpeg" else "yuv420p"


def test_no_extension_is_forgotten() -> None:
    assert KINDS.keys() | WITHOUT_ENCODER.keys() == MEDIA_EXTENSIONS


@pytest.mark.parametrize("extension", sorted(KINDS))
def test_an_extension_that_is_listed_is_decoded(tmp_path: Path, extension: str) -> None:
    kind, path = KINDS[extension], tmp_path / f"x{extension}"
    write_dv(path) if kind.muxer == "dv" else write_kind(path, kind)
    (found,) = find_files([tmp_path])
    assert isinstance(found, FoundFile)
    decoded = decode_segments(found.path, ClipSpec(frame_size=32))
    clip = decoded.clips[0]
    assert (clip.samples is None, clip.frames is None) == (kind.audio is None, kind.video is None)
    assert not decoded.is_partial
    assert decoded.info.duration_seconds == pytest.approx(SECONDS, abs=0.15)
    if clip.samples is not None:
        middle = clip.samples[4000:12_000]
        assert np.argmax(np.abs(np.fft.rfft(middle))) * 2 == pytest.approx(440, abs=3)


@pytest.mark.parametrize(("demuxer", "codec"), WITHOUT_ENCODER.values())
def test_what_cannot_be_written_has_its_demuxer_and_its_decoder(demuxer: str, codec: str) -> None:
    assert demuxer in CONTAINERS.split(",")
    assert av.ContainerFormat(demuxer).is_input
    assert av.Codec(codec, "r").is_decoder
