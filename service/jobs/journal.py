"""What one run writes into the ledger about its files, and what earlier runs wrote there.

    pending ──▶ indexed | unchanged | moved | copied | deleted      the file is done
            ──▶ failed          the next run tries again
            ──▶ quarantined     not tried again until the file changes, or somebody lifts it

Outcomes are gathered and committed a few at a time, each commit durable. They come after the index has the
file, so a commit that a crash prevents costs nothing: the next run finds the file in the index.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import asdict, replace
from typing import TypeVar

from service.jobs.database import LedgerFailure
from service.jobs.files import read_files, recall_identity, write_identity
from service.jobs.ledger import Ledger
from service.library.journal import NEVER_KEPT, Fault, FileRow, Journal, KeptMetadata
from service.library.scanning import (
    FoundFile,
)
from service.library.stamps import doubt_stamp, is_same_stamp

T = TypeVar("T")
MAX_ATTEMPTS = 3
ENDED_COLUMNS = (
    *("job_id", "path", "size_bytes", "modified_ns", "stamp"),  # as the file was found
    *("asset_id", "outcome", "code", "reason", "attempts", "num_segments", "is_partial", "ended_at"),
)
COMMIT_SECONDS, COMMIT_FILES = 0.5, 256


class LedgerJournal(Journal):
    """The journal of a job in the ledger.

    `basis` is what files are decoded with: limits and versions. A fault on another basis does not count. A rehearsal
    only reports what it would do: it reads what earlier runs wrote, and writes nothing.
    """

    max_attempts = MAX_ATTEMPTS

    def __init__(self, ledger: Ledger, job_id: str, *, basis: str, is_rehearsal: bool = False) -> None:
        self.is_rehearsal = is_rehearsal
        self._ledger = ledger
        self._job_id = job_id
        self._basis = basis
        self._ended: list[FileRow] = []
        self._doubted: set[str] = set()  # taken for unchanged without a stamp
        self._committed_at = time.monotonic()

    def begin(self, found: Sequence[FoundFile]) -> Sequence[tuple[FoundFile, Exception]]:
        """Give every file a row; one that changed since an earlier run of the job starts again."""
        if self.is_rehearsal:
            return ()
        unwritten = self._write_each(found, self._begin)
        with self._ledger.write() as connection:
            connection.execute("UPDATE jobs SET is_scanned = 1 WHERE job_id = ?", (self._job_id,))
        return unwritten

    def _begin(self, connection: sqlite3.Connection, found: Sequence[FoundFile]) -> None:
        connection.executemany(
            "INSERT INTO files (job_id, path, size_bytes, modified_ns, stamp, outcome) "
            "VALUES (?, ?, ?, ?, ?, 'pending') ON CONFLICT (job_id, path) DO UPDATE SET "
            "size_bytes = excluded.size_bytes, modified_ns = excluded.modified_ns, stamp = excluded.stamp, "
            "outcome = 'pending', asset_id = NULL, code = NULL, reason = NULL "
            "WHERE size_bytes IS NOT excluded.size_bytes OR (modified_ns IS NOT excluded.modified_ns AND NOT "
            "(stamp IS excluded.stamp AND ifnull(stamp, '') LIKE 'etag:%')) "
            "OR (stamp IS NOT NULL AND stamp IS NOT excluded.stamp)",
            [
                (self._job_id, os.fsencode(f.path), f.size_bytes, f.modified_ns, f.stamp or None)
                for f in found
            ],
        )

    def _write_each(
        self, rows: Sequence[T], write: Callable[[sqlite3.Connection, Sequence[T]], None]
    ) -> Sequence[tuple[T, Exception]]:
        """Write rows in one transaction; if one of them cannot be written, all others in several. Returns those."""
        try:
            with self._ledger.write() as connection:
                write(connection, rows)
        except LedgerFailure:
            raise
        except Exception as exc:
            if len(rows) == 1:
                return [(rows[0], exc)]
            half = len(rows) // 2
            return [*self._write_each(rows[:half], write), *self._write_each(rows[half:], write)]
        return ()

    def rows(self) -> dict[str, FileRow]:
        """What became of files in an earlier run of this job, by path."""
        if self.is_rehearsal:
            return {}
        return {row.path: row for row in read_files(self._ledger, self._job_id)}

    def fault_of(self, found: FoundFile) -> Fault | None:
        """Why the file failed before, if neither it nor what it is decoded with has changed."""
        rows = self._ledger.read(
            "SELECT code, reason, attempts, is_quarantined, stamp FROM faults WHERE bundle_id = 'library' AND path = ? "
            "AND size_bytes = ? AND (modified_ns = ? OR (stamp = ? AND stamp LIKE 'etag:%')) AND basis = ?",
            os.fsencode(found.path),
            found.size_bytes,
            found.modified_ns,
            found.stamp,
            self._basis,
        )
        if not rows or not is_same_stamp(found.stamp, rows[0]["stamp"]):
            return None
        code, reason, attempts, is_quarantined, _ = rows[0]
        return Fault(code=code, reason=reason, attempts=attempts, is_quarantined=bool(is_quarantined))

    def find_identity(self, found: FoundFile) -> str | None:
        """The asset of a file whose content was hashed before and that has not changed since."""
        known = recall_identity(self._ledger, str(found.path))
        if known is None or not known.is_of(found):
            return None
        if known.stamp is not None and known.stamp.startswith("<"):
            self.doubt(found)
        return known.asset_id

    def knows(self, found: FoundFile) -> bool:
        """Whether what was at the path was hashed before."""
        return recall_identity(self._ledger, str(found.path)) is not None

    def doubt(self, found: FoundFile) -> None:
        """Note that a file was taken for unchanged by its size and time alone."""
        self._doubted.add(str(found.path))

    def start(self, found: FoundFile, asset_id: str) -> None:
        """Note that work on a file begins: if it is in the index after a kill, this job put it there."""
        if self.is_rehearsal:
            return
        with self._ledger.write(is_durable=False) as connection:
            connection.execute(
                "UPDATE files SET asset_id = ?, started_at = ? WHERE job_id = ? AND path = ?",
                (asset_id, time.time(), self._job_id, os.fsencode(found.path)),
            )

    def attempt(self, found: FoundFile, fault: Fault) -> None:
        """Note that a file failed and is tried again."""
        if self.is_rehearsal:
            return
        with self._ledger.write(is_durable=False) as connection:
            row = FileRow(
                path=str(found.path),
                size_bytes=found.size_bytes,
                modified_ns=found.modified_ns,
                stamp=found.stamp or None,
            )
            self._keep_fault(connection, row, fault)
            connection.execute(
                "UPDATE files SET attempts = ?, code = ?, reason = ? WHERE job_id = ? AND path = ?",
                (fault.attempts, fault.code, fault.reason, self._job_id, os.fsencode(found.path)),
            )

    def end(self, row: FileRow) -> Sequence[tuple[FileRow, Exception]]:
        """Note what became of a file; it is durable after the next `flush`, which may be this one."""
        if self.is_rehearsal:
            return ()
        self._ended.append(replace(row, ended_at=time.time()))
        is_due = time.monotonic() - self._committed_at > COMMIT_SECONDS
        if is_due or len(self._ended) >= COMMIT_FILES:
            return self.flush()
        return ()

    def flush(self) -> Sequence[tuple[FileRow, Exception]]:
        """Make everything that was noted durable; returns the rows that cannot be written, and why."""
        ended, self._ended = self._ended, []
        self._committed_at = time.monotonic()
        return self._write_each(ended, self._end) if ended else ()

    def _end(self, connection: sqlite3.Connection, ended: Sequence[FileRow]) -> None:
        names = ", ".join(ENDED_COLUMNS)
        values = ", ".join(f":{name}" for name in ENDED_COLUMNS)
        changes = ", ".join(f"{name} = excluded.{name}" for name in ENDED_COLUMNS[5:])
        connection.executemany(
            f"INSERT INTO files ({names}) VALUES ({values}) ON CONFLICT (job_id, path) DO UPDATE SET {changes}",  # noqa: S608 - our own
            [{**asdict(row), "job_id": self._job_id, "path": os.fsencode(row.path)} for row in ended],
        )
        for row in ended:
            self._learn(connection, row)

    def keep_metadata(self, kept: KeptMetadata) -> None:
        """Keep what people said, durably, before its asset is removed."""
        self.forget_metadata(kept)
        with self._ledger.write() as connection:
            path = None if kept.path is None else os.fsencode(kept.path)
            values = (kept.asset_id, path, json.dumps(kept.metadata))
            connection.execute("INSERT INTO kept_metadata VALUES (?, ?, ?)", values)

    def kept_metadata(self) -> Sequence[KeptMetadata]:
        """All that is kept."""
        return [
            KeptMetadata(
                asset_id=row["asset_id"],
                path=None if row["path"] is None else os.fsdecode(row["path"]),
                metadata=json.loads(row["metadata"]),
            )
            for row in self._ledger.read("SELECT * FROM kept_metadata")
        ]

    def forget_metadata(self, kept: KeptMetadata) -> None:
        """Forget what was given back."""
        path = None if kept.path is None else os.fsencode(kept.path)
        with self._ledger.write() as connection:
            connection.execute(
                "DELETE FROM kept_metadata WHERE asset_id = ? AND path IS ?", (kept.asset_id, path)
            )

    def mounts(self) -> set[str]:
        """Where disks were mounted at earlier runs."""
        return {os.fsdecode(row["path"]) for row in self._ledger.read("SELECT path FROM mounts")}

    def remember_mounts(self, mounts: Set[str]) -> None:
        """Note where disks are mounted, besides those that are known."""
        self._change_mounts("INSERT OR IGNORE INTO mounts VALUES (?)", mounts - self.mounts())

    def forget_mounts(self, mounts: Collection[str]) -> None:
        """Expect no disks there any more: somebody said that they are gone."""
        self._change_mounts("DELETE FROM mounts WHERE path = ?", mounts)

    def _change_mounts(self, statement: str, mounts: Collection[str]) -> None:
        if mounts and not self.is_rehearsal:
            with self._ledger.write() as connection:
                connection.executemany(statement, [(os.fsencode(mount),) for mount in mounts])

    def _learn(self, connection: sqlite3.Connection, row: FileRow) -> None:
        """Keep what later runs should know of a file."""
        path = os.fsencode(row.path)
        if row.outcome == "deleted":
            connection.execute("DELETE FROM identities WHERE path = ?", (path,))
        elif row.asset_id is not None and row.size_bytes is not None:
            in_doubt = row.path in self._doubted and row.stamp is not None
            write_identity(connection, replace(row, stamp=doubt_stamp(row.stamp or "")) if in_doubt else row)
        if row.outcome not in ("failed", "quarantined"):
            connection.execute("DELETE FROM faults WHERE bundle_id = 'library' AND path = ?", (path,))
        elif row.code not in NEVER_KEPT and row.size_bytes is not None and row.modified_ns is not None:
            fault = Fault(
                code=row.code or "",
                reason=row.reason or "",
                attempts=row.attempts,
                is_quarantined=row.outcome == "quarantined",
            )
            self._keep_fault(connection, row, fault)

    def _keep_fault(self, connection: sqlite3.Connection, row: FileRow, fault: Fault) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO faults VALUES ('library', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(row.path),
                row.size_bytes,
                row.modified_ns,
                self._basis,
                fault.code,
                fault.reason,
                fault.attempts,
                fault.is_quarantined,
                row.stamp,
            ),
        )
