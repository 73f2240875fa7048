"""One run over a library, step by step; `indexing` and `sync` choose the steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.decode.decoder import Decoder
from service.index.contract import Index
from service.library.catalogue import Catalogue, Identity, Known, Placement, identify_all, read_catalogue
from service.library.fetching import Fetching
from service.library.journal import TRANSIENT, Fault, FileRow
from service.library.locations import Location
from service.library.object_cache import CopiesInUse
from service.library.options import RunOptions
from service.library.outcomes import STORED, Outcomes, describe_error, row_of
from service.library.pace import Pace
from service.library.pipeline import Pipeline, RehearsedPipeline
from service.library.report import IndexReport
from service.library.scanning import (
    FoundFile,
    IgnoredFile,
    LinkedFolder,
    UnsettledFile,
    UnusableFile,
    find_files,
)
from service.library.stages import FileError, IncomingFile, Waiting, blame_file
from service.search.snapshot import Snapshot
from service.system.caller import CallerGone
from service.system.paths import show_path

logger = logging.getLogger(__name__)

AnyPipeline = Pipeline | RehearsedPipeline
ReadSaid = Callable[[FoundFile, Path], Mapping[str, Any]]  # see `service.library.said.read_again`


class LibraryRun:
    """One run over a library: scan, read, index, place, finish, in this order; it ends early when `stop` leaves."""

    def __init__(self, options: RunOptions | None = None) -> None:
        options = options or RunOptions()
        self.report = IndexReport()
        self.catalogue = Catalogue()
        self.found: list[FoundFile] = []
        self._options = options
        self._stop = options.stop
        self._journal = options.journal
        self._fetching = Fetching(options.objects, self._stop)
        self._rows = self._journal.rows()  # of an earlier run of this job
        self.outcomes = Outcomes(self.report, self._journal)
        self.placement = Placement(self.catalogue)
        self._shared: Index | None = None  # the index, if other processes may write to it
        self._stored: list[tuple[FoundFile, str]] = []  # there by this run
        self._waiting: dict[str, Waiting] = {}
        self._gone: set[str] = set()
        self._again: list[tuple[str, Waiting]] = []  # failed for a reason that may pass
        self._num_earlier = 0  # files that an earlier run of this job stored: they are not looked at again
        self.pace = Pace()
        self._started = time.monotonic()

    @contextmanager
    def stopping_early(self) -> Iterator[None]:
        """Turn Ctrl-C, and `stop` leaving, into an early end of the block; what was done is written down."""
        try:
            yield
        except (KeyboardInterrupt, CallerGone):
            logger.info("the run was stopped")
            self.report.is_interrupted = True
        finally:
            self.outcomes.flush()

    def scan(self, paths: Sequence[Location], *, settle_seconds: float = 0.0) -> None:
        """Find the files; those that were written to within `settle_seconds` are left out."""
        unusable: list[UnusableFile] = []
        rules = self._options.links
        for finding in find_files(paths, settle_seconds=settle_seconds, links=rules, part=self._options.part):
            self._stop.check()
            if isinstance(finding, FoundFile):
                self.found.append(finding)
                self.outcomes.bytes_left += finding.size_bytes
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
            self.outcomes.end_failed(FileRow(path=str(problem.path)), problem, attempts=1)
        self.tell()

    def read(self, index: Index) -> None:
        """Read which assets the index has."""
        self._shared = index if index.is_shared else None
        read_catalogue(index, into=self.catalogue)

    def take(self, index: Index, found: Iterable[FoundFile]) -> None:
        """Have these files of a shared index of which nothing is read, in place of `scan` and `read`."""
        self._shared = index
        self.found.extend(found)

    def index_through(self, snapshot: Snapshot, decoder: Decoder) -> None:
        """`index_all` through a pipeline of its own."""
        with Pipeline(
            snapshot=snapshot,
            decoder=decoder,
            limits=self._options.limits,
            stop=self._stop,
            previews=self._options.previews,
            objects=self._options.objects,
        ) as pipeline:
            self.index_all(pipeline)

    def index_all(self, pipeline: AnyPipeline) -> None:
        """Send every file through the pipeline, except those that are stored or skipped."""
        for found, identity in identify_all(self.choose(), self.find_known, self._fetching):
            self._stop.check()
            try:
                if isinstance(identity, str):
                    self._place(found, identity, pipeline)
                else:
                    self.outcomes.give_up(found, identity)
            except Exception as exc:
                self.outcomes.give_up(found, blame_file(exc))
            self.tell()
        self._drain(pipeline)
        while self._again:
            again, self._again = self._again, []
            for asset_id, waiting in again:
                try:
                    self._send(asset_id, waiting, pipeline)
                except Exception as exc:
                    self.outcomes.give_up(waiting.found, blame_file(exc), *waiting.copies)
            self._drain(pipeline)

    def lose(self, asset_id: str, path: str) -> None:
        """Note that a file is gone."""
        self._gone.add(path)
        self.placement.lose(asset_id, path)

    def is_elsewhere(self, asset_id: str) -> bool:
        """Whether this run found an asset's content at a new path, or its sound and picture with other tags."""
        known = self.catalogue.get(asset_id)
        twin = None if known is None else self.catalogue.find_twin(known.packets_hash, of=asset_id)
        return twin is not None or self.placement.has_gained(asset_id)

    def place(self, index: Index | None) -> None:
        """Write the final paths of every asset; see `Placement.place`."""
        for found, asset_id in self._stored:
            if (known := self._look_again(asset_id)) is not None and str(found.path) not in known.paths:
                self.placement.find(asset_id, found)  # another process stored a copy at the same time
        for placed in self.placement.place(index, self._journal):
            self._stop.check()
            known = self.catalogue.get(placed.asset_id)
            num_segments = 0 if known is None else known.num_segments
            self.outcomes.end_placed(placed, num_segments, gone=self._gone)
            for cache in (self._options.previews, self._options.objects):
                if placed.is_removed and index is not None and cache is not None:
                    cache.remove(placed.asset_id)
        self.outcomes.flush()

    def finish(self) -> IndexReport:
        """Complete the report."""
        self.report.failed.sort(key=lambda failed: failed.path)
        self.report.partial.sort()
        self.report.stages = self.pace.stages
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
                self.outcomes.count_row(row, row.num_segments)

    def choose(self) -> Iterator[FoundFile]:
        """The files to look at: neither done by an earlier run of this job, nor quarantined."""
        for found in self.found:
            try:
                is_done = self._is_done(found)
            except Exception as exc:
                self.outcomes.give_up(found, blame_file(exc))
                continue
            if not is_done:
                yield found

    def _is_done(self, found: FoundFile) -> bool:
        row = self._rows.get(str(found.path))
        fault = self._journal.fault_of(found)
        if row is not None and row.is_of(found) and self._keep(row, found):
            return True
        if fault is not None and fault.is_quarantined:
            self.outcomes.bytes_left -= found.size_bytes
            self.outcomes.end_fault(row_of(found), fault)
            return True
        return False

    def _keep(self, row: FileRow, found: FoundFile) -> bool:
        """Count a file as an earlier run of this job counted it, if the index confirms it."""
        known = self.catalogue.get(row.asset_id) if row.asset_id else None
        if known is None or row.outcome not in (*STORED, "pending") or row.path not in known.paths:
            return False
        if row.outcome == "pending":  # it is in the index: only its row was not written
            self.outcomes.end_stored(found, row.asset_id or "", "indexed", known.num_segments)
            return True
        self.outcomes.bytes_left -= found.size_bytes
        self.outcomes.count_row(row, known.num_segments)
        return True

    def find_known(self, found: FoundFile) -> Identity | None:
        """The asset of a file that has not changed, as far as can be told without reading it."""
        try:
            if self._options.verify:
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
        self.lose_others(found, asset_id)
        if asset_id in self._waiting:
            self._waiting[asset_id].copies.append(found)
        elif not self.find_stored(found, asset_id, pipeline.read_said):
            fault = self._journal.fault_of(found)
            waiting = Waiting(found=found, copies=[], attempts=fault.attempts if fault else 0)
            self._send(asset_id, waiting, pipeline)
        self._fetching.skip(found, asset_id)

    def lose_others(self, found: FoundFile, asset_id: str) -> None:
        """Note that a path has this content now, and no other."""
        for other in self.catalogue.others_at(found.path, asset_id):
            self.placement.lose(other, str(found.path), heir=asset_id)
            self.outcomes.changed.add(str(found.path))

    def find_stored(self, found: FoundFile, asset_id: str, read_said: ReadSaid) -> bool:
        """Count a file if its content is stored; returns whether it is."""
        known = self.catalogue.get(asset_id) or self._look_again(asset_id)
        if known is None:
            return False

        def read() -> Mapping[str, Any]:
            if self._journal.is_rehearsal:
                return {}
            with self._fetching.opening(found, asset_id) as source:
                return read_said(found, source)

        self.report.num_retagged += self.placement.read_again(asset_id, found, read)
        self._find(found, asset_id, known.num_segments)
        return True

    def _look_again(self, asset_id: str) -> Known | None:
        """An asset as another process may have stored it since this run began."""
        asset = None if self._shared is None else self._shared.get_asset(asset_id)
        if asset is None:
            return None
        known = Known.of_asset(asset)
        self.catalogue.add(asset_id, known)
        return known

    def _find(self, found: FoundFile, asset_id: str, num_segments: int) -> None:
        """Count a file whose content is stored. If its path is new, `place` writes its row."""
        if self.placement.find(asset_id, found):
            self.outcomes.end_stored(found, asset_id, "unchanged", num_segments)
        else:
            self.outcomes.bytes_left -= found.size_bytes
            self.outcomes.count_stored("unchanged", num_segments)

    # Through the pipeline

    def _send(self, asset_id: str, waiting: Waiting, pipeline: AnyPipeline) -> None:
        while not pipeline.has_room:
            self._wait(pipeline)
        self.pace.begin()
        with self._fetching.holding(waiting.found, asset_id):
            self._bring(waiting.found, asset_id, pipeline)
            self._journal.start(waiting.found, asset_id)
            self._waiting[asset_id] = waiting
            sidecar = self.placement.sidecars.stamp_of(waiting.found)
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
        self.outcomes.flush()

    def _wait(self, pipeline: AnyPipeline) -> None:
        ended = pipeline.wait()
        self.pace.num_segments = pipeline.num_written_segments
        self.pace.stages = pipeline.stage_times
        for file in ended:
            waiting = self._waiting[file.asset_id]
            try:
                self._end_file(file, waiting)
            except Exception as exc:
                self._waiting.pop(file.asset_id, None)
                self.outcomes.give_up(file.found, blame_file(exc), *waiting.copies)
        self.tell()

    def _end_file(self, file: IncomingFile, waiting: Waiting) -> None:
        waiting.attempts += 1
        if file.error is not None:
            self._retry_or_fail(file, file.error, waiting)
            return
        del self._waiting[file.asset_id]
        self.pace.bytes_worked += file.found.size_bytes
        if file.is_adopted:
            self.report.num_retagged += 1
            self.report.segments.indexed -= file.num_segments
            self.report.segments.unchanged += file.num_segments
        self.catalogue.add(file.asset_id, Known.of(file))
        if self._shared is not None:
            self._stored.append((file.found, file.asset_id))
        if file.is_partial:
            self.report.partial.append(show_path(file.found.path))
        self.outcomes.end_stored(
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
        self.pace.bytes_worked += file.found.size_bytes
        self.report.segments.failed += file.num_segments
        for found in (file.found, *waiting.copies):
            self.outcomes.bytes_left -= found.size_bytes
            self.outcomes.end_failed(row_of(found, file.asset_id), error, attempts=waiting.attempts)

    def tell(self) -> None:
        """Tell how far the run is."""
        if self._options.on_progress is not None:
            num_files = len(self.found) + self._num_earlier
            self._options.on_progress(
                self.pace.progress(self.report, num_files=num_files, bytes_left=self.outcomes.bytes_left)
            )
