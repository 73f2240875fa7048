"""A corpus of tracks on disk, like those of a large library, for `benchmarks.search_speed`.

Each segment lies around one of 300 centres. Its tracks are the centre, plus .6 of noise that all moments share, plus
.8 of noise of each moment, in all D directions, scaled to unit length, as in `benchmarks.index_speed`. A query is a
stored segment as its other modality would give it: the same centre, .8 of the shared noise, and new noise for each
moment. So the nearest segment is certain and the next nine are close to each other, which is what makes a search
inexact.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NUM_MOMENTS = 16
NUM_CENTRES = 300
CHUNK = 2000
ASSET_SEGMENTS = 250
SHARED, KEPT = 0.6, 0.8


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Stored tracks and queries.

    Attributes:
        tracks: float16, shape (N, T, D), a memory map.
        pooled: Their pooled vectors, float32, shape (N, D).
        queries: float32, shape (Q, T, D).
        own_noise: Noise of each moment; more makes the moments of a segment less alike.
    """

    tracks: NDArray[np.float16]
    pooled: NDArray[np.float32]
    queries: NDArray[np.float32]
    own_noise: float

    def pooled_queries(self) -> NDArray[np.float32]:
        """Return the pooled vectors of the queries, float32, shape (Q, D)."""
        return unit(self.queries.mean(axis=1))

    def exact_segments(self, limit: int) -> NDArray[np.int64]:
        """Return the best segments of each query by diagonal mean, shape (Q, limit)."""
        flat = self.queries.reshape(len(self.queries), -1)
        scores = np.empty((len(self.tracks), len(flat)), dtype=np.float32)
        for first in range(0, len(self.tracks), CHUNK):
            block = self.tracks[first : first + CHUNK].astype(np.float32).reshape(-1, flat.shape[1])
            scores[first : first + CHUNK] = block @ flat.T
        return np.argsort(-scores, axis=0, kind="stable")[:limit].T

    def exact_pooled(self, limit: int) -> NDArray[np.int64]:
        """Return the nearest segments of each query by pooled vector, shape (Q, limit)."""
        return np.argsort(-(self.pooled @ self.pooled_queries().T), axis=0, kind="stable")[:limit].T


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def asset_id(number: int) -> str:
    """Return the id of the asset that holds a segment."""
    return hashlib.sha256(str(number // ASSET_SEGMENTS).encode()).hexdigest()


def open_corpus(folder: Path, *, num_segments: int, width: int, num_queries: int, own_noise: float) -> Corpus:
    """Make a corpus in a folder, or open the one that is there if it has this shape."""
    shape = {"num_segments": num_segments, "width": width, "num_queries": num_queries, "own_noise": own_noise}
    note = folder / "corpus.json"
    if not note.exists() or json.loads(note.read_text()) != shape:
        folder.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        _make_corpus(folder, num_segments, width, num_queries, own_noise)
        note.write_text(json.dumps(shape))
    return Corpus(
        tracks=np.load(folder / "tracks.npy", mmap_mode="r"),
        pooled=np.load(folder / "pooled.npy"),
        queries=np.load(folder / "queries.npy"),
        own_noise=own_noise,
    )


def _make_corpus(folder: Path, num_segments: int, width: int, num_queries: int, own_noise: float) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((NUM_CENTRES, width), dtype=np.float32)
    tracks = np.lib.format.open_memmap(
        folder / "tracks.npy", mode="w+", dtype=np.float16, shape=(num_segments, NUM_MOMENTS, width)
    )
    pooled = np.empty((num_segments, width), dtype=np.float32)
    chosen = np.sort(rng.choice(num_segments, num_queries, replace=False))
    queries = []
    for first in range(0, num_segments, CHUNK):
        count = min(CHUNK, num_segments - first)
        centre = centres[rng.integers(0, NUM_CENTRES, count)]
        shared = rng.standard_normal((count, width), dtype=np.float32)
        rows = unit((centre + SHARED * shared)[:, None] + own_noise * _noise(rng, count, width))
        tracks[first : first + count] = rows
        pooled[first : first + count] = unit(rows.mean(axis=1))
        mine = chosen[(chosen >= first) & (chosen < first + count)] - first
        changed = KEPT * shared[mine] + (1 - KEPT**2) ** 0.5 * rng.standard_normal((len(mine), width))
        queries.append(
            unit((centre[mine] + SHARED * changed)[:, None] + own_noise * _noise(rng, len(mine), width))
        )
    tracks.flush()
    np.save(folder / "pooled.npy", pooled)
    np.save(folder / "queries.npy", rng.permutation(np.concatenate(queries)))


def _noise(rng: np.random.Generator, count: int, width: int) -> NDArray[np.float32]:
    return rng.standard_normal((count, NUM_MOMENTS, width), dtype=np.float32)
