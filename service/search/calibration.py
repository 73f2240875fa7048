"""What a score means: how often a result with this score is the sound or the picture that belongs to the query.

    pairs = sample_pairs(index, choose_queries(index, num_queries=500, seed=0), target="audio")
    direction = fit_direction(pairs)
    direction.best.probability(0.62)    # 0.91

Every asset with sound and picture is a true pair; everything else that a search returns for it is a false one. Each
sampled query counts twice, with its own asset among the results and without, because a query from outside may have no
match in the library. So P(match | score, direction) is the share of true pairs among the results a user would see, at
even odds that there is anything to find. The best result of a query is more often the match than a later one with the
same score, so both have a curve of their own: isotonic regression (Zadrozny and Elkan, 2002), kept as a table. A third
of the assets is held out and measures the expected calibration error (Guo et al., 2017).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from service.index.contract import Asset, Filter, Index, VectorQuery
from service.index.iteration import iter_assets
from service.search.isotonic import fit_isotonic
from service.search.prefetch import choose_prefetch
from service.search.separation import Separation
from service.system.failure import Failure
from service.system.modality import OPPOSITE, Modality

NUM_RESULTS = 10
MIN_ASSETS = 30
"""With fewer assets that have both modalities a curve would say more than is known."""
HELD_OUT = 3
"""One asset in this many is held out."""
NUM_BINS = 15


class TooFewPairs(Failure):
    """The library has too few assets with sound and picture to learn from."""

    code = "too_few_pairs"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Results of sampled queries in one direction, shape (N,) but for the ranks."""

    target: Modality
    scores: NDArray[np.float64]  # diagonal means
    matches: NDArray[np.bool_]  # whether the result is of the query's own asset
    is_first: NDArray[np.bool_]  # whether it was the best result of its query
    is_held_out: NDArray[np.bool_]  # whether its query belongs to a held-out asset
    num_queries: int
    ranks: NDArray[np.int64]  # of each query's own asset, from 1; 0 if not found, -1 without a track

    def recall(self, k: int) -> float:
        """Share of the queries whose own asset is among the best k, in [0, 1]."""
        return float(((self.ranks >= 1) & (self.ranks <= k)).sum() / max(self.num_queries, 1))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """P(match | score) in one direction and place: linear between points, constant beyond them.

    `scores` rise, `probabilities` never fall. `error` is the expected calibration error on the `num_held_out`
    held-out pairs; `num_pairs` others taught the curve.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    error: float
    num_pairs: int
    num_held_out: int

    def __post_init__(self) -> None:
        scores, probabilities = np.asarray(self.scores), np.asarray(self.probabilities)
        if len(scores) == 0 or scores.shape != probabilities.shape or not (np.diff(scores) > 0).all():
            raise ValueError("a curve needs rising scores, and a probability for each")
        if not ((probabilities >= 0) & (probabilities <= 1)).all() or (np.diff(probabilities) < 0).any():
            raise ValueError("probabilities must lie in [0, 1] and never fall")

    def probability(self, score: float) -> float:
        """P(match | score) of a diagonal mean in [-1, 1]."""
        return float(np.interp(score, self.scores, self.probabilities))


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What scores mean in one direction: a curve for the `best` result of a query and one for every `further` result.

    `error` is the expected calibration error over all held-out pairs, in [0, 1].
    """

    best: Curve
    further: Curve
    error: float
    num_queries: int


@dataclass(frozen=True, kw_only=True)
class TextDirection:
    """What scores of texts mean, learned from captions, and how well own captions score above foreign ones."""

    direction: Direction
    separation: Separation


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the scores of one release mean, by target; `num_assets` is the size of the library it was learned from.

    `separation` is None in calibrations of before it was measured. `texts` is empty without captions.
    """

    directions: Mapping[Modality, Direction]
    num_assets: int
    separation: Separation | None = None
    texts: Mapping[Modality, TextDirection] = field(default_factory=dict)

    @property
    def can_tell(self) -> bool:
        """Whether scores say more than chance."""
        return self.separation is None or self.separation.can_tell

    @property
    def num_captions(self) -> dict[Modality, int]:
        """Captions from which scores of texts were learned, by target."""
        return {target: known.direction.num_queries for target, known in self.texts.items()}

    def probability(self, score: float, *, target: Modality, is_best: bool) -> float | None:
        """P(match | score, direction, place); None if that was never learned, or scores say no more than chance."""
        direction = self.directions.get(target)
        if direction is None or not self.can_tell:
            return None
        return (direction.best if is_best else direction.further).probability(score)

    def text_probability(self, score: float, *, target: Modality, is_best: bool) -> float | None:
        """P(match | score, place) of a text; None if that was never learned, or scores say no more than chance."""
        known = self.texts.get(target)
        if known is None or not known.separation.can_tell:
            return None
        return (known.direction.best if is_best else known.direction.further).probability(score)

    def to_json(self) -> dict[str, Any]:
        """The calibration as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` wrote; raises `ValueError` if it is something else."""
        return TypeAdapter(cls).validate_python(fields)


@dataclass(kw_only=True)
class PairRows:
    """Results of sampled queries as they come: score, match, first, held out; and the rank of each query's own."""

    rows: list[tuple[float, bool, bool, bool]] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    def add(self, scores: Sequence[float], own: Sequence[bool], *, held_out: bool) -> None:
        """Add what one query found, best first: with its own among the results, and without."""
        self.ranks.append(own.index(True) + 1 if any(own) else 0)
        present = list(zip(scores, own, strict=True))[:NUM_RESULTS]
        absent = [(score, False) for score, is_own in zip(scores, own, strict=True) if not is_own][
            :NUM_RESULTS
        ]
        for results in (present, absent):
            self.rows += [(score, hit, rank == 0, held_out) for rank, (score, hit) in enumerate(results)]

    def to_pairs(self, target: Modality) -> Pairs:
        """All of them."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [(), (), (), ()]
        return Pairs(
            target=target,
            scores=np.array(columns[0], np.float64),
            matches=np.array(columns[1], bool),
            is_first=np.array(columns[2], bool),
            is_held_out=np.array(columns[3], bool),
            num_queries=sum(rank >= 0 for rank in self.ranks),
            ranks=np.array(self.ranks, np.int64),
        )


def iter_pairs(index: Index) -> Iterator[Asset]:
    """Every asset of the library that has both sound and picture."""
    assets = iter_assets(index, filter=Filter(modality="audio"))
    return (asset for asset in assets if "video" in asset.modalities)


def says_nothing(asset: Asset) -> bool:
    """Whether an asset is silent, or its picture never changes: it fits everything and nothing."""
    return bool(asset.media.get("is_silent") or asset.media.get("is_static"))


def choose_queries(index: Index, *, num_queries: int, seed: int) -> list[tuple[Asset, int]]:
    """Draw assets with sound and picture, and one segment of each; raises `TooFewPairs` below `MIN_ASSETS`."""
    telling = (asset for asset in iter_pairs(index) if not says_nothing(asset))
    assets = sorted(telling, key=lambda asset: asset.asset_id)
    if len(assets) < MIN_ASSETS:
        count = f"{len(assets)} assets have sound and picture, {MIN_ASSETS} are needed"
        raise TooFewPairs(f"{count}; silent and static ones do not count")
    rng = random.Random(seed)  # noqa: S311 - a sample, no secret
    chosen = rng.sample(assets, min(num_queries, len(assets)))
    return [(asset, rng.randrange(asset.num_segments)) for asset in chosen]


def sample_pairs(
    index: Index,
    queries: Sequence[tuple[Asset, int]],
    *,
    target: Modality,
    num_ranks: int = NUM_RESULTS + 1,
) -> Pairs:
    """Search with stored segments that have the modality; each counts with its own asset found, and without.

    Ranks up to `num_ranks` are told apart.
    """
    rows = PairRows()
    for asset, number in queries:
        stored = index.get_track(asset.asset_id, index=number, modality=OPPOSITE[target])
        if stored is None:
            rows.ranks.append(-1)
            continue
        track = index.layout.to_query(stored, OPPOSITE[target])
        prefetch = choose_prefetch(track, limit=NUM_RESULTS)
        query = VectorQuery(track=track, target=target, limit=num_ranks, prefetch=prefetch)
        matches = index.search_assets(query)
        own = [match.asset_id == asset.asset_id for match in matches]
        rows.add([match.score for match in matches], own, held_out=is_held_out(asset.asset_id))
    return rows.to_pairs(target)


def is_held_out(asset_id: str) -> bool:
    """Whether an asset only tests what others taught: the same in every run and every release."""
    return hashlib.sha256(f"calibration {asset_id}".encode()).digest()[0] % HELD_OUT == 0


def fit_direction(pairs: Pairs) -> Direction:
    """Learn the curves of one direction from the pairs not held out, and measure them on the rest; see `fit_curve`."""
    best = fit_curve(pairs, pairs.is_first)
    further = fit_curve(pairs, ~pairs.is_first)
    found = np.where(
        pairs.is_first,
        np.interp(pairs.scores, best.scores, best.probabilities),
        np.interp(pairs.scores, further.scores, further.probabilities),
    )
    held_out = pairs.is_held_out
    error = calibration_error(found[held_out], pairs.matches[held_out])
    return Direction(best=best, further=further, error=error, num_queries=pairs.num_queries)


def fit_curve(pairs: Pairs, chosen: NDArray[np.bool_]) -> Curve:
    """Learn one curve from chosen pairs, bool, shape (N,); raises `TooFewPairs` if none teach or none are held out."""
    taught, held_out = chosen & ~pairs.is_held_out, chosen & pairs.is_held_out
    if not taught.any() or not held_out.any():
        raise TooFewPairs(f"{chosen.sum()} pairs leave none to learn from, or none to test with")
    scores, probabilities = fit_isotonic(pairs.scores[taught], pairs.matches[taught].astype(np.float64))
    found = np.interp(pairs.scores[held_out], scores, probabilities)
    return Curve(
        scores=tuple(scores.tolist()),
        probabilities=tuple(probabilities.tolist()),
        error=calibration_error(found, pairs.matches[held_out]),
        num_pairs=int(taught.sum()),
        num_held_out=int(held_out.sum()),
    )


def calibration_error(probabilities: NDArray[np.float64], matches: NDArray[np.bool_]) -> float:
    """Expected calibration error: how far probabilities are from frequencies, averaged over bins of equal width.

    Both are of shape (N,). Returns the mean over the pairs of |mean probability - frequency| of their bin, in [0, 1].
    """
    if len(probabilities) == 0:
        return 0.0
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=probabilities - matches, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(probabilities))
