"""What became of the files of a run: counted in its report and noted in its journal, each by itself."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import asdict

from service.index.failure import IndexFailure
from service.library.catalogue import Placed
from service.library.journal import NEVER_KEPT, TRANSIENT, Fault, FileRow, Journal
from service.library.report import FailedFile, IndexReport, Outcome
from service.library.scanning import FoundFile
from service.library.stages import FileError, blame_file
from service.system.paths import show_path

STORED: tuple[Outcome, ...] = ("indexed", "unchanged", "moved", "copied")


class Outcomes:
    """Takes down the outcome of every file; `bytes_left` are those of files without one."""

    def __init__(self, report: IndexReport, journal: Journal) -> None:
        self.bytes_left = 0
        self.changed: set[str] = set()  # paths whose content is another one now
        self.report = report
        self._journal = journal

    def flush(self) -> None:
        """Make the outcomes durable."""
        self._take_back(self._journal.flush())

    def end_stored(
        self,
        found: FoundFile,
        asset_id: str,
        outcome: Outcome,
        num_segments: int,
        *,
        is_partial: bool = False,
    ) -> None:
        """Take down that a file is stored."""
        self.bytes_left -= found.size_bytes
        self.count_stored(outcome, num_segments)
        self.note(row_of(found, asset_id).ended(outcome, num_segments=num_segments, is_partial=is_partial))

    def count_stored(self, outcome: Outcome, num_segments: int, *, num_files: int = 1) -> None:
        """Count stored files with their segments; negative numbers take that back."""
        if outcome == "indexed":
            self.report.files.indexed += num_files
            self.report.segments.indexed += num_segments
        else:
            self.report.files.unchanged += num_files
            self.report.segments.unchanged += num_segments

    def count_row(self, row: FileRow, num_segments: int) -> None:
        """Count what an earlier run noted of a stored file."""
        self.count_stored(row.outcome, num_segments)
        self.report.num_moved += row.outcome == "moved"
        self.report.num_copied += row.outcome == "copied"
        if row.is_partial:
            self.report.partial.append(show_path(row.path))

    def end_placed(self, placed: Placed, num_segments: int, *, gone: Set[str]) -> None:
        """Take down what became of an asset's paths; `gone` are those at which there is no file."""
        asset_id = placed.asset_id
        if placed.error is not None:
            for found in placed.copied:
                self.count_stored("unchanged", -num_segments, num_files=-1)
                self.end_failed(row_of(found, asset_id), placed.error, attempts=1)
            return
        self.report.num_moved += len(placed.moved)
        self.report.num_copied += len(placed.copied)
        self.report.num_removed += placed.is_removed
        for found, source in placed.moved:
            self.note(row_of(found, asset_id).ended("moved", num_segments=num_segments), source=source)
        for found in placed.copied:
            self.note(row_of(found, asset_id).ended("copied", num_segments=num_segments))
        for path in gone & {*placed.dropped}:  # other dropped paths have a new content
            self.report.num_deleted += 1
            self.note(FileRow(path=path, asset_id=asset_id, outcome="deleted"))

    def give_up(self, found: FoundFile, error: FileError, *copies: FoundFile) -> None:
        """Report a file, and others with its content, as failed in a step outside the pipeline."""
        for one in (found, *copies):
            self.bytes_left -= one.size_bytes
            self.end_failed(row_of(one), error, attempts=1)

    def end_failed(self, row: FileRow, error: FileError, *, attempts: int) -> None:
        """Take down why a file failed, after so many attempts over all runs."""
        code, reason = describe_error(error)
        is_final = code not in TRANSIENT or attempts >= self._journal.max_attempts
        is_quarantined = is_final and code not in NEVER_KEPT
        self.end_fault(row, Fault(code=code, reason=reason, attempts=attempts, is_quarantined=is_quarantined))

    def end_fault(self, row: FileRow, fault: Fault) -> None:
        """Take down a fault of a file."""
        self.report.files.failed += 1
        self.report.failed.append(FailedFile(path=show_path(row.path), **asdict(fault)))
        self.note(row.failed(fault))

    def note(self, row: FileRow, *, source: str = "") -> None:
        """Write an outcome that is counted down; of a moved file `source` is where it was."""
        try:
            self._take_back(self._journal.end(row))
        except Exception as exc:
            self._take_back([(row, exc)])
        if self._journal.is_rehearsal and row.outcome != "unchanged":
            self.report.plan.append(self._plan(row, source))

    def _take_back(self, unwritten: Sequence[tuple[FileRow, Exception]]) -> None:
        """Report files whose rows cannot be written as failed: the next run looks at them again."""
        for row, exc in unwritten:
            code, reason = describe_error(blame_file(exc))
            if row.outcome in STORED:
                self.count_stored(row.outcome, -row.num_segments, num_files=-1)
            if row.outcome not in ("failed", "quarantined"):
                self.report.files.failed += 1
                self.report.failed.append(FailedFile(path=show_path(row.path), code=code, reason=reason))

    def _plan(self, row: FileRow, source: str) -> dict[str, str]:
        does: str = row.outcome
        if does == "indexed":
            does = "changed" if row.path in self.changed else "new"
        entry = {"does": does, "path": show_path(row.path)}
        return {**entry, "from": show_path(source)} if source else entry


def row_of(found: FoundFile, asset_id: str | None = None) -> FileRow:
    """The row of a file without an outcome yet."""
    return FileRow(
        path=str(found.path),
        size_bytes=found.size_bytes,
        modified_ns=found.modified_ns,
        stamp=found.stamp or None,
        asset_id=asset_id,
    )


def describe_error(error: FileError) -> tuple[str, str]:
    """The stable name of why a file could not be indexed, and the reason for people."""
    return "invalid_vector" if isinstance(error, IndexFailure) else error.code, str(error)
