"""Tracks as rows of few bytes that are compared without being decoded: 8 or 4 bits a number.

    codec = TrackCodec.of(layout, "audio", bits=8)
    rows = codec.encode(tracks)            # (N, T, D) → (N, codec.row_bytes)
    scores = codec.score(query, rows)      # the diagonal means, (N,)
    tracks = codec.decode(rows)
    tracks = codec.read(rows)              # the same, and each knows its row

A track is rotated, so that no coordinate is larger than others. Its mean over the moments is kept with 12 bits a
number, 8 and 4 of the rest; what each moment differs from it, with `bits`; all with a scale of their own. These
differences cancel out in a track, so what is left of them in the codes is an error, and is subtracted: the score of a
query errs only by as much as the query's own moments differ. A scale makes the product of a row with what is read of it
right, so scores have no bias.
`python -m benchmarks.track_rows` measures both.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from service.index.layout import VectorLayout
from service.system.modality import Modality, Track

Rows = NDArray[np.uint8]
Floats = NDArray[np.float32]

MIDDLE = np.float32(7.5)  # of the codes of 4 bits, 0 to 15
LINEAR, CUBIC = np.float32(0.2565), np.float32(0.00155)
"""The levels of 4 bits are k (LINEAR + CUBIC k²) for k = code - 7.5, in standard deviations: within 6 % of the best for
normal numbers (Max 1960, doi:10.1109/TIT.1960.1057548), and two multiplications instead of a table."""
SCORED_AT_ONCE = 64  # 1 MB of codes: they stay in the cache


@dataclass(frozen=True, kw_only=True)
class TrackCodec:
    """Tracks of one shape (T, D) as rows of `row_bytes`; `bits` is 8 or 4.

    A row: the scales of the mean, of the rest of the mean and of T moments, then, if it `keeps_lengths`, the lengths of
    T moments (float32, little-endian); the mean, D bytes, its rest, and the moments, (D + 1) // 2 bytes each with 4
    bits. A single moment is its mean: there is no scale and there are no codes of it.
    """

    num_moments: int
    width: int
    bits: Literal[8, 4]
    keeps_lengths: bool = False

    @classmethod
    def of(cls, layout: VectorLayout, modality: Modality, *, bits: Literal[8, 4]) -> Self:
        """The codec for a modality's tracks; lengths of rows are kept where they are not 1."""
        num_moments, width = layout.shape(modality)
        keeps_lengths = layout.similarity == "dot" or layout.is_weighed(modality)
        return cls(num_moments=num_moments, width=width, bits=bits, keeps_lengths=keeps_lengths)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self._num_head + self.width + self._half + self._num_coded * self._moment_bytes

    @property
    def _half(self) -> int:
        return (self.width + 1) // 2

    @property
    def _moment_bytes(self) -> int:
        return self.width if self.bits == 8 else self._half

    @property
    def _num_coded(self) -> int:
        return self.num_moments if self.num_moments > 1 else 0

    @property
    def _num_head(self) -> int:
        return 4 * (2 + self._num_coded + self.num_moments * self.keeps_lengths)

    def encode(self, tracks: Floats) -> Rows:
        """Encode tracks, float32, (N, T, D), finite: of unit moments, or of any lengths if it `keeps_lengths`."""
        lengths = np.linalg.norm(tracks, axis=-1, keepdims=True)
        turned = turn(np.divide(tracks, lengths, out=np.zeros_like(tracks), where=lengths > 0))
        mean = turned.mean(axis=1)  # (N, D)
        coarse, coarse_scale = _to_bytes(mean)
        rest, rest_scale = _to_nibbles(mean - _scaled(coarse, coarse_scale), is_even=True)
        fine = _scaled(_even(rest), rest_scale)
        coarse_scale = _scale(mean, coarse, given=fine)  # so the product of the mean with both is right again
        base = _scaled(coarse, coarse_scale) + fine
        own = (turned - base[:, None])[:, : self._num_coded]
        codes, scales = (_to_bytes if self.bits == 8 else _to_nibbles)(own)
        kept = lengths[..., 0] if self.keeps_lengths else lengths[:, :0, 0]
        head = np.concatenate([coarse_scale[:, None], rest_scale[:, None], scales, kept], axis=1)
        parts = [
            np.ascontiguousarray(head, dtype="<f4").view(np.uint8),
            coarse.view(np.uint8),
            _pack(rest),
            codes.view(np.uint8) if self.bits == 8 else _pack(codes),
        ]
        return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)

    def score(self, query: Track, rows: Rows) -> Floats:
        """Diagonal means of a query, float32, (T, D), with the tracks of some rows: float32, (N,)."""
        turned = turn(query)
        centre = turned.mean(axis=0)
        parts = [
            self._score(centre, turned - centre, rows[first : first + SCORED_AT_ONCE])
            for first in range(0, len(rows), SCORED_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def _score(self, centre: Floats, own: Floats, rows: Rows) -> Floats:
        if self.keeps_lengths:  # the differences cancel out before they are multiplied with the lengths
            found = np.einsum("td,ntd->n", centre + own, self._turned(rows))
            return np.asarray(found / np.float32(self.num_moments))
        total = self._base(rows) @ centre * np.float32(self.num_moments)
        scales = self._head(rows)[:, 2:]
        for moment, mine in enumerate(own[: self._num_coded]):
            total += scales[:, moment] * self._times(self._codes(rows)[:, moment], mine)
        return total / np.float32(self.num_moments)

    def _times(self, codes: Rows, vector: Floats) -> Floats:
        """The product of one moment's codes, (N, bytes), with a vector, (D,)."""
        if self.bits == 8:
            return codes.view(np.int8).astype(np.float32) @ vector
        low, high = _unpack(codes)
        return (
            _levels(low) @ vector[: self._half]
            + _levels(high[:, : self.width - self._half]) @ vector[self._half :]
        )

    def compare(self, query: Track, rows: Rows) -> Floats:
        """Products of each moment of a query, float32, (T, D), with the same one of some rows: (N, T)."""
        return np.asarray(np.einsum("td,ntd->nt", turn(query), self._turned(rows)))

    def estimate(self, rows: Rows) -> Floats:
        """The tracks of some rows, (N, T, D), whose diagonal means are the scores; moments may be a bit long."""
        return turn_back(self._turned(rows))

    def means(self, rows: Rows) -> Floats:
        """The means over the moments of some rows, (N, D)."""
        mean = self._turned(rows).mean(axis=1) if self.keeps_lengths else self._base(rows)
        return turn_back(mean)

    def _turned(self, rows: Rows) -> Floats:
        if self._num_coded:
            codes = self._codes(rows)
            own = (
                codes.view(np.int8).astype(np.float32)
                if self.bits == 8
                else _levels(_join(codes, self.width))
            )
            own *= self._head(rows)[:, 2 : 2 + self._num_coded, None]
            own += (self._base(rows) - own.mean(axis=1))[:, None]
        else:
            own = self._base(rows)[:, None]
        return own * self.lengths(rows)[..., None] if self.keeps_lengths else own

    def lengths(self, rows: Rows) -> Floats:
        """The lengths of the moments of some rows, (N, T)."""
        if not self.keeps_lengths:
            return np.ones((len(rows), self.num_moments), dtype=np.float32)
        return self._head(rows)[:, 2 + self._num_coded :]

    def decode(self, rows: Rows) -> Floats:
        """The tracks of some rows, (N, T, D), their moments of the length that they had, numbers that float16 holds."""
        tracks = self.estimate(rows)
        found = np.linalg.norm(tracks, axis=-1, keepdims=True)
        tracks *= self.lengths(rows)[..., None] / np.maximum(found, np.finfo(np.float32).tiny)
        largest = np.finfo(np.float16).max
        return tracks.clip(-largest, largest).astype(np.float16).astype(np.float32)

    def read(self, rows: Rows) -> list[EncodedTrack]:
        """The tracks of some rows as `decode` gives them, each with a copy of its row."""
        return [
            EncodedTrack.of(track, self, row.copy())
            for track, row in zip(self.decode(rows), rows, strict=True)
        ]

    def _head(self, rows: Rows) -> Floats:
        return np.asarray(np.ascontiguousarray(rows[:, : self._num_head]).view("<f4"), dtype=np.float32)

    def _base(self, rows: Rows) -> Floats:
        head, first = self._head(rows), self._num_head
        coarse = np.ascontiguousarray(rows[:, first : first + self.width]).view(np.int8)
        rest = _join(rows[:, first + self.width : first + self.width + self._half], self.width)
        return _scaled(coarse, head[:, 0]) + _scaled(_even(rest), head[:, 1])

    def _codes(self, rows: Rows) -> Rows:
        first = self._num_head + self.width + self._half
        return rows[:, first:].reshape(len(rows), self._num_coded, self._moment_bytes)


class EncodedTrack(np.ndarray[tuple[int, int], np.dtype[np.float32]]):
    """A track that was read from a row, (T, D), and the row: where it is stored again in this form, the row is.

    It cannot be changed in place, and whatever is made of it, a copy too, has no row.
    """

    _encoding: tuple[TrackCodec, Rows] | None

    @classmethod
    def of(cls, track: Floats, codec: TrackCodec, row: Rows) -> Self:
        """The track with the row and what reads it."""
        own = track.view(cls)
        own._encoding = codec, row
        own.setflags(write=False)
        return own

    def __array_finalize__(self, other: object) -> None:
        self._encoding = None


def encoding_of(track: Track) -> tuple[TrackCodec, Rows] | None:
    """The row that a track was read from, and its codec; None if it was not read from a row."""
    return track._encoding if isinstance(track, EncodedTrack) else None


def rotation(width: int) -> Floats:
    """An orthogonal matrix, (D, D), that spreads any coordinate over all: random signs, then cosines times Hadamard.

    The same on every machine, for ever: stored rows depend on it.
    """
    cosines, hadamard, signs = _factors(width)
    return np.asarray(np.kron(cosines, hadamard) * signs, dtype=np.float32)


@lru_cache(maxsize=8)
def _factors(width: int) -> tuple[Floats, Floats, Floats]:
    """Cosines, (odd, odd), Hadamard, (power, power), both orthogonal, and signs, (D,): D is odd · power."""
    odd, power = width, 1
    while odd % 2 == 0:
        odd, power = odd // 2, power * 2
    rows, columns = np.arange(odd)[:, None], np.arange(odd)
    cosines = np.cos(math.pi * (columns + 0.5) * rows / odd) * math.sqrt(2 / odd)  # DCT-II
    cosines[0] = math.sqrt(1 / odd)
    hadamard = np.ones((1, 1))
    while len(hadamard) < power:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]]) / math.sqrt(2)
    bits = np.frombuffer(hashlib.shake_256(b"foley %d" % width).digest(-(-width // 8)), dtype=np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(bits)[:width]
    factors = [part.astype(np.float32) for part in (cosines, hadamard, signs)]
    for part in factors:
        part.setflags(write=False)
    return factors[0], factors[1], factors[2]


def turn(vectors: Floats) -> Floats:
    """The vectors, (..., D), rotated, by the factors of the rotation: a third of the work for 768."""
    cosines, hadamard, signs = _factors(vectors.shape[-1])
    parts = (vectors * signs).reshape(-1, len(hadamard)) @ hadamard
    turned = np.einsum("ij,njp->nip", cosines, parts.reshape(-1, len(cosines), len(hadamard)))
    return np.asarray(turned.reshape(vectors.shape), dtype=np.float32)


def turn_back(vectors: Floats) -> Floats:
    """The vectors, (..., D), of which `turn` made these."""
    cosines, hadamard, signs = _factors(vectors.shape[-1])
    parts = np.einsum("ij,nip->njp", cosines, vectors.reshape(-1, len(cosines), len(hadamard)))
    turned = parts.reshape(-1, len(hadamard)) @ hadamard
    return np.asarray(turned.reshape(vectors.shape) * signs, dtype=np.float32)


def _to_bytes(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Codes of 8 bits for rows, (..., D), and the scale of each."""
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    codes = np.rint(np.divide(127 * rows, largest, out=np.zeros_like(rows), where=largest > 0))
    return codes.astype(np.int8), _scale(rows, codes)


def _to_nibbles(rows: Floats, *, is_even: bool = False) -> tuple[Rows, Floats]:
    """Codes of 4 bits for rows, (..., D), one a byte, and the scale of each; even steps for even distributions."""
    if is_even:
        unit = np.abs(rows).max(axis=-1, keepdims=True) / MIDDLE
        levels = np.arange(16, dtype=np.float32) - MIDDLE
    else:
        unit = np.sqrt(np.square(rows).mean(axis=-1, keepdims=True))
        levels = _levels(np.arange(16, dtype=np.uint8))
    steps = np.divide(rows, unit, out=np.zeros_like(rows), where=unit > 0)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, steps).astype(np.uint8)
    return codes, _scale(rows, levels[codes])


def _scale(rows: Floats, levels: NDArray[Any], *, given: Floats | None = None) -> Floats:
    """The scale of levels with which the product of a row with them and what is `given` is its length, squared."""
    square, product = np.square(rows).sum(axis=-1), (rows * levels).sum(axis=-1)
    if given is not None:
        square = square - (rows * given).sum(axis=-1)
    return np.asarray(np.divide(square, product, out=np.zeros_like(square), where=product > 0))


def _scaled(levels: NDArray[np.generic], scale: Floats) -> Floats:
    return np.asarray(np.asarray(levels, dtype=np.float32) * scale[..., None])


def _even(codes: Rows) -> Floats:
    return codes.astype(np.float32) - MIDDLE


def _levels(codes: Rows) -> Floats:
    levels = codes.astype(np.float32)
    levels -= MIDDLE
    return np.asarray(levels * (LINEAR + CUBIC * levels * levels))


def _pack(codes: NDArray[Any]) -> Rows:
    """Two codes of 4 bits a byte: the first half of a row in the low bits, the second in the high ones."""
    half = (codes.shape[-1] + 1) // 2
    packed = codes[..., :half].copy()
    packed[..., : codes.shape[-1] - half] |= codes[..., half:] << 4
    return packed


def _unpack(packed: Rows) -> tuple[Rows, Rows]:
    return packed & np.uint8(15), packed >> np.uint8(4)


def _join(packed: Rows, width: int) -> Rows:
    return np.concatenate(_unpack(packed), axis=-1)[..., :width]
