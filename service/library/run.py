"""One run over a library, step by step; `indexing` and `sync` choose the steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.index.contract import Index
from service.library.catalogue import Catalogue, Identity, Known, Placement, identify_all, read_catalogue
from service.library.fetching import Fetching
from service.library.journal import TRANSIENT, Fault, FileRow, Journal
from service.library.locations import Location
from service.library.object_cache import CopiesInUse, ObjectCache
from service.library.outcomes import STORED, Outcomes, describe_error, row_of
from service.library.parts import WHOLE, Part
from service.library.pipeline import Pipeline, RehearsedPipeline
from service.library.previews import Previews
from service.library.report import IndexReport, OnProgress, Progress, StageTimes
from service.library.scanning import (
    NO_LINKED_FOLDERS,
    FoundFile,
    IgnoredFile,
    LinkedFolder,
    LinkRules,
    UnsettledFile,
    UnusableFile,
    find_files,
)
from service.library.stages import FileError, IncomingFile, Waiting, blame_file
from service.system.caller import Caller, CallerGone
from service.system.paths import show_path

logger = logging.getLogger(__name__)

AnyPipeline = Pipeline | RehearsedPipeline


class LibraryRun:
    """One run over a library: scan, read, index, place, finish, in this order; it ends early when `stop` leaves."""

    def __init__(
        self,
        *,
        stop: Caller | None = None,
        on_progress: OnProgress | None = None,
        journal: Journal | None = None,
        verify: bool = False,
        previews: Previews | None = None,
        objects: ObjectCache | None = None,
    ) -> None:
        self.report = IndexReport()
        self.catalogue = Catalogue()
        self.found: list[FoundFile] = []
        self._stop = stop or Caller()
        self._on_progress = on_progress
        self._fetching = Fetching(objects, self._stop)
        self._caches = [cache for cache in (previews, objects) if cache is not None]
        self._verifies = verify  # reads every file again
        self._journal = journal or Journal()
        self._rows = self._journal.rows()  # of an earlier run of this job
        self._outcomes = Outcomes(self.report, self._journal)
        self._placement = Placement(self.catalogue)
        self._index: Index | None = None
        self._stored: list[tuple[FoundFile, str]] = []  # by this run
        self._waiting: dict[str, Waiting] = {}
        self._gone: set[str] = set()
        self._again: list[tuple[str, Waiting]] = []  # failed for a reason that may pass
        self._stages = StageTimes()
        self._num_earlier = 0  # files that an earlier run of this job stored: they are not looked at again
        self._num_segments = 0
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
            self._outcomes.flush()

    def scan(
        self,
        paths: Sequence[Location],
        *,
        settle_seconds: float = 0.0,
        links: LinkRules = NO_LINKED_FOLDERS,
        part: Part = WHOLE,
    ) -> None:
        """Find the files; those that were written to within `settle_seconds` are left out."""
        unusable: list[UnusableFile] = []
        for finding in find_files(paths, settle_seconds=settle_seconds, links=links, part=part):
            self._stop.check()
            if isinstance(finding, FoundFile):
                self.found.append(finding)
                self._outcomes.bytes_left += finding.size_bytes
            elif isinstance(finding, IgnoredFile):
                self.report.num_ignored += 1
            elif isinstance(finding, UnsettledFile):
                self.report.num_unsettled += 1
            elif isinstance(finding, LinkedFolder):
                self.report.linked_folders.append(show_path(finding.path))
            else:
                unusable.append(finding)
        for found, exc in self._journal.begin(self.found):
            self.found.remove(found)
            unusable.append(UnusableFile(found.path, *describe_error(blame_file(exc))))
        self._count_earlier()
        for problem in unusable:
            self._outcomes.end_failed(FileRow(path=str(problem.path)), problem, attempts=1)
        self._tell()

    def read(self, index: Index) -> None:
        """Read which assets the index has."""
        self._index = index
        read_catalogue(index, into=self.catalogue)

    def index_all(self, pipeline: AnyPipeline) -> None:
        """Send every file through the pipeline, except those that are stored or skipped."""
        for found, identity in identify_all(self._choose(), self._find_known, self._fetching):
            self._stop.check()
            try:
                if isinstance(identity, str):
                    self._place(found, identity, pipeline)
                else:
                    self._outcomes.give_up(found, identity)
            except Exception as exc:
                self._outcomes.give_up(found, blame_file(exc))
            self._tell()
        self._drain(pipeline)
        while self._again:
            again, self._again = self._again, []
            for asset_id, waiting in again:
                try:
                    self._send(asset_id, waiting, pipeline)
                except Exception as exc:
                    self._outcomes.give_up(waiting.found, blame_file(exc), *waiting.copies)
            self._drain(pipeline)

    def lose(self, asset_id: str, path: str) -> None:
        """Note that a file is gone."""
        self._gone.add(path)
        self._placement.lose(asset_id, path)

    def is_elsewhere(self, asset_id: str) -> bool:
        """Whether this run found an asset's content at a new path, or its sound and picture with other tags."""
        known = self.catalogue.get(asset_id)
        twin = None if known is None else self.catalogue.find_twin(known.packets_hash, of=asset_id)
        return twin is not None or self._placement.has_gained(asset_id)

    def place(self, index: Index | None) -> None:
        """Write the final paths of every asset; see `Placement.place`."""
        for found, asset_id in self._stored:
            if (known := self._look_again(asset_id)) is not None and str(found.path) not in known.paths:
                self._placement.find(asset_id, found)  # another process stored a copy at the same time
        for placed in self._placement.place(index, self._journal):
            self._stop.check()
            known = self.catalogue.get(placed.asset_id)
            num_segments = 0 if known is None else known.num_segments
            if placed.error is not None:
                for found in placed.copied:
                    self._outcomes.count_stored("unchanged", -num_segments, num_files=-1)
                    self._outcomes.end_failed(row_of(found, placed.asset_id), placed.error, attempts=1)
                continue
            self.report.num_moved += len(placed.moved)
            self.report.num_copied += len(placed.copied)
            self.report.num_removed += placed.is_removed
            if placed.is_removed and index is not None:
                self._clear_caches(placed.asset_id)
            for found, source in placed.moved:
                row = row_of(found, placed.asset_id)
                self._outcomes.note(row.ended("moved", num_segments=num_segments), source=source)
            for found in placed.copied:
                self._outcomes.note(row_of(found, placed.asset_id).ended("copied", num_segments=num_segments))
            for path in self._gone.intersection(placed.dropped):  # other dropped paths have a new content
                self.report.num_deleted += 1
                self._outcomes.note(FileRow(path=path, asset_id=placed.asset_id, outcome="deleted"))
        self._outcomes.flush()

    def _clear_caches(self, asset_id: str) -> None:
        for cache in self._caches:
            cache.remove(asset_id)

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
        self._outcomes.count_stored(row.outcome, num_segments)
        self.report.num_moved += row.outcome == "moved"
        self.report.num_copied += row.outcome == "copied"
        if row.is_partial:
            self.report.partial.append(show_path(row.path))

    def _choose(self) -> Iterator[FoundFile]:
        """The files to look at: neither done by an earlier run of this job, nor quarantined."""
        for found in self.found:
            try:
                is_done = self._is_done(found)
            except Exception as exc:
                self._outcomes.give_up(found, blame_file(exc))
                continue
            if not is_done:
                yield found

    def _is_done(self, found: FoundFile) -> bool:
        row = self._rows.get(str(found.path))
        fault = self._journal.fault_of(found)
        if row is not None and row.is_of(found) and self._keep(row, found):
            return True
        if fault is not None and fault.is_quarantined:
            self._outcomes.bytes_left -= found.size_bytes
            self._outcomes.end_fault(row_of(found), fault)
            return True
        return False

    def _keep(self, row: FileRow, found: FoundFile) -> bool:
        """Count a file as an earlier run of this job counted it, if the index confirms it."""
        known = self.catalogue.get(row.asset_id) if row.asset_id else None
        if known is None or row.outcome not in (*STORED, "pending") or row.path not in known.paths:
            return False
        if row.outcome == "pending":  # it is in the index: only its row was not written
            self._outcomes.end_stored(found, row.asset_id or "", "indexed", known.num_segments)
            return True
        self._outcomes.bytes_left -= found.size_bytes
        self._count_earlier_stored(row, known.num_segments)
        return True

    def _find_known(self, found: FoundFile) -> Identity | None:
        try:
            if self._verifies:
                return None
            if (asset_id := self._journal.find_identity(found)) is not None or self._journal.knows(found):
                return asset_id
            if (asset_id := self.catalogue.find_untouched(found)) is not None:
                self._journal.doubt(found)
            return asset_id
        except Exception as exc:
            return blame_file(exc)

    def _place(self, found: FoundFile, asset_id: str, pipeline: AnyPipeline) -> None:
        """Decide what a file needs: nothing, a further path of its asset, or the pipeline."""
        for other in self.catalogue.others_at(found.path, asset_id):
            self._placement.lose(other, str(found.path), heir=asset_id)
            self._outcomes.changed.add(str(found.path))
        known = self.catalogue.get(asset_id)
        if asset_id in self._waiting:
            self._waiting[asset_id].copies.append(found)
        elif known is not None or (known := self._look_again(asset_id)) is not None:
            self.report.num_retagged += self._placement.read_again(asset_id, found, pipeline.read_said)
            self._find(found, asset_id, known.num_segments)
        else:
            fault = self._journal.fault_of(found)
            waiting = Waiting(found=found, copies=[], attempts=fault.attempts if fault else 0)
            self._send(asset_id, waiting, pipeline)
        self._fetching.skip(found, asset_id)

    def _look_again(self, asset_id: str) -> Known | None:
        """An asset as it is now: other processes may write into the same index."""
        asset = None if self._index is None else self._index.get_asset(asset_id)
        if asset is None:
            return None
        known = Known.of_asset(asset)
        self.catalogue.add(asset_id, known)
        return known

    def _find(self, found: FoundFile, asset_id: str, num_segments: int) -> None:
        """Count a file whose content is stored. If its path is new, `place` writes its row."""
        if self._placement.find(asset_id, found):
            self._outcomes.end_stored(found, asset_id, "unchanged", num_segments)
        else:
            self._outcomes.bytes_left -= found.size_bytes
            self._outcomes.count_stored("unchanged", num_segments)

    # Through the pipeline

    def _send(self, asset_id: str, waiting: Waiting, pipeline: AnyPipeline) -> None:
        while not pipeline.has_room:
            self._wait(pipeline)
        self._work_started = self._work_started or time.monotonic()
        with self._fetching.holding(waiting.found, asset_id):
            self._bring(waiting.found, asset_id, pipeline)
            self._journal.start(waiting.found, asset_id)
            self._waiting[asset_id] = waiting
            sidecar = self._placement.sidecars.stamp_of(waiting.found)
            file = IncomingFile(asset_id=asset_id, found=waiting.found, sidecar=sidecar)
            if not waiting.attempts:
                file.find_twin = self.catalogue.find_twin
            pipeline.add(file)

    def _bring(self, found: FoundFile, asset_id: str, pipeline: AnyPipeline) -> None:
        """Have the copy of an object here, once there is room for it."""
        while not self._journal.is_rehearsal:
            try:
                self._fetching.bring(found, asset_id)
                return
            except CopiesInUse:
                if not pipeline.is_busy:
                    raise
                self._wait(pipeline)

    def _drain(self, pipeline: AnyPipeline) -> None:
        while pipeline.is_busy:
            self._wait(pipeline)
        self._outcomes.flush()

    def _wait(self, pipeline: AnyPipeline) -> None:
        ended = pipeline.wait()
        self._num_segments = pipeline.num_written_segments
        self._stages = pipeline.stage_times
        for file in ended:
            waiting = self._waiting[file.asset_id]
            try:
                self._end_file(file, waiting)
            except Exception as exc:
                self._waiting.pop(file.asset_id, None)
                self._outcomes.give_up(file.found, blame_file(exc), *waiting.copies)
        self._tell()

    def _end_file(self, file: IncomingFile, waiting: Waiting) -> None:
        waiting.attempts += 1
        if file.error is not None:
            self._retry_or_fail(file, file.error, waiting)
            return
        del self._waiting[file.asset_id]
        self._bytes_worked += file.found.size_bytes
        if file.is_adopted:
            self.report.num_retagged += 1
            self.report.segments.indexed -= file.num_segments
            self.report.segments.unchanged += file.num_segments
        self.catalogue.add(file.asset_id, Known.of(file))
        self._stored.append((file.found, file.asset_id))
        if file.is_partial:
            self.report.partial.append(show_path(file.found.path))
        self._outcomes.end_stored(
            file.found, file.asset_id, "indexed", file.num_segments, is_partial=file.is_partial
        )
        for copy in waiting.copies:
            self._find(copy, file.asset_id, file.num_segments)

    def _retry_or_fail(self, file: IncomingFile, error: FileError, waiting: Waiting) -> None:
        code, reason = describe_error(error)
        if code in TRANSIENT and waiting.attempts < self._journal.max_attempts:
            fault = Fault(code=code, reason=reason, attempts=waiting.attempts, is_quarantined=False)
            self._journal.attempt(file.found, fault)
            self._again.append((file.asset_id, waiting))
            logger.info("attempt %d at %s failed: %s", waiting.attempts, show_path(file.found.path), error)
            return
        del self._waiting[file.asset_id]
        self._bytes_worked += file.found.size_bytes
        self.report.segments.failed += file.num_segments
        for found in (file.found, *waiting.copies):
            self._outcomes.bytes_left -= found.size_bytes
            self._outcomes.end_failed(row_of(found, file.asset_id), error, attempts=waiting.attempts)

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
                left_seconds=seconds * self._outcomes.bytes_left / self._bytes_worked
                if can_estimate
                else None,
                stages=self._stages,
            )
        )
