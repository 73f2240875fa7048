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
from collections.abc import Iterator
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
ENCODED_AT_ONCE = READ_AT_ONCE = 16  # 1 MB of numbers for tracks of 16 × 768: they stay in the cache


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
        parts = [
            self._encode(tracks[n : n + ENCODED_AT_ONCE]) for n in range(0, len(tracks), ENCODED_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.row_bytes), dtype=np.uint8)

    def _encode(self, tracks: Floats) -> Rows:
        lengths = np.linalg.norm(tracks, axis=-1, keepdims=True)
        turned = turn(np.divide(tracks, lengths, out=np.zeros_like(tracks), where=lengths > 0))
        mean = turned.mean(axis=1)  # (N, D)
        coarse, coarse_scale = _to_bytes(mean)
        rest, rest_scale = _to_nibbles(mean - _scaled(coarse, coarse_scale), is_even=True)
        fine = _scaled(_even(rest.astype(np.float32)), rest_scale)
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
        if self.keeps_lengths:
            return np.asarray(self.compare(query, rows).mean(axis=1))
        turned = turn(query)
        centre = turned.mean(axis=0)
        own = (turned - centre)[: self._num_coded]
        scores = self._base_times(rows, centre[None])[:, 0]
        if own.any():  # the query's moments differ: so those of the rows must be read
            num_moments = np.float32(self.num_moments)
            for part, codes in self._levels_of(rows):
                products = np.matmul(codes.transpose(1, 0, 2), own[:, :, None])[..., 0]  # (T, n)
                scores[part] += (self._scales(rows[part]).T * products).sum(axis=0) / num_moments
        return scores

    def compare(self, query: Track, rows: Rows) -> Floats:
        """Products of each moment of a query, float32, (T, D), with the same one of some rows: (N, T)."""
        turned = turn(query)
        found = self._base_times(rows, turned)
        for part, codes in self._levels_of(rows):
            scales = self._scales(rows[part])
            left = np.matmul(scales[:, None] / np.float32(self.num_moments), codes)[:, 0]  # should be nothing
            products = np.matmul(codes.transpose(1, 0, 2), turned[:, :, None])[..., 0]  # (T, n)
            found[part] += scales * products.T - left @ turned.T
        return found * self.lengths(rows) if self.keeps_lengths else found

    def _base_times(self, rows: Rows, vectors: Floats) -> Floats:
        """The products of the means of some rows with vectors, (T, D): (N, T)."""
        levels = np.empty((len(rows), self.width), dtype=np.float32)
        head, found = self._head(rows), np.zeros((len(rows), len(vectors)), dtype=np.float32)
        for part, read in enumerate((self._read_coarse, self._read_rest)):
            found += head[:, part, None] * (read(rows, levels) @ vectors.T)
        return found

    def _levels_of(self, rows: Rows) -> Iterator[tuple[slice, Floats]]:
        """What the codes of some rows say but for the scales, (n, T, D), a few rows at a time, and which these are.

        The array is used again for the next ones.
        """
        levels = np.empty((READ_AT_ONCE, self._num_coded, self.width), dtype=np.float32)
        for first in range(0, len(rows) if self._num_coded else 0, READ_AT_ONCE):
            part = slice(first, min(first + READ_AT_ONCE, len(rows)))
            yield part, self._read_codes(rows[part], levels[: part.stop - first])

    def _read_codes(self, rows: Rows, out: Floats) -> Floats:
        codes = self._codes(rows)
        if self.bits == 8:
            np.copyto(out, codes.view(np.int8))
            return out
        return _to_levels(_unpack(codes, out))

    def estimate(self, rows: Rows) -> Floats:
        """The tracks of some rows, (N, T, D), whose diagonal means are the scores; moments may be a bit long."""
        return turn_back(self._turned(rows))

    def means(self, rows: Rows) -> Floats:
        """The means over the moments of some rows, (N, D)."""
        mean = self._turned(rows).mean(axis=1) if self.keeps_lengths else self._base(rows)
        return turn_back(mean)

    def _turned(self, rows: Rows) -> Floats:
        if self._num_coded:
            own = np.empty((len(rows), self._num_coded, self.width), dtype=np.float32)
            self._read_codes(rows, own)
            own *= self._scales(rows)[..., None]
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

    def _scales(self, rows: Rows) -> Floats:
        return self._head(rows)[:, 2 : 2 + self._num_coded]

    def _base(self, rows: Rows) -> Floats:
        head, levels = self._head(rows), np.empty((len(rows), self.width), dtype=np.float32)
        base = _scaled(self._read_coarse(rows, levels), head[:, 0])
        base += _scaled(self._read_rest(rows, levels), head[:, 1])
        return base

    def _read_coarse(self, rows: Rows, out: Floats) -> Floats:
        np.copyto(out, rows[:, self._num_head : self._num_head + self.width].view(np.int8))
        return out

    def _read_rest(self, rows: Rows, out: Floats) -> Floats:
        first = self._num_head + self.width
        return _even(_unpack(rows[:, first : first + self._half], out))

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
    cosines, outer, inner, signs = _factors(width)
    return np.asarray(np.kron(cosines, np.kron(outer, inner)) * signs, dtype=np.float32)


@lru_cache(maxsize=8)
def _factors(width: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Cosines, (odd, odd), two Hadamard matrices, all orthogonal, and signs, (D,): D is the product of the sizes."""
    odd, power = width, 0
    while odd % 2 == 0:
        odd, power = odd // 2, power + 1
    rows, columns = np.arange(odd)[:, None], np.arange(odd)
    cosines = np.cos(math.pi * (columns + 0.5) * rows / odd) * math.sqrt(2 / odd)  # DCT-II
    cosines[0] = math.sqrt(1 / odd)
    bits = np.frombuffer(hashlib.shake_256(b"foley %d" % width).digest(-(-width // 8)), dtype=np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(bits)[:width]
    found = [cosines, _hadamard(power // 2), _hadamard(power - power // 2), signs]
    factors = [part.astype(np.float32) for part in found]
    for part in factors:
        part.setflags(write=False)
    return factors[0], factors[1], factors[2], factors[3]


def _hadamard(power: int) -> NDArray[np.float64]:
    found = np.ones((1, 1))
    for _ in range(power):
        found = np.block([[found, found], [found, -found]]) / math.sqrt(2)
    return found


def turn(vectors: Floats) -> Floats:
    """The vectors, (..., D), rotated, by the factors of the rotation: a tenth of the work for 768."""
    cosines, outer, inner, signs = _factors(vectors.shape[-1])
    spread = np.matmul(cosines, _spread(vectors * signs, outer, inner, len(cosines)))
    return np.asarray(spread.reshape(vectors.shape), dtype=np.float32)


def turn_back(vectors: Floats) -> Floats:
    """The vectors, (..., D), of which `turn` made these."""
    cosines, outer, inner, signs = _factors(vectors.shape[-1])
    parts = np.matmul(cosines.T, vectors.reshape(-1, len(cosines), len(outer) * len(inner)))
    return np.asarray(
        _spread(parts, outer, inner, len(cosines)).reshape(vectors.shape) * signs, dtype=np.float32
    )


def _spread(vectors: Floats, outer: Floats, inner: Floats, odd: int) -> Floats:
    """Both Hadamard matrices times each part of vectors: (M, odd, D / odd)."""
    parts = np.matmul(outer, (vectors.reshape(-1, len(inner)) @ inner).reshape(-1, len(outer), len(inner)))
    return np.asarray(parts.reshape(-1, odd, len(outer) * len(inner)))


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
        levels = _to_levels(np.arange(16, dtype=np.float32))
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


def _even(codes: Floats) -> Floats:
    codes -= MIDDLE
    return codes


def _to_levels(codes: Floats) -> Floats:
    """Codes of 4 bits become their levels, in place."""
    codes -= MIDDLE
    factors = codes * codes
    factors *= CUBIC
    factors += LINEAR
    codes *= factors
    return codes


def _pack(codes: NDArray[Any]) -> Rows:
    """Two codes of 4 bits a byte: the first half of a row in the low bits, the second in the high ones."""
    half = (codes.shape[-1] + 1) // 2
    packed = codes[..., :half].copy()
    packed[..., : codes.shape[-1] - half] |= codes[..., half:] << 4
    return packed


def _unpack(packed: Rows, out: Floats) -> Floats:
    """The codes of bytes, (..., D) of float32."""
    half = packed.shape[-1]
    out[..., :half] = packed & np.uint8(15)
    out[..., half:] = (packed >> np.uint8(4))[..., : out.shape[-1] - half]
    return out
