"""Timecode and time reference as files say them, and nothing that only looks like them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.media.clip import probe_media
from models.media.source_time import read_source_time

PICTURE = ("-f", "lavfi", "-i", "testsrc=s=64x64:r=30000/1001:d=0.2")
SOUND = ("-f", "lavfi", "-i", "sine=d=0.2:r=48000", "-write_bext", "1")


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("tmcd.mov", (*PICTURE, "-timecode", "01:00:59;28"), ("01:00:59;28", None)),
        ("none.mov", PICTURE, (None, None)),
        ("bext.wav", (*SOUND, "-metadata", "time_reference=172800000"), (None, 172_800_000)),
    ],
)
def test_what_files_say(
    tmp_path: Path, name: str, arguments: tuple[str, ...], expected: tuple[str | None, int | None]
) -> None:
    subprocess.run(["ffmpeg", "-v", "error", *arguments, tmp_path / name], check=True)
    info = probe_media(tmp_path / name)
    assert (info.timecode, info.time_reference_samples) == expected


@pytest.mark.parametrize(
    "said", [{"timecode": "01:00:00:00\n"}, {"timecode": "٠١:00:00:00"}, {"time_reference": "-1"}]
)
def test_rubbish_is_not_taken(said: dict[str, str]) -> None:
    assert read_source_time(SimpleNamespace(metadata=said, streams=[])) == {}
