from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.bundle.bundle import (
    GOLDEN,
    MANIFEST,
    BrokenBundle,
    Manifest,
    describe_file,
    load_bundle,
    starter_path,
)
from models.media.clip import ClipSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a bundle; what the graphs hold is not looked at by `load_bundle`."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "audio.onnx").write_bytes(b"audio graph")
    (folder / "video.onnx").write_bytes(b"video graph")
    track = np.eye(16, 8, dtype=np.float32)
    np.savez(
        folder / GOLDEN,
        samples=np.zeros(400, np.float32),
        frames=np.zeros((16, 2, 2, 3), np.uint8),
        audio_track=track,
        video_track=track,
    )
    manifest = Manifest(
        name="test",
        tracks={"audio": (16, 8), "video": (16, 8)},
        clip_spec=ClipSpec(),
        opset=20,
        network={},
        training={"seed": 1},
        agreement={"audio": 0.0, "video": 0.0},
        files={name: describe_file(folder / name) for name in ("audio.onnx", "video.onnx", GOLDEN)},
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def test_round_trip(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.manifest.tracks == {"audio": (16, 8), "video": (16, 8)}
    assert bundle.manifest.clip_spec == ClipSpec()
    assert bundle.golden().audio_track.shape == (16, 8)
    assert bundle.bundle_id.startswith("test-")
    copy = shutil.copytree(folder, folder.with_name("copy"))
    assert load_bundle(copy).bundle_id == bundle.bundle_id


@pytest.mark.parametrize("name", ["audio.onnx", "video.onnx", GOLDEN])
def test_one_flipped_bit_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BrokenBundle, match="is not the file of the manifest"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["audio.onnx", "video.onnx", GOLDEN])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BrokenBundle, match=f"{name} cannot be read"):
        load_bundle(folder)


def test_a_link_is_refused(folder: Path) -> None:
    target = folder.parent / "elsewhere.onnx"
    (folder / "audio.onnx").rename(target)
    (folder / "audio.onnx").symlink_to(target)
    with pytest.raises(BrokenBundle, match="must be a regular file"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 4}, "bundle format must be 1, 2, 3, got 4"),
        ({"name": "../up"}, "bundle name must be"),
        ({"tracks": {"audio": [16, 0]}}, "width of audio must be"),
        ({"tracks": {}}, "a bundle embeds audio, video or both"),
        ({"tracks": {"audio": [16, 8]}}, "files must be audio.onnx, golden.npz"),
        ({"tracks": {"audio": [16, 8], "video": [1, 8]}}, "tracks that compare must be of one shape"),
        ({"similarity": "l2"}, "similarity must be cosine or dot"),
        ({"text": {"outputs": {"smell": "x"}, "max_tokens": 8}}, "text must compare with audio or video"),
        ({"text": {"outputs": {"audio": "x"}, "max_tokens": 8}}, "files must be"),
        ({"embedding_width": 8}, "cannot be read"),
        ({"files": {}}, "files must be audio"),
        ({"surprise": 1}, "cannot be read"),
        ({"clip_spec": 3}, "cannot be read"),
    ],
)
def test_a_manifest_that_no_bundle_can_have_is_refused(folder: Path, change: dict, message: str) -> None:
    fields = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**fields, **change}))
    with pytest.raises(BrokenBundle, match=message):
        load_bundle(folder)


def test_no_manifest_and_no_json(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    with pytest.raises(BrokenBundle, match="cannot be read"):
        load_bundle(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(BrokenBundle, match="is not a bundle"):
        load_bundle(folder)


def test_the_starter_is_small_and_says_how_it_was_made() -> None:
    bundle = load_bundle(starter_path())
    assert sum(file.stat().st_size for file in starter_path().iterdir()) <= 20e6
    training = bundle.manifest.training
    assert training["command"].startswith("python -m benchmarks.starter_tuning")
    assert training["before"]["command"].startswith("foley-train pretrain")
    assert min(training["seconds"], training["before"]["seconds"]) > 0
    held_out = training["retrieval"][training["weights"]]
    chance = 100 / held_out["num_segments"]
    assert held_out["num_segments"] >= 200
    assert min(held_out["audio_to_video"]["at_1"], held_out["video_to_audio"]["at_1"]) >= 50 > 20 * chance
