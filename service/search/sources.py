"""Which modality of a query is searched by, and whether the active bundle can: what it embeds, and what compares."""

from __future__ import annotations

from collections.abc import Collection

from models.bundle.bundle import Bundle
from models.media.clip import NoStream
from service.search.options import SearchOptions
from service.system.failure import Failure
from service.system.modality import MODALITIES, NAMES, OPPOSITE, Modality, NotComparable, NotEmbedded


class UnusableQuery(Failure):
    """What a query names is not in the index; `errors`, for the client, name the parameter at fault."""

    code = "invalid_parameter"
    parameter = "asset_id"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errors = [{"parameter": self.parameter, "message": message}]


class ScoreOutOfRange(UnusableQuery):
    """The minimum score is one that no result can have."""

    parameter = "min_score"


def embedded(bundle: Bundle) -> tuple[Modality, ...]:
    """The modalities of media that a bundle embeds."""
    return tuple(modality for modality in MODALITIES if modality in bundle.manifest.tracks)


def check_embedded(bundle: Bundle, modality: Modality) -> None:
    """Raise `NotEmbedded` if a bundle does not embed a modality."""
    if modality not in bundle.manifest.tracks:
        what = [*embedded(bundle), *(["text"] if bundle.manifest.text else [])]
        raise NotEmbedded(f"the active bundle {bundle.bundle_id} embeds {' and '.join(what)}, no {modality}")


def check_comparable(bundle: Bundle, source: Modality, target: Modality) -> None:
    """Raise `NotEmbedded` or `NotComparable` if a search from one modality for another is none of the bundle's."""
    check_embedded(bundle, target)
    check_embedded(bundle, source)
    if source != target and not bundle.manifest.compares:
        raise NotComparable(
            f"the active bundle {bundle.bundle_id} does not compare sound and picture: "
            f"search with {NAMES[target]} for {NAMES[target]}"
        )


def check_options(options: SearchOptions, bundle: Bundle) -> None:
    """Raise `NotEmbedded` or `ScoreOutOfRange` if a bundle cannot have what a search asks for."""
    check_embedded(bundle, options.target)
    least = options.min_score
    if least is not None and bundle.manifest.similarity == "cosine" and abs(least) > 1.0:
        raise ScoreOutOfRange(f"scores of {bundle.bundle_id} are cosines, from -1 to 1, got {least:g}")


def choose_source(
    present: Collection[Modality], *, target: Modality, source: Modality | None, bundle: Bundle
) -> Modality:
    """Decide which modality of a query to search by: the opposite of the target if that compares, else the same.

    `present` are those that the query has. Raises `NoStream` if it lacks the one asked for, or what
    `check_comparable` raises.
    """
    check_embedded(bundle, target)
    opposite = OPPOSITE[target]
    if source is None and opposite in present and (bundle.manifest.compares or target not in present):
        source = opposite
    source = source or target
    check_comparable(bundle, source, target)
    if source not in present:
        raise NoStream(f"the query has no {source} to search from")
    return source
