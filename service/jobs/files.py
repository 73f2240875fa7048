"""The files of jobs as the ledger has them: read by page, counted, put back to be tried again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Container, Sequence

from service.jobs.ledger import Ledger
from service.library.journal import FileRow
from service.library.locations import Location
from service.library.report import Outcome

FILE_COLUMNS = (
    "path, size_bytes, modified_ns, stamp, asset_id, outcome, code, reason, attempts, num_segments, is_partial, "
    "started_at, ended_at"
)


def read_files(
    ledger: Ledger,
    job_id: str,
    *,
    outcomes: Sequence[Outcome] = (),
    limit: int = -1,
    after: str | None = None,
) -> list[FileRow]:
    """At most `limit` files of a job (-1: all) with these outcomes (none: all), by the bytes of paths, past `after`."""
    chosen = f"AND outcome IN ({', '.join('?' * len(outcomes))}) " if outcomes else ""
    rows = ledger.read(
        f"SELECT {FILE_COLUMNS} FROM files WHERE job_id = ? AND path > ? {chosen}ORDER BY path LIMIT ?",  # noqa: S608
        job_id,
        b"" if after is None else os.fsencode(after),
        *outcomes,
        limit,
    )
    return [
        FileRow(**{**dict(row), "path": os.fsdecode(row["path"]), "is_partial": bool(row["is_partial"])})
        for row in rows
    ]


def recall_identity(ledger: Ledger, path: str) -> FileRow | None:
    """What is remembered of the file at a path: size, time, stamp, and the asset that its content was."""
    rows = ledger.read("SELECT * FROM identities WHERE path = ?", os.fsencode(path))
    return FileRow(**{**dict(rows[0]), "path": path}) if rows else None


def write_identity(connection: sqlite3.Connection, row: FileRow) -> None:
    """Remember the asset of a file, with its size, time and stamp."""
    connection.execute(
        "INSERT OR REPLACE INTO identities VALUES (?, ?, ?, ?, ?)",
        (os.fsencode(row.path), row.size_bytes, row.modified_ns, row.asset_id, row.stamp),
    )


def find_missing(ledger: Ledger, stored: Container[str]) -> dict[str, str]:
    """Files that jobs have stored, each with its asset, which is not among the `stored` ones of an index any more."""
    tried = "SELECT path, asset_id FROM files WHERE asset_id IS NOT NULL AND outcome"
    never = (
        f"{tried} IN ('failed', 'quarantined') EXCEPT {tried} IN ('indexed', 'unchanged', 'moved', 'copied')"
    )
    known = "SELECT path, asset_id FROM identities WHERE path NOT IN (SELECT path FROM faults)"
    rows = ledger.read(f"{known} AND (path, asset_id) NOT IN ({never})")
    return {os.fsdecode(row["path"]): row["asset_id"] for row in rows if row["asset_id"] not in stored}


def forget_asset(ledger: Ledger, asset_id: str) -> None:
    """Forget the files of an asset that somebody removed from the index: they are not missing."""
    with ledger.write() as connection:
        connection.execute("DELETE FROM identities WHERE asset_id = ?", (asset_id,))


def count_outcomes(ledger: Ledger, job_id: str) -> dict[str, int]:
    """How many files of a job came to each outcome."""
    rows = ledger.read(
        "SELECT outcome, count(*) AS number FROM files WHERE job_id = ? GROUP BY outcome", job_id
    )
    return {row["outcome"]: row["number"] for row in rows}


def retry_failed(ledger: Ledger, job_id: str, *, who: str = "") -> int:
    """Queue an ended job again for its failed files and those it never reached; returns how many failed.

    A build is recorded as asked for by `who`.
    """
    with ledger.write() as connection:
        connection.execute(
            "DELETE FROM faults WHERE bundle_id = 'library' AND path IN "
            "(SELECT path FROM files WHERE job_id = ? AND outcome IN ('failed', 'quarantined'))",
            (job_id,),
        )
        num_files = connection.execute(
            "UPDATE files SET outcome = 'pending', code = NULL, reason = NULL, attempts = 0 "
            "WHERE job_id = ? AND outcome IN ('failed', 'quarantined')",
            (job_id,),
        ).rowcount
        connection.execute(
            "UPDATE jobs SET state = 'queued', is_retry = is_scanned, wants_cancel = 0, report = NULL, request = "
            "CASE kind WHEN 'release' THEN json_set(request, '$.who', ?) ELSE request END "
            "WHERE job_id = ? AND state IS NOT 'running'",
            (who, job_id),
        )
    return num_files


def lift_quarantine(ledger: Ledger, paths: Sequence[Location]) -> int:
    """Have the next run try quarantined files under absolute paths again; returns how many there were."""
    num_files = 0
    with ledger.write() as connection:
        for path in map(os.fsencode, paths):
            folder = path.rstrip(b"/") + b"/"
            # "/" is followed by "0": every path below the folder lies between the two.
            num_files += connection.execute(
                "DELETE FROM faults WHERE bundle_id = 'library' AND (path = ? OR (path > ? AND path < ?))",
                (path, folder, folder[:-1] + b"0"),
            ).rowcount
    return num_files
