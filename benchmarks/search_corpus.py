"""Tracks like those of a large library, made again from their seed a part at a time, for `benchmarks.search_speed`.

Each segment lies around one of 300 centres. Its tracks are the centre, plus .6 of noise that all moments share, plus
.8 of noise of each moment, in all D directions, scaled to unit length, as in `benchmarks.index_speed`. A query is a
stored segment as its other modality would give it: the same centre, .8 of the shared noise, and new noise for each
moment. So the nearest segment is certain and the next nine are close to each other, which is what makes a search
inexact. A part takes .2 core-seconds, so no tracks are kept: a million of them would be 25 GB. The noise of moments is
drawn from as many rows as a part has, shuffled for each: segments of different parts do not share a row but by chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NUM_MOMENTS = 16
NUM_CENTRES = 300
PART = 2000  # segments
ASSET_SEGMENTS = 250
SHARED, KEPT = 0.6, 0.8
LIMIT = 10
CENTRES, PLACES, NOISE, CHOSEN, NEW, QUERY_NOISE = range(6)  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Segments to store and queries.

    Attributes:
        folder: Keeps the pooled vectors and the best segments of each query, made once.
        num_segments: Number of segments.
        width: Numbers of a moment.
        num_queries: Number of queries.
        own_noise: Noise of each moment; more makes the moments of a segment less alike.
    """

    folder: Path
    num_segments: int
    width: int
    num_queries: int
    own_noise: float

    @property
    def name(self) -> str:
        """What tells the segments from those of other corpora."""
        return f"{self.num_segments}-{self.width}-{self.own_noise}"

    def firsts(self) -> range:
        """The first segments of all parts."""
        return range(0, self.num_segments, PART)

    def tracks(self, first: int) -> NDArray[np.float32]:
        """Return the tracks of a part, shape (n, T, D)."""
        centre, shared = self._places(first)
        return self._add_noise(self._noise, first, centre + SHARED * shared)

    @cached_property
    def queries(self) -> NDArray[np.float32]:
        """Queries, shape (Q, T, D)."""
        rng = np.random.default_rng(CHOSEN)
        noise = self._make_noise(QUERY_NOISE)
        chosen = np.sort(rng.choice(self.num_segments, self.num_queries, replace=False))
        queries = []
        for first in np.unique(chosen // PART * PART).tolist():
            mine = chosen[chosen // PART * PART == first] - first
            centre, shared = (rows[mine] for rows in self._places(first))
            new = np.random.default_rng([NEW, first]).standard_normal(shared.shape, dtype=np.float32)
            changed = KEPT * shared + (1 - KEPT**2) ** 0.5 * new
            queries.append(self._add_noise(noise, first, centre + SHARED * changed))
        return rng.permutation(np.concatenate(queries))

    @cached_property
    def pooled_queries(self) -> NDArray[np.float32]:
        """The pooled vectors of the queries, shape (Q, D)."""
        return unit(self.queries.mean(axis=1))

    @cached_property
    def pooled(self) -> NDArray[np.float32]:
        """The pooled vectors of all segments, shape (N, D), a memory map."""
        self._go_through()
        return np.load(self._pooled_path, mmap_mode="r")  # type: ignore[no-any-return]

    def exact_segments(self) -> NDArray[np.int64]:
        """Return the best segments of each query by diagonal mean, in no order, shape (Q, LIMIT)."""
        self._go_through()
        return np.load(self._exact_path)  # type: ignore[no-any-return]

    def exact_pooled(self) -> NDArray[np.int64]:
        """Return the nearest segments of each query by pooled vector, in no order, shape (Q, LIMIT)."""
        return find_best((self.pooled[n : n + PART] for n in self.firsts()), self.pooled_queries)

    @property
    def _pooled_path(self) -> Path:
        return self.folder / f"pooled-{self.name}.npy"

    @property
    def _exact_path(self) -> Path:
        return self.folder / f"exact-{self.name}-{self.num_queries}.npy"

    def _go_through(self) -> None:
        if self._exact_path.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        pooled = np.lib.format.open_memmap(
            self._pooled_path, mode="w+", dtype=np.float32, shape=(self.num_segments, self.width)
        )

        def parts() -> Iterator[NDArray[np.float32]]:
            for first in self.firsts():
                tracks = self.tracks(first)
                pooled[first : first + PART] = unit(tracks.mean(axis=1))
                yield tracks.reshape(len(tracks), -1)

        best = find_best(parts(), self.queries.reshape(self.num_queries, -1))
        pooled.flush()
        np.save(self._exact_path, best)

    def _places(self, first: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The centres of a part's segments and the noise that their moments share, shape (n, D) each."""
        rng = np.random.default_rng([PLACES, first])
        count = min(PART, self.num_segments - first)
        chosen = rng.integers(0, NUM_CENTRES, count)
        return self._centres[chosen], rng.standard_normal((count, self.width), dtype=np.float32)

    @cached_property
    def _centres(self) -> NDArray[np.float32]:
        return np.random.default_rng(CENTRES).standard_normal((NUM_CENTRES, self.width), dtype=np.float32)

    @cached_property
    def _noise(self) -> NDArray[np.float32]:
        return self._make_noise(NOISE)

    def _make_noise(self, stream: int) -> NDArray[np.float32]:
        rows = np.random.default_rng(stream).standard_normal(
            (PART * NUM_MOMENTS, self.width), dtype=np.float32
        )
        return rows * np.float32(self.own_noise)

    def _add_noise(
        self, noise: NDArray[np.float32], first: int, means: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        order = np.random.default_rng([NOISE, first]).permutation(len(noise))
        rows = noise[order[: len(means) * NUM_MOMENTS]].reshape(len(means), NUM_MOMENTS, self.width)
        rows += means[:, None]
        rows /= np.sqrt(np.einsum("ntd,ntd->nt", rows, rows))[..., None]
        return rows


def find_best(parts: Iterable[NDArray[np.float32]], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """The numbers of the LIMIT rows, given in parts, with the largest products with each query, in no order."""
    scores = np.empty((len(queries), 0), dtype=np.float32)
    numbers = np.empty((len(queries), 0), dtype=np.int64)
    first = 0
    for part in parts:
        here = np.broadcast_to(np.arange(first, first + len(part)), (len(queries), len(part)))
        scores = np.concatenate([scores, queries @ part.T], axis=1)
        numbers = np.concatenate([numbers, here], axis=1)
        kept = np.argpartition(scores, -LIMIT, axis=1)[:, -LIMIT:]
        scores, numbers = np.take_along_axis(scores, kept, 1), np.take_along_axis(numbers, kept, 1)
        first += len(part)
    return numbers


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def asset_id(number: int) -> str:
    """Return the id of the asset that holds a segment."""
    return hashlib.sha256(str(number // ASSET_SEGMENTS).encode()).hexdigest()
