"""Indexing a library: every media file under some paths goes into the index once.

    with open_foley(settings) as foley:
        report = index_paths([Path("Movies")], snapshot=foley.snapshot(), decoder=foley.decoder)

The content of a file decides which asset it is. A file that is known by path, size and time is not even read; one whose
content is known under another path is not decoded. An unusable file is reported with the reason; it never stops the
run. `service.jobs.library_jobs` runs this with a ledger; `service.library.sync` also removes what is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.media.clip import DecodeLimits
from service.decode.decoder import Decoder
from service.library.locations import Location
from service.library.options import RunOptions
from service.library.report import IndexReport
from service.library.run import LibraryRun
from service.search.snapshot import Snapshot
from service.system.settings import Settings


def index_paths(
    paths: Sequence[Location],
    *,
    snapshot: Snapshot,
    decoder: Decoder,
    options: RunOptions | None = None,
) -> IndexReport:
    """Index every media file under some paths (see `service.library.scanning.find_files`), and report what was done.

    Ctrl-C, or `stop` leaving in any thread, ends the run early and cleanly: what is stored stays, and the report says
    so. Errors of the index itself (`service.index.failure.IndexFailure`) and of the encoder are raised.
    """
    run = LibraryRun(options)
    with run.stopping_early():
        run.scan(paths)
        run.read(snapshot.index)
        run.index_through(snapshot, decoder)
        run.place(snapshot.index)
    return run.finish()


def library_limits(settings: Settings) -> DecodeLimits:
    """The decoder's limits for a file of the library."""
    return DecodeLimits(
        max_duration_seconds=settings.max_library_seconds,
        max_frame_width=settings.max_frame_width,
        max_frame_height=settings.max_frame_height,
        max_streams=settings.max_streams,
        max_channels=settings.max_channels,
    )
