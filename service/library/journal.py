"""What a run over a library writes down about its files, and reads about them from earlier runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from service.library.report import Outcome
from service.library.scanning import (
    FoundFile,
)
from service.library.stamps import ETAG, is_same_stamp

# Reasons that may pass. Every other reason lies in the file.
TRANSIENT = frozenset(
    {
        "decode_timed_out",
        "decoder_crashed",
        "decoder_unavailable",
        "decode_failed",
        "encoder_failed",
        "unforeseen",
    }
)

# Every run tries these again: that costs nothing, and they can pass without a change of the file.
NEVER_KEPT = frozenset(
    {
        "not_found",
        "not_readable",
        "not_a_file",
        "changed",
        "object_too_large",
        "storage_unavailable",
        "worker_lost",
    }
)


class Journal:
    """Records nothing: the journal of a run outside a job."""

    max_attempts = 1
    is_rehearsal = False

    def begin(self, found: Sequence[FoundFile]) -> Sequence[tuple[FoundFile, Exception]]:
        """Write down which files there are, so that a run that is killed can be resumed; returns what cannot be."""
        return ()

    def rows(self) -> dict[str, FileRow]:
        """What became of files in an earlier run of this job, by path."""
        return {}

    def fault_of(self, found: FoundFile) -> Fault | None:
        """Why the file failed before, if it has not changed since."""
        return None

    def find_identity(self, found: FoundFile) -> str | None:
        """The asset of a file whose content was hashed before and that has not changed since."""
        return None

    def knows(self, found: FoundFile) -> bool:
        """Whether what was at the path was hashed before."""
        return False

    def doubt(self, found: FoundFile) -> None:
        """Note that a file was taken for unchanged by its size and time alone."""

    def start(self, found: FoundFile, asset_id: str) -> None:
        """Note that work on a file begins."""

    def attempt(self, found: FoundFile, fault: Fault) -> None:
        """Note that a file failed and is tried again."""

    def end(self, row: FileRow) -> Sequence[tuple[FileRow, Exception]]:
        """Note what became of a file; see `flush`."""
        return ()

    def flush(self) -> Sequence[tuple[FileRow, Exception]]:
        """Make everything that was noted durable; returns the rows that cannot be written, and why."""
        return ()

    def keep_metadata(self, kept: KeptMetadata) -> None:
        """Keep what people said, durably, before its asset is removed."""

    def kept_metadata(self) -> Sequence[KeptMetadata]:
        """All that is kept."""
        return ()

    def forget_metadata(self, kept: KeptMetadata) -> None:
        """Forget what was given back."""

    def mounts(self) -> set[str]:
        """Where disks were mounted at earlier runs."""
        return set()

    def remember_mounts(self, mounts: Set[str]) -> None:
        """Note where disks are mounted, besides those that are known."""

    def forget_mounts(self, mounts: Collection[str]) -> None:
        """Expect no disks there any more: somebody said that they are gone."""


@dataclass(frozen=True, kw_only=True)
class KeptMetadata:
    """What people said of an asset that is gone, for when its content comes back or, if given, the path is indexed."""

    asset_id: str
    path: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One file of a job as the ledger has it. Times are seconds since 1970."""

    path: str
    size_bytes: int | None = None  # None if the file was not found
    modified_ns: int | None = None
    stamp: str | None = None  # see `service.library.scanning.stamp_of`
    asset_id: str | None = None  # None until its content is hashed
    outcome: Outcome = "pending"
    code: str | None = None  # stable name of why it failed
    reason: str | None = None
    attempts: int = 0  # over all runs
    num_segments: int = 0
    is_partial: bool = False  # it ends before 95 % of the length it declares
    started_at: float | None = None  # of the last attempt
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
        if found.stamp.startswith(ETAG) and self.stamp:  # which says more than the time
            return (self.size_bytes, self.stamp) == (found.size_bytes, found.stamp)
        return (self.size_bytes, self.modified_ns) == (
            found.size_bytes,
            found.modified_ns,
        ) and is_same_stamp(found.stamp, self.stamp)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a file that has not changed since failed; `code` is the stable name. A quarantined file is skipped."""

    code: str
    reason: str
    attempts: int
    is_quarantined: bool
