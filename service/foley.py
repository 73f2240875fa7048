"""The parts of a running service, opened together and closed together: the active release and the decoder.

    with open_foley(settings) as engine:
        answer = engine.search_file(path, target="audio")

`foley serve` and `foley search` both go through here. Calls block and may come from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.bundle.bundle import Bundle
from models.media.clip import DecodeLimits
from service.decode.decoder import Decoder, WorkerLimits
from service.encode.batching import Batcher
from service.encode.encoder import Encoder
from service.encode.queue import Priority
from service.index.contract import Filter, Index
from service.releases.opening import active_release, open_release, warn_of_unused_bundle
from service.releases.switch import ReleaseSwitch
from service.search.file_query import EmbeddedFile, embed_file, search_file
from service.search.matching import SearchAnswer, SearchOptions
from service.search.snapshot import QueryLimits, Snapshot
from service.system.caller import Caller
from service.system.modality import Modality
from service.system.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Foley:
    """Everything a query needs, open.

    Attributes:
        settings: What it was opened with.
        releases: The active release, and older ones that still answer somebody.
        decoder: Worker processes that decode media.
    """

    settings: Settings
    releases: ReleaseSwitch
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
            yield live.snapshot(caller, priority=priority)

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
        return self.releases.current.snapshot(caller, priority=priority)

    def search_file(
        self,
        path: Path,
        *,
        target: Modality,
        source: Modality | None = None,
        choice: SearchOptions | None = None,
        snapshot: Snapshot | None = None,
    ) -> SearchAnswer:
        """Search with a media file; see `service.search.file_query.search_file`.

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
    ) -> SearchOptions:
        """Which results are wanted, with the settings where nothing is said; see `SearchOptions`.

        Args:
            limit: Most results.
            offset: How many results to pass over.
            min_score: Only results that score so much or more.
            min_probability: Only results that are the match with such a probability or a higher one.
            filter: Which assets count.

        Returns:
            The choice.
        """
        return SearchOptions(
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
        """Embed a media file; see `service.search.file_query.embed_file`.

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
def open_foley(settings: Settings) -> Iterator[Foley]:
    """Open everything a service needs, and close it when the block ends, whatever happened inside.

    Args:
        settings: Where things are and what they may use.

    Yields:
        The open engine.
    """
    with ExitStack() as stack:
        release_id, bundle = active_release(settings)
        warn_of_unused_bundle(settings, release_id)
        releases = ReleaseSwitch(open_release(settings, release_id, bundle))
        stack.callback(releases.close)
        decoder = Decoder(
            num_workers=settings.decode_workers,
            limits=WorkerLimits(
                memory_bytes=settings.worker_memory_bytes, max_tasks=settings.worker_recycle_after
            ),
        )
        stack.callback(decoder.close)
        yield Foley(settings=settings, releases=releases, decoder=decoder)


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
