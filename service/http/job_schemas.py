"""Bodies of requests and answers about jobs, for OpenAPI; answers are described, not run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.http.schemas import ASSET_ID
from service.jobs.records import Kind, State
from service.library.report import Outcome

MAX_PATHS = 1000
MAX_PATH_LENGTH = 4096
JOB_ID = "8f14e45fceea467a9c1d2b3a4f5e6d7c"
STAGES: dict[str, Any] = {
    "decode_seconds": 31.4,
    "encode_seconds": 38.9,
    "write_seconds": 2.2,
    "elapsed_seconds": 40.1,
    "slowest": "encode",
    "slowest_share": 0.9701,
}
PROGRESS: dict[str, Any] = {
    "num_files": 1200,
    "num_done": 480,
    "num_failed": 3,
    "num_segments": 2113,
    "segments_per_second": 52.7,
    "left_seconds": 61.0,
    "stages": STAGES,
}
REQUEST: dict[str, Any] = {
    "paths": ["/media/rain"],
    "allow_empty": False,
    "dry_run": False,
    "settle_seconds": 0.0,
    "retry_quarantined": False,
}
JOB: dict[str, Any] = {
    "job_id": JOB_ID,
    "kind": "sync",
    "state": "running",
    "request": REQUEST,
    "progress": PROGRESS,
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
        pattern=r"^/",
        max_length=MAX_PATH_LENGTH,
        description="Absolute path of a file or folder on the machine of the service.",
    ),
]


class JobRequestBody(BaseModel):
    """What a job is to do."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={"examples": [{"kind": "sync", "paths": ["/media/rain"]}]},
    )

    kind: Literal["index", "sync"] = Field(
        description="`index`: what is new or changed goes into the index. `sync`: and what is gone leaves it."
    )
    paths: list[LibraryPath] = Field(
        min_length=1, max_length=MAX_PATHS, description="Files, and folders with everything below them."
    )
    allow_empty: bool = Field(
        False,
        description="`sync` only: believe it when a path is gone, or all of its files are, or its disk. Else the job "
        "fails with `sync_refused` and changes nothing.",
    )
    dry_run: bool = Field(False, description="`sync` only: say what would be done, and do nothing.")
    settle_seconds: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="`sync` only: leave files that were written to within this time for the next job.",
    )
    retry_quarantined: bool = Field(
        False, description="Try the files under the paths again that earlier jobs gave up."
    )


class StageTimesBody(BaseModel):
    """How long each stage was at work: wall seconds, of its workers on average."""

    decode_seconds: float = Field(ge=0)
    encode_seconds: float = Field(ge=0)
    write_seconds: float = Field(ge=0)
    elapsed_seconds: float = Field(ge=0, description="From the first file on.")
    slowest: Literal["decode", "encode", "write"] = Field(description="The stage the others wait for.")
    slowest_share: float = Field(ge=0, description="Share of the time in which it was at work.")


class ProgressBody(BaseModel):
    """How far a job is."""

    num_files: int = Field(ge=0, description="Media files found.")
    num_done: int = Field(ge=0, description="Of them, those that are indexed, unchanged or failed.")
    num_failed: int = Field(ge=0, description="Of those, the failed ones.")
    num_segments: int = Field(ge=0, description="Segments stored.")
    segments_per_second: float = Field(ge=0)
    left_seconds: float | None = Field(description="Estimated time left; null before there is an estimate.")
    stages: StageTimesBody


class BuildProgressBody(BaseModel):
    """How far the building of a release is."""

    model_config = ConfigDict(extra="allow")

    step: str = Field(
        description="`trial`, `embedding`, `measuring` or `done`; `embedding` counts as indexing does."
    )


class JobErrorBody(BaseModel):
    """Why a job failed."""

    code: str = Field(description="Stable name of the reason.")
    detail: str = Field(description="The reason for people.")


class JobBody(BaseModel):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB]})

    job_id: str
    kind: Kind
    state: State
    request: dict[str, Any] = Field(description="What was asked for.")
    progress: ProgressBody | BuildProgressBody
    report: dict[str, Any] | None = Field(
        None,
        description="What it did: counts, stage times, the first 1,000 failed and quarantined files (`/files` has "
        "all), in a rehearsal the plan. Null until the job has ended, and in lists.",
    )
    error: JobErrorBody | None = Field(None, description="Why it failed, or what it waits for; else null.")
    is_cancelling: bool = Field(description="Whether it was cancelled and is about to end.")
    created_at: float = Field(description="Seconds since 1970, as all times here.")
    started_at: float | None = None
    ended_at: float | None = None


class JobPageBody(BaseModel):
    """One page of jobs, the newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [JOB], "next_cursor": "17"}]})

    jobs: list[JobBody]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null after the last.")


class JobFileBody(BaseModel):
    """What became of one file of a job."""

    path: str = Field(description="Printable: bytes that are not UTF-8 are written as \\xNN.")
    outcome: Outcome = Field(
        description="`failed`: the next job tries again. `quarantined`: not tried again until the file changes, or "
        "the job is retried."
    )
    code: str | None = Field(description="Stable name of why it failed.")
    reason: str | None = Field(description="Why it failed, for people.")
    attempts: int = Field(ge=0, description="How often it was tried, over all jobs.")
    asset_id: str | None = Field(description="sha256 of its content, once that is known.")
    size_bytes: int | None
    num_segments: int = Field(ge=0, description="Segments of its asset.")
    is_partial: bool = Field(description="True when less than 95 % of the file could be decoded.")
    ended_at: float | None = Field(description="Seconds since 1970.")


class JobFilePageBody(BaseModel):
    """One page of the files of a job, in the order of their paths."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "files": [FILE],
                    "counts": {"indexed": 479, "quarantined": 1},
                    "next_cursor": "L21lZGlhL3JhaW4vYnJva2VuLm1wNA",
                }
            ]
        }
    )

    files: list[JobFileBody]
    counts: dict[str, int] = Field(
        description="Files of the whole job by outcome; those with none are left out."
    )
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null after the last.")
