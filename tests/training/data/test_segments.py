from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from models.media.clip import Clip, ClipSpec
from tests.support.media_files import write_quiet_start
from tests.support.paths import REPOSITORY
from training.data import segments as segments_module
from training.data.listing import Item, list_items
from training.data.packing import Packing, pack_segment
from training.data.segments import BrokenSegments, NoTrainingData, PairedSegments, prepare
from training.data.sharded import ShardedSegments
from training.data.shards import write_shards


@pytest.fixture(scope="module")
def one(segments: PairedSegments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder prepared from the first file alone; tests copy it."""
    folder = tmp_path_factory.mktemp("one")
    prepare([Path(segments.paths[0])], folder, ClipSpec(), num_workers=1)
    return folder


def test_files_that_cannot_be_used_are_counted_and_named(segments: PairedSegments, corpus: Path) -> None:
    muxed = sorted(p for p in corpus.glob("*.mp4") if "-" not in p.name and p.name != "broken.mp4")
    assert segments.paths == tuple(str(p) for p in muxed)
    reasons = {Path(failure["path"]).name: failure["reason"] for failure in segments.failed}
    assert reasons["broken.mp4"].startswith("not_media: ")
    assert all("no_pair" in reason for name, reason in reasons.items() if "picture" in name)
    assert segments.frames.shape == (len(muxed), 16, 224, 224, 3)
    assert segments.samples.shape == (len(muxed), 160_000)


def test_a_complete_folder_is_used_again_and_another_list_is_decoded_anew(
    segments: PairedSegments, corpus: Path, one: Path
) -> None:
    folder = corpus.parent / "prepared"
    before = (folder / "frames.raw").stat().st_mtime_ns
    again = prepare([corpus], folder, ClipSpec(), num_workers=1)
    assert (folder / "frames.raw").stat().st_mtime_ns == before
    assert again.paths == segments.paths
    assert (PairedSegments.open(one).frames == segments.frames[:1]).all()


def test_what_tells_nothing_is_left_out_and_counted(tmp_path: Path) -> None:
    path = write_quiet_start(tmp_path / "a.mkv")
    spec = ClipSpec(segment_seconds=1.0)
    segments = prepare([path], tmp_path / "prepared", spec, num_workers=1)
    assert (len(segments), segments.num_left_out, segments.failed) == (1, 1, ())
    index = write_shards(list_items([path]), tmp_path / "shards", spec, Packing(), num_workers=1)
    assert (index.num_segments, index.num_left_out) == (1, 1)
    assert ShardedSegments.open([tmp_path / "shards"], spec).num_left_out == 1


def test_nothing_to_learn_from_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(NoTrainingData, match="none of 1 files"):
        prepare([corpus / "broken.mp4"], tmp_path / "none", ClipSpec(), num_workers=1)


def test_stored_windows_are_those_of_kaldi(segments: PairedSegments) -> None:
    """Tolerance: float16 is exact to 2⁻¹¹ of a value, and they stay below 4; float32 sums differ by 1e-4."""
    samples = torch.from_numpy(segments.samples_of(1)[: segments.lengths[1]]).double()
    log_mel = kaldi.fbank(
        (samples - samples.mean()).unsqueeze(0),
        htk_compat=True,
        sample_frequency=16_000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    whole = (torch.nn.functional.pad(log_mel, (0, 0, 0, 1024 - len(log_mel))) + 5.081) / 4.4849
    windows = segments.windows_at([1, 1], [0, 608], 416)
    assert windows.dtype == np.float32
    for window, start in zip(windows, (0, 608), strict=True):
        assert np.abs(window - whole[start : start + 416].numpy()).max() < 4 * 2**-11 / 2 + 2e-4


def test_the_log_mel_sees_only_what_is_heard() -> None:
    """Sound of 3 s that ends after 2: padded after the logarithm, as the published code does it."""
    samples = np.random.default_rng(0).normal(0.1, 0.1, 48_000).astype(np.float32)
    samples[32_000:] = 0
    clip = Clip(
        start_seconds=0, end_seconds=3, samples=samples, num_heard=32_000,
        frames=np.zeros((16, 2, 2, 3), np.uint8), frame_times_seconds=np.zeros(16),
    )  # fmt: skip
    row = segments_module._make_row(clip, num_samples=160_000)
    assert (row.num_samples, row.num_heard) == (48_000, 32_000)
    heard = torch.from_numpy(samples[:32_000])
    log_mel = kaldi.fbank(
        (heard - heard.mean()).unsqueeze(0), htk_compat=True, sample_frequency=16_000, use_energy=False,
        window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
    )  # fmt: skip
    whole = (torch.nn.functional.pad(log_mel, (0, 0, 0, 1024 - len(log_mel))) + 5.081) / 4.4849
    assert np.abs(row.log_mel - whole.numpy()).max() < 2e-3
    assert pack_segment(clip, Packing(), max_samples=160_000).facts["num_heard"] == 32_000


def test_what_is_read_is_a_copy_of_the_asked_row_and_moment(segments: PairedSegments) -> None:
    frames = segments.frames_at([3, 0], [15, 2])
    assert (frames[0] == segments.frames[3, 15]).all()
    assert (frames[1] == segments.frames[0, 2]).all()
    assert (segments.frames_of(2) == segments.frames[2]).all()
    assert (segments.samples_of(2) == segments.samples[2]).all()
    frames[:] = 0
    assert segments.frames[3, 15].any()


def test_new_labels_do_not_decode_anew(segments: PairedSegments, one: Path, tmp_path: Path) -> None:
    path = Path(segments.paths[0])
    shutil.copytree(one, tmp_path, dirs_exist_ok=True)
    plain = prepare([Item(path=path)], tmp_path, ClipSpec(), num_workers=1)
    assert plain.labels == ((),)
    before = (tmp_path / "frames.raw").stat().st_mtime_ns
    labelled = prepare([Item(path=path, labels=("rain", "wind"))], tmp_path, ClipSpec(), num_workers=1)
    assert labelled.labels == (("rain", "wind"),)
    assert labelled.fingerprint == plain.fingerprint
    assert (tmp_path / "frames.raw").stat().st_mtime_ns == before


def test_a_folder_with_an_array_cut_short_is_refused(one: Path, tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "log_mel.raw", 1000)
    with pytest.raises(BrokenSegments, match=r"log_mel.raw must have 262144 bytes for 1 segments"):
        PairedSegments.open(tmp_path)


def test_a_killed_preparation_leaves_nothing_that_looks_whole(
    segments: PairedSegments, corpus: Path, tmp_path: Path
) -> None:
    script = f"""
def kill(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    import os, signal
    from pathlib import Path
    from models.media.clip import ClipSpec
    from training.data.segments import prepare
    prepare([Path({str(corpus)!r})], Path({str(tmp_path)!r}), ClipSpec(), num_workers=1, on_progress=kill)
"""
    (tmp_path / "prepare.py").write_text(script)
    command = [sys.executable, str(tmp_path / "prepare.py")]
    root = REPOSITORY
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "frames.raw").stat().st_size > 0
    with pytest.raises(FileNotFoundError):
        PairedSegments.open(tmp_path)
    again = prepare([corpus], tmp_path, ClipSpec(), num_workers=1)
    assert again.fingerprint == segments.fingerprint
    assert (again.frames == segments.frames).all()
    assert (again.log_mel == segments.log_mel).all()
    assert json.loads((tmp_path / "segments.json").read_text())["segments"]
