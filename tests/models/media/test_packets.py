"""The hash of coded sound and picture: tags leave it as it is, everything that is heard or seen does not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from models.media.clip import ClipSpec, decode_segments, probe_media
from models.media.packets import hash_packets

FFMPEG = shutil.which("ffmpeg")
TAGS = ("-c", "copy", "-metadata", "title=other words", "-metadata", "comment=and more of them")

pytestmark = pytest.mark.skipif(FFMPEG is None, reason="needs the ffmpeg command")


def _hash(path: Path) -> str | None:
    return hash_packets(path, probe_media(path))


def _write(source: Path, target: Path, *options: str) -> Path:
    command = [FFMPEG or "", "-v", "error", "-y", *options[: options.index("-i")], "-i", str(source)]
    rest = options[options.index("-i") + 1 :]
    subprocess.run([*command, "-map", "0", *rest, str(target)], check=True)
    return target


@pytest.mark.parametrize(
    "name",
    [
        "a01_typing_s16.wav",
        "a04_robin_vorbis.ogg",
        "a24_jazzguitar_aac.m4a",
        "a30_surround51.flac",
        "v01_mdn_pig_h264_aac.mp4",
        "v06_bbb_30s_vp8_vorbis.webm",
        "v12_rot90_noaudio.mov",
    ],
)
def test_new_tags_change_nothing(shared_media: Path, tmp_path: Path, name: str) -> None:
    tagged = _write(shared_media / name, tmp_path / name, "-i", *TAGS)
    assert tagged.read_bytes() != (shared_media / name).read_bytes()
    assert _hash(tagged) == _hash(shared_media / name) is not None


@pytest.mark.parametrize(
    "options",
    [
        ("-i", "-c", "copy", "-metadata:s:v", "rotate=90"),
        ("-i", "-c", "copy", "-t", "2"),
        ("-i", "-c", "copy", "-aspect", "4:3"),
        ("-i", "-c:v", "copy", "-c:a", "aac", "-af", "volume=0.5"),
        ("-i", "-c:a", "copy", "-c:v", "mpeg4"),
        ("-i", "-c", "copy", "-an"),
    ],
)
def test_what_is_heard_or_seen_counts(shared_media: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    source = shared_media / "v01_mdn_pig_h264_aac.mp4"
    other = _write(source, tmp_path / "other.mp4", *options)
    assert _hash(other) not in (None, _hash(source))


def test_it_is_read_with_the_first_segment_if_it_is_asked_for(shared_media: Path) -> None:
    path = shared_media / "a01_typing_s16.wav"
    spec = ClipSpec()
    assert decode_segments(path, spec, count=1, hashes_packets=True).info.packets_hash == _hash(path)
    assert decode_segments(path, spec, count=1).info.packets_hash is None
