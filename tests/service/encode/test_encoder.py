from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from models.bundle.bundle import MANIFEST, Manifest, describe_file, load_bundle
from service.encode import choice as precision
from service.encode import encoder as encoder_module
from service.encode.encoder import Encoder
from service.encode.engines import candidates as choice
from service.encode.engines.candidates import Candidate
from service.encode.engines.contract import EncoderFailure, GoldenMismatch
from service.encode.engines.onnx_cpu import CPU


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


@pytest.mark.parametrize("num_runs", [1, 2])
def test_threads_may_share_it(bundle_path: Path, num_runs: int) -> None:
    encoder = Encoder(load_bundle(bundle_path), device="cpu", num_runs=num_runs)
    differences: list[float] = []
    threads = [threading.Thread(target=lambda: differences.append(encoder.check_golden())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differences) == 4
    assert max(differences) < 1e-4


def test_a_number_that_is_not_finite_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(EncoderFailure, match="not finite"):
        encoder.encode_audio([np.full(1000, np.nan, np.float32)])


def test_frames_of_another_size_are_an_error(encoder: Encoder) -> None:
    with pytest.raises(EncoderFailure, match="failed"):
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


@pytest.fixture
def other_golden(bundle_path: Path, tmp_path: Path) -> Path:
    """A bundle whose golden sound belongs to other embeddings."""
    golden = load_bundle(bundle_path).golden()
    content = io.BytesIO()
    np.savez(
        content,
        samples=golden.samples,
        frames=golden.frames,
        audio_track=np.roll(golden.audio_track, 1, axis=1),
        video_track=golden.video_track,
    )
    return rewritten(bundle_path, tmp_path / "bundle", golden_npz=content.getvalue())


def test_other_golden_tracks_are_noticed(other_golden: Path) -> None:
    with pytest.raises(GoldenMismatch, match=r"golden tracks of .* fp32 differ by .*, allowed 1e-04"):
        Encoder(load_bundle(other_golden), device="cpu").check_golden()


def test_a_lower_precision_is_held_to_a_cosine(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        encoder, "choice", precision.EngineChoice(candidate=Candidate(engine="onnxruntime", precision="int8"))
    )
    assert encoder.check_golden() < 1e-4
    monkeypatch.setattr(encoder_module, "GOLDEN_COSINE", 1.1)
    with pytest.raises(GoldenMismatch, match=r"have a cosine of 1\.000000, allowed 1\.1 and above"):
        encoder.check_golden()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_graph_that_is_no_graph_is_an_error(
    bundle_path: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rewritten(bundle_path, tmp_path / "bundle", audio_onnx=b"not a graph")
    monkeypatch.setattr(choice, "RANKING", [c for c in choice.RANKING if c.engine == engine])
    with pytest.raises(EncoderFailure, match=r"audio\.onnx cannot be loaded"):
        Encoder(load_bundle(folder), device="cpu")


def test_threads_are_the_cores_shared_by_the_runs(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "num_cores", lambda: 6)
    monkeypatch.setattr(choice, "RANKING", [Candidate(engine="onnxruntime", precision="fp32")])
    encoder = Encoder(load_bundle(bundle_path), device="cpu", num_runs=3)
    assert (encoder.options.num_threads, encoder.options.num_runs) == (2, 3)
    assert encoder.provider == CPU
    assert Encoder(load_bundle(bundle_path), device="cpu", num_threads=1).options.num_threads == 1
