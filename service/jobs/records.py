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
    """What a job over the library is asked to do."""

    paths: tuple[str, ...]  # absolute
    allow_empty: bool = False  # `sync`: accept that everything below a path is gone
    allow_gone: bool = False  # `sync`: accept that most of a folder is gone
    dry_run: bool = False  # `sync`: only report what would be done
    settle_seconds: float = 0.0  # `sync`: skip files that were written to within this time
    retry_quarantined: bool = False
    verify: bool = False  # read every file again, whatever its size and times say
    follow_links: bool = False  # to folders
    part: str = ""  # `index`: only this part of the files, as "3/8"; empty for all

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values."""
        return {**asdict(self), "paths": list(self.paths)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(**{**document, "paths": tuple(document["paths"])})


@dataclass(frozen=True, kw_only=True)
class ReleaseRequest:
    """What a job is asked to build."""

    bundle: str  # absolute path of its folder on the machine of the service
    activate: bool = False  # if it passes its gates
    force: str = ""  # why to activate it even if it does not; empty for never
    any_cost: bool = False  # time and memory of its encoder have no limit
    storage: str = ""  # how its index stores tracks; empty for the setting
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
    """One job as the ledger has it. Times are seconds since 1970."""

    number: int  # its place in the order of jobs
    job_id: str
    kind: Kind
    state: State
    request: Mapping[str, Any]  # a `JobRequest` or a `ReleaseRequest`
    created_at: float
    started_at: float | None  # of its first run
    ended_at: float | None  # of its last run
    is_scanned: bool  # every file of it has a row
    is_retry: bool  # only its pending files are to be done
    wants_cancel: bool
    report: Mapping[str, Any] | None  # None until it has ended
    error_code: str | None  # stable name of why it failed
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
