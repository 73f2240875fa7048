"""The parts of a running service, opened together and closed together: bundle, encoder, index, decoder.

    with open_engine(settings) as engine:
        answer = engine.search_file(path, target="audio")

`foley serve` and `foley search` both go through here. Calls block and may come from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.bundle import Bundle, load_bundle
from models.clip import DecodeLimits
from service.batch_queue import BatchLimits, Priority
from service.batching import Batcher
from service.caller import Caller
from service.decoding import Decoder, WorkerLimits
from service.encoder import Encoder
from service.index.contract import Index, Modality
from service.index.embedded import EmbeddedIndex
from service.retrieval import EmbeddedFile, QueryLimits, SearchAnswer, Snapshot, embed_file, search_file
from service.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Everything a query needs, open.

    Attributes:
        settings: What it was opened with.
        bundle: The encoder pair in use.
        encoder: The bundle, loaded.
        batcher: Its queue: whatever is embedded for somebody goes through it.
        index: Segments embedded by that bundle.
        decoder: Worker processes that decode media.
    """

    settings: Settings
    bundle: Bundle
    encoder: Encoder
    batcher: Batcher
    index: Index
    decoder: Decoder

    def snapshot(self, caller: Caller | None = None, *, priority: Priority = "query") -> Snapshot:
        """What one request, or one run of bulk work, works with from its beginning to its end.

        Args:
            caller: Who waits for the answer; default: one who waits for as long as it takes.
            priority: Whether queries of others may go first.

        Returns:
            Encoder and index.
        """
        caller = caller or Caller()
        return Snapshot(
            encoder=self.batcher.encoder_of(caller, priority=priority),
            index=self.index,
            bundle_id=self.bundle.bundle_id,
            spec=self.bundle.manifest.clip_spec,
            caller=caller,
        )

    def search_file(
        self,
        path: Path,
        *,
        target: Modality,
        source: Modality | None = None,
        limit: int | None = None,
        snapshot: Snapshot | None = None,
    ) -> SearchAnswer:
        """Search with a media file; see `service.retrieval.search_file`.

        Args:
            path: Query file.
            target: Modality to find.
            source: Modality of the file to search by.
            limit: Most results; default: the setting.
            snapshot: What to work with; default: the present one.

        Returns:
            The answer.
        """
        return search_file(
            path,
            target=target,
            source=source,
            limit=self.settings.default_limit if limit is None else limit,
            snapshot=snapshot or self.snapshot(),
            decoder=self.decoder,
            limits=query_limits(self.settings),
            prefetch=self.settings.prefetch,
        )

    def embed_file(
        self, path: Path, *, modality: Modality | None = None, snapshot: Snapshot | None = None
    ) -> EmbeddedFile:
        """Embed a media file; see `service.retrieval.embed_file`.

        Args:
            path: Media file.
            modality: Embed this one only.
            snapshot: What to work with; default: the present one.

        Returns:
            The tracks of its segments.
        """
        return embed_file(
            path,
            modality=modality,
            snapshot=snapshot or self.snapshot(),
            decoder=self.decoder,
            limits=query_limits(self.settings),
        )


@contextmanager
def open_engine(settings: Settings) -> Iterator[Engine]:
    """Open everything a service needs, and close it when the block ends, whatever happened inside.

    Args:
        settings: Where things are and what they may use.

    Yields:
        The open engine.
    """
    bundle = load_bundle(settings.bundle)
    with ExitStack() as stack:
        encoder = open_encoder(settings, bundle)
        index = EmbeddedIndex.open(
            index_folder(settings, bundle),
            width=bundle.manifest.embedding_width,
            num_moments=bundle.manifest.clip_spec.num_moments,
            min_free_bytes=settings.min_free_bytes,
        )
        stack.callback(index.close)
        decoder = Decoder(
            num_workers=settings.decode_workers,
            limits=WorkerLimits(
                memory_bytes=settings.worker_memory_bytes, max_tasks=settings.worker_recycle_after
            ),
        )
        stack.callback(decoder.close)
        batcher = stack.enter_context(Batcher(encoder, batch_limits(settings, encoder.engine.max_batch)))
        yield Engine(
            settings=settings, bundle=bundle, encoder=encoder, batcher=batcher, index=index, decoder=decoder
        )


def open_encoder(settings: Settings, bundle: Bundle) -> Encoder:
    """Load a bundle on the engine that the settings allow; what is measured or compiled for it lies with the data."""
    return Encoder(
        bundle,
        device=settings.device,
        precision=settings.precision,
        num_threads=settings.num_threads,
        num_runs=settings.encode_runs or 1,
        tensorrt=settings.tensorrt,
        cuda_graphs=settings.cuda_graphs,
        gpu_memory_bytes=settings.gpu_memory_bytes,
        agreement=settings.data / "agreement",
        cache=settings.data / "compiled",
    )


def index_folder(settings: Settings, bundle: Bundle) -> Path:
    """Where the index of a bundle lives: each bundle has its own, so vectors of two models never meet."""
    return settings.data / "index" / bundle.bundle_id


def batch_limits(settings: Settings, max_batch: int) -> BatchLimits:
    """How segments of several requests are joined, where no setting says otherwise.

    Args:
        settings: What an operator set.
        max_batch: What the engine takes in one run: 1 on a CPU, which the 16 pictures of one segment fill.

    Returns:
        The limits of the queue.
    """
    joins = max_batch > 1
    wait_seconds = settings.encode_wait_seconds
    return BatchLimits(
        # More than the engine takes would only make the first segments wait for the last.
        max_batch=min(settings.encode_max_batch or max_batch, max_batch),
        max_wait_seconds=(0.002 if joins else 0.0) if wait_seconds is None else wait_seconds,
        max_queued=settings.encode_queue_segments or 16 * settings.search_workers,
        # On a GPU the next batch is copied together while one runs; engines run one at a time.
        num_runs=settings.encode_runs or (2 if joins else 1),
    )


def query_limits(settings: Settings) -> QueryLimits:
    """How far a query file is followed."""
    return QueryLimits(
        decode=DecodeLimits(
            max_duration_seconds=settings.max_query_seconds,
            max_frame_width=settings.max_frame_width,
            max_frame_height=settings.max_frame_height,
            max_streams=settings.max_streams,
            max_channels=settings.max_channels,
        ),
        timeout_seconds=settings.query_timeout_seconds,
    )
