"""The bodies of answers as the OpenAPI description shows them.

These classes describe and are not run on an answer: its values come from checked dataclasses, and checking
ten thousand floats again costs more than the search that found them. Where a dataclass becomes JSON as it is, the
dataclass is the description. Tests hold the answers of every route to the description.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from models.bundle.bundle import Similarity
from models.media.clip import MediaInfo
from service.http.document import Document
from service.releases.documents import BundleFacts
from service.search.matching import EmptyReason, FoundBy, ProbabilityReason, Source
from service.system.modality import Modality
from service.system.validation import MAX_FAULTS

ASSET_ID = "5d2f3d2f6c5b6a1d0b7a8e9f4c3b2a1908f7e6d5c4b3a29180716f5e4d3c2b1a"
RELEASE_ID = "starter-0123456789ab"
MOMENTS = [0.41, 0.47, 0.52, 0.55, 0.61, 0.66, 0.7, 0.72, 0.69, 0.64, 0.6, 0.58, 0.53, 0.49, 0.46, 0.45]
MEDIA: dict[str, Any] = asdict(
    MediaInfo(
        container="mov,mp4,m4a,3gp,3g2,mj2",
        size_bytes=904_210,
        modified_ns=1_767_225_600_000_000_000,
        duration_seconds=8.0,
        is_duration_measured=True,
        has_audio=True,
        has_video=True,
        video_codec="h264",
        width=640,
        height=360,
        frame_rate=25.0,
        audio_codec="aac",
        num_channels=2,
        sample_rate_hz=48_000,
    )
)
UPLOADED_MEDIA = {name: value for name, value in MEDIA.items() if name != "modified_ns"}
ASSET: dict[str, Any] = {
    "asset_id": ASSET_ID,
    "path": "/media/rain/window.mp4",
    "paths": ["/media/rain/window.mp4", "/backup/window.mp4"],
    "num_segments": 1,
    "modalities": ["audio", "video"],
    "media": {**MEDIA, "is_partial": False},
    "metadata": {"take": 3, "mood": ["calm", "cold"]},
}
EMPTY_ANSWER: dict[str, Any] = {
    "results": [],
    "target": "audio",
    "from": "video",
    "bundle_id": RELEASE_ID,
    "release_id": RELEASE_ID,
    "similarity": "cosine",
    "query": {"num_segments": 1, "is_partial": False},
    "next_offset": None,
    "reason": "nothing_passes_filter",
    "probability_reason": None,
}
IS_PARTIAL = "True if less than 95 % of the file could be decoded."
NEXT_CURSOR = "Give it as `cursor` for the next page; null after the last."
UPLOAD_PROBLEMS = (400, 408, 413, 415, 422, 429, 500, 503, 507)


class RequestBody(BaseModel):
    """What a request may say: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, given: Any) -> Any:
        """Leave out the unknown fields that no answer would name: pydantic would make an error of each."""
        if not isinstance(given, dict) or len(given) <= MAX_FAULTS:
            return given
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = islice((name for name in given if name not in known), MAX_FAULTS)
        return {name: given[name] for name in (*known.intersection(given), *unknown)}


def at_most(num_entries: int) -> BeforeValidator:
    """Refuse an object with more entries before they are looked at: pydantic counts when it has checked them all."""

    def check(given: Any) -> Any:
        if isinstance(given, dict) and len(given) > num_entries:
            raise PydanticCustomError("too_long", "too long", {"max_length": num_entries})
        return given

    return BeforeValidator(check)


@dataclass(frozen=True)
class _Changed:
    """Leaves a field out of the schema of a dataclass, or adds one."""

    without: str | None = None
    more: dict[str, JsonSchemaValue] = field(default_factory=dict)

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler.resolve_ref_schema(handler(core_schema))
        kept = {name: value for name, value in described["properties"].items() if name != self.without}
        return {**described, "properties": {**kept, **self.more}, "required": [*kept, *self.more]}


StoredMedia = Annotated[
    MediaInfo, _Changed(more={"is_partial": {"type": "boolean", "description": IS_PARTIAL}})
]
UploadedMedia = Annotated[MediaInfo, _Changed(without="modified_ns")]  # that of our copy, not of the client's
Metadata = Annotated[
    dict[str, bool | int | float | str | list[bool | int | float | str]],
    Field(description="What was said about the asset, by key."),
]


def example(document: dict[str, Any]) -> ConfigDict:
    """Give the schema of a model an example."""
    return ConfigDict(json_schema_extra={"examples": [document]})


class ProblemBody(Document):
    """An error (RFC 9457)."""

    model_config = example(
        {
            "type": "urn:foley:problem:no_stream",
            "title": "The file has no stream of the requested kind",
            "status": 422,
            "code": "no_stream",
            "detail": "the file has no video stream to search from",
            "instance": "/v1/search",
            "request_id": "4b1c6a0f2f6e4a7c9a39c3a1f0f1d2e3",
        }
    )

    type: str = Field(description="URI of the kind of problem; ends with its code.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="HTTP status.")
    code: str = Field(description="Stable name of the kind of problem, for programs.")
    detail: str = Field(description="What happened this time, for people.")
    instance: str = Field(description="Path of the request.")
    request_id: str | None = Field(
        description="Id of the request, as in the header `X-Request-ID` and the log."
    )
    errors: list[dict[str, str]] | None = Field(
        None, description="With `invalid_parameter`: each parameter at fault and what is wrong with it."
    )


class BestMoment(Document):
    """The moment at which query and result are most alike."""

    index: int = Field(ge=0, description="Which of the moments, from 0.")
    time_seconds: float = Field(ge=0, description="When it is, on the asset's own timeline.")
    similarity: float = Field(description="Similarity there.")


class SearchResultBody(Document):
    """The best segment of one asset."""

    asset_id: str = Field(description="sha256 of the file's content.")
    path: str = Field(description="Path of the file when it was indexed.")
    start_seconds: float = Field(ge=0, description="Start of the segment.")
    end_seconds: float = Field(ge=0, description="End of the segment, exclusive.")
    score: float | None = Field(
        description="Mean of `moments`, weighted if the release weighs moments of sound; in [-1, 1] if `similarity` is "
        "`cosine`. Null if words alone found it."
    )
    match_probability: float | None = Field(
        description="How likely the result belongs to the query, in [0, 1], learned from the library's own pairs at "
        "even odds that there is anything to find. Null if `probability_reason` says why."
    )
    found_by: list[FoundBy] = Field(
        description="What found it: `meaning` (vectors), `words` of its names and metadata, or both. What words alone "
        "found has no score and no moments, and its span is that of its first segment."
    )
    best_moment: BestMoment | None
    moments: list[float] = Field(
        description="Similarity of query and segment at each moment: 16 in a TG-DP bundle."
    )
    query_start_seconds: float = Field(ge=0, description="Start of the segment of the query that fits best.")
    query_end_seconds: float = Field(ge=0, description="Its end, exclusive.")
    metadata: Metadata


class QueryBody(Document):
    """What the search was made with."""

    num_segments: int = Field(
        ge=0,
        description="Segments of the query that were searched with, or combinations of them; 1 for a text, 0 for words "
        "alone.",
    )
    is_partial: bool = Field(description=IS_PARTIAL)


class SearchAnswerBody(Document):
    """What a search found, best first."""

    model_config = example(
        {
            **EMPTY_ANSWER,
            "results": [
                {
                    "asset_id": ASSET_ID,
                    "path": "/media/rain/window.wav",
                    "start_seconds": 20.0,
                    "end_seconds": 30.0,
                    "score": 0.5675,
                    "match_probability": 0.83,
                    "found_by": ["meaning"],
                    "best_moment": {"index": 7, "time_seconds": 24.375, "similarity": 0.72},
                    "moments": MOMENTS,
                    "query_start_seconds": 0.0,
                    "query_end_seconds": 8.0,
                    "metadata": {"take": 3, "mood": "calm"},
                }
            ],
            "next_offset": 10,
            "reason": None,
        }
    )

    results: list[SearchResultBody]
    target: Modality = Field(description="What was searched.")
    source: Source = Field(
        alias="from",
        description="Which stream of the query was used; `text` for words, `mixed` for several queries together.",
    )
    bundle_id: str = Field(description="The encoder bundle that embedded query and library.")
    release_id: str = Field(description="The release that answered: one encoder, one index, one calibration.")
    similarity: Similarity = Field(
        description="What scores are made of: `cosine`, or `dot` for dot products, which have no bounds."
    )
    query: QueryBody
    next_offset: int | None = Field(
        description="Give it as `offset` for the next page. Null after the last page, and without an `offset`."
    )
    reason: EmptyReason | None = Field(description="Why there are no results; null if there are some.")
    probability_reason: ProbabilityReason | None = Field(
        description="Why results have no `match_probability`: like was compared with like, the library is too small to "
        "learn from, or the release does not tell what belongs together better than chance; for a text, the library "
        "has too few captions, or only words were looked for; or there were several queries. Null if they have one."
    )


class BatchAnswerBody(Document):
    """Answers to several searches."""

    model_config = example({"answers": [EMPTY_ANSWER]})

    answers: list[SearchAnswerBody] = Field(description="One for each search, in their order.")


class AssetBody(Document):
    """A media file as the index knows it."""

    model_config = example(ASSET)

    asset_id: str = Field(description="sha256 of the file's content.")
    path: str = Field(description="Path of the file when it was indexed.")
    paths: list[str] = Field(description="Every path with this content, that one first.")
    num_segments: int = Field(ge=1)
    modalities: list[Modality] = Field(description="What at least one of its segments has.")
    media: StoredMedia
    metadata: Metadata


class AssetPageBody(Document):
    """One page of assets."""

    model_config = example(
        {"assets": [ASSET], "next_cursor": "5b1a4f0e-7d0c-5c5a-9d43-9b6f4f9d2a10", "num_assets": None}
    )

    assets: list[AssetBody]
    next_cursor: str | None = Field(description=NEXT_CURSOR)
    num_assets: int | None = Field(
        ge=0, description="How many assets pass the filters, on all pages; null without `with_count`."
    )


class WaveformBody(Document):
    """The waveform of a stretch of a file."""

    model_config = example(
        {"start": 0.0, "end": 8.0, "pixels": 4, "min": [-12, -88, -97, -3], "max": [14, 90, 93, 2]}
    )

    start: float = Field(description="Start, in seconds.")
    end: float = Field(description="End, in seconds.")
    pixels: int = Field(ge=1)
    min: list[int] = Field(description="Lowest sample of each pixel, -127 to 127.")
    max: list[int] = Field(description="Highest sample of each pixel.")


class LiveBody(Document):
    """The process answers."""

    model_config = example({"status": "alive"})

    status: Literal["alive"]


_BUNDLE: dict[str, Any] = {
    "tracks": {"audio": [16, 128], "video": [16, 128]},
    "compares": True,
    "similarity": "cosine",
    "text_targets": [],
    "weighs_moments": False,
    "attribution": [],
}


class LibraryBody(Document):
    """What the library holds, and what the service does with it."""

    model_config = example(
        {
            "num_assets": 420,
            "num_segments": 1234,
            "release_id": RELEASE_ID,
            "bundle_id": RELEASE_ID,
            "bundle": _BUNDLE,
            "suggests_tags": False,
        }
    )

    num_assets: int = Field(ge=0)
    num_segments: int = Field(ge=0, description="Segments that can be found.")
    release_id: str = Field(description="The active release.")
    bundle_id: str = Field(description="Its encoder bundle.")
    bundle: BundleFacts
    suggests_tags: bool = Field(
        description="Whether tags were learned for it: `/v1/suggested-tags` suggests some."
    )


class ReadyBody(Document):
    """The service answers correctly."""

    model_config = example(
        {
            "status": "ready",
            "bundle_id": RELEASE_ID,
            "bundle": _BUNDLE,
            "provider": "CPUExecutionProvider",
            "num_segments": 1234,
            "free_bytes": 84_123_456_789,
            "is_writable": True,
            "landlock_version": 7,
        }
    )

    status: Literal["ready"]
    bundle_id: str = Field(description="The active encoder bundle.")
    bundle: BundleFacts
    provider: str = Field(description="What the encoder runs on.")
    num_segments: int = Field(ge=0, description="Segments that can be found.")
    free_bytes: int = Field(ge=0, description="Free disk space where the data lies.")
    is_writable: bool = Field(description="Whether that is above the floor: else nothing new is indexed.")
    landlock_version: int = Field(
        ge=0,
        description="What keeps decode workers from files and, from 4 on, the network; 0 if this kernel cannot.",
    )
