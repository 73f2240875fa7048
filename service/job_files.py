"""The files of jobs as the ledger has them: read by page, counted, put back to be tried again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.ledger import Ledger
from service.report import Outcome
from service.scanning import FoundFile

FILE_COLUMNS = (
    "path, size_bytes, modified_ns, asset_id, outcome, code, reason, attempts, num_segments, is_partial, "
    "started_at, ended_at"
)


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One file of a job as the ledger has it.

    Attributes:
        path: Its absolute path.
        size_bytes: Its size when it was found; None where there was none to be found.
        modified_ns: When it was changed last.
        asset_id: sha256 of its content, once that is known.
        outcome: What became of it.
        code: Stable name of why it failed.
        reason: Why it failed.
        attempts: How often it was tried, over all runs.
        num_segments: Segments of its asset.
        is_partial: Whether it ends before 95 % of the length it declares.
        started_at: When it was tried last, in seconds since 1970.
        ended_at: When that ended.
    """

    path: str
    size_bytes: int | None = None
    modified_ns: int | None = None
    asset_id: str | None = None
    outcome: Outcome = "pending"
    code: str | None = None
    reason: str | None = None
    attempts: int = 0
    num_segments: int = 0
    is_partial: bool = False
    started_at: float | None = None
    ended_at: float | None = None

    def ended(self, outcome: Outcome, *, num_segments: int, is_partial: bool = False) -> FileRow:
        """The row of a file that is stored."""
        return replace(self, outcome=outcome, num_segments=num_segments, is_partial=is_partial)

    def failed(self, fault: Fault) -> FileRow:
        """The row of a file that is not."""
        outcome: Outcome = "quarantined" if fault.is_quarantined else "failed"
        return replace(self, outcome=outcome, code=fault.code, reason=fault.reason, attempts=fault.attempts)

    def is_of(self, found: FoundFile) -> bool:
        """Whether the file has not been touched since."""
        return (self.size_bytes, self.modified_ns) == (found.size_bytes, found.modified_ns)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a file that has not changed since failed.

    Attributes:
        code: Stable name of the reason.
        reason: The reason for people.
        attempts: How often it was tried.
        is_quarantined: Whether it is passed over.
    """

    code: str
    reason: str
    attempts: int
    is_quarantined: bool


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
