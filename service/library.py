"""Indexing a library: every media file under some paths goes into the index once.

    with open_engine(settings) as engine:
        report = index_paths([Path("Movies")], snapshot=engine.snapshot(), decoder=engine.decoder)

A file is an asset by its content. One that is known by path, size and time is not even read; one whose
content is known under another path is not decoded. A file that cannot be used is a line of the report and
never the end of the job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.clip import DecodeLimits, UnreadableClip
from service.catalogue import Catalogue, Known, identify_all, move, read_catalogue
from service.decoding import DecodeFailure, Decoder
from service.encoder import EncoderFailure
from service.index.contract import Index
from service.ingest import Pipeline
from service.retrieval import Snapshot
from service.scanning import FoundFile, IgnoredFile, UnusableFile, find_files, show_path
from service.settings import Settings
from service.stages import FileError, Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """A file that could not be indexed.

    Attributes:
        path: Its path, printable.
        code: Stable name of the reason.
        reason: The reason for people.
    """

    path: str
    code: str
    reason: str


@dataclass(kw_only=True)
class Counts:
    """How many were stored by this run, were there before, and could not be stored."""

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0

    def to_json(self) -> dict[str, int]:
        """The counts as JSON values."""
        return {"indexed": self.indexed, "unchanged": self.unchanged, "failed": self.failed}


@dataclass(kw_only=True)
class IndexReport:
    """What a run did.

    Attributes:
        files: Counts of files.
        segments: Counts of segments; failed are those decoded of files that failed later.
        failed: The files that could not be indexed, by path.
        partial: Paths of files that are indexed and end before 95 % of the length they declare.
        num_ignored: Files of folders that are not media.
        num_removed: Assets removed because no file has their content any more.
        seconds: How long it took.
        is_interrupted: Whether it was stopped before its end.
    """

    files: Counts = field(default_factory=Counts)
    segments: Counts = field(default_factory=Counts)
    failed: list[FailedFile] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    num_ignored: int = 0
    num_removed: int = 0
    seconds: float = 0.0
    is_interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values: the output of `foley index --json`."""
        return {
            "files": self.files.to_json(),
            "segments": self.segments.to_json(),
            "failed": [{"path": f.path, "code": f.code, "reason": f.reason} for f in self.failed],
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        num_files: Media files found.
        num_done: Of them, those that are indexed, unchanged or failed.
        num_failed: Of those, the failed ones.
        num_segments: Segments stored by this run.
        segments_per_second: Since the first file was started.
        left_seconds: Estimated time left, None before there is anything to estimate from.
    """

    num_files: int
    num_done: int
    num_failed: int
    num_segments: int
    segments_per_second: float
    left_seconds: float | None


OnProgress = Callable[[Progress], None]


def index_paths(
    paths: Sequence[Path],
    *,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: DecodeLimits | None = None,
    on_progress: OnProgress | None = None,
) -> IndexReport:
    """Index every media file under some paths; see `service.scanning.find_files` for which these are.

    Ctrl-C ends the run early and cleanly: what is stored stays, and the report says so. Errors of the index
    itself (`service.index.contract.IndexFailure`) and of the encoder end it too, and are raised.

    Args:
        paths: Files and folders.
        snapshot: Encoder and index.
        decoder: Decodes the files.
        limits: What a file may ask of the decoder.
        on_progress: Called with the state of things whenever it changes.

    Returns:
        What was done, and what could not be done and why.
    """
    run = _Run(on_progress)
    try:
        run.scan(paths)
        with Pipeline(snapshot=snapshot, decoder=decoder, limits=limits or DecodeLimits()) as pipeline:
            run.index_all(snapshot.index, pipeline)
        run.settle(snapshot.index)
    except KeyboardInterrupt:
        logger.info("indexing was stopped")
        run.report.is_interrupted = True
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


class _Run:
    """The state of one call of `index_paths`."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.report = IndexReport()
        self._on_progress = on_progress
        self._found: list[FoundFile] = []
        self._seen: dict[str, FoundFile] = {}  # asset → a file that has its content
        self._stale: set[str] = set()  # assets whose file has another content now
        self._copies: dict[str, list[FoundFile]] = {}  # asset under way → other files with its content
        self._catalogue = Catalogue()
        self._num_segments = 0
        self._bytes_left = 0
        self._bytes_worked = 0
        self._started = time.monotonic()
        self._work_started: float | None = None

    def scan(self, paths: Sequence[Path]) -> None:
        """Find the files."""
        for finding in find_files(paths):
            if isinstance(finding, FoundFile):
                self._found.append(finding)
                self._bytes_left += finding.size_bytes
            elif isinstance(finding, IgnoredFile):
                self.report.num_ignored += 1
            else:
                self._count_failed(finding.path, finding)
        self._tell()

    def index_all(self, index: Index, pipeline: Pipeline) -> None:
        """Take every file through the pipeline, except those that are there already."""
        self._catalogue = read_catalogue(index)
        for found, identity in identify_all(self._found, self._catalogue):
            if isinstance(identity, str):
                self._place(found, identity, index, pipeline)
            else:
                self._bytes_left -= found.size_bytes
                self._count_failed(found.path, identity)
            self._tell()
        while pipeline.is_busy:
            self._wait(pipeline)

    def settle(self, index: Index) -> None:
        """Remove assets whose file has another content now, unless another file has theirs."""
        for asset_id in sorted(self._stale):
            elsewhere = self._seen.get(asset_id)
            if elsewhere is not None:
                move(index, asset_id, elsewhere)
            else:
                index.delete_asset(asset_id)
                self.report.num_removed += 1

    def finish(self) -> IndexReport:
        """Complete the report."""
        self.report.failed.sort(key=lambda failed: failed.path)
        self.report.partial.sort()
        self.report.seconds = time.monotonic() - self._started
        return self.report

    def _place(self, found: FoundFile, asset_id: str, index: Index, pipeline: Pipeline) -> None:
        """Decide what a file needs: nothing, a new path in the index, or the whole way."""
        self._stale |= self._catalogue.others_at(found.path, asset_id)
        known = self._catalogue.get(asset_id)
        if asset_id in self._copies:
            self._copies[asset_id].append(found)
        elif known is not None:
            self._seen.setdefault(asset_id, found)
            if known.is_misplaced(found):
                move(index, asset_id, found)
            self._count_unchanged(found, known.num_segments)
        else:
            self._seen[asset_id] = found
            self._copies[asset_id] = []
            while not pipeline.has_room:
                self._wait(pipeline)
            self._work_started = self._work_started or time.monotonic()
            pipeline.add(Job(asset_id=asset_id, found=found))

    def _wait(self, pipeline: Pipeline) -> None:
        for job in pipeline.wait():
            self._count_job(job)
        self._num_segments = pipeline.num_written_segments
        self._tell()

    def _count_job(self, job: Job) -> None:
        copies = self._copies.pop(job.asset_id)
        self._bytes_worked += job.found.size_bytes
        self._bytes_left -= job.found.size_bytes
        if job.error is not None:
            self.report.segments.failed += job.num_segments
            self._count_failed(job.found.path, job.error)
            for copy in copies:
                self._bytes_left -= copy.size_bytes
                self._count_failed(copy.path, job.error)
            return
        self.report.files.indexed += 1
        self.report.segments.indexed += job.num_segments
        self._catalogue.add(job.asset_id, Known.of(job.found, num_segments=job.num_segments))
        if job.is_partial:
            self.report.partial.append(show_path(job.found.path))
        for copy in copies:
            self._count_unchanged(copy, job.num_segments)

    def _count_unchanged(self, found: FoundFile, num_segments: int) -> None:
        self.report.files.unchanged += 1
        self.report.segments.unchanged += num_segments
        self._bytes_left -= found.size_bytes

    def _count_failed(self, path: Path, error: FileError) -> None:
        self.report.files.failed += 1
        self.report.failed.append(FailedFile(path=show_path(path), code=code_of(error), reason=str(error)))

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        files = self.report.files
        seconds = time.monotonic() - (self._work_started or time.monotonic())
        can_estimate = seconds > 0 and self._bytes_worked > 0
        self._on_progress(
            Progress(
                num_files=len(self._found),
                num_done=files.indexed + files.unchanged + files.failed,
                num_failed=files.failed,
                num_segments=self._num_segments,
                segments_per_second=self._num_segments / seconds if seconds > 0 else 0.0,
                left_seconds=seconds * self._bytes_left / self._bytes_worked if can_estimate else None,
            )
        )


def code_of(error: FileError) -> str:
    """The stable name of why a file could not be indexed."""
    if isinstance(error, UnreadableClip | DecodeFailure | UnusableFile):
        return error.code
    return "encoder_failed" if isinstance(error, EncoderFailure) else "invalid_vector"
