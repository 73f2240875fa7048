"""What a job is asked to do, as the ledger keeps it and as HTTP brings it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a job is asked to do.

    Attributes:
        paths: Absolute files and folders.
        allow_empty: `sync`: believe it when everything below a path is gone.
        dry_run: `sync`: only say what would be done.
        settle_seconds: `sync`: leave files that were written to within this time for the next run.
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
        """Read what `to_json` gave."""
        return cls(**{**document, "paths": tuple(document["paths"])})
