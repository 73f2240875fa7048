"""Jobs as the ledger has them, and what they are asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

Kind = Literal["index", "sync", "release"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a job over the library is asked to do.

    Attributes:
        paths: Absolute files and folders.
        allow_empty: `sync`: accept that everything below a path is gone.
        dry_run: `sync`: only report what would be done.
        settle_seconds: `sync`: skip files that were written to within this time.
        retry_quarantined: Try files again that earlier runs gave up.
    """

    paths: tuple[str, ...]
    allow_empty: bool = False
    dry_run: bool = False
    settle_seconds: float = 0.0
    retry_quarantined: bool = False

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values."""
        return {**asdict(self), "paths": list(self.paths)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(**{**document, "paths": tuple(document["paths"])})


@dataclass(frozen=True, kw_only=True)
class ReleaseRequest:
    """What a job is asked to build.

    Attributes:
        bundle: Absolute path of the bundle's folder on the machine of the service.
        activate: Whether to activate the release if it passes its gates.
        force: Why to activate it even if it does not; empty for never.
        who: Who asks.
    """

    bundle: str
    activate: bool = False
    force: str = ""
    who: str = ""

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(**document)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job as the ledger has it. Times are seconds since 1970.

    Attributes:
        number: Its place in the order of jobs.
        request: A `JobRequest` or a `ReleaseRequest`, as JSON values.
        started_at: When its first run began.
        ended_at: When its last run ended.
        is_scanned: Whether every file of it has a row.
        is_retry: Whether only its pending files are to be done.
        wants_cancel: Whether it is to end soon.
        report: What it did, once it has ended.
        error_code: Stable name of why it failed.
    """

    number: int
    job_id: str
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
    """A job, and whether this call made it or an earlier one with the same idempotency key."""

    job: JobRecord
    is_new: bool
