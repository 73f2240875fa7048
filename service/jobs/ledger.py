"""The ledger: what jobs there are and what became of every file of theirs, in one SQLite file.

    with Ledger.open(settings.data / "ledger.sqlite") as ledger:
        job = ledger.create_job("index", {"paths": ["/videos"]}).job

The index says what is stored; the ledger says what was asked for, what could not be done and why. A row follows
the index: upsert, flush, and only then "done" here, so a row never promises more than the index holds. Commits are
durable (WAL, `synchronous=FULL`) before they are acknowledged. One process at a time works on the jobs of a library.
Its SQL names one owner of all rows, `library`: the column is left of a time when each bundle had its own.

    LedgerFailure        the ledger cannot be read or written
    ├── LedgerInUse      another process works on the jobs of this library, or holds the file for too long
    ├── LedgerFull       the disk that holds it is full
    ├── KeyReused        an idempotency key came again with another request
    └── JobNotFound      no job of this library has the id
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from service.jobs.database import LedgerFailure, LedgerInUse, open_database, translate_errors
from service.jobs.records import CreatedJob, JobRecord, Kind, State
from service.system.files import FileLocked, locked_file

KEPT_JOBS = 500  # ended jobs whose files are remembered
LOCK_SECONDS = 1.0  # a process that was killed just now may still be dying

JOB_COLUMNS = (
    "number, job_id, kind, state, request, created_at, started_at, ended_at, is_scanned, is_retry, "
    "wants_cancel, report, error_code, error"
)


class KeyReused(LedgerFailure):
    """An idempotency key came again with another request."""

    code = "idempotency_key_reused"
    is_public = True


class JobNotFound(LedgerFailure):
    """No job has this id."""

    code = "job_not_found"
    is_public = True


class Ledger:
    """The open ledger of one library. Any thread may call it. Make one with `open`.

    Args:
        connection: To the database.
        lock: Closed with the ledger: the right to work on the jobs; empty if jobs are only read.
    """

    def __init__(self, connection: sqlite3.Connection, *, lock: contextlib.ExitStack) -> None:
        self._connection = connection
        self._work_lock = lock
        self._lock = threading.RLock()
        self._is_closed = False

    @classmethod
    def open(cls, path: Path, *, is_worker: bool = True) -> Self:
        """Open the ledger, or create it.

        Args:
            path: The SQLite file.
            is_worker: Whether this process will work on the jobs: only one may at a time.

        Returns:
            The open ledger.

        Raises:
            LedgerInUse: If another process works on them.
            LedgerFailure: If it cannot be opened, or is of a later version.
        """  # noqa: DOC502, DOC503 - raised while it waits for the lock, or translated
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if is_worker:
                _take_lock(stack, path.with_name("ledger-library.lock"))
            connection = open_database(path)
            return cls(connection, lock=stack.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others work. Safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._connection.close()
            self._work_lock.close()

    @contextlib.contextmanager
    def write(self, *, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing. One that is not durable outlives the process, but not a power cut."""
        with self._lock, translate_errors():
            self._check_open()
            self._connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends some itself, if the disk is full
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def read(self, query: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query, SQL with `?` for the values."""
        with self._lock, translate_errors():
            self._check_open()
            return self._connection.execute(query, values).fetchall()

    def _check_open(self) -> None:
        if self._is_closed:
            raise LedgerFailure("the ledger is closed")

    # Jobs

    def create_job(
        self, kind: Kind, request: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> CreatedJob:
        """Write down that something is to be done, or find the job that the same key made before.

        Args:
            kind: What.
            request: With what, JSON values.
            idempotency_key: The client's name for this request.

        Returns:
            The job, queued if it is new.

        Raises:
            KeyReused: If the key belongs to another request.
        """
        text = json.dumps(request, sort_keys=True)
        with self.write() as connection:
            if idempotency_key is not None:
                found = connection.execute(
                    f"SELECT {JOB_COLUMNS} FROM jobs WHERE bundle_id = 'library' AND idempotency_key = ?",  # noqa: S608
                    (idempotency_key,),
                ).fetchone()
                if found is not None:
                    if (found["kind"], found["request"]) != (kind, text):
                        raise KeyReused(f"the key {idempotency_key!r} was used for another request")
                    return CreatedJob(job=_to_job(found), is_new=False)
            job_id = uuid.uuid4().hex
            connection.execute(
                "INSERT INTO jobs (job_id, bundle_id, kind, state, request, idempotency_key, created_at) "
                "VALUES (?, 'library', ?, 'queued', ?, ?, ?)",
                (job_id, kind, text, idempotency_key, time.time()),
            )
            self._forget_old(connection)
        return CreatedJob(job=self.get_job(job_id), is_new=True)

    def get_job(self, job_id: str) -> JobRecord:
        """One job; raises `JobNotFound` if there is none."""
        rows = self.read(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE bundle_id = 'library' AND job_id = ?",  # noqa: S608
            job_id,
        )
        if not rows:
            raise JobNotFound(f"there is no job {job_id[:80]!r}")
        return _to_job(rows[0])

    def list_jobs(
        self, *, limit: int, before: int | None = None, state: State | None = None
    ) -> list[JobRecord]:
        """At most `limit` jobs, the newest first: those whose number is below `before`, in this state."""
        rows = self.read(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE bundle_id = 'library' AND number < ? AND state LIKE ? "  # noqa: S608
            "ORDER BY number DESC LIMIT ?",
            2**62 if before is None else before,
            state or "%",
            limit,
        )
        return [_to_job(row) for row in rows]

    def count_jobs(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        rows = self.read("SELECT state, COUNT(*) FROM jobs WHERE bundle_id = 'library' GROUP BY state")
        counts: dict[State, int] = dict.fromkeys(get_args(State), 0)
        counts.update({row[0]: row[1] for row in rows})
        return counts

    def check(self) -> None:
        """Raise if it cannot be written, by an empty transaction."""
        with self.write(is_durable=False):
            pass

    def unfinished_jobs(self) -> list[JobRecord]:
        """Jobs that are queued or were running when their process ended, the oldest first."""
        rows = self.read(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE bundle_id = 'library' AND state IN ('queued', 'running') "  # noqa: S608
            "ORDER BY number",
        )
        return [_to_job(row) for row in rows]

    def start_job(self, job_id: str) -> JobRecord:
        """Note that a job runs now. One that was cancelled a moment ago stays cancelled."""
        with self.write() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'running', started_at = coalesce(started_at, ?), ended_at = NULL, "
                "error_code = NULL, error = NULL WHERE job_id = ? AND state IN ('queued', 'running')",
                (time.time(), job_id),
            )
        return self.get_job(job_id)

    def requeue_job(self, job_id: str) -> None:
        """Note that a job waits again: it stopped early and is resumed later."""
        with self.write() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'queued' WHERE job_id = ? AND state = 'running'", (job_id,)
            )

    def end_job(
        self,
        job_id: str,
        state: State,
        *,
        report: Mapping[str, Any] | None,
        error_code: str | None = None,
        error: str | None = None,
    ) -> JobRecord:
        """Note how a job ended, with what it did (JSON values) or why it failed; returns the job as it is now."""
        with self.write() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, ended_at = ?, report = ?, error_code = ?, error = ?, wants_cancel = 0 "
                "WHERE job_id = ?",
                (
                    state,
                    time.time(),
                    report if report is None else json.dumps(report),
                    error_code,
                    error,
                    job_id,
                ),
            )
        return self.get_job(job_id)

    def want_cancel(self, job_id: str) -> JobRecord:
        """Note that a job is to end: at once if it waits, else soon."""
        with self.write() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'cancelled', ended_at = ? WHERE job_id = ? AND state = 'queued'",
                (time.time(), job_id),
            )
            connection.execute(
                "UPDATE jobs SET wants_cancel = 1 WHERE job_id = ? AND state = 'running'", (job_id,)
            )
        return self.get_job(job_id)

    def _forget_old(self, connection: sqlite3.Connection) -> None:
        old = connection.execute(
            "SELECT job_id FROM jobs WHERE bundle_id = 'library' AND state IN ('done', 'failed', 'cancelled') "
            "ORDER BY number DESC LIMIT -1 OFFSET ?",
            (KEPT_JOBS,),
        ).fetchall()
        for row in old:
            connection.execute("DELETE FROM files WHERE job_id = ?", (row["job_id"],))
            connection.execute("DELETE FROM jobs WHERE job_id = ?", (row["job_id"],))


def _take_lock(stack: contextlib.ExitStack, path: Path) -> None:
    try:
        stack.enter_context(locked_file(path, wait_seconds=LOCK_SECONDS))
    except FileLocked as exc:
        raise LedgerInUse(
            f"another process (number {exc.holder}) works on the jobs in {path.parent}"
        ) from exc


def _to_job(row: sqlite3.Row) -> JobRecord:
    values = dict(row)
    values["request"] = json.loads(values["request"])
    values["report"] = None if values["report"] is None else json.loads(values["report"])
    for name in ("is_scanned", "is_retry", "wants_cancel"):
        values[name] = bool(values[name])
    return JobRecord(**values)
