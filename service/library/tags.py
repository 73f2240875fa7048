"""Tags that the library's own tags suggest for files that lack them, and what people decided about each.

    classifier = load_classifier(settings.data, bundle_id)
    suggest(index, asset, classifier)                       # nothing is written
    decide(index, asset_id, classifier, accept=["rain"])    # becomes metadata

`foley-train adapt --labels …` and `foley-train graph` learn a classifier: a file of arrays that holds for the tracks of
one bundle. It has one linear classifier a fold of the library; a file is judged by the one that has not seen its tags.
An accepted tag joins the asset's `tags` and is listed in `tags:accepted` too; one that is declined is listed in
`tags:declined` and not suggested again. So who said a tag stays visible, and moves with the metadata.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.index.contract import Asset, Filter, Index, Segment
from service.index.iteration import iter_assets, iter_segments
from service.index.words import DECLINED
from service.library.metadata import change_metadata
from service.system.failure import Failure
from service.system.files import replace_file
from service.system.modality import MODALITIES
from service.system.paths import show_path

FORMAT = 1
FOLDER = "tags"
ACCEPTED = ":accepted"
MAX_FILE_BYTES = 1 << 28
KINDS = ("both", "audio", "video")
"""What a file may have; each kind has thresholds of its own."""

Floats = NDArray[np.float32]


class NoClassifier(Failure):
    """Nothing can suggest tags for the active bundle, or the file of a classifier is damaged."""

    code = "no_classifier"


class NotSuggested(Failure):
    """A tag that was neither suggested for an asset nor decided about."""

    code = "invalid_parameter"

    @property
    def errors(self) -> list[dict[str, str]]:
        """The parameter at fault, for an answer over HTTP."""
        return [{"parameter": "accept, decline", "message": str(self)}]


@dataclass(frozen=True, kw_only=True)
class TagClassifier:
    """What judges the vectors of segments.

    Attributes:
        bundle_id: Whose tracks it reads.
        key: Key of the metadata that holds the tags.
        names: The C tags.
        has_many: Whether a file may have several.
        weights: Of each fold, shape (K, C, D).
        biases: Shape (K, C).
        thresholds: Least probability by kind of file (`KINDS`), shape (3, C); NaN for a tag that is not suggested.
    """

    bundle_id: str
    key: str
    names: tuple[str, ...]
    has_many: bool
    weights: Floats
    biases: Floats
    thresholds: Floats

    def __post_init__(self) -> None:
        num_folds, num_tags, _ = self.weights.shape
        shapes = (num_folds, num_tags), (len(KINDS), num_tags), (num_tags,)
        if (self.biases.shape, self.thresholds.shape, (len(self.names),)) != shapes:
            raise ValueError("its arrays do not fit together")

    def judge(self, asset_id: str, vectors: Floats) -> Floats:
        """Probability of each tag by the fold that has not seen the file: unit vectors (N, D) → (N, C)."""
        fold = int(asset_id[8:16], 16) % len(self.weights)
        logits = vectors @ self.weights[fold].T + self.biases[fold]
        if self.has_many:
            return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def read_classifier(file: Path) -> TagClassifier:
    """Read the file of a classifier; raises `NoClassifier` if it is none."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        with np.load(file, allow_pickle=False) as arrays:
            if int(arrays["format"]) != FORMAT:
                raise ValueError(f"its format is {arrays['format']}, not {FORMAT}")
            return TagClassifier(
                bundle_id=str(arrays["bundle_id"]),
                key=str(arrays["key"]),
                names=tuple(map(str, arrays["names"])),
                has_many=bool(arrays["has_many"]),
                weights=arrays["weights"].astype(np.float32),
                biases=arrays["biases"].astype(np.float32),
                thresholds=arrays["thresholds"].astype(np.float32),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as exc:
        raise NoClassifier(f"{file} is no classifier of tags: {exc}") from exc


def keep_classifier(data: Path, file: Path) -> TagClassifier:
    """Copy a classifier into a data folder, where it replaces that of the same bundle."""
    classifier = read_classifier(file)
    _check_id(classifier.bundle_id)
    kept = _place(data, classifier.bundle_id)
    kept.parent.mkdir(parents=True, exist_ok=True)
    replace_file(kept, file.read_bytes())
    return classifier


def has_classifier(data: Path, bundle_id: str) -> bool:
    """Whether tags were learned for a bundle."""
    return _place(data, bundle_id).exists()


def load_classifier(data: Path, bundle_id: str) -> TagClassifier:
    """The classifier of a bundle; raises `NoClassifier` if there is none."""
    kept = _place(data, bundle_id)
    if not kept.exists():
        raise NoClassifier(
            f"nothing has learned tags for {bundle_id}: foley-train adapt --labels metadata:tags … (or foley-train "
            "graph), then foley suggest-tags --classifier FILE"
        )
    classifier = _read_once(kept, kept.stat().st_mtime_ns)
    if classifier.bundle_id != bundle_id:
        raise NoClassifier(f"{kept} is of {classifier.bundle_id}, not of {bundle_id}")
    return classifier


def _place(data: Path, bundle_id: str) -> Path:
    return data / FOLDER / f"{bundle_id}.npz"


def _check_id(bundle_id: str) -> None:
    if not bundle_id or os.sep in bundle_id or bundle_id.startswith("."):
        raise NoClassifier(f"{bundle_id[:80]!r} is no bundle")


@lru_cache(maxsize=2)
def _read_once(file: Path, modified_ns: int) -> TagClassifier:
    return read_classifier(file)


@dataclass(frozen=True, kw_only=True)
class SuggestedTags:
    """What is suggested for an asset, the likeliest first, and what was decided about it."""

    asset: Asset
    key: str
    probabilities: Mapping[str, float]
    accepted: tuple[str, ...]
    declined: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "asset_id": self.asset.asset_id,
            "path": show_path(self.asset.path),
            "key": self.key,
            "suggestions": [
                {"tag": tag, "probability": probability} for tag, probability in self.probabilities.items()
            ],
            "accepted": list(self.accepted),
            "declined": list(self.declined),
        }


def suggest(index: Index, asset: Asset, classifier: TagClassifier) -> SuggestedTags:
    """What is suggested for an asset: tags that it has not, as likely as they were right often enough elsewhere."""
    key = classifier.key
    tags, accepted, declined = (_texts(asset.metadata.get(key + end)) for end in ("", ACCEPTED, DECLINED))
    decided = {*tags, *accepted, *declined}
    found: dict[str, float] = {}
    if (classifier.has_many or not tags) and not decided.issuperset(classifier.names):
        likely = _judge_asset(iter_segments(index, asset), asset, classifier)
        least = classifier.thresholds[_kind(asset)]
        for place in np.argsort(-likely, kind="stable"):
            name = classifier.names[place]
            if likely[place] >= least[place] and name not in decided:  # NaN: never
                found[name] = round(float(likely[place]), 4)
    return SuggestedTags(
        asset=asset,
        key=key,
        probabilities=found,
        accepted=tuple(tag for tag in accepted if tag in tags),
        declined=tuple(declined),
    )


def iter_suggestions(
    index: Index, classifier: TagClassifier, filter: Filter | None = None
) -> Iterator[SuggestedTags]:
    """Every asset that passes the filter and has suggestions, in the order of the index."""
    for asset in iter_assets(index, filter=filter):
        found = suggest(index, asset, classifier)
        if found.probabilities:
            yield found


def decide(
    index: Index,
    asset_id: str,
    classifier: TagClassifier,
    *,
    accept: Sequence[str] = (),
    decline: Sequence[str] = (),
) -> SuggestedTags | None:
    """Accept suggestions for an asset, and decline others; an earlier decision may be turned round.

    Returns what is suggested now, None if there is no such asset. Raises `NotSuggested` if a tag was neither suggested
    nor decided about, or is to be accepted and declined.
    """
    asset = index.get_asset(asset_id)
    if asset is None:
        return None
    known = suggest(index, asset, classifier)
    allowed = {*known.probabilities, *_texts(asset.metadata.get(classifier.key + ACCEPTED)), *known.declined}
    for tag in (*accept, *decline):
        if tag not in allowed:
            raise NotSuggested(f"{tag[:80]!r} is not suggested for {asset_id}")
    if both := set(accept) & set(decline):
        raise NotSuggested(f"{', '.join(sorted(both))} cannot be accepted and declined")
    changed = change_metadata(
        index, asset_id, lambda old: _decided(old, classifier.key, set(accept), set(decline))
    )
    return suggest(index, changed, classifier) if changed else None


def _decided(old: Mapping[str, Any], key: str, accept: set[str], decline: set[str]) -> dict[str, Any]:
    """Changes of an asset's metadata; a tag that people gave themselves stays theirs."""
    given = old.get(key, [])
    tags = list(given) if isinstance(given, list) else [given]
    accepted, declined = _texts(old.get(key + ACCEPTED)), _texts(old.get(key + DECLINED))
    new = accept - set(map(str, tags))
    dropped = decline & set(accepted)
    tags = [tag for tag in tags if str(tag) not in dropped] + sorted(new)
    accepted = [tag for tag in accepted if tag not in decline] + sorted(new - set(accepted))
    declined = [tag for tag in declined if tag not in accept] + sorted(decline - set(declined))
    return {key: tags or None, key + ACCEPTED: accepted or None, key + DECLINED: declined or None}


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for one in values if one is not None and (text := str(one).strip())]


def _kind(asset: Asset) -> int:
    return 0 if len(asset.modalities) > 1 else KINDS.index(asset.modalities[0])


def _judge_asset(segments: Iterator[Segment], asset: Asset, classifier: TagClassifier) -> Floats:
    """Probability of each tag: of the segment that has most of it, each the mean of its sound and picture, (C,)."""
    best = np.zeros(len(classifier.names), np.float32)
    for segment in segments:
        tracks = [getattr(segment, f"{modality}_track") for modality in MODALITIES]
        vectors = np.stack([_pool(track) for track in tracks if track is not None])
        best = np.maximum(best, classifier.judge(asset.asset_id, vectors).mean(axis=0))
    return best


def _pool(track: Floats) -> Floats:
    """The unit mean of a track's moments, each of unit length, as in training."""
    rows = track / np.maximum(np.linalg.norm(track, axis=1, keepdims=True), 1e-12)
    mean = rows.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
