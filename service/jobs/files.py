"""The files of jobs as the ledger has them: read by page, counted, put back to be tried again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from service.jobs.ledger import Ledger
from service.library.journal import FileRow
from service.library.report import Outcome

FILE_COLUMNS = (
    "path, size_bytes, modified_ns, asset_id, outcome, code, reason, attempts, num_segments, is_partial, "
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
    """The files of a job, in the order of their paths' bytes.

    Args:
        ledger: Where.
        job_id: Which job.
        outcomes: Only files with one of these outcomes; none means all.
        limit: How many at most; -1 for all.
        after: Only those that come after this path.

    Returns:
        The files.
    """
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


def count_outcomes(ledger: Ledger, job_id: str) -> dict[str, int]:
    """How many files of a job came to each outcome."""
    rows = ledger.read(
        "SELECT outcome, count(*) AS number FROM files WHERE job_id = ? GROUP BY outcome", job_id
    )
    return {row["outcome"]: row["number"] for row in rows}


def retry_failed(ledger: Ledger, job_id: str) -> int:
    """Put the failed files of a job back to be tried anew, and queue the job for them and what it never reached.

    Args:
        ledger: Where.
        job_id: A job that has ended.

    Returns:
        How many files had failed.
    """
    with ledger.write() as connection:
        connection.execute(
            "DELETE FROM faults WHERE bundle_id = ? AND path IN "
            "(SELECT path FROM files WHERE job_id = ? AND outcome IN ('failed', 'quarantined'))",
            (ledger.owner, job_id),
        )
        num_files = connection.execute(
            "UPDATE files SET outcome = 'pending', code = NULL, reason = NULL, attempts = 0 "
            "WHERE job_id = ? AND outcome IN ('failed', 'quarantined')",
            (job_id,),
        ).rowcount
        connection.execute(
            "UPDATE jobs SET state = 'queued', is_retry = is_scanned, wants_cancel = 0, report = NULL WHERE job_id = ?",
            (job_id,),
        )
    return num_files


def lift_quarantine(ledger: Ledger, paths: Sequence[Path]) -> int:
    """Let the quarantined files under some paths be tried again by the next run.

    Args:
        ledger: Where.
        paths: Absolute files and folders.

    Returns:
        How many files were in quarantine.
    """
    num_files = 0
    with ledger.write() as connection:
        for path in map(os.fsencode, paths):
            folder = path.rstrip(b"/") + b"/"
            # "/" is followed by "0": every path below the folder lies between the two.
            num_files += connection.execute(
                "DELETE FROM faults WHERE bundle_id = ? AND (path = ? OR (path > ? AND path < ?))",
                (ledger.owner, path, folder, folder[:-1] + b"0"),
            ).rowcount
    return num_files
