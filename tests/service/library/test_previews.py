"""Previews on disk: found again, joined, bounded, and none where a file is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from models.media.preview import Preview
from service.library.previews import Previews

PICTURES = Preview(thumbnail=b"t" * 900, strip=b"s" * 50, num_tiles=16, tile_width=120)
SOUND = Preview(peaks=np.array([[-3, 4], [-127, 127]], np.int8), bucket_seconds=0.25)
IDS = [letter * 64 for letter in "abcdef0123"]


def test_pictures_and_sound_are_joined(tmp_path: Path) -> None:
    previews = Previews(tmp_path, max_bytes=1 << 20)
    assert previews.get(IDS[0]) is None
    previews.put(IDS[0], PICTURES)
    previews.put(IDS[0], SOUND)
    found = previews.get(IDS[0])
    assert (found.thumbnail, found.strip, found.num_tiles, found.tile_width) == (
        b"t" * 900,
        b"s" * 50,
        16,
        120,
    )
    assert (found.peaks.tolist(), found.bucket_seconds) == (SOUND.peaks.tolist(), 0.25)
    previews.copy(IDS[1], IDS[0])
    previews.remove(IDS[0])
    assert previews.get(IDS[0]) is None
    assert Previews(tmp_path, max_bytes=1 << 20).get(IDS[1]).thumbnail == b"t" * 900
    assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("??/*")] == [0o600]


def test_what_is_damaged_is_not_there(tmp_path: Path) -> None:
    previews = Previews(tmp_path, max_bytes=1 << 20)
    previews.put(IDS[0], PICTURES)
    (path,) = tmp_path.glob("??/*")
    whole = path.read_bytes()
    for number in range(0, len(whole), 37):
        for broken in (whole[:number], whole[:number] + b"\xff" + whole[number + 1 :]):
            path.write_bytes(broken)
            assert previews.get(IDS[0]) is None or broken == whole
    previews.put(IDS[0], SOUND)
    assert previews.get(IDS[0]).thumbnail is None


def test_the_least_used_goes_first(tmp_path: Path) -> None:
    previews = Previews(tmp_path, max_bytes=9_900)
    for number, asset_id in enumerate(IDS[:9]):
        previews.put(asset_id, PICTURES)
        os.utime(tmp_path / asset_id[:2] / asset_id, (number, number))
    assert previews.get(IDS[0]) is not None  # used just now
    previews.put(IDS[9], PICTURES)
    kept = [asset_id for asset_id in IDS if previews.get(asset_id) is not None]
    assert IDS[0] in kept
    assert IDS[9] in kept
    assert IDS[1] not in kept
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= 9_900


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    previews = Previews(tmp_path / "file" / "previews", max_bytes=1 << 20)
    previews.put(IDS[0], PICTURES)
    assert previews.get(IDS[0]) is None
