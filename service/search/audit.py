"""Finding files whose sound does not belong to their picture: dubbed, muxed with another file, silent, shifted in time.

    for finding in audit_library(index, silence=silent_track):
        print(finding.path, finding.verdict, finding.match_probability, finding.offset_seconds)

Nothing is decoded: everything is in the index. The library itself teaches what fits: scores of sound and picture of one
file against those of two files, by isotonic regression at even odds. A file that fits better with its sound moved
against the picture is shifted, by about that much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, with_config

from service.index.contract import Asset, Index, Segment, VectorQuery
from service.index.iteration import iter_segments
from service.search.calibration import MIN_ASSETS, TooFewPairs, iter_pairs
from service.search.prefetch import choose_prefetch
from service.search.snapshot import Snapshot
from service.system.modality import Modality, Track
from service.system.paths import show_path

Verdict = Literal["fits", "doubtful", "mismatch", "silent", "shifted"]

MAX_SEGMENTS = 8
"""At most this many segments of a long file are searched with, evenly spread."""
RANK_LIMIT = 10
MISMATCH, DOUBTFUL = 0.1, 0.5
"""Probabilities below which a file is called so."""
SURE = 0.99
"""A file that fits so well is not called shifted, whatever else fits."""
MIN_GAIN, MIN_DEVIATIONS = 0.02, 3.0
"""How much better a file must fit with its sound moved to be called shifted: in mean cosine, and in standard errors."""
CORRELATED_MOMENTS = 4
"""Neighbouring moments see and hear nearly the same: this many count as one."""
MIN_SHARE = 0.5
"""Share of the moments that must overlap at an offset, and minimum number of them."""
MIN_MOMENTS = 12
SILENT = 0.99
"""Mean cosine with the track of digital silence above which a sound is called silent."""
NUM_FALSE_PAIRS = 4
"""Other files that each file is compared with to learn what does not fit."""


@with_config(ConfigDict(use_attribute_docstrings=True))
@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the index says about one file."""

    asset_id: str
    path: str
    """Its path, printable."""
    verdict: Verdict
    """`shifted` and `silent` say why it does not fit, `mismatch` and `doubtful` how much."""
    match_probability: float
    """How likely the sound is the file's own and not that of another file, at even odds, in [0, 1]."""
    score: float
    """Mean cosine of its own sound and picture, in [-1, 1]."""
    rank: float
    """Mean rank of its picture among all for its sound, and the other way; 11 stands for all above 10."""
    offset_seconds: float
    """How much later the sound is than the picture, if it fits better so; else 0."""
    score_at_offset: float
    """Mean cosine there."""

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON values, rounded."""
        return asdict(self) | {
            "match_probability": round(self.match_probability, 4),
            "score": round(self.score, 4),
            "rank": round(self.rank, 2),
            "offset_seconds": round(self.offset_seconds, 3),
            "score_at_offset": round(self.score_at_offset, 4),
        }


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


def audit_library(
    index: Index,
    *,
    silence: Track | None = None,
    segment_seconds: float = 10.0,
    max_offset_seconds: float = 30.0,
    on_progress: Callable[[int], None] | None = None,
) -> list[Finding]:
    """Ask of every file with sound and picture whether they belong together; returns all, the least likely first.

    `silence` is the track of digital silence, float32, shape (T, D); without it no file is called silent. Moments
    divide `segment_seconds`, the length of a whole segment. `on_progress` gets the number of files done. Raises
    `TooFewPairs` if the library is too small to say what fits.
    """
    looks = []
    for number, asset in enumerate(iter_pairs(index), start=1):
        look = _look_at(index, asset, silence, segment_seconds, max_offset_seconds)
        if look is not None:
            looks.append(look)
        if on_progress is not None:
            on_progress(number)
    if len(looks) < MIN_ASSETS:
        raise TooFewPairs(f"{len(looks)} files have sound and picture together, {MIN_ASSETS} are needed")
    judged = zip(looks, _judge_scores(looks), strict=True)
    findings = [_to_finding(look, probability) for look, probability in judged]
    return sorted(findings, key=lambda finding: (finding.match_probability, finding.score, finding.asset_id))


def audit_release(
    snapshot: Snapshot, *, max_offset_seconds: float, on_progress: Callable[[int], None] | None = None
) -> list[Finding]:
    """Audit the library of a release, with silence encoded by its own encoder; see `audit_library`."""
    spec = snapshot.spec
    num_samples = round(spec.segment_seconds * spec.sample_rate_hz)
    silence = snapshot.encoder.encode_audio([np.zeros(num_samples, np.float32)])[0]
    return audit_library(
        snapshot.index,
        silence=silence,
        segment_seconds=spec.segment_seconds,
        max_offset_seconds=max_offset_seconds,
        on_progress=on_progress,
    )


def _look_at(
    index: Index, asset: Asset, silence: Track | None, segment_seconds: float, max_offset_seconds: float
) -> _Look | None:
    segments = list(iter_segments(index, asset))
    pairs = [(s.audio_track, s.video_track) for s in segments if s.audio_track is not None]
    paired = [(sound, picture) for sound, picture in pairs if picture is not None]
    if not paired:
        return None
    places = np.linspace(0, len(paired) - 1, min(MAX_SEGMENTS, len(paired))).astype(int)
    chosen = [paired[place] for place in places]
    ranks = []
    for sound, picture in chosen:
        ranks.append(_rank(index, picture, target="audio", asset_id=asset.asset_id))
        ranks.append(_rank(index, sound, target="video", asset_id=asset.asset_id))
    sounds, pictures = (np.stack(tracks) for tracks in zip(*chosen, strict=True))
    return _Look(
        asset=asset,
        sounds=sounds,
        pictures=pictures,
        score=_score(sounds, pictures),
        rank=float(np.mean(ranks)),
        offset=find_offset(segments, segment_seconds, max_offset_seconds),
        is_silent=silence is not None and float((sounds * silence).sum(axis=-1).mean()) > SILENT,
    )


def _score(sounds: NDArray[np.float32], pictures: NDArray[np.float32]) -> float:
    """Mean cosine of the moments of segments, shapes (S, T, D)."""
    return float((sounds * pictures).sum(axis=-1).mean())


def _judge_scores(looks: Sequence[_Look]) -> NDArray[np.float64]:
    """P(own sound | score) at even odds, shape (N,), from the files' own pairs and from sound of other files."""
    # The server does not need it to answer searches.
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415

    rng = np.random.default_rng(0)
    own = np.array([look.score for look in looks])
    false = []
    for at, look in enumerate(looks):
        for other in (at + 1 + rng.integers(len(looks) - 1, size=NUM_FALSE_PAIRS)) % len(looks):
            sounds = looks[other].sounds
            count = min(len(sounds), len(look.pictures))
            false.append(_score(sounds[:count], look.pictures[:count]))
    scores = np.concatenate([own, false])
    weights = np.concatenate([np.full(len(own), 1 / len(own)), np.full(len(false), 1 / len(false))])
    labels = np.concatenate([np.ones(len(own)), np.zeros(len(false))])
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, labels, weights)
    return np.asarray(model.predict(own), np.float64)


def _to_finding(look: _Look, probability: float) -> Finding:
    offset, gained, plain = look.offset
    return Finding(
        asset_id=look.asset.asset_id,
        path=show_path(look.asset.path),
        verdict=_judge(probability, is_shifted=offset != 0, is_silent=look.is_silent),
        match_probability=float(probability),
        score=look.score,
        rank=look.rank,
        offset_seconds=offset,
        score_at_offset=gained if offset else plain,
    )


def find_offset(
    segments: Sequence[Segment], segment_seconds: float, max_offset_seconds: float
) -> tuple[float, float, float]:
    """Compare the moments of sound and picture with one moved against the other.

    Returns how much later the sound is than the picture in seconds, 0 if moving it gains too little; the mean cosine
    there; and the mean cosine without moving.
    """
    tracks = (track for s in segments for track in (s.audio_track, s.video_track) if track is not None)
    step = segment_seconds / len(next(tracks))
    sound, picture = _lay_out(segments, "audio", step), _lay_out(segments, "video", step)
    cosines = _Cosines(sound, picture)
    plain, _ = cosines.at(0)
    reach = min(round(max_offset_seconds / step), len(sound) - 1)
    least = max(MIN_MOMENTS, MIN_SHARE * len(plain))
    before = float(plain.mean()) if len(plain) else 0.0
    best, gained = 0, before
    for lag in sorted(range(-reach, reach + 1), key=abs):
        found, _ = cosines.at(lag)
        if len(found) >= least and found.mean() > gained:
            best, gained = lag, float(found.mean())
    if best == 0 or gained - before < MIN_GAIN or cosines.deviations(best) < MIN_DEVIATIONS:
        return 0.0, before, before
    return best * step, gained, before


class _Cosines:
    """Cosines of sound and picture, on time lines as of `_lay_out`, with one moved against the other."""

    def __init__(self, sound: NDArray[np.float32], picture: NDArray[np.float32]) -> None:
        self._sound, self._picture = sound, picture

    def at(self, lag: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Cosines of the picture with the sound `lag` steps later, and the steps of the picture, shape (M,) each."""
        num_steps = len(self._picture)
        steps = np.arange(max(0, -lag), num_steps - max(0, lag))
        cosines = (self._sound[steps + lag] * self._picture[steps]).sum(axis=1)
        together = ~np.isnan(cosines)
        return cosines[together], steps[together]

    def deviations(self, lag: int) -> float:
        """How much better a lag fits than none, on the same pictures, in standard errors."""
        moved, steps = self.at(lag)
        plain, plain_steps = self.at(0)
        _, ours, theirs = np.intersect1d(steps, plain_steps, return_indices=True)
        gains = moved[ours] - plain[theirs]
        if len(gains) < MIN_MOMENTS:
            return 0.0
        error = gains.std(ddof=1) / np.sqrt(len(gains) / CORRELATED_MOMENTS)
        return float(gains.mean() / max(error, 1e-9))


def _lay_out(segments: Sequence[Segment], modality: Modality, step: float) -> NDArray[np.float32]:
    """Embeddings on one time line with equal steps, shape (N, D); rows of NaN if there is nothing."""
    tracks = [segment.audio_track if modality == "audio" else segment.video_track for segment in segments]
    present = (track for s in segments for track in (s.audio_track, s.video_track) if track is not None)
    end = max(segment.end_seconds for segment in segments)
    line = np.full((int(np.ceil(end / step)) + 1, next(present).shape[1]), np.nan, np.float32)
    for segment, track in zip(segments, tracks, strict=True):
        if track is not None:
            length = segment.end_seconds - segment.start_seconds
            times = segment.start_seconds + np.arange(len(track)) * length / len(track)
            line[np.round(times / step).astype(int)] = track
    return line


def _rank(index: Index, track: Track, *, target: Modality, asset_id: str) -> int:
    prefetch = choose_prefetch(track, limit=RANK_LIMIT)
    query = VectorQuery(track=track, target=target, limit=RANK_LIMIT, prefetch=prefetch)
    ids = [match.asset_id for match in index.search_assets(query)]
    return ids.index(asset_id) + 1 if asset_id in ids else RANK_LIMIT + 1


def _judge(probability: float, *, is_shifted: bool, is_silent: bool) -> Verdict:
    if is_shifted and probability < SURE:
        return "shifted"
    if probability >= DOUBTFUL:
        return "fits"
    if is_silent:
        return "silent"
    return "mismatch" if probability < MISMATCH else "doubtful"
