"""Bodies of requests and answers about jobs, for OpenAPI; see `service.http.schemas`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from service.http.document import Document
from service.http.schemas import ASSET_ID, IS_PARTIAL, NEXT_CURSOR, RequestBody, example
from service.jobs.records import JobRequest, Kind, ReleaseRequest, State
from service.library.parts import PATTERN
from service.library.report import Counts, Outcome, Progress, StageTimes
from service.releases.documents import Estimate, ReleaseRecord, SwitchDocument
from service.releases.documents import Outcome as ReleaseOutcome

MAX_PATHS = 1000
MAX_PATH_LENGTH = 4096
JOB_ID = "8f14e45fceea467a9c1d2b3a4f5e6d7c"
JOB: dict[str, Any] = {
    "job_id": JOB_ID,
    "kind": "sync",
    "state": "running",
    "request": {**asdict(JobRequest(paths=())), "paths": ["/media/rain"]},
    "progress": {
        "num_files": 1200,
        "num_done": 480,
        "num_failed": 3,
        "num_segments": 2113,
        "segments_per_second": 52.7,
        "left_seconds": 61.0,
        "stages": {
            "decode_seconds": 31.4,
            "encode_seconds": 38.9,
            "write_seconds": 2.2,
            "elapsed_seconds": 40.1,
            "slowest": "encode",
            "slowest_share": 0.9701,
        },
    },
    "report": None,
    "error": None,
    "is_cancelling": False,
    "created_at": 1767225600.5,
    "started_at": 1767225600.9,
    "ended_at": None,
}
FILE: dict[str, Any] = {
    "path": "/media/rain/broken.mp4",
    "outcome": "quarantined",
    "code": "not_media",
    "reason": "this is not a supported media file, or its header is damaged",
    "attempts": 1,
    "asset_id": ASSET_ID,
    "size_bytes": 90_210,
    "num_segments": 0,
    "is_partial": False,
    "ended_at": 1767225611.2,
}

LibraryPath = Annotated[
    str,
    Field(
        pattern=r"^(/|(s3|gs|https?)://)",
        max_length=MAX_PATH_LENGTH,
        description="Absolute path of a file or folder on the machine of the service, or an address below "
        "FOLEY_STORAGE_ROOTS: `s3://bucket/prefix`.",
    ),
]


class JobRequestBody(RequestBody):
    """What a job is to do."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"examples": [{"kind": "sync", "paths": ["/media/rain"]}]},
    )

    kind: Literal["index", "sync"] = Field(
        description="`index`: index what is new or changed. `sync`: also remove what is gone."
    )
    paths: list[LibraryPath] = Field(
        min_length=1, max_length=MAX_PATHS, description="Files, and folders with everything below them."
    )
    allow_empty: bool = Field(
        False,
        description="`sync` only: accept that a path, all of its files or its disk are gone. Otherwise the job fails "
        "with `sync_refused` and removes nothing.",
    )
    allow_gone: bool = Field(
        False,
        description="`sync` only: accept that more than `FOLEY_SYNC_MAX_GONE` of a folder is gone. Otherwise the job "
        "fails with `too_many_gone` and removes nothing.",
    )
    dry_run: bool = Field(False, description="`sync` only: report what would be done, and change nothing.")
    settle_seconds: float = Field(
        0.0, ge=0, le=3600, description="`sync` only: leave files changed within this time to the next job."
    )
    retry_quarantined: bool = Field(False, description="Try quarantined files under the paths again.")
    verify: bool = Field(
        False, description="Read every file again, even if its size and times are unchanged."
    )
    follow_links: bool = Field(False, description="Follow links to folders, inside the library's folders.")
    part: str = Field(
        "",
        pattern=f"{PATTERN}|^$",
        description="`index` only: index only this part of the files, `3/8` for the third of eight. Parts are "
        "chosen by a hash of the paths: several services can share the work.",
    )


# These become JSON as they are: a field with a default is there as well.
for _kind in (JobRequest, ReleaseRequest, Counts, StageTimes):
    with_config(json_schema_serialization_defaults_required=True)(_kind)


class StageTimesBody(Document):
    """How long each stage was at work: wall seconds, of its workers on average."""

    decode_seconds: float = Field(ge=0)
    encode_seconds: float = Field(ge=0)
    write_seconds: float = Field(ge=0)
    elapsed_seconds: float = Field(ge=0, description="From the first file on.")
    slowest: Literal["decode", "encode", "write"] = Field(description="The stage the others wait for.")
    slowest_share: float = Field(ge=0, description="Share of the time in which it was at work.")


class ProgressBody(Document):
    """How far a job is."""

    num_files: int = Field(ge=0, description="Media files found.")
    num_done: int = Field(ge=0, description="Of them, those that are indexed, unchanged or failed.")
    num_failed: int = Field(ge=0, description="Of those, the failed ones.")
    num_segments: int = Field(ge=0, description="Segments stored.")
    segments_per_second: float = Field(ge=0)
    left_seconds: float | None = Field(description="Estimated time left; null before there is an estimate.")
    stages: StageTimesBody


class BuildStepBody(Document):
    """How far the building of a release is, in a step without counts."""

    step: Literal["trial", "measuring"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingProgressBody(Progress):
    """How far a release has embedded the library: counts as for indexing."""

    step: Literal["embedding"]
    estimate: Estimate
    stages: StageTimes


class BuiltBody(Document):
    """A release is built."""

    step: Literal["done"]
    outcome: ReleaseOutcome


class FileErrorBody(Document):
    """A file that could not be indexed."""

    path: str
    code: str = Field(description="Stable name of the reason.")
    reason: str = Field(description="The reason for people.")


class QuarantinedBody(FileErrorBody):
    """A file that is not tried again until it changes, or the job is retried."""

    attempts: int = Field(ge=1)


Does = Literal["new", "changed", "moved", "copied", "deleted", "failed", "quarantined"]
PlannedBody = TypedDict("PlannedBody", {"does": Does, "path": str, "from": NotRequired[str]})


class ReportBody(TypedDict):
    """What a job did."""

    files: Counts
    """Moved files and copies count as unchanged: their content was there."""
    segments: Counts
    failed: list[FileErrorBody]
    """The first 1,000; `/files` has all. So do `quarantined` and `partial`."""
    quarantined: list[QuarantinedBody]
    partial: list[str]
    """Files that are indexed and end before 95 % of the length they declare."""
    linked_folders: NotRequired[list[str]]
    """Links to folders, which are followed only if the job asks for it."""
    moved: int
    copied: int
    retagged: NotRequired[int]
    """Indexed files of which only the tags are new: their segments were there, and count as unchanged."""
    deleted: int
    removed_assets: int
    """Assets removed because no file has their content any more."""
    ignored: int
    """Files that are not media."""
    unsettled: int
    """Files that were changed just now, left to the next job."""
    seconds: float
    stages: StageTimesBody
    plan: NotRequired[list[PlannedBody]]
    """What would be done, and where a moved file was before; in a rehearsal only."""


class ReleaseJobReportBody(Document):
    """What a job that builds a release did."""

    release: ReleaseRecord
    switched: SwitchDocument | None = Field(description="Null if it was not activated.")
    is_interrupted: bool


class JobErrorBody(Document):
    """Why a job failed."""

    code: str = Field(description="Stable name of the reason.")
    detail: str = Field(description="The reason for people.")


class JobBody(Document):
    """A job."""

    model_config = example(JOB)

    job_id: str
    kind: Kind
    state: State
    request: JobRequest | ReleaseRequest = Field(description="What was asked for.")
    progress: ProgressBody | BuildStepBody | EmbeddingProgressBody | BuiltBody
    report: ReportBody | ReleaseJobReportBody | None = Field(
        description="What it did. Null until the job has ended, and in lists."
    )
    error: JobErrorBody | None = Field(description="Why it failed, or what it waits for; else null.")
    is_cancelling: bool = Field(description="Whether it was cancelled and is about to end.")
    created_at: float = Field(description="Seconds since 1970, as all times here.")
    started_at: float | None
    ended_at: float | None


class JobPageBody(Document):
    """One page of jobs, the newest first."""

    model_config = example({"jobs": [JOB], "next_cursor": "17"})

    jobs: list[JobBody]
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class JobFileBody(Document):
    """What became of one file of a job."""

    path: str = Field(description="Printable: bytes that are not UTF-8 are written as \\xNN.")
    outcome: Outcome = Field(
        description="`failed`: the next job tries again. `quarantined`: not tried again until the file changes, or "
        "the job is retried."
    )
    code: str | None = Field(description="Stable name of why it failed.")
    reason: str | None = Field(description="Why it failed, for people.")
    attempts: int = Field(ge=0, description="How often it was tried, over all jobs.")
    asset_id: str | None = Field(description="sha256 of its content; null unless it is indexed.")
    size_bytes: int | None = Field(description="Null unless it is indexed.")
    num_segments: int = Field(ge=0, description="Segments of its asset.")
    is_partial: bool = Field(description=IS_PARTIAL)
    ended_at: float | None = Field(description="Seconds since 1970.")


class JobFilePageBody(Document):
    """One page of the files of a job, in the order of their paths."""

    model_config = example(
        {
            "files": [FILE],
            "counts": {"indexed": 479, "quarantined": 1},
            "next_cursor": "L21lZGlhL3JhaW4vYnJva2VuLm1wNA",
        }
    )

    files: list[JobFileBody]
    counts: dict[Outcome, int] = Field(
        description="Files of the whole job by outcome; outcomes without files are left out."
    )
    next_cursor: str | None = Field(description=NEXT_CURSOR)
