"""The ledger alone: what was committed is there, one process works on it, and errors have names."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.jobs import database as ledger_file
from service.jobs import ledger as ledger_module
from service.jobs.database import LedgerDamaged, LedgerFailure, LedgerFull, LedgerInUse
from service.jobs.documents import list_jobs
from service.jobs.files import (
    count_outcomes,
    find_missing,
    forget_asset,
    lift_quarantine,
    read_files,
    recall_identity,
    retry_failed,
)
from service.jobs.journal import LedgerJournal
from service.jobs.ledger import JobNotFound, KeyReused, Ledger
from service.library.journal import Fault, FileRow
from service.library.scanning import FoundFile
from service.operations.backup import BackupFailed, _copy_files
from service.system.settings import Settings

FOUND = FoundFile(path=Path("/videos/a.mp4"), size_bytes=7, modified_ns=9)
LATIN = FoundFile(path=Path(os.fsdecode(b"/videos/caf\xe9.mp4")), size_bytes=1, modified_ns=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def _journal(ledger: Ledger, *, basis: str = "b") -> LedgerJournal:
    return LedgerJournal(ledger, ledger.create_job("index", {}).job.job_id, basis=basis)


def _write_two(connection: sqlite3.Connection, *tables: str) -> None:
    for table in tables:
        connection.execute(f"INSERT INTO {table} VALUES (x'00')")


def test_jobs_outlive_the_process(path: Path) -> None:
    with Ledger.open(path) as ledger:
        first = ledger.create_job("index", {"paths": ["/b", "/a"]}).job
        second = ledger.create_job("sync", {"paths": ["/c"]}).job
        ledger.start_job(first.job_id)
    with Ledger.open(path) as ledger:
        assert [job.job_id for job in ledger.unfinished_jobs()] == [first.job_id, second.job_id]
        assert ledger.get_job(first.job_id).request == {"paths": ["/b", "/a"]}
        ended = ledger.end_job(first.job_id, "failed", report={"x": 1}, error_code="c", error="why")
        assert (ended.state, ended.report, ended.error_code, ended.error) == ("failed", {"x": 1}, "c", "why")
        assert [job.job_id for job in ledger.list_jobs(limit=9, state="failed")] == [first.job_id]
        assert [job.job_id for job in ledger.list_jobs(limit=9, before=second.number)] == [first.job_id]
        with pytest.raises(JobNotFound, match="no job 'none'"):
            ledger.get_job("none")


def test_a_job_that_was_cancelled_does_not_start(path: Path) -> None:
    """Between the moment it is chosen and the one in which it starts."""
    with Ledger.open(path) as ledger:
        chosen = ledger.create_job("index", {}).job
        assert ledger.want_cancel(chosen.job_id).state == "cancelled"
        assert ledger.start_job(chosen.job_id).state == "cancelled"


def test_commits_are_written_through(path: Path) -> None:
    with Ledger.open(path) as ledger:
        assert ledger.read("PRAGMA journal_mode")[0][0] == "wal"
        with ledger.write() as connection:
            assert (
                connection.execute("PRAGMA synchronous").fetchone()[0] == 2
            )  # FULL, by SQLite's documentation
        assert ledger.read("PRAGMA user_version")[0][0] == ledger_file.SCHEMA_VERSION


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    with Ledger.open(path) as ledger:
        with pytest.raises(LedgerFailure, match="no such table"), ledger.write() as connection:
            _write_two(connection, "mounts", "none")
        assert ledger.read("SELECT * FROM mounts") == []


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_between_two_statements_leaves_no_transaction_open(
    path: Path, statement: str, when: str
) -> None:
    class Interrupted:
        """The connection, and Ctrl-C right before or after one statement."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self.connection = connection

        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if sql == statement and when == "before":
                raise KeyboardInterrupt
            cursor = self.connection.execute(sql, *values)
            if sql == statement:
                raise KeyboardInterrupt
            return cursor

        def __getattr__(self, name: str) -> object:
            return getattr(self.connection, name)

    with Ledger.open(path) as ledger:
        connection = ledger._connection
        ledger._connection = Interrupted(connection)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            ledger.create_job("library", {"paths": []})
        ledger._connection = connection
        was_kept = (statement, when) == ("COMMIT", "after")
        assert len(ledger.list_jobs(limit=5)) == was_kept
        ledger.create_job("library", {"paths": []})


def test_one_process_works_on_the_jobs_of_a_library(path: Path) -> None:
    with Ledger.open(path):
        with pytest.raises(LedgerInUse, match=rf"another process \(number {os.getpid()}\)"):
            Ledger.open(path)
        Ledger.open(path, is_worker=False).close()
        program = "import sys; from pathlib import Path; from service.jobs.ledger import *; "
        program += "Ledger.open(Path(sys.argv[1]))"
        other = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
        assert "LedgerInUse" in other.stderr
    Ledger.open(path).close()


def test_a_writer_waits_for_another_and_then_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "BUSY_SECONDS", 0.2)
    with Ledger.open(path) as first, Ledger.open(path, is_worker=False) as second:
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with first.write():
                held.set()
                release.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        with pytest.raises(LedgerInUse, match="writes the ledger for more than"):
            second.create_job("index", {})
        release.set()
        thread.join()
        second.create_job("index", {})


def test_a_ledger_of_the_first_version_is_upgraded(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(ledger_file.SCHEMA)
        connection.execute("INSERT INTO identities VALUES (?, 7, 9, ?)", (b"/videos/a.mp4", "f" * 64))
        connection.execute("PRAGMA user_version=1")
    connection.close()
    for _ in range(2):
        with Ledger.open(path) as ledger:
            journal = LedgerJournal(ledger, "job", basis="b")
            earlier, later = (replace(FOUND, stamp=f"5:{ns}@9") for ns in (1, 2 * time.time_ns()))
            assert journal.find_identity(earlier) == "f" * 64
            assert journal.find_identity(later) is None


def test_a_later_version_is_refused(path: Path) -> None:
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(
        LedgerFailure, match=f"schema version 99; this Foley knows {ledger_file.SCHEMA_VERSION}"
    ):
        Ledger.open(path)


def test_damage_and_a_full_disk_have_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(LedgerFailure, match="cannot be used"):
        Ledger.open(path)
    path.unlink()
    with Ledger.open(path) as ledger:
        ledger.read("PRAGMA max_page_count=20")
        with pytest.raises(LedgerFull, match="full"):
            ledger.create_job("index", {"paths": ["x" * 200_000]})
        ledger.read("PRAGMA max_page_count=100000")
        ledger.create_job("index", {"paths": ["x" * 200_000]})
    with pytest.raises(LedgerFailure, match="closed"):
        ledger.create_job("index", {})


def test_a_damaged_page_is_found_wherever_it_is(path: Path, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "of", bundle=tmp_path)
    path = settings.data / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        journal = _journal(ledger)
        many = [replace(FOUND, path=Path(f"/videos/{'x' * 100}{number:04}.mp4")) for number in range(500)]
        journal.begin(many)
        ledger.check()
        ledger.read("PRAGMA wal_checkpoint(TRUNCATE)")
        content = bytearray(path.read_bytes())
        content[-3 * 4096 : -4096] = b"\xa5" * 2 * 4096
        path.write_bytes(content)
        ledger._check_rows_at = 0.0
        with pytest.raises(
            LedgerDamaged, match=r"damaged \(.*\): restore a backup, or move ledger\.sqlite out"
        ):
            ledger.check()
        assert ledger.list_jobs(limit=1), "control: reading some rows finds nothing"
    with pytest.raises(LedgerDamaged, match="restore a backup"):
        list_jobs(settings, limit=9)
    with pytest.raises(BackupFailed, match="is damaged, `foley jobs` says what to do"):
        list(_copy_files(settings, "r", tmp_path))


def test_what_somebody_removed_is_not_missing(path: Path) -> None:
    with Ledger.open(path) as ledger:
        journal = _journal(ledger)
        for name, asset_id in (("a", "1" * 64), ("b", "2" * 64)):
            row = FileRow(path=f"/{name}.mp4", size_bytes=1, modified_ns=1, asset_id=asset_id)
            journal.end(row.ended("indexed", num_segments=1))
        journal.flush()
        assert (ledger.count_stored(), find_missing(ledger, {"1" * 64})) == (2, {"/b.mp4": "2" * 64})
        failed = FileRow(path="/c.mp4", size_bytes=1, modified_ns=1, asset_id="3" * 64)
        journal.end(failed.failed(Fault(code="changed", reason="", attempts=1, is_quarantined=False)))
        journal.flush()
        assert recall_identity(ledger, "/c.mp4") is not None
        forget_asset(ledger, "2" * 64)
        assert (ledger.count_stored(), find_missing(ledger, ())) == (1, {"/a.mp4": "1" * 64})


def test_a_key_makes_one_job(path: Path) -> None:
    with Ledger.open(path) as ledger:
        first = ledger.create_job("index", {"paths": ["/a"]}, idempotency_key="k")
        again = ledger.create_job("index", {"paths": ["/a"]}, idempotency_key="k")
        assert (first.is_new, again.is_new) == (True, False)
        assert again.job == first.job
        for kind, paths in (("sync", ["/a"]), ("index", ["/b"])):
            with pytest.raises(KeyReused, match="'k' was used for another request"):
                ledger.create_job(kind, {"paths": paths}, idempotency_key="k")  # type: ignore[arg-type]
        assert ledger.create_job("index", {"paths": ["/a"]}).is_new
        assert len(ledger.list_jobs(limit=9)) == 2


def test_old_jobs_are_forgotten_with_their_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "KEPT_JOBS", 2)
    with Ledger.open(path) as ledger:
        for _ in range(4):
            journal = _journal(ledger)
            journal.begin([FOUND])
            ledger.end_job(ledger.list_jobs(limit=1)[0].job_id, "done", report=None)
        ledger.create_job("index", {})
        assert len(ledger.list_jobs(limit=9)) == 3
        assert len(ledger.read("SELECT * FROM files")) == 2


def test_rows_of_files(path: Path) -> None:
    with Ledger.open(path) as ledger:
        journal = _journal(ledger)
        job_id = ledger.list_jobs(limit=1)[0].job_id
        journal.begin([FOUND, LATIN])
        assert ledger.get_job(job_id).is_scanned
        assert {row.outcome for row in journal.rows().values()} == {"pending"}
        journal.start(FOUND, "f" * 64)
        row = FileRow(path=str(FOUND.path), size_bytes=7, modified_ns=9, asset_id="f" * 64)
        journal.end(row.ended("indexed", num_segments=3, is_partial=True))
        broken = FileRow(path=str(LATIN.path), size_bytes=1, modified_ns=2)
        journal.end(broken.failed(Fault(code="not_media", reason="r", attempts=1, is_quarantined=True)))
        journal.flush()
        first, second = read_files(ledger, job_id)
        assert (first.path, first.outcome, first.num_segments, first.is_partial) == (
            "/videos/a.mp4",
            "indexed",
            3,
            True,
        )
        assert (second.path, second.outcome, second.code) == (str(LATIN.path), "quarantined", "not_media")
        assert read_files(ledger, job_id, outcomes=("quarantined",)) == [second]
        assert read_files(ledger, job_id, after=first.path, limit=1) == [second]
        assert count_outcomes(ledger, job_id) == {"indexed": 1, "quarantined": 1}

        # Known by later jobs: what a content is called, and why a file failed.
        later = _journal(ledger)
        assert later.find_identity(FOUND) == "f" * 64
        fault = later.fault_of(LATIN)
        assert fault is not None
        assert fault.is_quarantined
        touched = FoundFile(path=LATIN.path, size_bytes=1, modified_ns=3)
        assert later.fault_of(touched) is None
        assert later.find_identity(FoundFile(path=FOUND.path, size_bytes=8, modified_ns=9)) is None
        assert LedgerJournal(ledger, job_id, basis="other limits").fault_of(LATIN) is None

        assert retry_failed(ledger, job_id) == 1
        assert later.fault_of(LATIN) is None
        assert count_outcomes(ledger, job_id) == {"indexed": 1, "pending": 1}
        assert ledger.get_job(job_id).is_retry


def test_a_file_that_changed_since_the_scan_starts_anew(path: Path) -> None:
    with Ledger.open(path) as ledger:
        journal = _journal(ledger)
        for found in (FOUND, LATIN):
            journal.begin([found])
            journal.end(
                FileRow(
                    path=str(found.path), size_bytes=found.size_bytes, modified_ns=found.modified_ns
                ).ended("indexed", num_segments=1)
            )
        journal.flush()
        journal.begin([FoundFile(path=FOUND.path, size_bytes=8, modified_ns=9), LATIN])
        assert {row.path: row.outcome for row in journal.rows().values()} == {
            str(FOUND.path): "pending",
            str(LATIN.path): "indexed",
        }


def test_quarantine_is_lifted_below_a_path_and_not_beside_it(path: Path) -> None:
    with Ledger.open(path) as ledger:
        journal = _journal(ledger)
        fault = Fault(code="not_media", reason="r", attempts=1, is_quarantined=True)
        names = ("/v/a.mp4", "/v/sub/b.mp4", "/v-other/c.mp4", "/v")
        for name in names:
            journal.end(FileRow(path=name, size_bytes=1, modified_ns=1).failed(fault))
        journal.flush()
        assert lift_quarantine(ledger, [Path("/v/sub")]) == 1
        assert lift_quarantine(ledger, [Path("/v")]) == 2
        assert lift_quarantine(ledger, [Path("/")]) == 1


def test_a_rehearsal_writes_nothing(path: Path) -> None:
    with Ledger.open(path) as ledger:
        job_id = ledger.create_job("sync", {}).job.job_id
        rehearsal = LedgerJournal(ledger, job_id, basis="b", is_rehearsal=True)
        rehearsal.begin([FOUND])
        rehearsal.start(FOUND, "f" * 64)
        rehearsal.attempt(FOUND, Fault(code="c", reason="r", attempts=1, is_quarantined=False))
        rehearsal.end(FileRow(path="/x").ended("indexed", num_segments=1))
        rehearsal.flush()
        rehearsal.remember_mounts({"/x"})
        assert read_files(ledger, job_id) == []
        assert ledger.read("SELECT path FROM identities UNION SELECT path FROM mounts") == []


def test_mounts_are_remembered_until_they_are_forgotten(path: Path) -> None:
    with Ledger.open(path) as ledger:
        journal = _journal(ledger)
        journal.remember_mounts({"/a/disk"})
        journal.remember_mounts({"/b"})
        journal.remember_mounts(set())
        assert journal.mounts() == {"/a/disk", "/b"}
        journal.forget_mounts({"/a/disk"})
        assert journal.mounts() == {"/b"}
