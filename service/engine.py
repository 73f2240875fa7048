"""The parts of a running service, opened together and closed together: the active release and the decoder.

    with open_engine(settings) as engine:
        answer = engine.search_file(path, target="audio")

`foley serve` and `foley search` both go through here. Calls block and may come from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.bundle import Bundle
from models.clip import DecodeLimits
from service.batch_queue import Priority
from service.batching import Batcher
from service.caller import Caller
from service.decoding import Decoder, WorkerLimits
from service.encoder import Encoder
from service.index.contract import Filter, Index, Modality
from service.matching import Choice, SearchAnswer
from service.releases.live import LiveRelease, Releases
from service.releases.opening import active_release, open_release, warn_of_unused_bundle
from service.retrieval import EmbeddedFile, QueryLimits, Snapshot, embed_file, search_file
from service.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Everything a query needs, open.

    Attributes:
        settings: What it was opened with.
        releases: The active release, and older ones that still answer somebody.
        decoder: Worker processes that decode media.
    """

    settings: Settings
    releases: Releases
    decoder: Decoder

    @property
    def bundle(self) -> Bundle:
        """The encoder pair in use."""
        return self.releases.current.bundle

    @property
    def encoder(self) -> Encoder:
        """The bundle, loaded."""
        return self.releases.current.encoder

    @property
    def batcher(self) -> Batcher:
        """The encoder's queue: whatever is embedded for somebody goes through it."""
        return self.releases.current.batcher

    @property
    def index(self) -> Index:
        """Segments embedded by that bundle."""
        return self.releases.current.index

    @contextmanager
    def lease(self, caller: Caller | None = None, *, priority: Priority = "query") -> Iterator[Snapshot]:
        """What one request works with from its beginning to its end, whatever is activated meanwhile.

        Args:
            caller: Who waits for the answer; default: one who waits for as long as it takes.
            priority: Whether queries of others may go first.

        Yields:
            Encoder, index and calibration of one release, open until the block ends.
        """
        with self.releases.lease() as live:
            yield take_snapshot(live, caller, priority=priority)

    @contextmanager
    def lease_to_write(self) -> Iterator[Index]:
        """The index of the active release for a short write, which a switch waits for.

        Yields:
            The index.
        """
        self.releases.look()
        with self.releases.gate.passing(), self.releases.lease() as live:
            yield live.index

    def snapshot(self, caller: Caller | None = None, *, priority: Priority = "query") -> Snapshot:
        """The active release without a lease: for a program that activates no other while it runs.

        Args:
            caller: Who waits for the answer; default: one who waits for as long as it takes.
            priority: Whether queries of others may go first.

        Returns:
            Encoder, index and calibration.
        """
        return take_snapshot(self.releases.current, caller, priority=priority)

    def search_file(
        self,
        path: Path,
        *,
        target: Modality,
        source: Modality | None = None,
        choice: Choice | None = None,
        snapshot: Snapshot | None = None,
    ) -> SearchAnswer:
        """Search with a media file; see `service.retrieval.search_file`.

        Args:
            path: Query file.
            target: Modality to find.
            source: Modality of the file to search by.
            choice: Which results are wanted; default: as the settings say.
            snapshot: What to work with; default: the present one.

        Returns:
            The answer.
        """
        return search_file(
            path,
            target=target,
            source=source,
            choice=choice or self.choose(),
            snapshot=snapshot or self.snapshot(),
            decoder=self.decoder,
            limits=query_limits(self.settings),
        )

    def choose(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
        filter: Filter | None = None,
    ) -> Choice:
        """Which results are wanted, with the settings where nothing is said; see `service.matching.Choice`.

        Args:
            limit: Most results.
            offset: How many results to pass over.
            min_score: Only results that score so much or more.
            min_probability: Only results that are the match with such a probability or a higher one.
            filter: Which assets count.

        Returns:
            The choice.
        """
        return Choice(
            limit=self.settings.default_limit if limit is None else limit,
            offset=offset,
            window=self.settings.max_limit,
            min_score=min_score,
            min_probability=min_probability,
            filter=filter,
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
    with ExitStack() as stack:
        release_id, bundle = active_release(settings)
        warn_of_unused_bundle(settings, release_id)
        releases = Releases(open_release(settings, release_id, bundle))
        stack.callback(releases.close)
        decoder = Decoder(
            num_workers=settings.decode_workers,
            limits=WorkerLimits(
                memory_bytes=settings.worker_memory_bytes, max_tasks=settings.worker_recycle_after
            ),
        )
        stack.callback(decoder.close)
        yield Engine(settings=settings, releases=releases, decoder=decoder)


def take_snapshot(live: LiveRelease, caller: Caller | None, *, priority: Priority) -> Snapshot:
    """What somebody works with: one release, and a place in the queue of its encoder."""
    caller = caller or Caller()
    return Snapshot(
        encoder=live.batcher.encoder_of(caller, priority=priority),
        index=live.index,
        bundle_id=live.bundle.bundle_id,
        spec=live.bundle.manifest.clip_spec,
        caller=caller,
        release_id=live.release_id,
        calibration=live.calibration,
        width=live.bundle.manifest.embedding_width,
        spool=live.spool,
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
        open_seconds=settings.open_timeout_seconds,
    )
