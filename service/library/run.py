"""One run over a library, step by step: scan, read, index, settle, finish.

`indexing` and `sync` say which steps; here is what each does, and what is noted and told meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.index.contract import Index
from service.index.failure import IndexFailure
from service.library.catalogue import Catalogue, Known, Placement, identify_all, read_catalogue
from service.library.journal import NEVER_KEPT, TRANSIENT, Fault, FileRow, Journal
from service.library.pipeline import FilePipeline
from service.library.report import FailedFile, IndexReport, OnProgress, Outcome, Progress, StageTimes
from service.library.scanning import FoundFile, IgnoredFile, UnsettledFile, UnusableFile, find_files
from service.library.stages import FileError, IncomingFile
from service.system.caller import Caller, CallerGone
from service.system.paths import show_path

logger = logging.getLogger(__name__)

STORED: tuple[Outcome, ...] = ("indexed", "unchanged", "moved", "copied")


@dataclass(eq=False)
class _Waiting:
    """A content on its way into the index: the file it is read from, and others that have it too."""

    found: FoundFile
    copies: list[FoundFile]
    attempts: int  # in vain so far, over all runs


class LibraryRun:
    """One run over a library: scan, read, index, settle, finish, in this order.

    Args:
        stop: Who wants the run; when it leaves, in any thread, the run ends.
        on_progress: Called with the state of things whenever it changes.
        journal: What remembers the files of the run.
    """

    def __init__(
        self,
        *,
        stop: Caller | None = None,
        on_progress: OnProgress | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.report = IndexReport()
        self.catalogue = Catalogue()
        self.found: list[FoundFile] = []
        self._stop = stop or Caller()
        self._on_progress = on_progress
        self._journal = journal or Journal()
        self._rows = self._journal.rows()  # of an earlier life of this job
        self._placement = Placement(self.catalogue)
        self._waiting: dict[str, _Waiting] = {}
        self._gone: set[str] = set()
        self._changed: set[str] = set()  # paths whose content is another one now
        self._again: list[tuple[str, _Waiting]] = []  # failed for a reason that may pass
        self._stages = StageTimes()
        self._num_earlier = (
            0  # files that an earlier life of this job is done with, and that are not looked at again
        )
        self._num_segments = 0
        self._bytes_left = 0
        self._bytes_worked = 0
        self._started = time.monotonic()
        self._work_started: float | None = None

    @contextmanager
    def stopping_early(self) -> Iterator[None]:
        """A block that Ctrl-C and a caller who leaves end without an error. What was done is noted in any case.

        Yields:
            Nothing.
        """
        try:
            yield
        except (KeyboardInterrupt, CallerGone):
            logger.info("the run was stopped")
            self.report.is_interrupted = True
        finally:
            self._journal.flush()

    def scan(self, paths: Sequence[Path], *, settle_seconds: float = 0.0) -> None:
        """Find the files.

        Args:
            paths: Files and folders.
            settle_seconds: Files that were written to within this time are left out.
        """
        unusable: list[UnusableFile] = []
        for finding in find_files(paths, settle_seconds=settle_seconds):
            self._stop.check()
            if isinstance(finding, FoundFile):
                self.found.append(finding)
                self._bytes_left += finding.size_bytes
            elif isinstance(finding, IgnoredFile):
                self.report.num_ignored += 1
            elif isinstance(finding, UnsettledFile):
                self.report.num_unsettled += 1
            else:
                unusable.append(finding)
        self._journal.begin(self.found)
        self._count_earlier()
        for problem in unusable:
            self._end_failed(FileRow(path=str(problem.path)), problem, attempts=1)
        self._tell()

    def read(self, index: Index) -> None:
        """Read what the index knows."""
        read_catalogue(index, into=self.catalogue)

    def index_all(self, pipeline: FilePipeline) -> None:
        """Take every file through the pipeline, except those that are there already or are passed over."""
        for found, identity in identify_all(self._choose(), self._find_known):
            self._stop.check()
            if isinstance(identity, str):
                self._place(found, identity, pipeline)
            else:
                self._bytes_left -= found.size_bytes
                self._end_failed(_row_of(found), identity, attempts=1)
            self._tell()
        self._drain(pipeline)
        while self._again:
            again, self._again = self._again, []
            for asset_id, waiting in again:
                self._send(asset_id, waiting, pipeline)
            self._drain(pipeline)

    def lose(self, asset_id: str, path: str) -> None:
        """Note that a file is gone."""
        self._gone.add(path)
        self._placement.lose(asset_id, path)

    def place(self, index: Index | None) -> None:
        """Give every asset the paths that its content was found at; see `Placement.settle`."""
        for placed in self._placement.place(index):
            self._stop.check()
            known = self.catalogue.get(placed.asset_id)
            num_segments = 0 if known is None else known.num_segments
            self.report.num_moved += len(placed.moved)
            self.report.num_copied += len(placed.copied)
            self.report.num_removed += placed.is_removed
            for found, source in placed.moved:
                row = _row_of(found, placed.asset_id)
                self._note(row.ended("moved", num_segments=num_segments), source=source)
            for found in placed.copied:
                self._note(_row_of(found, placed.asset_id).ended("copied", num_segments=num_segments))
            for path in self._gone.intersection(placed.dropped):  # elsewhere another content has its row
                self.report.num_deleted += 1
                self._note(FileRow(path=path, asset_id=placed.asset_id, outcome="deleted"))
        self._journal.flush()

    def finish(self) -> IndexReport:
        """Complete the report."""
        self.report.failed.sort(key=lambda failed: failed.path)
        self.report.partial.sort()
        self.report.stages = self._stages
        self.report.seconds = time.monotonic() - self._started
        return self.report

    # Before the pipeline

    def _count_earlier(self) -> None:
        """Count what an earlier life of this job did with files that this one does not find or look at."""
        paths = {str(found.path) for found in self.found}
        for row in self._rows.values():
            if row.path in paths:
                continue
            if row.outcome == "deleted":
                self.report.num_deleted += 1
            elif row.outcome in STORED:
                self._num_earlier += 1
                self._count_earlier_stored(row, row.num_segments)

    def _count_earlier_stored(self, row: FileRow, num_segments: int) -> None:
        self._count_stored(row.outcome, num_segments)
        self.report.num_moved += row.outcome == "moved"
        self.report.num_copied += row.outcome == "copied"
        if row.is_partial:
            self.report.partial.append(show_path(row.path))

    def _choose(self) -> Iterator[FoundFile]:
        """The files to look at: not those that are done, by an earlier life of this job, or quarantined."""
        for found in self.found:
            row = self._rows.get(str(found.path))
            fault = self._journal.fault_of(found)
            if row is not None and row.is_of(found) and self._keep(row, found):
                continue
            if fault is not None and fault.is_quarantined:
                self._bytes_left -= found.size_bytes
                self._end_fault(_row_of(found), fault)
                continue
            yield found

    def _keep(self, row: FileRow, found: FoundFile) -> bool:
        """Count a file as it was counted before this job was interrupted, if the index bears it out."""
        known = self.catalogue.get(row.asset_id) if row.asset_id else None
        if known is None or row.outcome not in (*STORED, "pending") or row.path not in known.paths:
            return False
        if row.outcome == "pending":  # it was on its way, and is there: only the note is missing
            self._end_stored(found, row.asset_id or "", "indexed", known.num_segments)
            return True
        self._bytes_left -= found.size_bytes
        self._count_earlier_stored(row, known.num_segments)
        return True

    def _find_known(self, found: FoundFile) -> str | None:
        return self.catalogue.find_untouched(found) or self._journal.find_identity(found)

    def _place(self, found: FoundFile, asset_id: str, pipeline: FilePipeline) -> None:
        """Decide what a file needs: nothing, another path of its asset, or the whole way."""
        for other in self.catalogue.others_at(found.path, asset_id):
            self._placement.lose(other, str(found.path))
            self._changed.add(str(found.path))
        known = self.catalogue.get(asset_id)
        if asset_id in self._waiting:
            self._waiting[asset_id].copies.append(found)
        elif known is not None:
            self._find(found, asset_id, known.num_segments)
        else:
            fault = self._journal.fault_of(found)
            waiting = _Waiting(found=found, copies=[], attempts=fault.attempts if fault else 0)
            self._send(asset_id, waiting, pipeline)

    def _find(self, found: FoundFile, asset_id: str, num_segments: int) -> None:
        """Count a file whose content is stored; where it is new there, its row waits until that is settled."""
        if self._placement.find(asset_id, found):
            self._end_stored(found, asset_id, "unchanged", num_segments)
        else:
            self._bytes_left -= found.size_bytes
            self._count_stored("unchanged", num_segments)

    # Through the pipeline

    def _send(self, asset_id: str, waiting: _Waiting, pipeline: FilePipeline) -> None:
        while not pipeline.has_room:
            self._wait(pipeline)
        self._work_started = self._work_started or time.monotonic()
        self._waiting[asset_id] = waiting
        self._journal.start(waiting.found, asset_id)
        pipeline.add(IncomingFile(asset_id=asset_id, found=waiting.found))

    def _drain(self, pipeline: FilePipeline) -> None:
        while pipeline.is_busy:
            self._wait(pipeline)
        self._journal.flush()

    def _wait(self, pipeline: FilePipeline) -> None:
        ended = pipeline.wait()
        self._num_segments = pipeline.num_written_segments
        self._stages = pipeline.stage_times
        for job in ended:
            self._end_job(job)
        self._tell()

    def _end_job(self, job: IncomingFile) -> None:
        waiting = self._waiting[job.asset_id]
        waiting.attempts += 1
        if job.error is not None:
            self._end_in_vain(job, job.error, waiting)
            return
        del self._waiting[job.asset_id]
        self._bytes_worked += job.found.size_bytes
        self.catalogue.add(job.asset_id, Known.of(job.found, num_segments=job.num_segments))
        if job.is_partial:
            self.report.partial.append(show_path(job.found.path))
        self._end_stored(job.found, job.asset_id, "indexed", job.num_segments, is_partial=job.is_partial)
        for copy in waiting.copies:
            self._find(copy, job.asset_id, job.num_segments)

    def _end_in_vain(self, job: IncomingFile, error: FileError, waiting: _Waiting) -> None:
        code = code_of(error)
        if code in TRANSIENT and waiting.attempts < self._journal.max_attempts:
            fault = Fault(code=code, reason=str(error), attempts=waiting.attempts, is_quarantined=False)
            self._journal.attempt(job.found, fault)
            self._again.append((job.asset_id, waiting))
            logger.info("attempt %d at %s failed: %s", waiting.attempts, show_path(job.found.path), error)
            return
        del self._waiting[job.asset_id]
        self._bytes_worked += job.found.size_bytes
        self.report.segments.failed += job.num_segments
        for found in (job.found, *waiting.copies):
            self._bytes_left -= found.size_bytes
            self._end_failed(_row_of(found, job.asset_id), error, attempts=waiting.attempts)

    # Outcomes

    def _end_stored(
        self,
        found: FoundFile,
        asset_id: str,
        outcome: Outcome,
        num_segments: int,
        *,
        is_partial: bool = False,
    ) -> None:
        self._bytes_left -= found.size_bytes
        self._count_stored(outcome, num_segments)
        self._note(_row_of(found, asset_id).ended(outcome, num_segments=num_segments, is_partial=is_partial))

    def _count_stored(self, outcome: Outcome, num_segments: int) -> None:
        if outcome == "indexed":
            self.report.files.indexed += 1
            self.report.segments.indexed += num_segments
        else:
            self.report.files.unchanged += 1
            self.report.segments.unchanged += num_segments

    def _end_failed(self, row: FileRow, error: FileError, *, attempts: int) -> None:
        code = code_of(error)
        is_final = code not in TRANSIENT or attempts >= self._journal.max_attempts
        fault = Fault(
            code=code,
            reason=str(error),
            attempts=attempts,
            is_quarantined=is_final and code not in NEVER_KEPT,
        )
        self._end_fault(row, fault)

    def _end_fault(self, row: FileRow, fault: Fault) -> None:
        self.report.files.failed += 1
        failed = FailedFile(
            path=show_path(row.path),
            code=fault.code,
            reason=fault.reason,
            attempts=fault.attempts,
            is_quarantined=fault.is_quarantined,
        )
        self.report.failed.append(failed)
        self._note(row.failed(fault))

    def _note(self, row: FileRow, *, source: str = "") -> None:
        self._journal.end(row)
        if self._journal.is_rehearsal and row.outcome != "unchanged":
            self.report.plan.append(self._plan(row, source))

    def _plan(self, row: FileRow, source: str) -> dict[str, str]:
        does: str = row.outcome
        if does == "indexed":
            does = "changed" if row.path in self._changed else "new"
        entry = {"does": does, "path": show_path(row.path)}
        return {**entry, "from": show_path(source)} if source else entry

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        files = self.report.files
        seconds = time.monotonic() - (self._work_started or time.monotonic())
        can_estimate = seconds > 0 and self._bytes_worked > 0
        self._on_progress(
            Progress(
                num_files=len(self.found) + self._num_earlier,
                num_done=files.indexed + files.unchanged + files.failed,
                num_failed=files.failed,
                num_segments=self._num_segments,
                segments_per_second=self._num_segments / seconds if seconds > 0 else 0.0,
                left_seconds=seconds * self._bytes_left / self._bytes_worked if can_estimate else None,
                stages=self._stages,
            )
        )


def _row_of(found: FoundFile, asset_id: str | None = None) -> FileRow:
    return FileRow(
        path=str(found.path), size_bytes=found.size_bytes, modified_ns=found.modified_ns, asset_id=asset_id
    )


def code_of(error: FileError) -> str:
    """The stable name of why a file could not be indexed."""
    return "invalid_vector" if isinstance(error, IndexFailure) else error.code
