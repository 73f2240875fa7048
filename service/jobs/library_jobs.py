"""Jobs that index and synchronise folders; they use the encoder as bulk work, so queries go first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib.metadata import version

from service.foley import Foley
from service.index.failure import IndexFull, IndexUnavailable
from service.jobs.files import lift_quarantine, read_files
from service.jobs.journal import LedgerJournal
from service.jobs.lane import FOR_EVER, JobLane, JobResult, RunningJob
from service.jobs.ledger import Ledger
from service.jobs.records import CreatedJob, JobRecord, JobRequest, Kind
from service.library.cluster import Pool, index_on_cluster
from service.library.indexing import index_paths, library_limits
from service.library.locations import locate
from service.library.mounts import find_mounts
from service.library.objects import StorageUnavailable
from service.library.options import RunOptions
from service.library.parts import WHOLE, Part
from service.library.report import IndexReport, OnProgress, Progress
from service.library.scanning import LinkRules
from service.library.sync import sync_paths
from service.search.snapshot import Snapshot

ATTEMPTS = 3  # at a job whose index is not available
WAIT_SECONDS = 5.0  # before the second of them; also how often a full disk is looked at
STOP_SECONDS = 20.0  # one run of the encoder and one write

OpenPool = Callable[[Snapshot], AbstractContextManager[Pool]]


def open_library_lane(ledger: Ledger) -> JobLane:
    """The lane of these jobs; a server's job waits while the disk is full."""
    return JobLane(
        ledger,
        kinds=("index", "sync"),
        attempts={IndexFull: FOR_EVER, IndexUnavailable: ATTEMPTS, StorageUnavailable: ATTEMPTS},
        wait_seconds=WAIT_SECONDS,
        stop_seconds=STOP_SECONDS,
    )


class LibraryJobs:
    """Does the jobs over a library; calls `after_job` after each that is done. Any thread may call it."""

    def __init__(self, foley: Foley, lane: JobLane, *, after_job: Callable[[], object]) -> None:
        self.lane = lane
        self._foley = foley
        self._after_job = after_job
        self._limits = library_limits(foley.settings)

    def submit(self, kind: Kind, request: JobRequest, *, idempotency_key: str | None = None) -> CreatedJob:
        """Queue a job; see `Ledger.create_job`."""
        return self.lane.submit(kind, request.to_json(), idempotency_key=idempotency_key)

    def find_same(self, kind: Kind, request: JobRequest) -> JobRecord | None:
        """An unfinished job that was asked to do just this."""
        for job in self.lane.ledger.unfinished_jobs():
            if job.kind == kind and JobRequest.from_json(job.request) == request:
                return job
        return None

    def run(
        self, job_id: str, *, on_progress: OnProgress | None = None, open_pool: OpenPool | None = None
    ) -> IndexReport:
        """Run a job in this thread; see `JobLane.run`. With `open_pool` workers of a cluster index the files."""
        report = self.lane.run(job_id, partial(self._work, on_progress=on_progress, open_pool=open_pool))
        if not report.is_interrupted:
            self._after_job()
        return report

    def _work(
        self, job: RunningJob, *, on_progress: OnProgress | None, open_pool: OpenPool | None
    ) -> JobResult[IndexReport]:
        def tell(progress: Progress) -> None:
            job.tell(progress)
            if on_progress is not None:
                on_progress(progress)

        with self._foley.lease(priority="bulk") as snapshot, ExitStack() as stack:
            index: Callable[..., IndexReport] = index_paths
            if open_pool is not None:
                index = partial(index_on_cluster, pool=stack.enter_context(open_pool(snapshot)))
            report = self._index(snapshot, job, tell, index)
        return JobResult(value=report, report=report.to_json(), is_interrupted=report.is_interrupted)

    def _index(
        self, snapshot: Snapshot, job: RunningJob, tell: OnProgress, index: Callable[..., IndexReport]
    ) -> IndexReport:
        ledger, record = self.lane.ledger, job.record
        request = JobRequest.from_json(record.request)
        roots = [locate(path) for path in request.paths]
        basis = _describe_basis(self._foley, snapshot.bundle_id)
        journal = LedgerJournal(ledger, record.job_id, basis=basis, is_rehearsal=request.dry_run)
        if request.retry_quarantined and not record.is_scanned and not request.dry_run:
            lift_quarantine(ledger, roots)
        options = RunOptions(
            limits=self._limits,
            on_progress=tell,
            journal=journal,
            stop=job.stop,
            verify=request.verify,
            part=Part.parse(request.part) if record.kind == "index" and not record.is_retry else WHOLE,
            previews=self._foley.previews,
            objects=self._foley.objects,
            links=LinkRules(
                follows_folders=request.follow_links,
                within=self._foley.settings.library_roots,
                storages=self._foley.settings.storage_roots,
            ),
        )
        do = partial(index, snapshot=snapshot, decoder=self._foley.decoder, options=options)
        if record.is_retry:
            return do([locate(row.path) for row in read_files(ledger, record.job_id, outcomes=("pending",))])
        if record.kind == "index":
            journal.remember_mounts(find_mounts(roots))
            report = do(roots)
            journal.remember_mounts(find_mounts(roots))  # some are mounted when they are looked at
            return report
        return sync_paths(
            roots,
            **do.keywords,
            allow_empty=request.allow_empty,
            allow_gone=request.allow_gone,
            max_gone=self._foley.settings.sync_max_gone,
            settle_seconds=request.settle_seconds,
        )


def _describe_basis(foley: Foley, bundle_id: str) -> str:
    """What files are decoded with, in short: a fault under other limits or another decoder does not count."""
    facts = (
        library_limits(foley.settings),
        foley.settings.worker_memory_bytes,
        version("av"),
        version("foley-av"),
        bundle_id,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
