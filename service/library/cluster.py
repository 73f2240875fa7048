"""Indexing a library with workers on many machines, which write into one shared index.

    report = index_on_cluster([Path("/media")], snapshot=snapshot, pool=pool, decoder=decoder)

This process lists the files, leaves out those that the index has, and hands the others out in batches. What a worker
stored is in the index before the worker says so, and the index is the checkpoint: a worker or a machine that dies costs
what it had begun, and the next run goes on from there. At the end the index is read once more: a file that it lacks
although a worker stored it is handed out again. Paths of contents that were known, and of those that are no longer
where they were, are written here alone, at the end, as in every run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from service.decode.decoder import Decoder
from service.library.batches import Batch, Handout, Task
from service.library.catalogue import Catalogue, read_catalogue
from service.library.journal import Fault, FileRow, Journal
from service.library.locations import Location
from service.library.options import RunOptions
from service.library.outcomes import row_of
from service.library.report import IndexReport, StageTimes
from service.library.run import LibraryRun, ReadSaid
from service.library.said import read_again
from service.library.scanning import FoundFile
from service.search.snapshot import Snapshot
from service.system.caller import Caller

logger = logging.getLogger(__name__)

LOST = "worker_lost"
SILENT = "a worker said nothing of it"
GONE = "a worker stored it, and the index does not have it"
MAX_ROUNDS = 3  # a file that is gone from the index again and again is removed by somebody


@dataclass(frozen=True, kw_only=True)
class FileEnded:
    """A worker is done with a file: what it stored is durable."""

    batch: int
    row: FileRow


@dataclass(frozen=True, kw_only=True)
class BatchEnded:
    """A worker is done with a batch, for which it waited so long; its report counts what no row says.

    `num_adopted` segments of its files with other tags alone were there before.
    """

    batch: int
    report: IndexReport
    num_adopted: int = 0
    waited_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BatchLost:
    """A worker will say no more of a batch; see `Handout.lose`."""

    batch: int
    reason: str
    is_their_fault: bool = True


Event = FileEnded | BatchEnded | BatchLost


class Pool(Protocol):
    """Workers on some machines. One thread calls it."""

    @property
    def num_workers(self) -> int:
        """How many workers there are, or are about to be."""

    def free(self) -> Sequence[str]:
        """Workers that can take a batch now, each as often as it can."""

    def hand(self, worker: str, batch: Batch) -> None:
        """Give a batch to a worker; one that just died loses it."""

    def wait(self) -> Sequence[Event]:
        """What happened, at the latest after a second or so; raises a `Failure` if no worker can work."""


def index_on_cluster(
    paths: Sequence[Location],
    *,
    snapshot: Snapshot,
    pool: Pool,
    decoder: Decoder,
    options: RunOptions | None = None,
) -> IndexReport:
    """Index every media file under some paths by the workers of a pool; see `service.library.indexing.index_paths`.

    The index must be shared. `decoder` reads only what files and XMP files beside them say anew.
    """
    options = options or RunOptions()
    run = LibraryRun(options)
    with run.stopping_early():
        run.scan(paths)
        run.read(snapshot.index)

        def read_said(found: FoundFile, source: Path) -> Mapping[str, Any]:
            return read_again(found, source, decoder, options.limits)

        driver = Driver(run, pool, options.journal, read_said)
        driver.hand_out_all(options.stop)
        for turn in range(MAX_ROUNDS + 1):
            fresh = Catalogue()
            read_catalogue(snapshot.index, into=fresh)
            if not driver.compare(fresh, gives_up=turn == MAX_ROUNDS):
                break
            driver.hand_out_all(options.stop)
        run.place(snapshot.index)
    return run.finish()


class Driver:
    """Hands out the files of a run, and takes down what became of them."""

    def __init__(self, run: LibraryRun, pool: Pool, journal: Journal, read_said: ReadSaid) -> None:
        self._run = run
        self._pool = pool
        self._journal = journal
        self._read_said = read_said
        self._indexed: dict[str, tuple[Task, FileRow]] = {}  # by this run, by path
        self._handout = Handout(self._subtract())

    def _subtract(self) -> Iterator[Task]:
        """The files that the index does not have."""
        run = self._run
        for found in run.choose():
            identity = run.find_known(found)
            known = run.catalogue.get(identity) if isinstance(identity, str) else None
            if isinstance(identity, str) and known is not None and str(found.path) in known.paths:
                run.find_stored(found, identity, self._read_said)
                run.tell()
            else:
                yield Task(found=found, fault=self._journal.fault_of(found))

    def hand_out_all(self, stop: Caller) -> None:
        """Hand out what waits until every file is stored or given up."""
        while not self._handout.is_done:
            stop.check()
            for worker in self._pool.free():
                batch = self._handout.take(self._pool.num_workers)
                if batch is None:
                    break
                self._run.pace.begin()
                self._pool.hand(worker, batch)
            for event in self._pool.wait():
                self._take(event)
            self._run.tell()

    def _take(self, event: Event) -> None:
        given_up: list[Task] = []
        reason = SILENT
        if isinstance(event, FileEnded):
            task = self._handout.end_file(event.batch, event.row.path)
            if task is not None:
                self._end_file(task, replace(event.row, stamp=task.found.stamp or None))
        elif isinstance(event, BatchEnded):
            given_up = self._handout.end(event.batch)
            self._add(event)
        else:
            reason = event.reason
            given_up = self._handout.lose(event.batch, is_their_fault=event.is_their_fault)
            logger.info("a batch is handed out again: %s", reason)
        for task in given_up:
            self._give_up(task, reason)

    def _give_up(self, task: Task, reason: str) -> None:
        self._run.outcomes.bytes_left -= task.found.size_bytes
        fault = Fault(code=LOST, reason=reason, attempts=task.num_losses, is_quarantined=False)
        self._run.outcomes.end_fault(row_of(task.found), fault)

    def _end_file(self, task: Task, row: FileRow) -> None:
        run, found = self._run, task.found
        if row.asset_id is not None:
            run.lose_others(found, row.asset_id)
        run.pace.bytes_worked += found.size_bytes
        if row.outcome in ("failed", "quarantined"):
            run.outcomes.bytes_left -= found.size_bytes
            fault = Fault(
                code=row.code or "",
                reason=row.reason or "",
                attempts=row.attempts,
                is_quarantined=row.outcome == "quarantined",
            )
            run.outcomes.end_fault(row, fault)
            return
        asset_id = row.asset_id or ""
        is_left = row.outcome == "unchanged" and task.num_losses and run.catalogue.get(asset_id) is None
        if row.outcome != "indexed" and not is_left and run.find_stored(found, asset_id, self._read_said):
            return
        run.outcomes.end_stored(found, asset_id, "indexed", row.num_segments, is_partial=row.is_partial)
        if row.is_partial:
            run.report.partial.append(row.path)
        run.pace.num_segments += row.num_segments
        self._indexed[row.path] = task, row

    def _add(self, ended: BatchEnded) -> None:
        """Add what rows do not say."""
        report, pace = self._run.report, self._run.pace
        report.num_retagged += ended.report.num_retagged
        report.segments.failed += ended.report.segments.failed
        report.segments.indexed -= ended.num_adopted
        report.segments.unchanged += ended.num_adopted
        pace.stages = _add_times(pace.stages, ended.report.stages)

    def compare(self, fresh: Catalogue, *, gives_up: bool = False) -> bool:
        """Whether files that were stored are missing from what the index has now: they wait again, or are given up."""
        run = self._run
        indexed, self._indexed = self._indexed, {}
        for task, row in indexed.values():
            asset_id = row.asset_id or ""
            known = fresh.get(asset_id)
            if known is not None:
                run.catalogue.add(asset_id, known)
                run.placement.find(asset_id, task.found)  # another worker's write may have hidden its path
                continue
            logger.warning("the index does not have a file that was stored")
            run.outcomes.count_stored("indexed", -row.num_segments, num_files=-1)
            run.outcomes.bytes_left += task.found.size_bytes
            if gives_up:
                self._give_up(task, GONE)
            else:
                self._handout.add(task)
        return not self._handout.is_done


def _add_times(one: StageTimes, other: StageTimes) -> StageTimes:
    return StageTimes(
        decode_seconds=one.decode_seconds + other.decode_seconds,
        encode_seconds=one.encode_seconds + other.encode_seconds,
        write_seconds=one.write_seconds + other.write_seconds,
        elapsed_seconds=one.elapsed_seconds + other.elapsed_seconds,
    )
