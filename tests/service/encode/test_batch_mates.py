"""What a caller gets does not depend on whose segments are encoded with its own: the starter bundle, many threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import Bundle, load_bundle
from models.inference import onnxruntime
from service.encode.batching import Batcher
from service.encode.encoder import Encoder
from service.encode.queue import BatchLimits
from service.system.caller import Caller


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


class JoinedEncoder:
    """The graphs of a bundle, run on all segments at once: sound is padded to the longest."""

    def __init__(self, bundle: Bundle) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        paths = {"audio": bundle.audio_graph, "video": bundle.video_graph}
        self._sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in paths.items()
        }

    def encode_audio(
        self, samples: Sequence[NDArray[np.float32]], num_heard: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        lengths = np.array([len(one) for one in samples], np.int64)
        padded = np.stack([np.pad(one, (0, lengths.max() - len(one))) for one in samples])
        heard = lengths if num_heard is None else np.array(num_heard)
        inputs = {"samples": padded, "lengths": lengths, "heard": heard}
        return np.asarray(self._sessions["audio"].run(["tracks"], inputs)[0], np.float32)

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.asarray(
            self._sessions["video"].run(["tracks"], {"frames": np.stack(frames)})[0], np.float32
        )


@pytest.mark.parametrize("kind", ["as served", "joined"])
def test_batch_mates_change_nothing(bundle: Bundle, kind: str) -> None:
    """Each of many callers gets within 1e-6 what the same engine gives it alone: float32 rounds at 6e-8."""
    encoder = Encoder(bundle, device="cpu", num_threads=1) if kind == "as served" else JoinedEncoder(bundle)
    golden = bundle.golden()
    rng = np.random.default_rng(1)
    sounds = [np.resize(golden.samples, length) for length in (1, 16_000, 90_001, 160_000)]
    ends = [1, 16_000, 70_001, 100_000]  # where each is over, before its picture
    pictures = [golden.frames, 255 - golden.frames, golden.frames[::-1]]
    alone = {
        "audio": [encoder.encode_audio([sound], [end])[0] for sound, end in zip(sounds, ends, strict=True)],
        "video": [encoder.encode_video([picture])[0] for picture in pictures],
    }
    # A track given to the wrong caller would be seen.
    assert min(np.abs(one[0] - one[1]).max() for one in alone.values()) > 1e-3
    limits = BatchLimits(max_batch=4, max_wait_seconds=0.01, num_runs=2)
    orders = [
        ("audio" if rng.random() < 0.6 else "video", rng.integers(0, 3, rng.integers(1, 4)))
        for _ in range(16)
    ]

    def call(batcher: Batcher, modality: str, which: NDArray[np.int64]) -> float:
        queued = batcher.encoder_of(Caller())
        if modality == "audio":
            tracks = queued.encode_audio([sounds[i] for i in which], [ends[i] for i in which])
        else:
            tracks = queued.encode_video([pictures[i] for i in which])
        expected = np.stack([alone[modality][i] for i in which])
        assert tracks.shape == expected.shape
        return float(np.abs(tracks - expected).max())

    with Batcher(encoder, limits) as batcher, ThreadPoolExecutor(8) as threads:
        differences = [future.result(60) for future in [threads.submit(call, batcher, *o) for o in orders]]
        assert max(batcher.stats().num_batches) > 1  # or it would prove nothing
    assert max(differences) <= 1e-6
