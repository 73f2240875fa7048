"""What a run over a library did, how far it is, and their form as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["pending", "indexed", "unchanged", "moved", "copied", "deleted", "failed", "quarantined"]
MAX_PLANNED = 10_000  # files that a plan names; it counts all


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """A file that could not be indexed, with the stable name of the reason."""

    path: str  # printable
    code: str
    reason: str
    attempts: int = 1  # over all runs
    is_quarantined: bool = False  # later runs skip it until it changes or somebody lifts that


@dataclass(kw_only=True)
class Counts:
    """Counts of what this run stored, found already stored, and failed to store."""

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0

    def to_json(self) -> dict[str, int]:
        """The counts as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """How long each stage of the pipeline was at work: wall seconds, of its workers on average."""

    decode_seconds: float = 0.0
    encode_seconds: float = 0.0  # includes waiting for the encoder's queue
    write_seconds: float = 0.0
    elapsed_seconds: float = 0.0  # from the first file to the last

    @property
    def slowest(self) -> str:
        """The stage that was at work longest: the one the others wait for."""
        seconds = {"decode": self.decode_seconds, "encode": self.encode_seconds, "write": self.write_seconds}
        return max(seconds, key=lambda name: seconds[name])

    @property
    def slowest_share(self) -> float:
        """Share of the time in which the slowest stage was at work: 1 means that it never waited."""
        longest = max(self.decode_seconds, self.encode_seconds, self.write_seconds)
        return longest / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The times as JSON values."""
        seconds = {name: round(value, 3) for name, value in asdict(self).items()}
        return {**seconds, "slowest": self.slowest, "slowest_share": round(self.slowest_share, 4)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> StageTimes:
        """Read what `to_json` returned."""
        return cls(**{name: value for name, value in document.items() if name.endswith("_seconds")})


@dataclass(kw_only=True)
class IndexReport:
    """What a run did."""

    files: Counts = field(default_factory=Counts)  # moved and copied files count as unchanged
    segments: Counts = field(default_factory=Counts)  # failed: decoded of files that failed later
    failed: list[FailedFile] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)  # files that end before 95 % of their declared length
    linked_folders: list[str] = field(default_factory=list)  # links to folders, which were not followed
    plan: list[Mapping[str, str]] = field(default_factory=list)  # of a rehearsal: outcome, path, moved from
    num_moved: int = 0  # files whose content was known under a path that is gone
    num_copied: int = 0  # files whose content is known under another path as well
    num_retagged: int = 0  # files of which only tags or XMP file are new: their segments count as unchanged
    num_deleted: int = 0  # files that are gone and were removed from the index
    num_ignored: int = 0  # files of folders that are not media
    num_unsettled: int = 0  # files written to just now, left for the next run
    num_removed: int = 0  # assets removed because no file has their content any more
    seconds: float = 0.0
    stages: StageTimes = field(default_factory=StageTimes)
    is_interrupted: bool = False

    @property
    def quarantined(self) -> list[FailedFile]:
        """The files that later runs skip."""
        return [failed for failed in self.failed if failed.is_quarantined]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values: the output of `foley index --json`."""
        document: dict[str, Any] = {
            "files": self.files.to_json(),
            "segments": self.segments.to_json(),
            "failed": [{"path": f.path, "code": f.code, "reason": f.reason} for f in self.failed],
            "seconds": round(self.seconds, 3),
            "moved": self.num_moved,
            "copied": self.num_copied,
            "retagged": self.num_retagged,
            "deleted": self.num_deleted,
            "removed_assets": self.num_removed,
            "ignored": self.num_ignored,
            "unsettled": self.num_unsettled,
            "quarantined": [
                {"path": f.path, "code": f.code, "reason": f.reason, "attempts": f.attempts}
                for f in self.quarantined
            ],
            "partial": list(self.partial),
            "linked_folders": list(self.linked_folders),
            "stages": self.stages.to_json(),
        }
        if self.plan:
            document["plan"] = [dict(entry) for entry in self.plan[:MAX_PLANNED]]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> IndexReport:
        """Read what `to_json` returned."""
        quarantined = {entry["path"]: entry for entry in document["quarantined"]}
        return cls(
            files=Counts(**document["files"]),
            segments=Counts(**document["segments"]),
            failed=[
                FailedFile(
                    **entry,
                    attempts=quarantined.get(entry["path"], {}).get("attempts", 1),
                    is_quarantined=entry["path"] in quarantined,
                )
                for entry in document["failed"]
            ],
            partial=list(document["partial"]),
            linked_folders=list(document.get("linked_folders", ())),
            plan=list(document.get("plan", ())),
            num_moved=document["moved"],
            num_copied=document["copied"],
            num_retagged=document.get("retagged", 0),
            num_deleted=document["deleted"],
            num_ignored=document["ignored"],
            num_unsettled=document["unsettled"],
            num_removed=document["removed_assets"],
            seconds=document["seconds"],
            stages=StageTimes.from_json(document["stages"]),
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    num_files: int
    num_done: int  # indexed, unchanged or failed
    num_failed: int
    num_segments: int  # stored by this run
    segments_per_second: float  # since the first file was started
    left_seconds: float | None  # None before there is an estimate
    stages: StageTimes = field(default_factory=StageTimes)

    def to_json(self) -> dict[str, Any]:
        """The progress as JSON values."""
        return {
            **asdict(self),
            "segments_per_second": round(self.segments_per_second, 3),
            "left_seconds": None if self.left_seconds is None else round(self.left_seconds, 1),
            "stages": self.stages.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Progress:
        """Read what `to_json` returned."""
        return cls(**{**document, "stages": StageTimes.from_json(document["stages"])})


NOTHING_YET = Progress(
    num_files=0, num_done=0, num_failed=0, num_segments=0, segments_per_second=0.0, left_seconds=None
)
OnProgress = Callable[[Progress], None]
