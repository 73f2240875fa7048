from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.bundle import MANIFEST, Manifest, describe_file, load_bundle
from service import encoder as encoder_module
from service.encoder import (
    CPU,
    CUDA,
    DeviceMissing,
    Encoder,
    EncoderFailure,
    GoldenMismatch,
    choose_provider,
)


@pytest.fixture(scope="module")
def encoder(bundle_path: Path) -> Encoder:
    return Encoder(load_bundle(bundle_path), device="cpu")


def test_tracks_are_unit_rows_in_the_order_of_the_clips(encoder: Encoder) -> None:
    golden = encoder.bundle.golden()
    lengths = (1, 399, 400, 16_000, 160_000, 200_000)
    samples = [np.resize(golden.samples, length) for length in lengths]
    tracks = encoder.encode_audio([*samples, golden.samples])
    assert tracks.shape == (7, 16, encoder.width)
    assert tracks.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(tracks, axis=2), 1, atol=1e-5)
    assert np.abs(tracks[-1] - golden.audio_track).max() < 1e-4
    for track, one in zip(tracks, samples, strict=False):
        assert np.abs(track - encoder.encode_audio([one])[0]).max() < 1e-4  # batch mates change nothing
    frames = encoder.encode_video([golden.frames, 255 - golden.frames, golden.frames])
    assert np.abs(frames[0] - frames[2]).max() < 1e-6
    assert np.abs(frames[0] - golden.video_track).max() < 1e-4


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_audio([]).shape == encoder.encode_video([]).shape == (0, 16, encoder.width)


def test_threads_may_share_it(encoder: Encoder) -> None:
    golden = encoder.bundle.golden()
    differences: list[float] = []
    threads = [threading.Thread(target=lambda: differences.append(encoder.check_golden())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differences) == 4
    assert max(differences) < 1e-4
    assert golden.audio_track.shape == (16, encoder.width)


def test_a_number_that_is_not_finite_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(EncoderFailure, match="not finite"):
        encoder.encode_audio([np.full(1000, np.nan, np.float32)])


def test_frames_of_another_size_are_an_error(encoder: Encoder) -> None:
    with pytest.raises(EncoderFailure, match="ONNX Runtime failed"):
        encoder.encode_video([np.zeros((16, 100, 100, 3), np.uint8)])


def rewritten(bundle_path: Path, folder: Path, **files: bytes) -> Path:
    """A copy of the bundle with other files, and a manifest that agrees with them."""
    shutil.copytree(bundle_path, folder)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    manifest = load_bundle(bundle_path).manifest
    described = {name: describe_file(folder / name) for name in manifest.files}
    (folder / MANIFEST).write_text(Manifest(**{**vars(manifest), "files": described}).to_json())
    return folder


def test_other_golden_tracks_are_noticed(bundle_path: Path, tmp_path: Path) -> None:
    golden = load_bundle(bundle_path).golden()
    content = io.BytesIO()
    np.savez(content, **{**vars(golden), "audio_track": np.roll(golden.audio_track, 1, axis=1)})
    folder = rewritten(bundle_path, tmp_path / "bundle", golden_npz=content.getvalue())
    with pytest.raises(GoldenMismatch, match=r"golden tracks of .* differ by"):
        Encoder(load_bundle(folder), device="cpu").check_golden()


def test_a_graph_that_is_no_graph_is_an_error(bundle_path: Path, tmp_path: Path) -> None:
    folder = rewritten(bundle_path, tmp_path / "bundle", audio_onnx=b"not a graph")
    with pytest.raises(EncoderFailure, match="cannot be loaded"):
        Encoder(load_bundle(folder), device="cpu")


def test_cuda_that_is_missing_is_an_error_and_auto_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoder_module, "_has_cuda_driver", lambda: False)
    with pytest.raises(DeviceMissing, match="no CUDA device was found"):
        choose_provider("cuda")
    with caplog.at_level("WARNING"):
        assert choose_provider("auto") == CPU
    assert choose_provider("cpu") == CPU


@pytest.mark.needs_gpu
def test_cuda_reproduces_the_golden_tracks(bundle_path: Path, cuda: None) -> None:
    encoder = Encoder(load_bundle(bundle_path), device="cuda")
    assert encoder.provider == CUDA
    encoder.check_golden()


@pytest.fixture
def cuda() -> None:
    """Skip without a CUDA device, fail where REQUIRE_GPU=1."""
    import os

    has_cuda = CUDA in onnxruntime.get_available_providers() and encoder_module._has_cuda_driver()
    if not has_cuda and os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail("REQUIRE_GPU=1 and no CUDA device was found")
    if not has_cuda:
        pytest.skip("needs a CUDA device")
