"""Indexing a library: every media file under some paths goes into the index once.

    with open_engine(settings) as engine:
        report = index_paths([Path("Movies")], snapshot=engine.snapshot(), decoder=engine.decoder)

A file is an asset by its content. One that is known by path, size and time is not even read; one whose
content is known under another path is not decoded. A file that cannot be used is a line of the report and
never the end of the job. `service.jobs.library_jobs` runs this under a ledger; `service.library.sync` also takes out
what is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from models.media.clip import DecodeLimits
from service.decode.decoder import Decoder
from service.library.journal import Journal
from service.library.pipeline import Pipeline
from service.library.report import Counts, FailedFile, IndexReport, OnProgress, Progress
from service.library.run import LibraryRun, code_of
from service.search.snapshot import Snapshot
from service.system.caller import Caller
from service.system.settings import Settings

__all__ = [
    "Counts",
    "FailedFile",
    "IndexReport",
    "LibraryRun",
    "OnProgress",
    "Progress",
    "code_of",
    "index_paths",
    "library_limits",
]

logger = logging.getLogger(__name__)


def index_paths(
    paths: Sequence[Path],
    *,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: DecodeLimits | None = None,
    on_progress: OnProgress | None = None,
    journal: Journal | None = None,
    stop: Caller | None = None,
) -> IndexReport:
    """Index every media file under some paths; see `service.library.scanning.find_files` for which these are.

    Ctrl-C, or `stop` leaving, ends the run early and cleanly: what is stored stays, and the report says so. Errors
    of the index itself (`service.index.failure.IndexFailure`) and of the encoder end it too, and are raised.

    Args:
        paths: Files and folders.
        snapshot: Encoder and index.
        decoder: Decodes the files.
        limits: What a file may ask of the decoder.
        on_progress: Called with the state of things whenever it changes.
        journal: What remembers the files of the run. Default: nothing does.
        stop: Who wants the run; when it leaves, in any thread, the run ends.

    Returns:
        What was done, and what could not be done and why.
    """
    run = LibraryRun(stop=stop, on_progress=on_progress, journal=journal)
    with run.stopping_early():
        run.scan(paths)
        run.read(snapshot.index)
        with Pipeline(
            snapshot=snapshot, decoder=decoder, limits=limits or DecodeLimits(), stop=stop
        ) as pipeline:
            run.index_all(pipeline)
        run.place(snapshot.index)
    return run.finish()


def library_limits(settings: Settings) -> DecodeLimits:
    """What a file of the library may ask of the decoder."""
    return DecodeLimits(
        max_duration_seconds=settings.max_library_seconds,
        max_frame_width=settings.max_frame_width,
        max_frame_height=settings.max_frame_height,
        max_streams=settings.max_streams,
        max_channels=settings.max_channels,
    )
