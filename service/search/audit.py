"""Finding files whose sound does not belong to their picture: dubbed, muxed with another file, silent, shifted in time.

    for finding in audit_release(snapshot, max_offset_seconds=30).findings:
        print(finding.path, finding.verdict, finding.match_probability, finding.offset_seconds)

Nothing is decoded: everything is in the index. The library itself teaches what fits: scores of sound and picture of one
file against those of two files, by isotonic regression at even odds. If the two hardly differ there is no audit, and
where they overlap a file is called neither right nor wrong. A file that fits better with its sound moved against the
picture is shifted, by about that much. Scores are cosines here, also of bundles that compare by dot product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, with_config

from models.bundle.bundle import MomentWeights
from service.index.contract import Asset, Index, VectorQuery
from service.index.iteration import iter_segments
from service.search.calibration import MIN_ASSETS, TooFewPairs, iter_pairs, says_nothing
from service.search.isotonic import fit_isotonic
from service.search.off_screen import Span, find_off_screen
from service.search.offset import find_offset, to_unit
from service.search.prefetch import choose_prefetch
from service.search.separation import Separation, draw_foreign, separate
from service.search.snapshot import Snapshot
from service.search.sources import check_comparable
from service.system.failure import Failure
from service.system.modality import Modality, Track
from service.system.paths import show_path

Mark = Literal["fixed", "not_a_fault"]
Verdict = Literal["mismatch", "silent", "shifted", "cannot_tell", "fits"]  # the order of findings

MAX_SEGMENTS = 8
"""At most this many segments of a long file are searched with, evenly spread."""
RANK_LIMIT = 10
MISMATCH, FITS = 0.1, 0.9
"""Probabilities up to which the sound is another file's, and from which it is the file's own; none in between."""
DOUBT = 0.5
"""Of one file: the weight of a foreign pair above all others, and of an own one below: a few extremes prove nothing."""
NUM_FOLDS = 10
"""A file is judged by curves that nine in ten of the others taught: its own pair may be the wrong one."""
SILENT = 0.99
"""Mean cosine with the track of digital silence above which a sound is called silent."""


class CannotTell(Failure):
    """The release tells a file's own sound from that of another no better than chance."""

    code = "cannot_tell"


@with_config(ConfigDict(use_attribute_docstrings=True, defer_build=True))
@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the index says about one file."""

    asset_id: str
    path: str
    """Its path, printable."""
    verdict: Verdict
    """`cannot_tell` if the release does not know; `shifted` and `silent` say why it does not fit."""
    match_probability: float | None
    """How likely the sound is the file's own and not another's, at even odds, in [0, 1]; null if it is silent or the
    picture never changes."""
    score: float
    """Mean cosine of its own sound and picture, in [-1, 1]."""
    rank: float
    """Mean rank of its picture among all for its sound, and the other way; 11 stands for all above 10."""
    offset_seconds: float
    """How much later the sound is than the picture, if it fits better so; else 0."""
    score_at_offset: float
    """Mean cosine there."""
    off_screen: Sequence[Span] | None = None
    """Spans [start, end) in seconds whose sound does not belong to the picture. Null if the release does not weigh
    moments (`foley-train agreement`), the file is silent, or the picture never changes."""
    mark: Mark | None = None
    """What somebody said of it: `fixed` or `not_a_fault`; null without a mark."""


_EXAMPLE: dict[str, Any] = {
    "findings": [
        {
            "asset_id": "5d2f3d2f6c5b6a1d0b7a8e9f4c3b2a1908f7e6d5c4b3a29180716f5e4d3c2b1a",
            "path": "/media/rain/late.mp4",
            "verdict": "shifted",
            "match_probability": 0.023,
            "score": -0.039,
            "rank": 4.7,
            "offset_seconds": 10.0,
            "score_at_offset": 0.58,
            "off_screen": [[0.0, 10.0]],
            "mark": None,
        }
    ],
    "num_files": 272,
    "verdicts": {"shifted": 13, "cannot_tell": 11, "fits": 248},
    "separation": {"auc": 0.97, "low": 0.95, "high": 0.98, "num_files": 272},
    "release_id": "agreement-0123456789ab",
    "weighs_moments": True,
    "num_marked": 0,
}


@with_config(
    ConfigDict(use_attribute_docstrings=True, defer_build=True, json_schema_extra={"examples": [_EXAMPLE]})
)
@dataclass(frozen=True, kw_only=True)
class Audit:
    """Files with sound and picture: first what is wrong, then what cannot be told, each with the least likely first."""

    findings: Sequence[Finding]
    num_files: int
    """Files that were looked at."""
    verdicts: Mapping[Verdict, int]
    """How many files have each verdict."""
    separation: Separation
    """How well the release tells a file's own sound from that of another file."""
    release_id: str
    """The release whose index was read."""
    weighs_moments: bool = False
    """Whether it knows which moments are off screen."""
    num_marked: int = 0
    """Files that were marked as fixed or as no fault; they are left out of the findings unless asked for."""

    def with_marks(self, marks: Mapping[str, Mark], *, shows_marked: bool = False) -> Audit:
        """The same audit with what people said of its files, by asset id; marked ones are left out by default."""
        known = [replace(one, mark=marks.get(one.asset_id)) for one in self.findings]
        kept = [one for one in known if shows_marked or one.mark is None]
        return replace(self, findings=kept, num_marked=sum(one.mark is not None for one in known))

    def to_json(self, *, limit: int) -> dict[str, Any]:
        """The audit as JSON values, with the first `limit` findings."""
        return asdict(replace(self, findings=self.findings[:limit]))


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What is kept of a file between two looks: some of its segments, and what was measured."""

    asset: Asset
    sounds: NDArray[np.float32]  # (S, T, D)
    pictures: NDArray[np.float32]  # (S, T, D)
    score: float
    rank: float
    offset: tuple[float, float, float]
    is_silent: bool
    off_screen: Sequence[Span] | None

    @property
    def says_nothing(self) -> bool:
        return self.is_silent or says_nothing(self.asset)


def audit_library(
    index: Index,
    *,
    silence: Track | None = None,
    segment_seconds: float = 10.0,
    max_offset_seconds: float = 30.0,
    release_id: str = "",
    moments: MomentWeights | None = None,
) -> Audit:
    """Ask of every file with sound and picture whether they belong together.

    `silence` is the track of digital silence, float32, shape (T, D), for files whose facts do not say whether they are
    silent. Moments divide `segment_seconds`, the length of a whole segment; `moments` says which of them belong to the
    picture. Raises `TooFewPairs` if the library is too small to say what fits, `CannotTell` if the release does not
    know.
    """
    seen = (
        _look_at(index, asset, silence, segment_seconds, max_offset_seconds, moments)
        for asset in iter_pairs(index)
    )
    looks = [look for look in seen if look is not None]
    separation, judged = _judge_scores(looks)
    findings = [_to_finding(look, *likely) for look, likely in zip(looks, judged, strict=True)]
    return Audit(
        findings=sorted(findings, key=_order),
        num_files=len(findings),
        verdicts=dict(Counter(finding.verdict for finding in findings)),
        separation=separation,
        release_id=release_id,
        weighs_moments=moments is not None,
    )


def audit_release(snapshot: Snapshot, *, max_offset_seconds: float) -> Audit:
    """Audit the library of a release, with silence encoded by its own encoder; see `audit_library`.

    Raises `NotEmbedded` or `NotComparable` if its bundle does not compare sound with picture.
    """
    check_comparable(snapshot.bundle, "audio", "video")
    spec = snapshot.spec
    num_samples = round(spec.segment_seconds * spec.sample_rate_hz)
    silence = snapshot.encoder.encode_audio([np.zeros(num_samples, np.float32)])[0]
    return audit_library(
        snapshot.index,
        silence=silence,
        segment_seconds=spec.segment_seconds,
        max_offset_seconds=max_offset_seconds,
        release_id=snapshot.release_id,
        moments=snapshot.bundle.moments(),
    )


def _look_at(
    index: Index,
    asset: Asset,
    silence: Track | None,
    segment_seconds: float,
    max_offset_seconds: float,
    moments: MomentWeights | None,
) -> _Look | None:
    segments = list(iter_segments(index, asset))
    pairs = [(s.audio_track, s.video_track) for s in segments]
    paired = [(s, p) for s, p in pairs if s is not None and p is not None]
    if not paired:
        return None
    places = np.linspace(0, len(paired) - 1, min(MAX_SEGMENTS, len(paired))).astype(int)
    chosen = [paired[place] for place in places]
    ranks = []
    for sound, picture in chosen:
        ranks.append(_rank(index, picture, target="audio", asset_id=asset.asset_id))
        heard = index.layout.to_query(sound, "audio")
        ranks.append(_rank(index, heard, target="video", asset_id=asset.asset_id))
    sounds, pictures = (np.stack([*map(to_unit, tracks)]) for tracks in zip(*chosen, strict=True))
    known = asset.media.get("is_silent")
    return _Look(
        asset=asset,
        sounds=sounds,
        pictures=pictures,
        score=_score(sounds, pictures),
        rank=float(np.mean(ranks)),
        offset=find_offset(segments, segment_seconds, max_offset_seconds),
        is_silent=(silence is not None and _score(sounds, to_unit(silence)) > SILENT)
        if known is None
        else known,
        off_screen=None if moments is None else find_off_screen(segments, moments),
    )


def _score(sounds: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Mean cosine of the moments of segments, shapes (S, T, D)."""
    return float((sounds * others).sum(axis=-1).mean())


def _judge_scores(looks: Sequence[_Look]) -> tuple[Separation, NDArray[np.float64]]:
    """How well own pairs are told from foreign ones, and P(own sound | score) at even odds, shape (N, 2).

    The columns are for the score of a file as it is, and at its offset. The files' own pairs teach, and sound of other
    files; silent and static files teach nothing, and neither does the own pair of a shifted one.
    """
    _check_number(len(looks))
    own, pairs = np.array([look.score for look in looks]), draw_foreign(len(looks))
    foreign = np.array([_score_foreign(looks[picture], looks[sound]) for picture, sound in pairs])
    separation = separate(own, foreign, pairs)
    if not separation.can_tell:
        raise CannotTell(
            f"the active release tells a file's own sound from that of another no better than chance ({separation}): "
            "it can say nothing of this library; train one on the library's own files"
        )
    is_telling = np.array([not look.says_nothing for look in looks])
    _check_number(int(is_telling.sum()))
    foreign = foreign[is_telling[pairs].all(axis=1)]
    teaches = is_telling & np.array([look.offset[0] == 0 for look in looks])
    if teaches.sum() < MIN_ASSETS:
        teaches = is_telling
    asked = np.array([(look.score, look.offset[1]) for look in looks])
    found, folds = np.empty((len(looks), 2)), np.arange(len(looks)) % NUM_FOLDS
    for fold in np.unique(folds):
        taught = own[teaches & (folds != fold)]
        scores = np.concatenate([taught, [-1.0], foreign, [1.0]])
        labels = np.repeat([1.0, 0.0], [len(taught) + 1, len(foreign) + 1])
        weights = np.concatenate(
            [np.full(len(taught), 1.0), [DOUBT], np.full(len(foreign), len(taught) / len(foreign)), [DOUBT]]
        )
        found[folds == fold] = np.interp(asked[folds == fold], *fit_isotonic(scores, labels, weights))
    return separation, found


def _check_number(num_files: int) -> None:
    if num_files < MIN_ASSETS:
        raise TooFewPairs(f"{num_files} files have sound and picture together, {MIN_ASSETS} are needed")


def _score_foreign(picture: _Look, sound: _Look) -> float:
    num_segments = min(len(picture.pictures), len(sound.sounds))
    return _score(sound.sounds[:num_segments], picture.pictures[:num_segments])


def _to_finding(look: _Look, likely: float, likely_moved: float) -> Finding:
    offset, gained, plain = look.offset
    verdict: Verdict = "cannot_tell"
    if look.says_nothing:
        verdict = "silent" if look.is_silent else "cannot_tell"
    elif likely >= FITS:
        verdict = "fits"
    elif offset and likely_moved >= FITS:
        verdict = "shifted"
    elif likely <= MISMATCH:
        verdict = "mismatch"
    is_shifted = verdict == "shifted"
    return Finding(
        asset_id=look.asset.asset_id,
        path=show_path(look.asset.path),
        verdict=verdict,
        match_probability=None if look.says_nothing else round(float(likely), 4),
        score=round(look.score, 4),
        rank=round(look.rank, 2),
        offset_seconds=round(offset, 3) if is_shifted else 0.0,
        score_at_offset=round(gained if is_shifted else plain, 4),
        off_screen=None if look.says_nothing else look.off_screen,
    )


def _order(finding: Finding) -> tuple[bool, bool, float, float, float, str]:
    """What is wrong first, then what cannot be told, the least likely first; then what fits, most off screen first."""
    likely = finding.match_probability or 0.0
    fits = finding.verdict == "fits"
    seconds = sum(end - start for start, end in finding.off_screen or ()) if fits else 0.0
    return fits, finding.verdict == "cannot_tell", -seconds, likely, finding.score, finding.asset_id


def _rank(index: Index, track: Track, *, target: Modality, asset_id: str) -> int:
    prefetch = choose_prefetch(track, limit=RANK_LIMIT)
    query = VectorQuery(track=track, target=target, limit=RANK_LIMIT, prefetch=prefetch)
    ids = [match.asset_id for match in index.search_assets(query)]
    return ids.index(asset_id) + 1 if asset_id in ids else RANK_LIMIT + 1
