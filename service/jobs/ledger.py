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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

from service.jobs.database import (
    LedgerDamaged,
    LedgerFailure,
    LedgerInUse,
    check_database,
    open_database,
    translate_errors,
)
from service.jobs.records import STATES, CreatedJob, JobRecord, Kind, State
from service.system.files import FileLocked, locked_file

KEPT_JOBS = 500  # ended jobs whose files are remembered
CHECK_RATIO = 20  # so many times as long as it takes to read all rows, they are not read again
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
    """The open ledger of one library, made by `open`. Any thread may call it.

    `lock` is closed with the ledger: the right to work on the jobs; empty if jobs are only read.
    """

    def __init__(self, path: Path, *, lock: contextlib.ExitStack) -> None:
        self._path = path
        self._connection = open_database(path)
        self._check_rows_at = 0.0  # by the monotonic clock
        self._work_lock = lock
        self._lock = threading.RLock()
        self._is_closed = False

    @classmethod
    def open(cls, path: Path, *, is_worker: bool = True) -> Self:
        """Open the ledger, or create it. Raises `LedgerInUse` if a second process wants to work on the jobs."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.ExitStack() as stack:
            if is_worker:
                _take_lock(stack, path.with_name("ledger-library.lock"))
            ledger = cls(path, lock=stack)
            ledger._work_lock = stack.pop_all()
            return ledger

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
            try:  # a signal may raise between any two lines: none may leave the transaction open
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends some itself, if the disk is full
                    self._connection.execute("ROLLBACK")
                raise

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
        """Queue a job, or find that of the same idempotency key; `KeyReused` if that had another request."""
        text = json.dumps(request, sort_keys=True)
        job_id = uuid.uuid4().hex
        with self.write() as connection:
            if idempotency_key is not None and (found := self._jobs("idempotency_key = ?", idempotency_key)):
                # `who` is not what was asked for, and changes with a retry.
                asked = {**json.loads(text), "who": found[0].request.get("who")}
                if (found[0].kind, {"who": None, **found[0].request}) != (kind, asked):
                    raise KeyReused(f"the key {idempotency_key!r} was used for another request")
                return CreatedJob(job=found[0], is_new=False)
            connection.execute(
                "INSERT INTO jobs (job_id, bundle_id, kind, state, request, idempotency_key, created_at) "
                "VALUES (?, 'library', ?, 'queued', ?, ?, ?)",
                (job_id, kind, text, idempotency_key, time.time()),
            )
            self._forget_old(connection)
        return CreatedJob(job=self.get_job(job_id), is_new=True)

    def get_job(self, job_id: str) -> JobRecord:
        """One job; raises `JobNotFound` if there is none."""
        for job in self._jobs("job_id = ?", job_id):
            return job
        raise JobNotFound(f"there is no job {job_id[:80]!r}")

    def list_jobs(
        self,
        *,
        limit: int,
        before: int | None = None,
        state: State | None = None,
        without: Kind | None = None,
    ) -> list[JobRecord]:
        """At most `limit` jobs, the newest first: numbers below `before`, in this state, none `without` its kind."""
        where = "number < ? AND state LIKE ? AND kind IS NOT ? ORDER BY number DESC LIMIT ?"
        return self._jobs(where, 2**62 if before is None else before, state or "%", without, limit)

    def unfinished_jobs(self) -> list[JobRecord]:
        """Jobs that are queued or were running when their process ended, the oldest first."""
        return self._jobs("state IN ('queued', 'running') ORDER BY number")

    def _jobs(self, where: str, *values: object) -> list[JobRecord]:
        query = f"SELECT {JOB_COLUMNS} FROM jobs WHERE bundle_id = 'library' AND {where}"  # noqa: S608 - our own
        return [_to_job(row) for row in self.read(query, *values)]

    def count_jobs(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        rows = self.read("SELECT state, COUNT(*) FROM jobs WHERE bundle_id = 'library' GROUP BY state")
        counts: dict[State, int] = dict.fromkeys(get_args(State), 0)
        counts.update({row[0]: row[1] for row in rows})
        return counts

    def check(self) -> None:
        """Raise if it cannot be written or is damaged; large ones are not read again for a while."""
        with self.write(is_durable=False):
            pass
        began = time.monotonic()
        if began >= self._check_rows_at:
            check_database(self._path)
            self._check_rows_at = began + CHECK_RATIO * (time.monotonic() - began)

    def count_stored(self) -> int:
        """How many assets jobs have stored of files that are not known to be gone."""
        chosen = "SELECT asset_id FROM files WHERE outcome IN ('indexed', 'unchanged', 'moved', 'copied')"
        rows = self.read(f"SELECT count(DISTINCT asset_id) FROM identities WHERE asset_id IN ({chosen})")  # noqa: S608
        return int(rows[0][0])

    def start_job(self, job_id: str) -> JobRecord:
        """Note that a job runs now. One that was cancelled a moment ago stays cancelled."""
        return self._update(
            job_id,
            "state = 'running', started_at = coalesce(started_at, ?), ended_at = NULL, error_code = NULL, error = NULL",
            time.time(),
            only_in=("queued", "running"),
        )

    def requeue_job(self, job_id: str) -> None:
        """Note that a job waits again: it stopped early and is resumed later."""
        self._update(job_id, "state = 'queued'", only_in=("running",))

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
        text = None if report is None else json.dumps(report)
        change = "state = ?, ended_at = ?, report = ?, error_code = ?, error = ?, wants_cancel = 0"
        return self._update(job_id, change, state, time.time(), text, error_code, error)

    def want_cancel(self, job_id: str) -> JobRecord:
        """Note that a job is to end: at once if it waits, else soon."""
        # In one step: a job that waits must not start in between.
        return self._update(
            job_id,
            "wants_cancel = state = 'running', "
            "ended_at = CASE state WHEN 'queued' THEN ? ELSE ended_at END, "
            "state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END",
            time.time(),
            only_in=("queued", "running"),
        )

    def _update(
        self, job_id: str, change: str, *values: object, only_in: Sequence[State] = STATES
    ) -> JobRecord:
        """Change a job, if it is in one of some states; returns it as it is now."""
        states = ", ".join(f"'{state}'" for state in only_in)
        with self.write() as connection:
            query = f"UPDATE jobs SET {change} WHERE job_id = ? AND state IN ({states})"  # noqa: S608 - our own
            connection.execute(query, (*values, job_id))
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
    try:
        values["request"] = json.loads(values["request"])
        values["report"] = None if values["report"] is None else json.loads(values["report"])
    except ValueError as exc:
        raise LedgerDamaged(exc) from exc
    for name in ("is_scanned", "is_retry", "wants_cancel"):
        values[name] = bool(values[name])
    return JobRecord(**values)
