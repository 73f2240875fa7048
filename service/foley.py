"""Everything open at once: the settings, the active release and the decoder.

    with open_foley(settings) as foley:
        answer = foley.search_file(path, SearchOptions.of(settings, target="audio"))

`foley serve` and `foley search` both go through here. Calls block and may come from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.bundle.bundle import Bundle
from models.media.clip import DecodeLimits
from service.decode.decoder import Decoder
from service.decode.sandbox import WorkerLimits
from service.encode.batching import Batcher
from service.encode.encoder import Encoder
from service.encode.queue import Priority
from service.index.contract import Index
from service.library.object_cache import ObjectCache
from service.library.previews import PREVIEWS, Previews
from service.releases.opening import (
    active_release,
    open_release,
    warn_of_other_indexes,
    warn_of_unused_bundle,
)
from service.releases.switch import ReleaseSwitch
from service.search.file_query import WHOLE, EmbeddedFile, Span, embed_file, search_file
from service.search.matching import SearchAnswer
from service.search.mixed_query import WeightedText
from service.search.options import SearchOptions
from service.search.snapshot import QueryLimits, Snapshot
from service.system.caller import Caller
from service.system.modality import Modality
from service.system.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Foley:
    """Everything a query needs, open."""

    settings: Settings
    releases: ReleaseSwitch
    decoder: Decoder
    previews: Previews
    objects: ObjectCache

    @property
    def bundle(self) -> Bundle:
        """The encoder pair in use."""
        return self.releases.current.bundle

    @property
    def encoder(self) -> Encoder:
        """The encoder in use."""
        return self.releases.current.encoder

    @property
    def batcher(self) -> Batcher:
        """The queue in front of the encoder."""
        return self.releases.current.batcher

    @property
    def index(self) -> Index:
        """The index in use."""
        return self.releases.current.index

    @contextmanager
    def lease(self, caller: Caller | None = None, *, priority: Priority = "query") -> Iterator[Snapshot]:
        """Keep one release open until the block ends, whatever is activated meanwhile, and give its snapshot."""
        with self.releases.lease() as release:
            yield release.snapshot(caller, priority=priority)

    def snapshot(self, caller: Caller | None = None, *, priority: Priority = "query") -> Snapshot:
        """The active release without a lease: for a program that activates no other release while it runs."""
        return self.releases.current.snapshot(caller, priority=priority)

    def search_file(
        self,
        path: Path,
        options: SearchOptions,
        *,
        words: WeightedText | None = None,
        span: Span = WHOLE,
        snapshot: Snapshot | None = None,
    ) -> SearchAnswer:
        """Search with a media file; see `service.search.file_query.search_file`. Default: the present snapshot."""
        snapshot, limits = snapshot or self.snapshot(), query_limits(self.settings)
        return search_file(
            path, options, words=words, span=span, snapshot=snapshot, decoder=self.decoder, limits=limits
        )

    def embed_file(
        self, path: Path, *, modality: Modality | None = None, snapshot: Snapshot | None = None
    ) -> EmbeddedFile:
        """Embed a media file; see `service.search.file_query.embed_file`. Default: the present snapshot."""
        snapshot, limits = snapshot or self.snapshot(), query_limits(self.settings)
        return embed_file(path, modality=modality, snapshot=snapshot, decoder=self.decoder, limits=limits)


@contextmanager
def open_foley(settings: Settings) -> Iterator[Foley]:
    """Open everything a service needs, and close it when the block ends."""
    limits = WorkerLimits(memory_bytes=settings.worker_memory_bytes, max_tasks=settings.worker_recycle_after)
    with ExitStack() as stack:
        release_id, bundle = active_release(settings)
        warn_of_unused_bundle(settings, release_id)
        warn_of_other_indexes(settings, release_id)
        releases = ReleaseSwitch(open_release(settings, release_id, bundle))
        stack.callback(releases.close)
        decoder = Decoder(num_workers=settings.decode_workers, limits=limits)
        stack.callback(decoder.close)
        previews = Previews(
            settings.data / PREVIEWS,
            max_bytes=settings.preview_cache_bytes,
            min_free_bytes=settings.min_free_bytes,
        )
        objects = ObjectCache.of(settings)
        yield Foley(settings=settings, releases=releases, decoder=decoder, previews=previews, objects=objects)


def query_limits(settings: Settings) -> QueryLimits:
    """What a query file may ask of the decoder."""
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
