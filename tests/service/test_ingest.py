"""The pipeline's own promise: however slow a stage is, only so much of a file is in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle import load_bundle
from models.clip import DecodeLimits
from service.batching import Batcher, BatchLimits
from service.caller import Caller
from service.decoding import Decoder, DecoderClosed
from service.encoder import Encoder
from service.index.embedded import EmbeddedIndex
from service.ingest import CHUNK_SEGMENTS, Pipeline
from service.retrieval import Snapshot
from service.scanning import FoundFile, find_files, identify
from service.stages import Job

NUM_SEGMENTS = 90


class SlowEncoder(Encoder):
    """The real encoder, held up."""

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        time.sleep(0.1)
        return super().encode_video(frames)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> FoundFile:
    from training.recording import FRAME_RATE, write_media

    path = tmp_path_factory.mktemp("long") / "long.mp4"
    frames = np.zeros((10 * NUM_SEGMENTS * FRAME_RATE, 16, 16, 3), dtype=np.uint8)
    write_media(path, frames=frames, samples=None)
    (found,) = find_files([path])
    assert isinstance(found, FoundFile)
    return found


def test_decoding_does_not_run_ahead_of_a_slow_encoder(
    long_file: FoundFile, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(bundle_path)
    encoder = SlowEncoder(bundle, device="cpu")
    num_waiting: list[int] = []
    with (
        EmbeddedIndex.open(tmp_path / "index", width=encoder.width, min_free_bytes=0) as index,
        Decoder(num_workers=2) as decoder,
    ):
        snapshot = Snapshot(encoder=encoder, index=index, bundle_id="b", spec=bundle.manifest.clip_spec)
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline:
            job = Job(asset_id=identify(long_file), found=long_file)
            pipeline.add(job)
            ended: list[Job] = []
            while pipeline.is_busy:
                ended += pipeline.wait()
                num_waiting.append(pipeline._encode.messages.qsize() + len(job.running) + len(job.decoded))
            assert (pipeline._num_chunks, pipeline._num_unwritten) == (0, 0)
        asset = index.get_asset(job.asset_id)
    assert ended == [job]
    assert asset is not None
    assert asset.num_segments == job.num_segments == NUM_SEGMENTS
    num_chunks = -(-NUM_SEGMENTS // CHUNK_SEGMENTS)
    assert 2 <= max(num_waiting) <= 2 + 3 < num_chunks


class GatedEncoder(Encoder):
    """The real encoder, which embeds a segment of picture each time it is let."""

    lets = threading.Semaphore(0)
    num_begun = 0

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        self.num_begun += 1
        assert self.lets.acquire(timeout=30)
        return super().encode_video(frames)


def test_closing_waits_for_one_run_of_the_encoder_and_drops_the_rest(
    long_file: FoundFile, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(bundle_path)
    encoder = GatedEncoder(bundle, device="cpu")
    caller = Caller()
    with (
        EmbeddedIndex.open(tmp_path / "index", width=encoder.width, min_free_bytes=0) as index,
        Decoder(num_workers=1) as decoder,
        Batcher(encoder, BatchLimits()) as batcher,
    ):
        queued = batcher.encoder_of(caller, priority="bulk")
        snapshot = Snapshot(
            encoder=queued, index=index, bundle_id="b", spec=bundle.manifest.clip_spec, caller=caller
        )
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline:
            pipeline.add(Job(asset_id=identify(long_file), found=long_file))
            pipeline.wait()
            while batcher.stats().num_queued["bulk"] == 0:
                time.sleep(0.01)
        # The run is still held: closing waited for no segment, neither for that one nor for those behind it.
        assert encoder.num_begun == 1
        assert batcher.stats().num_queued["bulk"] == 0
        encoder.lets.release()


def test_a_decoder_that_was_closed_ends_the_work(
    long_file: FoundFile, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(bundle_path)
    encoder = Encoder(bundle, device="cpu")
    with (
        EmbeddedIndex.open(tmp_path / "index", width=encoder.width, min_free_bytes=0) as index,
        Decoder(num_workers=1) as decoder,
    ):
        snapshot = Snapshot(encoder=encoder, index=index, bundle_id="b", spec=bundle.manifest.clip_spec)
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline:
            pipeline.add(Job(asset_id=identify(long_file), found=long_file))
            decoder.close()
            with pytest.raises(DecoderClosed):
                _drain(pipeline)
        assert index.list_assets(limit=1).assets == ()


def _drain(pipeline: Pipeline) -> None:
    while pipeline.is_busy:
        pipeline.wait()
