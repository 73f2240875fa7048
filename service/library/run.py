"""One run over a library, step by step; `indexing` and `sync` choose the steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from service.index.contract import Index
from service.index.failure import IndexFailure
from service.library.catalogue import Catalogue, Known, Placement, identify_all, read_catalogue
from service.library.journal import NEVER_KEPT, TRANSIENT, Fault, FileRow, Journal
from service.library.pipeline import Pipeline, RehearsedPipeline
from service.library.report import FailedFile, IndexReport, OnProgress, Outcome, Progress, StageTimes
from service.library.scanning import FoundFile, IgnoredFile, UnsettledFile, UnusableFile, find_files
from service.library.stages import FileError, IncomingFile
from service.system.caller import Caller, CallerGone
from service.system.paths import show_path

logger = logging.getLogger(__name__)

AnyPipeline = Pipeline | RehearsedPipeline
STORED: tuple[Outcome, ...] = ("indexed", "unchanged", "moved", "copied")


@dataclass(eq=False)
class _Waiting:
    """A content on its way into the index: the file it is read from, and others that have it too."""

    found: FoundFile
    copies: list[FoundFile]
    attempts: int  # failed ones so far, over all runs


class LibraryRun:
    """One run over a library: scan, read, index, place, finish, in this order; it ends early when `stop` leaves."""

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
        self._rows = self._journal.rows()  # of an earlier run of this job
        self._placement = Placement(self.catalogue)
        self._waiting: dict[str, _Waiting] = {}
        self._gone: set[str] = set()
        self._changed: set[str] = set()  # paths whose content is another one now
        self._again: list[tuple[str, _Waiting]] = []  # failed for a reason that may pass
        self._stages = StageTimes()
        self._num_earlier = (
            0  # files that an earlier run of this job stored, and that are not looked at again
        )
        self._num_segments = 0
        self._bytes_left = 0
        self._bytes_worked = 0
        self._started = time.monotonic()
        self._work_started: float | None = None

    @contextmanager
    def stopping_early(self) -> Iterator[None]:
        """Turn Ctrl-C, and `stop` leaving, into an early end of the block; what was done is written down."""
        try:
            yield
        except (KeyboardInterrupt, CallerGone):
            logger.info("the run was stopped")
            self.report.is_interrupted = True
        finally:
            self._journal.flush()

    def scan(self, paths: Sequence[Path], *, settle_seconds: float = 0.0) -> None:
        """Find the files; those that were written to within `settle_seconds` are left out."""
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
        """Read which assets the index has."""
        read_catalogue(index, into=self.catalogue)

    def index_all(self, pipeline: AnyPipeline) -> None:
        """Send every file through the pipeline, except those that are stored or skipped."""
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
        """Write the final paths of every asset; see `Placement.place`."""
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
            for path in self._gone.intersection(placed.dropped):  # other dropped paths have a new content
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
        """Count what an earlier run of this job did with files that this one does not find."""
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
        """The files to look at: neither done by an earlier run of this job, nor quarantined."""
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
        """Count a file as an earlier run of this job counted it, if the index confirms it."""
        known = self.catalogue.get(row.asset_id) if row.asset_id else None
        if known is None or row.outcome not in (*STORED, "pending") or row.path not in known.paths:
            return False
        if row.outcome == "pending":  # it is in the index: only its row was not written
            self._end_stored(found, row.asset_id or "", "indexed", known.num_segments)
            return True
        self._bytes_left -= found.size_bytes
        self._count_earlier_stored(row, known.num_segments)
        return True

    def _find_known(self, found: FoundFile) -> str | None:
        return self.catalogue.find_untouched(found) or self._journal.find_identity(found)

    def _place(self, found: FoundFile, asset_id: str, pipeline: AnyPipeline) -> None:
        """Decide what a file needs: nothing, a further path of its asset, or the pipeline."""
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
        """Count a file whose content is stored. If its path is new, `place` writes its row."""
        if self._placement.find(asset_id, found):
            self._end_stored(found, asset_id, "unchanged", num_segments)
        else:
            self._bytes_left -= found.size_bytes
            self._count_stored("unchanged", num_segments)

    # Through the pipeline

    def _send(self, asset_id: str, waiting: _Waiting, pipeline: AnyPipeline) -> None:
        while not pipeline.has_room:
            self._wait(pipeline)
        self._work_started = self._work_started or time.monotonic()
        self._waiting[asset_id] = waiting
        self._journal.start(waiting.found, asset_id)
        pipeline.add(IncomingFile(asset_id=asset_id, found=waiting.found))

    def _drain(self, pipeline: AnyPipeline) -> None:
        while pipeline.is_busy:
            self._wait(pipeline)
        self._journal.flush()

    def _wait(self, pipeline: AnyPipeline) -> None:
        ended = pipeline.wait()
        self._num_segments = pipeline.num_written_segments
        self._stages = pipeline.stage_times
        for file in ended:
            self._end_file(file)
        self._tell()

    def _end_file(self, file: IncomingFile) -> None:
        waiting = self._waiting[file.asset_id]
        waiting.attempts += 1
        if file.error is not None:
            self._retry_or_fail(file, file.error, waiting)
            return
        del self._waiting[file.asset_id]
        self._bytes_worked += file.found.size_bytes
        self.catalogue.add(file.asset_id, Known.of(file.found, num_segments=file.num_segments))
        if file.is_partial:
            self.report.partial.append(show_path(file.found.path))
        self._end_stored(file.found, file.asset_id, "indexed", file.num_segments, is_partial=file.is_partial)
        for copy in waiting.copies:
            self._find(copy, file.asset_id, file.num_segments)

    def _retry_or_fail(self, file: IncomingFile, error: FileError, waiting: _Waiting) -> None:
        code = code_of(error)
        if code in TRANSIENT and waiting.attempts < self._journal.max_attempts:
            fault = Fault(code=code, reason=str(error), attempts=waiting.attempts, is_quarantined=False)
            self._journal.attempt(file.found, fault)
            self._again.append((file.asset_id, waiting))
            logger.info("attempt %d at %s failed: %s", waiting.attempts, show_path(file.found.path), error)
            return
        del self._waiting[file.asset_id]
        self._bytes_worked += file.found.size_bytes
        self.report.segments.failed += file.num_segments
        for found in (file.found, *waiting.copies):
            self._bytes_left -= found.size_bytes
            self._end_failed(_row_of(found, file.asset_id), error, attempts=waiting.attempts)

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
        is_quarantined = is_final and code not in NEVER_KEPT
        self._end_fault(
            row, Fault(code=code, reason=str(error), attempts=attempts, is_quarantined=is_quarantined)
        )

    def _end_fault(self, row: FileRow, fault: Fault) -> None:
        self.report.files.failed += 1
        self.report.failed.append(FailedFile(path=show_path(row.path), **asdict(fault)))
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
