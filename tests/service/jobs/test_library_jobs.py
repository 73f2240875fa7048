"""Jobs with the real parts: the ledger, the encoder, the index; what is broken is broken on purpose."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from models.media.clip import ClipSpec, DecodedMedia
from service.decode.decoder import Decoder
from service.foley import Foley, open_foley
from service.index.contract import Asset, Filter, Segment
from service.index.failure import IndexFull, IndexUnavailable
from service.jobs import library_jobs as jobs_module
from service.jobs.database import LedgerFailure
from service.jobs.documents import describe_job
from service.jobs.files import count_outcomes, read_files
from service.jobs.journal import LedgerJournal
from service.jobs.lane import JobEnded, JobNotEnded
from service.jobs.opening import Jobs, open_jobs
from service.jobs.records import JobRecord, JobRequest
from service.library.report import Counts, Progress
from service.system.settings import Settings
from tests.support.libraries import write_bad, write_tones
from tests.support.memory_index import memory_indexes
from tests.support.waiting import wait_until


class FaultyDecoder(Decoder):
    """A decoder whose worker meets a fate of its own at some files, so many times."""

    fates: Mapping[str, int] = MappingProxyType({})
    num_decoded = 0

    def submit(self, path: Path | str, spec: ClipSpec, **kwargs: Any) -> Future[DecodedMedia]:
        self.num_decoded += 1
        name = Path(path).name
        if self.fates.get(name, 0) > 0:
            self.fates = {**self.fates, name: self.fates[name] - 1}
            return self._enqueue(signal.raise_signal, (signal.SIGKILL,), {}, 20.0)
        return super().submit(path, spec, **kwargs)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[Foley]:
    settings = Settings(
        data=tmp_path_factory.mktemp("jobs"), bundle=bundle_path, device="cpu", min_free_bytes=0
    )
    with memory_indexes(), open_foley(settings) as foley, FaultyDecoder(num_workers=2) as decoder:
        yield replace(foley, decoder=decoder)


Tones = Callable[..., list[Path]]
NUMBERS = itertools.count(0, 1000)


@pytest.fixture
def tones(tmp_path: Path) -> Tones:
    """Writes sounds that no other test has: the index is shared."""
    base = next(NUMBERS)
    return lambda count, first=0: write_tones(tmp_path / "library", count, first=base + first)


@pytest.fixture
def foley(opened: Foley) -> Foley:
    decoder = opened.decoder
    assert isinstance(decoder, FaultyDecoder)
    decoder.fates, decoder.num_decoded = {}, 0
    return opened


@pytest.fixture
def runner(foley: Foley, tmp_path: Path) -> Iterator[Jobs]:
    with open_jobs(_with_data(foley, tmp_path)) as runner:
        yield runner


def _with_data(foley: Foley, folder: Path) -> Foley:
    return replace(foley, settings=foley.settings.replace(data=folder))


def _submit(runner: Jobs, *paths: Path, **options: Any) -> str:
    request = JobRequest(paths=tuple(map(str, paths)), **options)
    return runner.library.submit("index", request).job.job_id


def _paths(foley: Foley, folder: Path) -> set[str]:
    return {path for asset in _assets(foley, folder) for path in asset.paths}


def _assets(foley: Foley, folder: Path) -> tuple[Asset, ...]:
    return foley.index.list_assets(limit=1000, filter=Filter(folder=str(folder))).assets


def _wait(runner: Jobs, job_id: str, *states: str) -> JobRecord:
    def reached() -> JobRecord | None:
        job = runner.ledger.get_job(job_id)
        return job if job.state in states else None

    return wait_until(reached)


def test_a_job_that_is_cancelled_as_it_starts(
    runner: Jobs, tmp_path: Path, tones: Tones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the client says that it has ended, and so it stays."""
    tones(1)
    start = runner.ledger.start_job

    def start_late(job_id: str) -> JobRecord:
        assert runner.cancel(job_id).state == "cancelled"
        return start(job_id)

    monkeypatch.setattr(runner.ledger, "start_job", start_late)
    job_id = _submit(runner, tmp_path / "library")
    with pytest.raises(JobEnded, match="cancelled"):
        runner.library.run(job_id)
    assert runner.ledger.get_job(job_id).state == "cancelled"
    assert runner.live(job_id) is None


def test_a_library_with_a_fifth_of_bad_files(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones
) -> None:
    good = tones(12)
    codes = write_bad(tmp_path / "library", 3)
    job_id = _submit(runner, tmp_path / "library")
    report = runner.library.run(job_id)
    assert report.files == Counts(indexed=12, failed=3)
    assert {file.path: file.code for file in report.quarantined} == codes
    assert _paths(foley, tmp_path) == set(map(str, good))
    rows = {row.path: row for row in read_files(runner.ledger, job_id)}
    assert {path for path, row in rows.items() if row.outcome == "indexed"} == set(map(str, good))
    assert {path: row.code for path, row in rows.items() if row.outcome == "quarantined"} == codes
    assert all(rows[path].reason for path in codes)
    assert runner.ledger.get_job(job_id).state == "done"

    # Nothing is tried again until it changes.
    decoder = foley.decoder
    assert isinstance(decoder, FaultyDecoder)
    decoder.num_decoded = 0
    again = runner.library.run(_submit(runner, tmp_path / "library"))
    assert (again.files, decoder.num_decoded) == (Counts(unchanged=12, failed=3), 0)
    assert {file.path: file.code for file in again.quarantined} == codes
    mended = Path(next(iter(codes)))
    tones(1, first=900)[0].replace(mended)
    assert runner.library.run(_submit(runner, tmp_path / "library")).files == Counts(
        indexed=1, unchanged=12, failed=2
    )
    # Or until somebody asks for it.
    decoder.num_decoded = 0
    asked = runner.library.run(_submit(runner, tmp_path / "library", retry_quarantined=True))
    assert asked.files.failed == 2
    assert decoder.num_decoded == sum(
        code != "empty" for code in codes.values()
    )  # an empty file is not decoded


def test_a_worker_that_dies_is_not_the_end_of_its_file(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones
) -> None:
    names = [path.name for path in tones(4)]
    decoder = foley.decoder
    assert isinstance(decoder, FaultyDecoder)
    decoder.fates = {names[1]: 2, names[2]: 3}
    job_id = _submit(runner, tmp_path / "library")
    report = runner.library.run(job_id)
    assert report.files == Counts(indexed=3, failed=1)
    (failed,) = report.failed
    assert (Path(failed.path).name, failed.code, failed.attempts, failed.is_quarantined) == (
        names[2],
        "decoder_crashed",
        3,
        True,
    )
    assert runner.library.run(_submit(runner, tmp_path / "library")).files == Counts(unchanged=3, failed=1)
    # A retry of the first job does this file alone.
    decoder.num_decoded = 0
    runner.retry(job_id)
    assert runner.library.run(job_id).files == Counts(indexed=4)
    assert decoder.num_decoded == 1
    assert count_outcomes(runner.ledger, job_id) == {"indexed": 4}


def test_attempts_count_over_runs(foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones) -> None:
    (path,) = tones(1)
    decoder = foley.decoder
    assert isinstance(decoder, FaultyDecoder)
    decoder.fates = {path.name: 9}
    attempts: list[int] = []
    keep = LedgerJournal.attempt

    def stop_after(self: LedgerJournal, found: Any, fault: Any) -> None:
        keep(self, found, fault)
        attempts.append(fault.attempts)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LedgerJournal, "attempt", stop_after)
        for _ in range(2):
            assert runner.library.run(_submit(runner, tmp_path / "library")).is_interrupted
    assert attempts == [1, 2]
    assert runner.library.run(_submit(runner, tmp_path / "library")).quarantined[0].attempts == 3


class _Order:
    """Writes down what happens to the index and to the ledger, in this order."""

    def __init__(self, patch: pytest.MonkeyPatch, foley: Foley) -> None:
        self.events: list[tuple[str, str]] = []
        index = foley.index
        write_asset, end = index.write_asset, LedgerJournal.flush

        def record_write(segments: list[Segment], *, is_last: bool) -> None:
            write_asset(segments, is_last=is_last)
            self.events.append(("durable", segments[0].path))

        def record_flush(journal: LedgerJournal) -> Any:
            for row in journal._ended:
                self.events.append((row.outcome, row.path))
            return end(journal)

        patch.setattr(index, "write_asset", record_write)
        patch.setattr(LedgerJournal, "flush", record_flush)

    def broken(self) -> list[str]:
        """Files that the ledger called done before the index had them."""
        durable: set[str] = set()
        early = []
        for what, path in self.events:
            if what == "durable":
                durable.add(path)
            elif what == "indexed" and path not in durable:
                early.append(path)
        return early


def test_the_ledger_says_done_after_the_index_has_it(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones(6)
    order = _Order(monkeypatch, foley)
    told: list[Progress] = []
    job_id = _submit(runner, tmp_path / "library")
    runner.library.run(job_id, on_progress=told.append)
    assert len(order.events) == 12
    assert order.broken() == []
    assert told[-1].num_done == 6

    # Control: a journal that says it when the file starts is found out.
    def claim(journal: LedgerJournal, found: Any, asset_id: str) -> None:
        order.events.append(("indexed", str(found.path)))

    monkeypatch.setattr(LedgerJournal, "start", claim)
    tones(3, first=100)
    runner.library.run(_submit(runner, tmp_path / "library"))
    assert len(order.broken()) == 3


def test_a_job_goes_on_in_the_next_process(foley: Foley, tmp_path: Path, tones: Tones) -> None:
    files = tones(24)
    write_bad(tmp_path / "library", 4)
    ours = _with_data(foley, tmp_path / "data")
    with open_jobs(ours) as first:
        job_id = _submit(first, tmp_path / "library")
        first.start()
        wait_until(
            lambda: (live := first.live(job_id)) is not None and live.progress.num_done >= 6, every=0.002
        )
    # `stop` was called on leaving, as at SIGTERM.
    num_stored = len(_paths(foley, tmp_path))
    assert 0 < num_stored < 24
    with open_jobs(ours) as second:
        assert second.ledger.get_job(job_id).state == "queued"
        second.start()
        job = _wait(second, job_id, "done")
        assert job.report is not None
        # As one run would have reported it, whichever process did what.
        assert job.report["files"] == {"indexed": 24, "unchanged": 0, "failed": 4}
        assert count_outcomes(second.ledger, job_id) == {"indexed": 24, "quarantined": 4}
    assert _paths(foley, tmp_path) == set(map(str, files))


def test_an_index_that_was_emptied_is_filled_again(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones
) -> None:
    """The ledger never stands in for the index: what it calls done and the index lacks is done again."""
    files = tones(3)
    runner.library.run(_submit(runner, tmp_path / "library"))
    (asset, *_) = _assets(foley, tmp_path)
    foley.index.delete_asset(asset.asset_id)
    assert runner.library.run(_submit(runner, tmp_path / "library")).files == Counts(indexed=1, unchanged=2)
    assert _paths(foley, tmp_path) == set(map(str, files))


def test_cancelled_while_it_waits_and_while_it_runs(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones
) -> None:
    tones(30)
    running = _submit(runner, tmp_path / "library")
    waiting = _submit(runner, tmp_path / "library")
    runner.start()
    wait_until(
        lambda: (live := runner.live(running)) is not None and live.progress.num_done >= 3, every=0.002
    )
    with pytest.raises(JobNotEnded, match="is running"):
        runner.retry(running)
    assert runner.cancel(waiting).state == "cancelled"
    assert runner.cancel(running).wants_cancel
    job = _wait(runner, running, "cancelled")
    assert job.report is not None
    assert job.report["files"]["indexed"] < 30
    # A cancelled job is retried where it was.
    runner.retry(running)
    job = _wait(runner, running, "done")
    assert job.report is not None
    assert job.report["files"] == {"indexed": 30, "unchanged": 0, "failed": 0}
    assert len(_paths(foley, tmp_path)) == 30
    with pytest.raises(JobEnded, match="done"):
        runner.cancel(running)


def _fail_writes(
    monkeypatch: pytest.MonkeyPatch, foley: Foley, error: Exception, *, times: int
) -> Callable[[], int]:
    index, lock = foley.index, threading.Lock()
    write_asset, left = index.write_asset, [times]

    def write(segments: list[Segment], *, is_last: bool) -> None:
        with lock:
            left[0] -= 1
            fails = left[0] >= 0
        if fails:
            raise error
        write_asset(segments, is_last=is_last)

    monkeypatch.setattr(index, "write_asset", write)
    return lambda: times - left[0]


def test_a_full_disk_is_waited_for(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.library.lane, "_wait_seconds", 0.1)
    tones(3)
    _fail_writes(monkeypatch, foley, IndexFull("12 bytes free"), times=5)
    runner.start()
    job = _wait(runner, _submit(runner, tmp_path / "library"), "done")
    assert job.report is not None
    assert job.report["files"]["indexed"] == 3


def test_an_index_that_stays_away_fails_the_job_with_its_name(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.library.lane, "_wait_seconds", 0.05)
    monkeypatch.setattr("service.index.iteration.RETRY_SECONDS", 0.01)
    tones(1)
    count = _fail_writes(monkeypatch, foley, IndexUnavailable("the engine is away"), times=12)
    runner.start()
    job_id = _submit(runner, tmp_path / "library")
    job = _wait(runner, job_id, "failed")
    assert (job.error_code, job.error) == ("index_unavailable", "the engine is away")
    assert count() == 3 * 4  # attempts at the job, and at each write
    assert describe_job(job)["error"] == {"code": "index_unavailable", "detail": "the engine is away"}
    runner.retry(job_id)
    assert _wait(runner, job_id, "done").error_code is None
    assert len(_paths(foley, tmp_path)) == 1


def test_a_fault_of_our_own_fails_the_job_and_not_the_thread(
    foley: Foley, runner: Jobs, tmp_path: Path, tones: Tones, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones(1)
    with monkeypatch.context() as patch:
        patch.setattr(jobs_module, "index_paths", lambda *_, **__: 1 / 0)
        runner.start()
        job = _wait(runner, _submit(runner, tmp_path / "library"), "failed")
    assert (job.error_code, job.error) == ("internal_error", "the service failed; its log says why")
    assert _wait(runner, _submit(runner, tmp_path / "library"), "done").report is not None


def test_one_runner_for_a_library(foley: Foley, runner: Jobs, tmp_path: Path) -> None:
    with pytest.raises(LedgerFailure, match="works on the jobs in"), open_jobs(_with_data(foley, tmp_path)):
        pass
