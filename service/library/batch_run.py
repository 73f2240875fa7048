"""What a worker does with a batch: today's pipeline, into a shared index, and word of each file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from models.media.clip import DecodeLimits
from service.decode.decoder import Decoder
from service.library.batches import Batch
from service.library.cluster import BatchEnded, Event, FileEnded
from service.library.journal import Fault, FileRow, Journal
from service.library.object_cache import ObjectCache
from service.library.options import RunOptions
from service.library.outcomes import row_of
from service.library.run import LibraryRun
from service.library.scanning import FoundFile
from service.library.stamps import stamp_of
from service.search.snapshot import Snapshot
from service.system.caller import Caller


def work_on(
    batch: Batch,
    *,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: DecodeLimits,
    tell: Callable[[Event], object],
    stop: Caller | None = None,
    objects: ObjectCache | None = None,
    waited_seconds: float = 0.0,
) -> None:
    """Index the files of a batch, and tell of each when it is durable, and of the batch.

    What breaks the run is raised, as by `service.library.indexing.index_paths`; also `CallerGone` if `stop` left.
    """
    journal = BatchJournal(batch, tell)
    options = RunOptions(stop=stop or Caller(), journal=journal, limits=limits, objects=objects)
    run = LibraryRun(options)
    run.take(snapshot.index, [_stamp(task.found) for task in batch.tasks])
    run.index_through(snapshot, decoder)
    for asset_id, found in run.placement.gained():  # the driver writes their paths
        known = run.catalogue.get(asset_id)
        num_segments = 0 if known is None else known.num_segments
        row = row_of(found, asset_id).ended("copied", num_segments=num_segments)
        tell(FileEnded(batch=batch.number, row=row))
    report = run.finish()
    num_adopted = journal.num_segments - report.segments.indexed
    tell(
        BatchEnded(batch=batch.number, report=report, num_adopted=num_adopted, waited_seconds=waited_seconds)
    )


class BatchJournal(Journal):
    """Tells of each file; `num_segments` are those of all files that it told of as indexed."""

    max_attempts = 3

    def __init__(self, batch: Batch, tell: Callable[[Event], object]) -> None:
        self.num_segments = 0
        self._batch = batch
        self._tell = tell
        self._faults = {str(task.found.path): task.fault for task in batch.tasks}

    def fault_of(self, found: FoundFile) -> Fault | None:
        """Why the file failed before."""
        return self._faults[str(found.path)]

    def end(self, row: FileRow) -> Sequence[tuple[FileRow, Exception]]:
        """Tell what became of a file."""
        self.num_segments += row.num_segments if row.outcome == "indexed" else 0
        self._tell(FileEnded(batch=self._batch.number, row=row))
        return ()


def _stamp(found: FoundFile) -> FoundFile:
    """A file with its stamp as this machine sees it: network disks number files by their own rules."""
    if found.stored is not None:
        return found
    with suppress(OSError):  # the decoder opens the file next and reports the error
        return replace(found, stamp=stamp_of(found.source.lstat()))
    return replace(found, stamp="")
