"""The pipeline's own promise: however slow a stage is, only so much of a file is in memory."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import load_bundle
from models.media.clip import ClipSpec, DecodedMedia, DecodeLimits
from service.decode.decoder import Decoder
from service.decode.lane import DecoderClosed, DecoderCrashed
from service.encode.batching import Batcher
from service.encode.encoder import Encoder
from service.encode.queue import BatchLimits
from service.encode.spool import CHUNK_SEGMENTS, Spool
from service.index.layout import VectorLayout
from service.library.indexing import index_paths
from service.library.pipeline import Pipeline
from service.library.scanning import FoundFile, UnusableFile, find_files, identify
from service.library.stages import BATCH_CLIPS, IncomingFile
from service.search.snapshot import Snapshot
from service.system.caller import Caller
from tests.support.memory_index import MemoryIndex
from tests.support.tiny_bundles import make_tiny
from tests.support.waiting import GENEROUS_SECONDS, wait_until

NUM_SEGMENTS = 60


class SlowEncoder(Encoder):
    """The real encoder, held up."""

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        time.sleep(0.1)
        return super().encode_video(frames)


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real encoder of next to no work: here it matters when it runs."""
    return make_tiny(tmp_path_factory.mktemp("bundle") / "tiny", tracks={"video": (4, 8)}).path


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> FoundFile:
    from training.corpus.recording import FRAME_RATE, write_media

    path = tmp_path_factory.mktemp("long") / "long.mp4"
    frames = np.zeros((10 * NUM_SEGMENTS * FRAME_RATE, 16, 16, 3), dtype=np.uint8)
    frames[: 2 * FRAME_RATE] = 255  # the only change is in the first chunk
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
        MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(encoder.bundle.manifest)) as index,
        Decoder(num_workers=2) as decoder,
    ):
        snapshot = Snapshot(encoder=encoder, index=index, bundle=bundle)
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline:
            file = IncomingFile(asset_id=identify(long_file), found=long_file)
            pipeline.add(file)
            ended: list[IncomingFile] = []
            while pipeline.is_busy:
                ended += pipeline.wait()
                num_waiting.append(pipeline._encode.messages.qsize() + len(file.running) + len(file.decoded))
            assert (pipeline._num_chunks, pipeline._num_unwritten) == (0, 0)
        asset = index.get_asset(file.asset_id)
    assert ended == [file]
    assert asset is not None
    assert asset.num_segments == file.num_segments == NUM_SEGMENTS
    num_chunks = -(-NUM_SEGMENTS // CHUNK_SEGMENTS)
    assert 2 <= max(num_waiting) <= 2 + 3 < num_chunks


class GatedEncoder(Encoder):
    """The real encoder, which embeds a segment of picture each time it is let."""

    lets = threading.Semaphore(0)
    num_begun = 0

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        self.num_begun += 1
        assert self.lets.acquire(timeout=GENEROUS_SECONDS)
        return super().encode_video(frames)


def test_closing_waits_for_one_run_of_the_encoder_and_drops_the_rest(
    long_file: FoundFile, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(bundle_path)
    encoder = GatedEncoder(bundle, device="cpu")
    caller = Caller()
    with (
        MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(encoder.bundle.manifest)) as index,
        Decoder(num_workers=1) as decoder,
        Batcher(encoder, BatchLimits()) as batcher,
    ):
        queued = batcher.encoder_of(caller, priority="bulk")
        snapshot = Snapshot(encoder=queued, index=index, bundle=bundle, caller=caller)
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline:
            pipeline.add(IncomingFile(asset_id=identify(long_file), found=long_file))
            pipeline.wait()
            wait_until(lambda: batcher.stats().num_queued["bulk"] > 0)
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
        MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(encoder.bundle.manifest)) as index,
        Decoder(num_workers=1) as decoder,
    ):
        snapshot = Snapshot(encoder=encoder, index=index, bundle=bundle)
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline:
            pipeline.add(IncomingFile(asset_id=identify(long_file), found=long_file))
            decoder.close()
            with pytest.raises(DecoderClosed):
                _drain(pipeline)
        assert index.list_assets(limit=1).assets == ()


def _drain(pipeline: Pipeline) -> None:
    while pipeline.is_busy:
        pipeline.wait()


class CountingEncoder(Encoder):
    """The real encoder, which counts pictures and breaks down after some, as a kill would end it."""

    num_clips = 0
    lasts = 10_000

    def encode_video(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        self.num_clips += len(frames)
        if self.num_clips > self.lasts:
            raise KeyboardInterrupt
        return super().encode_video(frames)


def test_a_file_goes_on_with_the_batch_in_which_it_was_interrupted(
    long_file: FoundFile, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(bundle_path)
    asset_id = identify(long_file)
    stored, tracks = {}, {}
    for name, breaks in {"whole": (), "broken": (20, 20, 14)}.items():
        with (
            MemoryIndex.open(tmp_path / name, layout=VectorLayout.of(bundle.manifest)) as index,
            Decoder(num_workers=2) as decoder,
        ):
            num_clips = 0
            for lasts in (*breaks, 10_000):
                encoder = CountingEncoder(bundle, device="cpu")
                encoder.lasts = lasts
                snapshot = Snapshot(
                    encoder=encoder,
                    index=index,
                    bundle=bundle,
                    spool=Spool(tmp_path / f"spool-{name}"),
                )
                with (
                    pytest.raises(KeyboardInterrupt) if lasts < NUM_SEGMENTS else contextlib.nullcontext(),
                    Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline,
                ):
                    file = IncomingFile(asset_id=asset_id, found=long_file)
                    pipeline.add(file)
                    _drain(pipeline)
                num_clips += encoder.num_clips
                assert (index.get_asset(asset_id) is None) is (lasts < NUM_SEGMENTS)
            assert num_clips <= NUM_SEGMENTS + len(breaks) * (BATCH_CLIPS + CHUNK_SEGMENTS - 1)
            assert (file.num_segments, file.is_partial) == (NUM_SEGMENTS, False)
            segments = index.read_segments(asset_id, limit=1000)
            stored[name] = [(s.index, s.start_seconds, s.end_seconds, s.media) for s in segments]
            tracks[name] = np.array([s.video_track for s in segments])
        assert list((tmp_path / f"spool-{name}").iterdir()) == []
    assert stored["whole"] == stored["broken"]
    assert {media["is_static"] for *_, media in stored["whole"]} == {False}, "facts are about the whole file"
    # Other batches, other rounding: within that of float16.
    np.testing.assert_allclose(tracks["whole"], tracks["broken"], atol=2e-3)


class CrashingDecoder(Decoder):
    """The real decoder, whose worker dies once at one chunk."""

    crashes_at: int | None = None

    def submit(self, path: Path | str, spec: ClipSpec, **options: Any) -> Future[DecodedMedia]:
        if options["first"] == self.crashes_at:
            self.crashes_at = None
            failed: Future[DecodedMedia] = Future()
            failed.set_exception(DecoderCrashed("the decode worker was killed by SIGKILL"))
            return failed
        return super().submit(path, spec, **options)


def test_another_attempt_at_a_file_goes_on_where_a_worker_died(
    long_file: FoundFile, bundle_path: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(bundle_path)
    encoder = CountingEncoder(bundle, device="cpu")
    with (
        MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(encoder.bundle.manifest)) as index,
        CrashingDecoder(num_workers=1) as decoder,
    ):
        decoder.crashes_at = 6 * CHUNK_SEGMENTS
        snapshot = Snapshot(
            encoder=encoder,
            index=index,
            bundle=bundle,
            spool=Spool(tmp_path / "spool"),
        )
        report = index_paths([long_file.path], snapshot=snapshot, decoder=decoder)
        assert [failed.code for failed in report.failed] == ["decoder_crashed"]
        report = index_paths([long_file.path], snapshot=snapshot, decoder=decoder)
        assert (report.files.indexed, report.segments.indexed) == (1, NUM_SEGMENTS)
        asset = index.get_asset(identify(long_file))
    assert asset is not None
    assert asset.num_segments == NUM_SEGMENTS
    assert encoder.num_clips <= NUM_SEGMENTS + BATCH_CLIPS + CHUNK_SEGMENTS - 1
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_is_embedded_of_a_file_that_changes_is_not_kept(
    long_file: FoundFile, bundle_path: Path, tmp_path: Path
) -> None:
    """Its chunks are those of another content, and that of its name may be indexed from a copy later."""
    copy = tmp_path / "copy.mp4"
    shutil.copy(long_file.path, copy)
    (found,) = find_files([copy])
    assert isinstance(found, FoundFile)
    asset_id = identify(found)
    bundle = load_bundle(bundle_path)
    encoder = CountingEncoder(bundle, device="cpu")
    spool = Spool(tmp_path / "spool")
    with (
        MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(encoder.bundle.manifest)) as index,
        Decoder(num_workers=1) as decoder,
    ):
        snapshot = Snapshot(encoder=encoder, index=index, bundle=bundle, spool=spool)
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=DecodeLimits()) as pipeline:
            file = IncomingFile(asset_id=asset_id, found=found)
            pipeline.add(file)
            while encoder.num_clips < 2 * CHUNK_SEGMENTS:
                pipeline.wait()
            with copy.open("ab") as changed:
                changed.write(b"more")
            kept = len(list(spool.read(asset_id)))
            _drain(pipeline)
        assert 0 < kept < NUM_SEGMENTS // CHUNK_SEGMENTS
        assert isinstance(file.error, UnusableFile)
        assert list(spool.read(asset_id)) == []
        assert index.get_asset(asset_id) is None
