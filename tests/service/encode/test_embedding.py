from __future__ import annotations

from pathlib import Path

import numpy as np

from models.bundle.bundle import load_bundle
from models.media.clip import Clip
from service.encode.batching import Batcher
from service.encode.embedding import embed_clips
from service.encode.encoder import Encoder
from service.encode.queue import BatchLimits
from service.system.caller import Caller


def test_the_end_of_the_sound_reaches_the_encoder(bundle_path: Path) -> None:
    """Through the queue, beside a clip without sound and one whose sound fills it."""
    encoder = Encoder(load_bundle(bundle_path), device="cpu")
    golden = encoder.bundle.golden()
    clips = [
        Clip(
            start_seconds=0, end_seconds=10, frames=None, frame_times_seconds=None, samples=samples,
            num_heard=num_heard,
        )
        for samples, num_heard in ((golden.samples, 70_000), (None, 0), (golden.samples, 999_999))
    ]  # fmt: skip
    with Batcher(encoder, BatchLimits()) as batcher:
        short, whole = embed_clips(clips, encoder=batcher.encoder_of(Caller()), modalities=["audio"])
    length = np.array([len(golden.samples)])
    expected = encoder.engine.run_audio(golden.samples[None], length, np.array([70_000]))[0]
    assert np.abs(short.tracks["audio"] - expected).max() < 1e-6
    assert np.abs(whole.tracks["audio"] - golden.audio_track).max() < 1e-5
    assert np.abs(expected - golden.audio_track).max() > 0.05
