"""One job as the ledger has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["index", "sync", "release"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
KINDS: tuple[Kind, ...] = ("index", "sync", "release")
STATES: tuple[State, ...] = ("queued", "running", "done", "failed", "cancelled")
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job as the ledger has it.

    Attributes:
        number: Its place in the order of jobs.
        job_id: Its name.
        bundle_id: Whose job it is.
        kind: What it does.
        state: How far it is.
        request: What was asked for.
        created_at: When, in seconds since 1970, as all times here.
        started_at: When its first run began.
        ended_at: When its last run ended.
        is_scanned: Whether every file of it has a row.
        is_retry: Whether only its pending files are to be done.
        wants_cancel: Whether it is to end where it is.
        report: What it did, once it has ended.
        error_code: Stable name of why it failed.
        error: Why it failed.
    """

    number: int
    job_id: str
    bundle_id: str
    kind: Kind
    state: State
    request: Mapping[str, Any]
    created_at: float
    started_at: float | None
    ended_at: float | None
    is_scanned: bool
    is_retry: bool
    wants_cancel: bool
    report: Mapping[str, Any] | None
    error_code: str | None
    error: str | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be done for it, unless it is retried."""
        return self.state in ENDED


@dataclass(frozen=True, kw_only=True)
class CreatedJob:
    """A job, and whether this call made it."""

    job: JobRecord
    is_new: bool
