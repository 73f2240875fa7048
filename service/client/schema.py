"""Types of the HTTP API, made of its OpenAPI description by `make clients`: change that, and not this."""

# ruff: noqa: D101, E501
from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class ActivateBody(TypedDict):
    force: NotRequired[str]


class AssetBody(TypedDict):
    asset_id: str
    path: str
    paths: list[str]
    num_segments: int
    modalities: list[Literal["audio", "video"]]
    media: dict[str, Any]
    metadata: dict[str, bool | int | float | str | list[bool | int | float | str]]


class AssetChanges(TypedDict):
    metadata: dict[str, str | float | bool | list[str | float | bool] | None]


class AssetPageBody(TypedDict):
    assets: list[AssetBody]
    next_cursor: str | None
    num_assets: int | None


class Audit(TypedDict):
    findings: list[Finding]
    num_files: int
    verdicts: dict[str, int]
    separation: Separation
    release_id: str
    weighs_moments: NotRequired[bool]
    num_marked: NotRequired[int]


class BatchAnswerBody(TypedDict):
    answers: list[SearchAnswerBody]


class BestMoment(TypedDict):
    index: int
    time_seconds: float
    similarity: float


class BuildStepBody(TypedDict):
    step: Literal["trial", "measuring"]


class BuiltBody(TypedDict):
    step: Literal["done"]
    outcome: Literal["building", "ready", "refused"]


class BundleFacts(TypedDict):
    tracks: dict[str, list[Any]]
    compares: bool
    similarity: Literal["cosine", "dot"]
    weighs_moments: bool
    text_targets: list[Literal["audio", "video"]]
    attribution: list[str]


class Calibration(TypedDict):
    directions: dict[str, Direction]
    num_assets: int
    separation: NotRequired[Separation | None]
    texts: NotRequired[dict[str, TextDirection]]


class CollectionBody(TypedDict):
    collection_id: str
    name: str
    num_items: int
    created_at: float
    updated_at: float
    etag: str
    items: list[ItemBody]


class CollectionChanges(TypedDict):
    name: NotRequired[str | None]
    items: NotRequired[list[ItemFields] | None]


class CollectionRowBody(TypedDict):
    collection_id: str
    name: str
    num_items: int
    created_at: float
    updated_at: float
    etag: str


class CollectionsBody(TypedDict):
    collections: list[CollectionRowBody]


class Counts(TypedDict):
    indexed: int
    unchanged: int
    failed: int


class Curve(TypedDict):
    scores: list[float]
    probabilities: list[float]
    error: float
    num_pairs: int
    num_held_out: int


class DerivedAgreement(TypedDict):
    num_compared: int
    lowest_cosine: float
    parent_storage: Literal["float16", "fine", "compact"]
    storage: Literal["float16", "fine", "compact"]


class Direction(TypedDict):
    best: Curve
    further: Curve
    error: float
    num_queries: int


class EmbeddedSegmentBody(TypedDict):
    start_seconds: float
    end_seconds: float
    audio: EmbeddedTrack | None
    video: EmbeddedTrack | None


class EmbeddedTrack(TypedDict):
    pooled: list[float]
    track: list[list[float]]


class EmbeddingProgressBody(TypedDict):
    num_files: int
    num_done: int
    num_failed: int
    num_segments: int
    segments_per_second: float
    left_seconds: float | None
    stages: StageTimes
    step: Literal["embedding"]
    estimate: Estimate


class EmbeddingsBody(TypedDict):
    bundle_id: str
    media: dict[str, Any]
    is_partial: bool
    segments: list[EmbeddedSegmentBody]


class EncodedEmbeddingsBody(TypedDict):
    bundle_id: str
    media: dict[str, Any]
    is_partial: bool
    dtype: Literal["float16"]
    width: int | None
    shapes: dict[str, list[Any]]
    segments: list[EncodedSegmentBody]


class EncodedSegmentBody(TypedDict):
    start_seconds: float
    end_seconds: float
    audio: EncodedTrack | None
    video: EncodedTrack | None


class EncodedTrack(TypedDict):
    pooled: str
    track: str


class Estimate(TypedDict):
    num_segments: int
    num_bytes: int
    encoder_seconds: float


class ExportRequest(TypedDict):
    collection_id: NotRequired[str | None]
    items: NotRequired[list[ItemFields] | None]
    format: Literal[
        "edl",
        "fcpxml",
        "xmeml",
        "otio",
        "reaper",
        "reaper-csv",
        "audition",
        "protools",
        "ale",
        "avid-markers",
        "csv",
        "json",
    ]
    frame_rate: NotRequired[
        Literal["23.976", "24", "25", "29.97df", "29.97", "30", "50", "59.94df", "59.94", "60"]
    ]
    path_map: NotRequired[list[list[str]]]
    title: NotRequired[str | None]


class FailedAsset(TypedDict):
    path: str
    code: str
    reason: str


class FileErrorBody(TypedDict):
    path: str
    code: str
    reason: str


class Finding(TypedDict):
    asset_id: str
    path: str
    verdict: Literal["mismatch", "silent", "shifted", "cannot_tell", "fits"]
    match_probability: float | None
    score: float
    rank: float
    offset_seconds: float
    score_at_offset: float
    off_screen: NotRequired[list[list[Any]] | None]
    mark: NotRequired[Literal["fixed", "not_a_fault"] | None]


class Forced(TypedDict):
    who: str
    why: str
    at: str


class FormatBody(TypedDict):
    format: Literal[
        "edl",
        "fcpxml",
        "xmeml",
        "otio",
        "reaper",
        "reaper-csv",
        "audition",
        "protools",
        "ale",
        "avid-markers",
        "csv",
        "json",
    ]
    name: str
    suffix: str
    media_type: str


class FormatsBody(TypedDict):
    formats: list[FormatBody]
    frame_rates: list[Literal["23.976", "24", "25", "29.97df", "29.97", "30", "50", "59.94df", "59.94", "60"]]


class Gate(TypedDict):
    gate: str
    value: float
    active: float | None
    limit: float | None
    passed: bool
    verdict: NotRequired[Literal["passed", "failed", "cannot_tell"]]
    reason: str


class Gates(TypedDict):
    passed: NotRequired[bool]
    reasons: NotRequired[list[str]]
    undecided: NotRequired[list[str]]
    gates: NotRequired[list[Gate]]
    recall: NotRequired[dict[str, dict[str, Recall]]]
    trial: NotRequired[Trial]


class ItemBody(TypedDict):
    asset_id: str
    start_seconds: float | None
    end_seconds: float | None
    modality: Literal["audio", "video"] | None
    note: str
    query: str | None
    path: str | None
    modalities: list[Literal["audio", "video"]] | None


class ItemFields(TypedDict):
    asset_id: str
    start_seconds: NotRequired[float | None]
    end_seconds: NotRequired[float | None]
    modality: NotRequired[Literal["audio", "video"] | None]
    note: NotRequired[str]
    query: NotRequired[str | None]


class JobBody(TypedDict):
    job_id: str
    kind: Literal["index", "sync", "release"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    request: JobRequest | ReleaseRequest
    progress: ProgressBody | BuildStepBody | EmbeddingProgressBody | BuiltBody
    report: ReportBody | ReleaseJobReportBody | None
    error: JobErrorBody | None
    is_cancelling: bool
    created_at: float
    started_at: float | None
    ended_at: float | None


class JobErrorBody(TypedDict):
    code: str
    detail: str


class JobFileBody(TypedDict):
    path: str
    outcome: Literal["pending", "indexed", "unchanged", "moved", "copied", "deleted", "failed", "quarantined"]
    code: str | None
    reason: str | None
    attempts: int
    asset_id: str | None
    size_bytes: int | None
    num_segments: int
    is_partial: bool
    ended_at: float | None


class JobFilePageBody(TypedDict):
    files: list[JobFileBody]
    counts: dict[str, int]
    next_cursor: str | None


class JobPageBody(TypedDict):
    jobs: list[JobBody]
    next_cursor: str | None


class JobRequest(TypedDict):
    paths: list[str]
    allow_empty: bool
    allow_gone: bool
    dry_run: bool
    settle_seconds: float
    retry_quarantined: bool
    verify: bool
    follow_links: bool
    part: str


class JobRequestBody(TypedDict):
    kind: Literal["index", "sync"]
    paths: list[str]
    allow_empty: NotRequired[bool]
    allow_gone: NotRequired[bool]
    dry_run: NotRequired[bool]
    settle_seconds: NotRequired[float]
    retry_quarantined: NotRequired[bool]
    verify: NotRequired[bool]
    follow_links: NotRequired[bool]
    part: NotRequired[str]


class LibraryBody(TypedDict):
    num_assets: int
    num_segments: int
    release_id: str
    bundle_id: str
    bundle: BundleFacts
    suggests_tags: bool


class LibraryCounts(TypedDict):
    num_assets: NotRequired[int]
    num_beyond: NotRequired[int]
    num_embedded: NotRequired[int]
    num_derived: NotRequired[int]
    derived_agreement: NotRequired[DerivedAgreement]
    num_relabelled: NotRequired[int]
    num_deleted: NotRequired[int]
    failed: NotRequired[list[FailedAsset]]
    is_interrupted: NotRequired[bool]
    num_segments: NotRequired[int]
    seconds: NotRequired[float]
    estimate: NotRequired[Estimate]


class LiveBody(TypedDict):
    status: Literal["alive"]


class MapBody(TypedDict):
    points: list[MapPointBody]
    method: Literal["pca", "umap"]
    methods: list[Literal["pca", "umap"]]
    num_assets: int
    release_id: str


class MapPointBody(TypedDict):
    asset_id: str
    path: str
    modality: Literal["audio", "video"]
    x: float
    y: float


class MarkBody(TypedDict):
    mark: Literal["fixed", "not_a_fault"] | None


class MediaInfo(TypedDict):
    container: str
    size_bytes: int
    modified_ns: int
    duration_seconds: float | None
    is_duration_measured: NotRequired[bool]
    has_audio: NotRequired[bool]
    has_video: NotRequired[bool]
    video_codec: NotRequired[str | None]
    width: NotRequired[int | None]
    height: NotRequired[int | None]
    frame_rate: NotRequired[float | None]
    rotation_degrees: NotRequired[int]
    audio_codec: NotRequired[str | None]
    num_channels: NotRequired[int | None]
    sample_rate_hz: NotRequired[int | None]
    is_out_of_phase: NotRequired[bool]
    is_silent: NotRequired[bool | None]
    is_static: NotRequired[bool | None]
    packets_hash: NotRequired[str | None]
    timecode: NotRequired[str | None]
    time_reference_samples: NotRequired[int | None]
    said: NotRequired[dict[str, str | list[str]]]


class NewCollection(TypedDict):
    name: str


PlannedBody = TypedDict(
    "PlannedBody",
    {
        "does": "Literal['new', 'changed', 'moved', 'copied', 'deleted', 'failed', 'quarantined']",
        "path": "str",
        "from": "NotRequired[str]",
    },
)


class ProblemBody(TypedDict):
    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    request_id: str | None
    errors: NotRequired[list[dict[str, str]] | None]


class ProgressBody(TypedDict):
    num_files: int
    num_done: int
    num_failed: int
    num_segments: int
    segments_per_second: float
    left_seconds: float | None
    stages: StageTimesBody


class QuarantinedBody(TypedDict):
    path: str
    code: str
    reason: str
    attempts: int


class QueryBody(TypedDict):
    num_segments: int
    is_partial: bool


class QuerySegment(TypedDict):
    asset_id: NotRequired[str | None]
    start_seconds: NotRequired[float]
    track: NotRequired[str | None]


class ReadyBody(TypedDict):
    status: Literal["ready"]
    bundle_id: str
    bundle: BundleFacts
    provider: str
    num_segments: int
    free_bytes: int
    is_writable: bool
    landlock_version: int


class Recall(TypedDict):
    at_1: float
    at_5: float
    at_10: float
    median_rank: NotRequired[float]


class ReleaseDocument(TypedDict):
    release_id: str
    bundle_id: str
    outcome: Literal["building", "ready", "refused"]
    created_at: float
    library: LibraryCounts
    missing: list[str]
    gates: Gates
    token: str
    forced: Forced | None
    state: Literal["active", "building", "ready", "refused"]
    is_previous: bool
    has_calibration: bool
    num_captions: dict[str, int]
    bundle: BundleFacts | None


class ReleaseJobReportBody(TypedDict):
    release: ReleaseRecord
    switched: SwitchDocument | None
    is_interrupted: bool


class ReleaseList(TypedDict):
    releases: list[ReleaseDocument]
    active: str


class ReleaseRecord(TypedDict):
    release_id: str
    bundle_id: str
    outcome: Literal["building", "ready", "refused"]
    created_at: float
    library: LibraryCounts
    missing: list[str]
    gates: Gates
    token: str
    forced: Forced | None


class ReleaseRequest(TypedDict):
    bundle: str
    activate: bool
    force: str
    any_cost: bool
    storage: str
    who: str


class ReleaseRequestBody(TypedDict):
    bundle: str
    activate: NotRequired[bool]
    force: NotRequired[str]
    any_cost: NotRequired[bool]
    storage: NotRequired[Literal["", "float16", "fine", "compact"]]


class ReportBody(TypedDict):
    files: Counts
    segments: Counts
    failed: list[FileErrorBody]
    quarantined: list[QuarantinedBody]
    partial: list[str]
    linked_folders: NotRequired[list[str]]
    moved: int
    copied: int
    retagged: NotRequired[int]
    deleted: int
    removed_assets: int
    ignored: int
    unsettled: int
    seconds: float
    stages: StageTimesBody
    plan: NotRequired[list[PlannedBody]]


SearchAnswerBody = TypedDict(
    "SearchAnswerBody",
    {
        "results": "list[SearchResultBody]",
        "target": "Literal['audio', 'video']",
        "from": "Literal['audio', 'video', 'text', 'mixed']",
        "bundle_id": "str",
        "release_id": "str",
        "similarity": "Literal['cosine', 'dot']",
        "query": "QueryBody",
        "next_offset": "int | None",
        "reason": "Literal['nothing_to_search', 'nothing_passes_filter', 'below_min_score', 'below_min_probability', 'no_further_results', 'no_word_found'] | None",
        "probability_reason": "Literal['same_modality', 'not_calibrated', 'cannot_tell', 'no_captions', 'several_queries', 'words_only'] | None",
    },
)


class SearchResultBody(TypedDict):
    asset_id: str
    path: str
    start_seconds: float
    end_seconds: float
    score: float | None
    match_probability: float | None
    found_by: list[Literal["meaning", "words"]]
    best_moment: BestMoment | None
    moments: list[float]
    query_start_seconds: float
    query_end_seconds: float
    metadata: dict[str, bool | int | float | str | list[bool | int | float | str]]


class SegmentFields(TypedDict):
    asset_id: str
    start_seconds: NotRequired[float]


class Separation(TypedDict):
    auc: float
    low: float
    high: float
    num_files: int


class SimilarityBody(TypedDict):
    matrix: list[list[float]]
    query_times: list[float]
    result_times: list[float]


SimilarityRequest = TypedDict(
    "SimilarityRequest",
    {
        "query": "QuerySegment",
        "result": "SegmentFields",
        "target": "Literal['audio', 'video']",
        "from": "NotRequired[Literal['audio', 'video'] | None]",
    },
)


class StageTimes(TypedDict):
    decode_seconds: float
    encode_seconds: float
    write_seconds: float
    elapsed_seconds: float


class StageTimesBody(TypedDict):
    decode_seconds: float
    encode_seconds: float
    write_seconds: float
    elapsed_seconds: float
    slowest: Literal["decode", "encode", "write"]
    slowest_share: float


class SuggestedTagBody(TypedDict):
    tag: str
    probability: float


class SuggestedTagsBody(TypedDict):
    asset_id: str
    path: str
    key: str
    suggestions: list[SuggestedTagBody]
    accepted: list[str]
    declined: list[str]


class SuggestedTagsPageBody(TypedDict):
    assets: list[SuggestedTagsBody]
    next_cursor: str | None


class SwitchDocument(TypedDict):
    release_id: str
    previous: str | None
    switched_at: float
    switch_seconds: float
    seconds: float
    num_behind: int


class TagDecisions(TypedDict):
    accept: NotRequired[list[str]]
    decline: NotRequired[list[str]]


class TextDirection(TypedDict):
    direction: Direction
    separation: Separation


class TextEmbeddingsBody(TypedDict):
    bundle_id: str
    dtype: NotRequired[Literal["float16"] | None]
    texts: list[TextVector]


class TextVector(TypedDict):
    audio: list[float] | str | None
    video: list[float] | str | None


class Trial(TypedDict):
    golden_difference: float
    engine: str
    segment_seconds: float
    active_segment_seconds: float
    peak_bytes: int
    active_peak_bytes: int


class WaveformBody(TypedDict):
    start: float
    end: float
    pixels: int
    min: list[int]
    max: list[int]
