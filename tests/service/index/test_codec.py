"""Tracks as rows of few bytes: what is read of them is what was written, within the error that is promised."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.index.codec import TrackCodec, encoding_of, rotation
from service.index.layout import VectorLayout

SHAPES = st.tuples(st.integers(1, 17), st.integers(1, 70))
ERROR = {8: 1e-4, 4: 1e-3}


def make(shape: tuple[int, int, int], *, own: float = 0.7, seed: int = 0) -> NDArray[np.float32]:
    """Tracks of unit moments around a centre each, with noise of their own."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((shape[0], 1, shape[2])) + own * rng.standard_normal(shape)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows.astype(np.float16), dtype=np.float32)


def flat(tracks: NDArray[np.float32]) -> NDArray[np.float32]:
    return tracks.reshape(len(tracks), -1)


@pytest.mark.parametrize("bits", [8, 4])
@given(shape=SHAPES, own=st.floats(0, 3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_what_is_read_could_have_been_written(
    bits: int, shape: tuple[int, int], own: float, seed: int
) -> None:
    codec = TrackCodec(num_moments=shape[0], width=shape[1], bits=bits)  # type: ignore[arg-type]
    tracks = make((3, *shape), own=own, seed=seed)
    rows = codec.encode(tracks)
    assert rows.shape == (3, codec.row_bytes)
    read = codec.decode(rows)
    assert np.abs(np.linalg.norm(read, axis=-1) - 1).max() < 1e-3, "as `check_track` wants it"
    assert np.array_equal(read.astype(np.float16).astype(np.float32), read)
    assert np.array_equal(codec.encode(tracks[1:2]), rows[1:2]), "a row depends on its track alone"
    if bits == 8:
        assert (read * tracks).sum(axis=-1).min() > 0.999


@pytest.mark.parametrize("keeps_lengths", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("own", [0.4, 0.8, 1.6])
def test_scores_are_those_of_the_tracks(bits: int, own: float, keeps_lengths: bool) -> None:
    """Of every track with every other: the mean error, its bias, and each track with itself."""
    codec = TrackCodec(num_moments=16, width=192, bits=bits, keeps_lengths=keeps_lengths)  # type: ignore[arg-type]
    tracks = make((24, 16, 192), own=own)
    if keeps_lengths:  # with a mean of 1, as weighed rows have them
        lengths = np.random.default_rng(1).uniform(0.2, 1.8, (24, 16, 1)).astype(np.float32)
        tracks *= lengths / lengths.mean(axis=1, keepdims=True)
    rows = codec.encode(tracks)
    queries = make((24, 16, 192), own=own) if keeps_lengths else tracks
    queries = queries[:9]
    exact = flat(queries) @ flat(tracks).T / 16
    scores = np.stack([codec.score(query, rows) for query in queries])
    estimates = flat(queries) @ flat(codec.estimate(rows)).T / 16
    assert np.abs(scores - estimates).max() < 1e-5, "one product, in two ways"
    assert np.abs(scores - exact).mean() < ERROR[bits]
    assert abs((scores - exact).mean()) < ERROR[bits] / 10
    assert np.abs(np.diagonal(scores - exact)).max() < 10 * ERROR[bits]
    assert np.allclose(codec.lengths(rows), np.linalg.norm(tracks, axis=-1), atol=1e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_any_lengths_are_kept(bits: int) -> None:
    layout = VectorLayout(tracks={"audio": (3, 7)}, similarity="dot")
    codec = TrackCodec.of(layout, "audio", bits=bits)  # type: ignore[arg-type]
    tracks = make((2, 3, 7)) * np.array([[1e-3], [1], [5e4]], dtype=np.float32)
    tracks[1, 1] = 0
    read = codec.decode(codec.encode(tracks))
    assert np.allclose(np.linalg.norm(read, axis=-1), np.linalg.norm(tracks, axis=-1), rtol=2e-3, atol=1e-6)
    assert np.array_equal(read[1, 1], np.zeros(7))


def test_nothing_of_nothing() -> None:
    codec = TrackCodec(num_moments=2, width=5, bits=8)
    rows = codec.encode(np.empty((0, 2, 5), dtype=np.float32))
    assert rows.shape == (0, codec.row_bytes)
    assert codec.score(make((1, 2, 5))[0], rows).shape == (0,)


@pytest.mark.parametrize("width", [1, 2, 7, 24, 384, 768])
def test_a_rotation_keeps_lengths_and_spreads_each_coordinate(width: int) -> None:
    turn = rotation(width)
    assert np.abs(turn @ turn.T - np.eye(width)).max() < 1e-5
    assert np.abs(turn).max() < (1.5 * 2 / width) ** 0.5 + 1e-6


@pytest.mark.parametrize("bits", [8, 4])
def test_of_tracks_that_hardly_differ_each_is_nearest_to_itself(bits: int) -> None:
    codec = TrackCodec(num_moments=16, width=128, bits=bits)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    tracks = rng.standard_normal(128) + 3e-3 * rng.standard_normal((40, 1, 128)) + np.zeros((40, 16, 1))
    tracks = (tracks / np.linalg.norm(tracks, axis=-1, keepdims=True)).astype(np.float32)
    rows = codec.encode(tracks)
    scores = np.stack([codec.score(track, rows) for track in tracks])
    exact = flat(tracks) @ flat(tracks).T / 16
    assert np.array_equal(scores.argmax(axis=1), np.arange(40))
    assert np.abs(scores - exact).max() < 2e-6, "a fifth of what the tracks differ"


def test_a_track_of_a_row_knows_it_and_nothing_that_is_made_of_it_does() -> None:
    codec = TrackCodec(num_moments=3, width=8, bits=8)
    rows = codec.encode(make((2, 3, 8)))
    _, track = codec.read(rows)
    found = encoding_of(track)
    assert found is not None
    assert found[0] == codec
    assert np.array_equal(found[1], rows[1])
    others = (track.copy(), track * 1, track[:2], track.reshape(-1), np.stack([track])[0], np.asarray(track))
    assert [encoding_of(other) for other in (*others, pickle.loads(pickle.dumps(track)))] == [None] * 7
    with pytest.raises(ValueError, match="read-only"):
        track[0] = 0


def test_rows_of_before_can_be_read() -> None:
    """Stored rows outlive the program: its rotation, its levels and the order of its bytes must stay as they are."""
    assert (
        hashlib.sha256(np.sign(np.rint(rotation(768) * 1e4)).astype(np.int8).tobytes()).hexdigest()[:16]
        == "cb5a4969b46fc772"
    )
    track = np.cos(np.arange(2 * 6, dtype=np.float32)).reshape(1, 2, 6)
    track /= np.linalg.norm(track, axis=-1, keepdims=True)
    for bits, expected in GOLDEN.items():
        codec = TrackCodec(num_moments=2, width=6, bits=bits)  # type: ignore[arg-type]
        stored = np.frombuffer(np.array(HEADS[bits], "<f4").tobytes() + bytes.fromhex(expected), np.uint8)
        read = codec.decode(stored[None])
        assert np.abs(read - track).max() < (3e-3 if bits == 8 else 3e-2)
        assert np.allclose(read[0, 0], READ[bits], atol=1e-3), "to the last digit of float16"


GOLDEN = {8: "e1efba8164b2403c88a7adb37f470759544d81b9f9", 4: "e1efba8164b2403c88d4b4842b4b7b"}
"""The bytes after the scales; made by this codec when it was new, as the scales are."""
HEADS = {
    8: (0.00505463, 0.0003601007, 0.0006881849, 0.000686678),
    4: (0.00505463, 0.0003601007, 0.05538741, 0.05538564),
}
READ = {
    8: (0.58203125, 0.31445312, -0.2421875, -0.57617188, -0.38061523, 0.16503906),
    4: (0.57470703, 0.31469727, -0.2421875, -0.57763672, -0.38623047, 0.17065430),
}
"""The first moment."""
