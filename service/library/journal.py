"""What a run over a library remembers of its files, and learns from earlier runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.library.report import Outcome
from service.library.scanning import FoundFile

# What may go better the next time. Every other reason lies in the file.
TRANSIENT = frozenset(
    {"decode_timed_out", "decoder_crashed", "decoder_unavailable", "decode_failed", "encoder_failed"}
)


# What is tried again by every run, for it costs nothing to find out and can change without a change of the file.
NEVER_KEPT = frozenset({"not_found", "not_readable", "not_a_file", "changed"})


class Journal:
    """The journal of a run that nobody keeps: it knows nothing and remembers nothing."""

    max_attempts = 1
    is_rehearsal = False

    def begin(self, found: Iterable[FoundFile]) -> None:
        """Write down which files there are; from here on a run that is killed knows what is left."""

    def rows(self) -> dict[str, FileRow]:
        """What became of files in an earlier life of this job, by path."""
        return {}

    def fault_of(self, found: FoundFile) -> Fault | None:
        """Why the file failed before, if it has not changed since."""
        return None

    def find_identity(self, found: FoundFile) -> str | None:
        """The asset of a file whose content was hashed before and that has not changed since."""
        return None

    def start(self, found: FoundFile, asset_id: str) -> None:
        """Note that a file goes on its way into the index."""

    def attempt(self, found: FoundFile, fault: Fault) -> None:
        """Note that a file failed and is tried again."""

    def end(self, row: FileRow) -> None:
        """Note what became of a file."""

    def flush(self) -> None:
        """Make everything that was noted durable."""

    def mounts(self) -> set[str]:
        """Where disks were mounted at earlier runs."""
        return set()

    def remember_mounts(self, roots: Sequence[Path], mounts: set[str]) -> None:
        """Note where disks are mounted at, above and below the roots now."""


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
