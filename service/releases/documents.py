"""What is known of a release as it stands on disk, leaves over HTTP and is printed by commands: each document once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic takes the one of `typing` from Python 3.12 on

from models.bundle.bundle import Manifest, Similarity
from service.index.layout import VectorLayout
from service.system.modality import MODALITIES, Modality, name_direction
from service.system.storage import Storage
from service.system.text import count

Outcome = Literal["building", "ready", "refused"]
Side = Literal["new", "active"]
Verdict = Literal["passed", "failed", "cannot_tell"]
_DESCRIBED = with_config(ConfigDict(use_attribute_docstrings=True, defer_build=True))


@_DESCRIBED
class Gate(TypedDict):
    """One thing that was measured of a release."""

    gate: str
    """Name of the gate."""
    value: float
    """What was measured of the new release."""
    active: float | None
    """The same of the active release, if it has one."""
    limit: float | None
    """The bound of the value; null if there is none."""
    passed: bool
    """False if the release is refused because of it."""
    verdict: NotRequired[Verdict]
    """`cannot_tell` if there are too few pairs to tell whether recall fell by more than is allowed."""
    reason: str
    """The result in words."""


@_DESCRIBED
class Trial(TypedDict):
    """How a bundle did in a process of its own (`service.releases.trial`)."""

    golden_difference: float
    """Largest difference of any number from the golden tracks."""
    engine: str
    """Inference engine and precision."""
    segment_seconds: float
    """Time to encode one segment with sound and picture."""
    active_segment_seconds: float
    """The same of the active bundle, measured in turns with it."""
    peak_bytes: int
    """Maximum memory of the process after it had encoded."""
    active_peak_bytes: int
    """The same of the active bundle, in a process of its own."""


@_DESCRIBED
class Recall(TypedDict):
    """Share of sampled queries whose own asset is among the best 1, 5 and 10 results, in [0, 1]."""

    at_1: float
    at_5: float
    at_10: float
    median_rank: NotRequired[float]
    """Median rank of the own asset; 101 stands for all above 100."""


@_DESCRIBED
class Gates(TypedDict, total=False):
    """What was measured of a release; empty before that, and without figures if its trial failed."""

    passed: bool
    """Whether every gate passed."""
    reasons: list[str]
    """Why the release was refused."""
    undecided: list[str]
    """What too few pairs could not tell; the release is not refused for it."""
    gates: list[Gate]
    """Every gate, passed or not."""
    recall: dict[Side, dict[Modality, Recall]]
    """Recall of the new and of the active release, by what was searched for."""
    trial: Trial
    """How its bundle ran."""


@_DESCRIBED
class Estimate(TypedDict):
    """What a build was expected to take."""

    num_segments: int
    """Segments to embed."""
    num_bytes: int
    """Disk space of its index."""
    encoder_seconds: float
    """Time of the encoder."""


class FailedAsset(TypedDict):
    """A file of the library that could not be embedded, and why."""

    path: str
    code: str
    reason: str


@_DESCRIBED
class DerivedAgreement(TypedDict):
    """How far derived tracks are from those of the same media embedded: what storing both costs is in it."""

    num_compared: int
    """Assets that were embedded from their media too."""
    lowest_cosine: float
    """The lowest cosine of a derived embedding and the embedded one, of all their moments; 1 is the same."""
    parent_storage: Storage
    """How the tracks are stored that were derived from."""
    storage: Storage
    """How the derived ones are stored."""


@_DESCRIBED
class LibraryCounts(TypedDict, total=False):
    """What was embedded when a release was built, and what that took; empty before."""

    num_assets: int
    """Assets of the library."""
    num_beyond: int
    """Assets of which the bundle embeds nothing; they are among the missing ones."""
    num_embedded: int
    """Assets that the build embedded."""
    num_derived: int
    """Assets whose tracks were computed from the stored ones of the parent, without their media."""
    derived_agreement: DerivedAgreement
    """What that cost; absent if nothing was derived, or no sampled file was there to compare with."""
    num_relabelled: int
    """Assets whose paths or metadata were brought up to date."""
    num_deleted: int
    """Assets that were removed because the library no longer has them."""
    failed: list[FailedAsset]
    """The first 100 files that could not be embedded."""
    is_interrupted: bool
    """Whether it was stopped before its end."""
    num_segments: int
    """Segments of the index afterwards."""
    seconds: float
    """How long it took."""
    estimate: Estimate


@_DESCRIBED
class Forced(TypedDict):
    """Who activated a release against its gates."""

    who: str
    why: str
    at: str
    """When: seconds since 1970."""


class ReleaseRecord(TypedDict):
    """A release as the store keeps it: one encoder pair, one generation of the index, one calibration."""

    # Descriptions that a class which inherits these fields keeps.
    release_id: str
    bundle_id: str
    outcome: Annotated[Outcome, Field(description="`building` until its gates are measured.")]
    created_at: Annotated[float, Field(description="Seconds since 1970.")]
    library: LibraryCounts
    missing: Annotated[Sequence[str], Field(description="Ids of assets that could not be embedded.")]
    gates: Gates
    token: Annotated[str, Field(description="The job that built it.")]
    forced: Annotated[Forced | None, Field(description="Who activated it against its gates, and why.")]


@_DESCRIBED
class BundleFacts(TypedDict):
    """What a bundle embeds, and what of it can be compared."""

    tracks: dict[Modality, tuple[int, int]]
    """What it embeds: for each modality the moments T and the width D of a segment's track."""
    compares: bool
    """Whether sound can be compared with picture; if not, like is found with like."""
    similarity: Similarity
    """What scores are made of: `dot` has no bounds."""
    weighs_moments: bool
    """Whether moments of sound count by how much they belong to the picture of their file."""
    text_targets: list[Modality]
    """What words are compared with; empty if it embeds no words."""
    attribution: list[str]
    """Whose work its weights are, and under which licence."""


@_DESCRIBED
class ReleaseDocument(ReleaseRecord):
    """A release: one encoder pair, one generation of the index, one calibration."""

    state: Literal["active", "building", "ready", "refused"]
    """`active`, or its outcome."""
    is_previous: bool
    """Whether a rollback activates it."""
    has_calibration: bool
    """Whether its answers say how likely a result is."""
    num_captions: dict[Modality, int]
    """Captions from which scores of texts were learned, by target; none of a target without enough of them."""
    bundle: BundleFacts | None
    """What its bundle embeds; null if the bundle cannot be read."""


@_DESCRIBED
class ReleaseList(TypedDict):
    """All releases, the oldest first."""

    releases: list[ReleaseDocument]
    active: str
    """The active release."""


@_DESCRIBED
class SwitchDocument(TypedDict):
    """What a switch did."""

    release_id: str
    """The release that is active now."""
    previous: str | None
    """The release that a rollback activates."""
    switched_at: float
    """Seconds since 1970."""
    switch_seconds: float
    """Time of the switch itself, until the first request gets the new release."""
    seconds: float
    """Time of all of it: opening the release, catching up, switching."""
    num_behind: int
    """Assets of the library that the release does not hold yet; a job embeds them."""


def describe_bundle(manifest: Manifest) -> BundleFacts:
    """What a bundle embeds."""
    layout, text = VectorLayout.of(manifest), manifest.text
    return {
        "tracks": dict(layout.tracks),
        "compares": manifest.compares,
        "similarity": manifest.similarity,
        "weighs_moments": manifest.weighs_moments,
        "text_targets": [] if text is None else [name for name in MODALITIES if name in text.outputs],
        "attribution": list(manifest.attribution),
    }


def name_gate(gate: Gate) -> str:
    """The name of a gate for people."""
    _, _, target = gate["gate"].partition("_to_")
    return f"recall, {name_direction(cast(Modality, target))}" if target else gate["gate"]


def show_verdict(gate: Gate) -> str:
    """Whether a gate passed, for people; gates of before know no verdict."""
    return gate.get("verdict", "passed" if gate["passed"] else "failed").replace("_", " ")


def explain_derived(library: LibraryCounts) -> str | None:
    """What deriving cost, in words; None if the release embedded everything."""
    if not library.get("num_derived"):
        return None
    found = library.get("derived_agreement")
    cost = (
        f"stored as {found['parent_storage']} before and {found['storage']} now: of "
        f"{count(found['num_compared'], 'asset')} embedded from media too, the lowest cosine of an embedding is "
        f"{found['lowest_cosine']:.5f}"
        if found
        else "golden tracks alone were compared: no sampled file is there any more"
    )
    return f"{count(library['num_derived'], 'asset')} derived from stored tracks, without media; {cost}"


def explain_refusal(release: ReleaseRecord) -> str:
    """Why a release was refused, and how it is activated all the same."""
    reasons = "; ".join(release["gates"].get("reasons", ())) or "its gates failed"
    how = (
        f"To activate it all the same, give a reason: `foley releases activate {release['release_id']} --force WHY`, "
        "over HTTP `force`"
        if release["gates"].get("gates")
        else "It was not measured to the end: it cannot be forced"
    )
    return f"release {release['release_id']} was refused: {reasons}. {how}"
