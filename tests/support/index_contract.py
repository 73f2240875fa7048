"""What every index must do: a suite that the tests of each implementation inherit.

    @pytest.fixture(scope="module")
    def opened(): ...     # yields an index of width WIDTH, num_moments NUM_MOMENTS, empty

    class TestEmbeddedIndex(IndexContract):
        pass

    @pytest.fixture(scope="module", params=LAYOUTS)
    def opened_as(request): ...     # yields an empty index of the layout LAYOUTS[request.param], and the layout

    class TestEmbeddedIndexOfOtherLayouts(LayoutContract):
        pass

Expected numbers come from NumPy: cosines of the very tracks that were written.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.index.contract import Bounds, Filter, Index, Segment, VectorQuery, WordQuery
from service.index.failure import IndexFailure, InvalidCursor, InvalidFilter, InvalidSegment, InvalidVector
from service.index.layout import VectorLayout
from service.index.words import split_words
from service.system.modality import OPPOSITE, Modality, NotEmbedded, Track

WIDTH = 32
NUM_MOMENTS = 16
# Tracks are stored as float16 and queries rounded to it, 2**-11 of a number each: sums over 32 of them are
# off by 2e-4 at most in this suite.
TOLERANCE = 5e-4


def make_tracks(
    count: int, *, seed: int, clusters: int = 0, num_moments: int = NUM_MOMENTS, width: int = WIDTH
) -> NDArray[np.float32]:
    """Random tracks (count, T, D) of unit rows, around cluster centres where `clusters` is above 0."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, num_moments, width))
    rows += rng.standard_normal((count, 1, width))  # moments of one segment resemble each other
    if clusters:
        centres = rng.standard_normal((clusters, 1, width))
        rows += 2.0 * centres[rng.integers(0, clusters, count)]
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def make_id(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def make_segment(name: object, index: int = 0, **changes: Any) -> Segment:
    facts: dict[str, Any] = {
        "asset_id": make_id(name),
        "path": f"/library/{name}.mp4",
        "index": index,
        "start_seconds": 10.0 * index,
        "end_seconds": 10.0 * index + 10.0,
        "media": {"container": "mp4", "size_bytes": 123, "streams": [1, 2], "rate": 29.97, "title": None},
    }
    return Segment(**{**facts, **changes})


def make_asset(name: object, tracks: NDArray[np.float32], **changes: Any) -> list[Segment]:
    return [make_segment(name, index, audio_track=track, **changes) for index, track in enumerate(tracks)]


def diagonal_means(query: Track, tracks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over the moments of the cosine with the same moment, in float64: (T, D), (N, T, D) → (N,)."""
    q, t = query.astype(np.float64), tracks.astype(np.float64)
    cosines = (q * t).sum(axis=-1) / np.linalg.norm(q, axis=-1) / np.linalg.norm(t, axis=-1)
    return np.asarray(cosines.mean(axis=-1))


def pool(tracks: NDArray[np.float32]) -> NDArray[np.float64]:
    mean = tracks.astype(np.float64).mean(axis=-2)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def all_assets(index: Index, *, limit: int = 50, filter: Filter | None = None) -> list[str]:
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = index.list_assets(limit=limit, cursor=cursor, filter=filter)
        ids += [asset.asset_id for asset in page.assets]
        cursor = page.next_cursor
        if cursor is None:
            return ids


def bad_tracks() -> dict[str, tuple[NDArray[Any], str]]:
    good = make_tracks(1, seed=0)[0]
    nan, inf, zero, long, flat = (good.copy() for _ in range(5))
    nan[3, 5] = np.nan
    inf[0, 0] = np.inf
    zero[7] = 0.0
    long[2] *= 1.01
    flat[::2] = good[0]
    flat[1::2] = -good[0]
    return {
        "nan": (nan, "must be finite"),
        "infinite": (inf, "must be finite"),
        "zero row": (zero, "unit length, got 0 in row 7"),
        "long row": (long, r"unit length, got 1\.01 in row 2"),
        "cancels out": (flat, "cancel out"),
        "too narrow": (good[:, :-1], r"must be \(16, 32\), got \(16, 31\)"),
        "too few moments": (good[:-1], r"must be \(16, 32\), got \(15, 32\)"),
        "flattened": (good.ravel(), r"must be \(16, 32\), got \(512,\)"),
        "integers": (np.ones((16, 32), dtype=np.int64), "must be an array of floats, got int64"),
    }


def make_media(duration_seconds: float, modified_seconds: float) -> dict[str, Any]:
    return {"duration_seconds": duration_seconds, "modified_ns": int(modified_seconds * 1e9)}


# Assets of two segments each, and filters with the names of those they leave.
FILTERED: dict[str, dict[str, Any]] = {
    "one": {
        "path": "/lib/rain/1.wav",
        "media": {**make_media(1.0, 100.0), "is_silent": True},
        "metadata": {"take": 1, "ok": True},
    },
    "three": {
        "path": "/lib/rain/far/3.wav",
        "media": {**make_media(3.0, 300.0), "is_silent": False, "is_static": True},
        "metadata": {"take": 3, "ok": False},
    },
    "fours": {
        "path": "/lib/rainy/4.wav",
        "media": make_media(4.0, 400.5),
        "metadata": {"take": "1", "ok": 1, "lufs": [-30, 12.25], "f.p s": 24.0},
    },
    "both": {
        "path": "/b\udce9/5.mp4",
        "paths": ("/lib/rain/copy.mp4",),
        "media": {"duration_seconds": None, "is_silent": None},
        "metadata": {"tags": ["rain", 7, True], "lufs": -23.5, "f.p s": 23.976},
    },
}
FILTERS: list[tuple[Filter | None, set[str]]] = [
    (None, {"one", "three", "fours", "both"}),
    (Filter(), {"one", "three", "fours", "both"}),
    (Filter(folder="/"), {"one", "three", "fours", "both"}),
    (Filter(folder="/lib/rain"), {"one", "three", "both"}),
    (Filter(folder="/lib/rain/"), {"one", "three", "both"}),
    (Filter(folder="/lib/rain/far"), {"three"}),
    (Filter(folder="/lib/rai"), set()),
    (Filter(folder="/lib/rain/1.wav"), set()),
    (Filter(folder="/b\udce9"), {"both"}),
    (Filter(modality="video"), {"both"}),
    (Filter(modality="audio"), {"one", "three", "fours", "both"}),
    (Filter(min_duration_seconds=3.0), {"three", "fours"}),
    (Filter(min_duration_seconds=1.5, max_duration_seconds=3.0), {"three"}),
    (Filter(max_duration_seconds=0.5), set()),
    (Filter(modified_after=300.0), {"three", "fours"}),
    (Filter(modified_after=100.0, modified_before=300.0), {"one"}),
    (Filter(modified_before=400.25), {"one", "three"}),
    (Filter(is_silent=True), {"one"}),
    (Filter(is_silent=False), {"three"}),
    (Filter(is_static=True), {"three"}),
    (Filter(is_static=False), set()),
    (Filter(is_silent=True, is_static=True), set()),
    (Filter(metadata={"take": 1}), {"one"}),
    (Filter(metadata={"take": "1"}), {"fours"}),
    (Filter(metadata={"take": [3, "1"]}), {"three", "fours"}),
    (Filter(metadata={"take": []}), set()),
    (Filter(metadata={"ok": True}), {"one"}),
    (Filter(metadata={"ok": 1}), {"fours"}),
    (Filter(metadata={"tags": "rain"}), {"both"}),
    (Filter(metadata={"tags": [True]}), {"both"}),
    (Filter(metadata={"take": 1.0}), {"one"}),
    (Filter(metadata={"f.p s": 24}), {"fours"}),
    (Filter(metadata={"lufs": -23.5}), {"both"}),
    (Filter(metadata={"lufs": [12.25, "-23.5"]}), {"fours"}),
    (Filter(metadata={"lufs": Bounds(at_least=-24, at_most=-23.5)}), {"both"}),
    (Filter(metadata={"lufs": Bounds(at_most=-23.4)}), {"both", "fours"}),
    (Filter(metadata={"f.p s": Bounds(at_least=23.976, at_most=23.99)}), {"both"}),
    (Filter(metadata={"take": Bounds(at_least=1), "ok": True}), {"one"}),
    (Filter(metadata={"ok": Bounds(at_least=0)}), {"fours"}),
    (Filter(metadata={"tags": Bounds(at_least=7, at_most=7)}), {"both"}),
    (Filter(metadata={"nowhere": Bounds(at_least=7)}), set()),
    (Filter(metadata={"take": 1, "ok": True}), {"one"}),
    (Filter(metadata={"take": 1, "ok": False}), set()),
    (Filter(folder="/lib/rain", modality="video", metadata={"tags": 7}), {"both"}),
]


class IndexContract:
    """The suite. Each test finds an empty index and may leave anything in it."""

    finds_beginnings = True
    loss = 2**-11  # of a number that was written, when it is read; with rows of a codec more
    moment_tolerance = TOLERANCE

    @pytest.fixture
    def index(self, opened: Index) -> Iterator[Index]:
        yield opened
        for asset_id in all_assets(opened):
            opened.delete_asset(asset_id)
        assert opened.count_segments() == 0

    def test_an_asset_comes_back_as_it_was_written(self, index: Index) -> None:
        tracks = make_tracks(3, seed=1)
        index.write_asset(make_asset("a", tracks), is_last=True)
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert (asset.asset_id, asset.path) == (make_id("a"), "/library/a.mp4")
        assert (asset.num_segments, asset.modalities) == (3, ("audio",))
        assert asset.media == make_segment("a", audio_track=tracks[0]).media
        assert index.list_assets(limit=10).assets == (asset,)
        assert index.get_asset(make_id("other")) is None
        (best,) = index.search(VectorQuery(track=tracks[1], target="audio", limit=1))
        assert (best.asset_id, best.path, best.media) == (asset.asset_id, asset.path, asset.media)
        assert (best.start_seconds, best.end_seconds) == (10.0, 20.0)
        assert best.score == pytest.approx(1.0, abs=TOLERANCE)

    def test_many_assets_are_looked_up_at_once(self, index: Index) -> None:
        """More than one request of any engine takes; unknown, repeated and unfinished ones among them."""
        track = make_tracks(1, seed=1)[0]
        for name in ("a", "b"):
            index.write_asset([make_segment(name, at, audio_track=track) for at in range(3)], is_last=True)
        index.write_asset(make_asset("unfinished", make_tracks(2, seed=2)), is_last=False)
        wanted = [make_id("a"), *(make_id(str(number)) for number in range(1100)), make_id("unfinished")]
        found = index.get_assets([*wanted, make_id("a"), make_id("b"), "no id"])
        assert found == {asset_id: index.get_asset(asset_id) for asset_id in (make_id("a"), make_id("b"))}
        assert index.get_assets([]) == {}
        index.delete_asset(make_id("unfinished"))  # others share the index, and count

    def test_a_missing_modality_is_never_found(self, index: Index) -> None:
        sound, picture = make_tracks(2, seed=2)
        index.write_asset([make_segment("sound", audio_track=sound)], is_last=True)
        index.write_asset([make_segment("picture", video_track=picture)], is_last=True)
        both = [
            make_segment("both", 0, audio_track=sound),
            make_segment("both", 1, audio_track=sound, video_track=picture),
        ]
        index.write_asset(both, is_last=True)
        found = {m: index.search(VectorQuery(track=sound, target=m, limit=9)) for m in ("audio", "video")}  # type: ignore[arg-type]
        assert sorted(m.asset_id for m in found["audio"]) == sorted(
            [make_id("sound")] + [make_id("both")] * 2
        )
        assert sorted(m.asset_id for m in found["video"]) == sorted([make_id("picture"), make_id("both")])
        assert index.count_segments() == 4
        assert (index.count_segments(modality="audio"), index.count_segments(modality="video")) == (3, 2)
        whole = index.get_asset(make_id("both"))
        assert whole is not None
        assert whole.modalities == ("audio", "video")
        assert sorted(all_assets(index, filter=Filter(modality="video"))) == sorted(
            [make_id("picture"), make_id("both")]
        )

    def test_moments_are_the_cosines_and_the_score_their_mean(self, index: Index) -> None:
        tracks, queries = make_tracks(40, seed=3), make_tracks(5, seed=4)
        index.write_asset(make_asset("a", tracks), is_last=True)
        for query in queries:
            matches = index.search(VectorQuery(track=query, target="audio", limit=40))
            assert len(matches) == 40
            for match in matches:
                track = tracks[int(match.start_seconds // 10)].astype(np.float64)
                cosines = (query * track).sum(axis=1) / np.linalg.norm(track, axis=1)
                np.testing.assert_allclose(match.moments, cosines, atol=self.moment_tolerance)
                assert match.score == pytest.approx(cosines.mean(), abs=TOLERANCE)
                assert len(match.moments) == NUM_MOMENTS
                assert match.score == math.fsum(match.moments) / NUM_MOMENTS
            assert matches == sorted(matches, key=lambda m: (-m.score, m.asset_id, m.start_seconds))

    def test_search_equals_two_stages_in_numpy(self, index: Index) -> None:
        tracks, queries = make_tracks(800, seed=5, clusters=20), make_tracks(20, seed=5, clusters=20)
        for first in range(0, 800, 200):
            index.write_asset(make_asset(first, tracks[first : first + 200]), is_last=True)
        place = {(make_id(n // 200 * 200), 10.0 * (n % 200)): n for n in range(800)}
        recalls = []
        for query in queries:
            matches = index.search(VectorQuery(track=query, target="audio", limit=10, prefetch=100))
            candidates = np.argsort(-(pool(tracks) @ pool(query)), kind="stable")[:100]
            exact = diagonal_means(query, tracks)
            expected = np.sort(exact[candidates])[::-1][:10]
            np.testing.assert_allclose([m.score for m in matches], expected, atol=TOLERANCE)
            top = set(np.argsort(-exact)[:10].tolist())
            recalls.append(len(top & {place[m.asset_id, m.start_seconds] for m in matches}) / 10)
        assert np.mean(recalls) >= 0.98  # of the ten best of all 800 by diagonal mean alone

    def test_equal_segments_keep_one_order(self, index: Index) -> None:
        (track,) = make_tracks(1, seed=6)
        for name in range(4):
            index.write_asset(make_asset(name, np.stack([track, track])), is_last=True)
        matches = index.search(VectorQuery(track=track, target="audio", limit=8))
        assert [(m.asset_id, m.start_seconds) for m in matches] == sorted(
            (make_id(name), start) for name in range(4) for start in (0.0, 10.0)
        )
        first = index.search(VectorQuery(track=track, target="audio", limit=5))
        assert all(index.search(VectorQuery(track=track, target="audio", limit=5)) == first for _ in range(5))

    def test_a_limit_above_the_prefetch_widens_it(self, index: Index) -> None:
        tracks = make_tracks(30, seed=7)
        index.write_asset(make_asset("a", tracks), is_last=True)
        assert len(index.search(VectorQuery(track=tracks[0], target="audio", limit=25, prefetch=5))) == 25
        assert len(index.search(VectorQuery(track=tracks[0], target="audio", limit=500))) == 30
        assert index.search(VectorQuery(track=tracks[0], target="video", limit=5)) == []

    def test_search_of_assets_keeps_the_best_segment_of_each(self, index: Index) -> None:
        """One asset fills the first candidates; the others are still found."""
        query, *far = make_tracks(13, seed=8)
        near = np.stack([query] * 60)
        near[:, 0] = make_tracks(60, seed=9)[:, 0]  # fifteen of sixteen moments are the query's own
        index.write_asset(make_asset("near", near), is_last=True)
        for name, track in enumerate(far):
            index.write_asset(make_asset(name, np.stack([track, far[(name + 1) % 12]])), is_last=True)
        matches = index.search_assets(VectorQuery(track=query, target="audio", limit=8, prefetch=20))
        scores = {make_id("near"): diagonal_means(query, near).max()}
        for name in range(12):
            scores[make_id(name)] = diagonal_means(query, np.stack([far[name], far[(name + 1) % 12]])).max()
        expected = sorted(scores.values(), reverse=True)[:8]
        assert len({m.asset_id for m in matches}) == 8
        np.testing.assert_allclose([m.score for m in matches], expected, atol=TOLERANCE)
        assert len(index.search_assets(VectorQuery(track=query, target="audio", limit=100, prefetch=5))) == 13
        assert index.search_assets(VectorQuery(track=query, target="video", limit=100)) == []

    def test_an_asset_in_several_calls_appears_with_the_last(self, index: Index) -> None:
        tracks = make_tracks(7, seed=10)
        segments = make_asset("a", tracks)
        for part in (segments[:3], segments[3:6]):
            index.write_asset(part, is_last=False)
            assert index.get_asset(make_id("a")) is None
            assert index.find_path("/library/a.mp4") is None
            assert index.list_assets(limit=5).assets == ()
            assert index.count_segments() == 0
            assert index.search(VectorQuery(track=tracks[4], target="audio", limit=5)) == []
            assert index.search_assets(VectorQuery(track=tracks[4], target="audio", limit=5)) == []
        index.write_asset(segments[6:], is_last=True)
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert asset.num_segments == 7
        assert len(index.search(VectorQuery(track=tracks[4], target="audio", limit=50))) == 7

    def test_a_call_that_failed_can_be_repeated(self, index: Index) -> None:
        tracks = make_tracks(4, seed=11)
        segments = make_asset("a", tracks)
        index.write_asset(segments[:2], is_last=False)
        broken = [segments[2], make_segment("a", 3, audio_track=np.full((16, 32), np.nan, dtype=np.float32))]
        with pytest.raises(InvalidVector, match="must be finite"):
            index.write_asset(broken, is_last=True)
        assert index.get_asset(make_id("a")) is None
        index.write_asset(segments[2:], is_last=True)
        assert index.count_segments() == 4

    def test_writing_again_replaces(self, index: Index) -> None:
        tracks = make_tracks(5, seed=12)
        index.write_asset(make_asset("a", tracks), is_last=True)
        index.write_asset(make_asset("a", tracks), is_last=True)
        assert index.count_segments() == 5
        index.write_asset(make_asset("a", tracks[:3], path="/moved.mp4"), is_last=False)
        assert index.count_segments() == 5, "the old asset stays until the new one is complete"
        shorter = make_segment("a", 3, video_track=tracks[3], path="/moved.mp4")
        index.write_asset([shorter], is_last=True)
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert (asset.num_segments, asset.path, asset.modalities) == (4, "/moved.mp4", ("audio", "video"))
        assert (index.count_segments(), index.count_segments(modality="audio")) == (4, 3)
        starts = {
            m.start_seconds for m in index.search(VectorQuery(track=tracks[4], target="audio", limit=9))
        }
        assert starts == {0.0, 10.0, 20.0}, (
            "the segment that is gone and the modality that is gone are not found"
        )

    def test_an_index_may_be_left_out_but_not_the_first(self, index: Index) -> None:
        tracks = make_tracks(3, seed=13)
        kept = [make_segment("a", n, audio_track=track) for n, track in zip((0, 2, 5), tracks, strict=True)]
        index.write_asset(kept, is_last=True)
        assert index.count_segments() == 3
        with pytest.raises(InvalidSegment, match="must be written from segment 0 on, got 2 first"):
            index.write_asset([make_segment("b", 2, audio_track=tracks[0])], is_last=True)
        index.write_asset([make_segment("b", 0, audio_track=tracks[0])], is_last=False)
        index.write_asset([make_segment("b", 1, audio_track=tracks[1])], is_last=False)
        with pytest.raises(InvalidSegment, match="must rise in index and start: after 1"):
            index.write_asset([make_segment("b", 1, audio_track=tracks[1])], is_last=True)
        index.write_asset([make_segment("b", 4, audio_track=tracks[2])], is_last=True)
        assert index.count_segments() == 6

    @pytest.mark.parametrize("kind", sorted(bad_tracks()))
    def test_a_bad_track_stores_nothing_of_its_call(self, index: Index, kind: str) -> None:
        bad, message = bad_tracks()[kind]
        good = make_tracks(2, seed=14)
        segments = [*make_asset("a", good), make_segment("a", 2, audio_track=good[0], video_track=bad)]
        with pytest.raises(InvalidVector, match=message):
            index.write_asset(segments, is_last=True)
        assert index.count_segments() == 0
        assert index.info().num_segments == 0
        if kind == "zero row":  # a query's rows may be shorter
            assert index.search(VectorQuery(track=bad, target="audio", limit=1)) == []
            return
        with pytest.raises(InvalidVector, match=message):
            index.search(VectorQuery(track=bad, target="audio", limit=1))

    def test_a_mixture_of_queries_scores_the_mixture_of_their_scores(self, index: Index) -> None:
        """The score of Σ w q / Σ w is Σ w score(q) / Σ w, although its rows are shorter than 1."""
        tracks, queries = make_tracks(60, seed=28, clusters=5), make_tracks(2, seed=28, clusters=5)
        index.write_asset(make_asset("a", tracks), is_last=True)
        mixture = (3 * queries[0] + queries[1]) / 4
        assert np.linalg.norm(mixture, axis=1).max() < 0.99
        found = index.search(VectorQuery(track=mixture, target="audio", limit=60))
        expected = (3 * diagonal_means(queries[0], tracks) + diagonal_means(queries[1], tracks)) / 4
        np.testing.assert_allclose([m.score for m in found], np.sort(expected)[::-1], atol=TOLERANCE)
        for match in found:
            assert match.score == pytest.approx(expected[int(match.start_seconds // 10)], abs=TOLERANCE)
        opposite = np.stack([queries[0], -queries[0]]).mean(axis=0)
        with pytest.raises(InvalidVector, match="cancel out"):
            index.search(VectorQuery(track=opposite, target="audio", limit=1))

    def test_segments_that_contradict_themselves_are_refused(self, index: Index) -> None:
        track = make_tracks(1, seed=15)[0]
        with pytest.raises(InvalidSegment, match="64 lower-case hex digits, got 'ABC'"):
            make_segment("a", asset_id="ABC", audio_track=track)
        with pytest.raises(InvalidSegment, match="index must be 0 or more, got -1"):
            make_segment("a", -1, start_seconds=0.0, end_seconds=1.0, audio_track=track)
        with pytest.raises(InvalidSegment, match=r"got \[3.0, 3.0\)"):
            make_segment("a", start_seconds=3.0, end_seconds=3.0, audio_track=track)
        with pytest.raises(InvalidVector, match="needs an audio track, a video track or both"):
            make_segment("a")
        refused: list[tuple[Sequence[Segment], str]] = [
            ([], "at least one segment, got none"),
            (
                [make_segment("a", audio_track=track), make_segment("b", 1, audio_track=track)],
                "takes one asset",
            ),
            (
                [make_segment("a", n, audio_track=track) for n in (0, 2, 1)],
                "must rise in index and start, got 2",
            ),
            ([make_segment("a", audio_track=track, media={"x": math.nan})], "JSON values only"),
            ([make_segment("a", audio_track=track, media={"x": b"1"})], "JSON values only"),
            ([make_segment("a", audio_track=track, media={"x": "\udcff"})], "JSON values only"),
        ]
        for segments, message in refused:
            with pytest.raises(InvalidSegment, match=message):
                index.write_asset(segments, is_last=True)
        assert index.info().num_segments == 0

    def test_choices_that_make_no_sense_are_refused(self, index: Index) -> None:
        track = make_tracks(1, seed=16)[0]
        with pytest.raises(ValueError, match="audio or video, got 'smell'"):
            index.search(VectorQuery(track=track, target="smell", limit=1))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="1 or more, got 0"):
            index.search(VectorQuery(track=track, target="audio", limit=0))

    def test_delete_leaves_nothing(self, index: Index) -> None:
        tracks = make_tracks(4, seed=17)
        index.write_asset(make_asset("a", tracks), is_last=True)
        index.write_asset(make_asset("b", tracks[:1]), is_last=True)
        assert index.delete_asset(make_id("a")) == 4
        assert index.delete_asset(make_id("a")) == 0
        assert index.get_asset(make_id("a")) is None
        assert {m.asset_id for m in index.search(VectorQuery(track=tracks[0], target="audio", limit=9))} == {
            make_id("b")
        }

    def test_several_assets_are_deleted_at_once(self, index: Index) -> None:
        tracks = make_tracks(6, seed=17)
        for n, name in enumerate("abc"):
            index.write_asset(make_asset(name, tracks[2 * n : 2 * n + 2]), is_last=True)
        assert index.delete_assets([make_id("a"), make_id("no"), make_id("c")]) == 4
        assert index.delete_assets([make_id("a")]) == index.delete_assets([]) == 0
        assert all_assets(index) == [make_id("b")]

    def test_an_unfinished_asset_can_be_deleted(self, index: Index) -> None:
        segments = make_asset("a", make_tracks(4, seed=18))
        index.write_asset(segments[:3], is_last=False)
        index.delete_asset(make_id("a"))
        assert index.info().num_segments == 0
        with pytest.raises(IndexFailure, match="from segment 0 on"):
            index.write_asset(segments[3:], is_last=True)

    def test_pages_come_in_one_order(self, index: Index) -> None:
        tracks = make_tracks(13, seed=19)
        for name, track in enumerate(tracks):
            index.write_asset([make_segment(name, audio_track=track)], is_last=True)
        order = all_assets(index, limit=50)
        assert sorted(order) == sorted(make_id(name) for name in range(13))
        assert all_assets(index, limit=4) == order
        assert all_assets(index, limit=13) == order
        first = index.list_assets(limit=5)
        assert first.next_cursor is not None
        index.delete_asset(order[3])
        index.delete_asset(order[5])  # the one the cursor points at
        rest = index.list_assets(limit=50, cursor=first.next_cursor)
        assert [asset.asset_id for asset in rest.assets] == order[6:]
        others = (
            first.next_cursor.replace("-", ""),
            f"{{{first.next_cursor}}}",
            f"urn:uuid:{first.next_cursor}",
        )
        for cursor in ("", "x", "../..", "0" * 400, *others):
            with pytest.raises(InvalidCursor, match="cursor must be next_cursor of a page"):
                index.list_assets(limit=5, cursor=cursor)

    def test_an_asset_is_found_by_its_path_and_moved(self, index: Index) -> None:
        tracks = make_tracks(4, seed=20)
        index.write_asset(make_asset("old", tracks[:2], path="/take.mp4"), is_last=True)
        index.write_asset(make_asset("new", tracks[2:], path="/take.mp4"), is_last=True)
        found = index.find_path("/take.mp4")
        assert found is not None
        assert found.asset_id == make_id("new")
        assert index.set_paths(make_id("old"), paths=["/archive/take.mp4"], media={"size_bytes": 7})
        moved = index.find_path("/archive/take.mp4")
        assert moved is not None
        assert (moved.asset_id, moved.num_segments, moved.media) == (make_id("old"), 2, {"size_bytes": 7})
        for match in index.search(VectorQuery(track=tracks[0], target="audio", limit=9)):
            if match.asset_id == make_id("old"):
                assert (match.path, match.media) == ("/archive/take.mp4", {"size_bytes": 7})
        assert index.find_path("/nowhere.mp4") is None
        assert not index.set_paths(make_id("none"), paths=["/x"], media={})

    def test_copies_are_paths_of_one_asset(self, index: Index) -> None:
        tracks = make_tracks(2, seed=23)
        copies = ("/b/copy.mp4", "/c/d/copy.mp4")
        index.write_asset(make_asset("a", tracks, path="/a/first.mp4", paths=copies), is_last=True)
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert (asset.path, asset.paths) == ("/a/first.mp4", ("/a/first.mp4", *copies))
        assert all(index.find_path(path) == asset for path in asset.paths)
        assert index.set_paths(make_id("a"), paths=["/z.mp4", "/b/copy.mp4", "/z.mp4"], media=asset.media)
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert (asset.path, asset.paths) == ("/z.mp4", ("/z.mp4", "/b/copy.mp4"))
        assert index.find_path("/z.mp4") == index.find_path("/b/copy.mp4") == asset
        assert index.find_path("/a/first.mp4") is None
        assert index.search(VectorQuery(track=tracks[0], target="audio", limit=1))[0].path == "/z.mp4"
        with pytest.raises(InvalidSegment, match="at least one path, got none"):
            index.set_paths(make_id("a"), paths=[], media={})

    def test_metadata_is_replaced_whole(self, index: Index) -> None:
        tracks = make_tracks(2, seed=24)
        index.write_asset(
            make_asset("a", tracks, metadata={"take": 3, "tags": ["rain", "wind"]}), is_last=True
        )
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert asset.metadata == {"take": 3, "tags": ["rain", "wind"]}
        said = {
            "ok": True,
            "mood": "\N{SNOWMAN} cold",
            "": "no name",
            "a.b[0]": -1,
            "lufs": -23.5,
            "fps": [24.0, 1e-7],
        }
        assert index.set_metadata(make_id("a"), said)
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert (asset.metadata, asset.num_segments, asset.paths) == (said, 2, ("/library/a.mp4",))
        assert [m.metadata for m in index.search(VectorQuery(track=tracks[0], target="audio", limit=9))] == [
            said,
            said,
        ]
        assert all_assets(index, filter=Filter(metadata={"take": 3})) == []
        assert not index.set_metadata(make_id("none"), {})
        for refused in ({"x": math.nan}, {"x": None}, {"x": {"y": 1}}, {"x": [[1]]}, {"x": 2**63}, {1: "x"}):
            with pytest.raises(InvalidSegment, match="metadata holds text, numbers"):
                index.set_metadata(make_id("a"), refused)  # type: ignore[arg-type]
        with pytest.raises(InvalidSegment, match="metadata must hold JSON"):
            index.set_metadata(make_id("a"), {"x": "\udcff"})

    def test_assets_are_counted_with_a_filter(self, index: Index) -> None:
        tracks = make_tracks(2, seed=31)
        assert index.count_assets() == 0
        for number, name in enumerate("abc"):
            segments = [make_segment(name, n, audio_track=tracks[n]) for n in range(2)]
            index.write_asset(segments, is_last=True)
            index.set_metadata(make_id(name), {"take": number})
        index.write_asset([make_segment("d", 0, audio_track=tracks[0])], is_last=False)
        assert index.count_assets() == 3
        assert index.count_assets(filter=Filter(metadata={"take": [0, 2]})) == 2
        assert index.count_assets(filter=Filter(metadata={"take": Bounds(at_least=2)})) == 1
        found = index.read_pooled([*map(make_id, "abcd")], index=1, modality="audio")
        assert found.keys() == {*map(make_id, "abc")}
        assert index.read_pooled([], index=0, modality="audio") == {}

    def test_a_stored_track_can_be_read_and_searched_by(self, index: Index) -> None:
        tracks, pictures = make_tracks(4, seed=25), make_tracks(4, seed=26)
        kept = (0, 2, 3, 7)
        index.write_asset(
            [
                make_segment(
                    "a", n, audio_track=tracks[i], video_track=pictures[i] if i % 2 else None, paths=("/y",)
                )
                for i, n in enumerate(kept)
            ],
            is_last=True,
        )
        for i, n in enumerate(kept):
            track = index.get_track(make_id("a"), index=n, modality="audio")
            assert track is not None
            assert (track.dtype, track.shape) == (np.float32, (NUM_MOMENTS, WIDTH))
            np.testing.assert_allclose(track, tracks[i], atol=self.loss)
            pooled = index.read_pooled([make_id("a")], index=n, modality="audio")[make_id("a")]
            np.testing.assert_allclose(pooled, pool(track), atol=max(1e-6, self.loss - 2**-11))
            assert (
                index.search(VectorQuery(track=track, target="audio", limit=1))[0].start_seconds == 10.0 * n
            )
        assert index.get_track(make_id("a"), index=0, modality="video") is None
        assert index.read_pooled([make_id("a")], index=0, modality="video") == {}
        assert index.read_pooled([make_id("a")], index=1, modality="audio") == {}
        assert index.read_pooled([make_id("none")], index=0, modality="audio") == {}
        assert index.get_track(make_id("a"), index=1, modality="audio") is None
        assert index.get_track(make_id("a"), index=8, modality="audio") is None
        assert index.get_track(make_id("none"), index=0, modality="audio") is None
        some = index.read_segments(make_id("a"), first_index=1, limit=2)
        assert [segment.index for segment in some] == [2, 3]
        assert index.read_segments(make_id("none"), limit=5) == []
        segments = index.read_segments(make_id("a"), limit=10)
        index.delete_asset(make_id("a"))
        index.write_asset(segments, is_last=True)
        again = index.read_segments(make_id("a"), limit=10)
        for before, after, i in zip(segments, again, range(4), strict=True):
            facts = [
                {name: value for name, value in vars(segment).items() if not name.endswith("_track")}
                for segment in (before, after)
            ]
            assert facts[0] == facts[1]
            assert before.audio_track is not None
            assert after.audio_track is not None
            off = self.loss if self.loss > 2**-11 else 0.0
            np.testing.assert_allclose(before.audio_track, after.audio_track, rtol=0, atol=off)
            assert (after.video_track is not None) == (i % 2 == 1)
            if after.video_track is not None:
                np.testing.assert_allclose(after.video_track, pictures[i], atol=2 * self.loss)

    def test_a_filter_holds_for_lists_and_for_candidates(self, index: Index) -> None:
        """Every search asks for more than the filter leaves: what it leaves is found, and nothing else."""
        tracks = make_tracks(12, seed=27)
        for name, changes in FILTERED.items():
            segment = make_segment(name, audio_track=tracks[len(name)], **changes)
            pair = replace(segment, index=1, start_seconds=10.0, end_seconds=20.0)
            if name == "both":
                pair = replace(pair, video_track=tracks[1])
            index.write_asset([segment], is_last=False)
            index.write_asset([pair], is_last=True)
        for chosen, names in FILTERS:
            wanted = sorted(make_id(name) for name in names)
            assert sorted(all_assets(index, limit=2, filter=chosen)) == wanted, chosen
            # the best of all 200 candidates are not meant: with as few as wanted, each has to fulfil the filter
            few = max(1, 2 * len(names))
            found = index.search(
                VectorQuery(track=tracks[0], target="audio", limit=few, prefetch=few, filter=chosen)
            )
            assert sorted(m.asset_id for m in found) == sorted(wanted * 2), chosen
            best = index.search_assets(
                VectorQuery(track=tracks[0], target="audio", limit=9, prefetch=1, filter=chosen)
            )
            assert sorted(m.asset_id for m in best) == wanted, chosen

    def test_names_and_metadata_are_found_by_their_words(self, index: Index) -> None:
        tracks = make_tracks(1, seed=28)
        named = {
            "DOORWood_Squeak": {},
            "door": {"mood": ["calm night"], "take": 3},
            "Türknarren 02": {"title": "Old doors"},
            "rain": {},
        }
        for name, said in named.items():
            facts: dict[str, Any] = {"path": f"/library/{name}.wav", "metadata": said}
            index.write_asset(make_asset(name, tracks, **facts), is_last=True)
        picture = make_segment("door", path="/library/door.mov", video_track=tracks[0], asset_id=make_id("m"))
        index.write_asset([picture], is_last=True)

        def find(words: str, **changes: Any) -> list[str]:
            query = WordQuery(**{"words": tuple(words.split()), "target": "audio", "limit": 9, **changes})
            paths = [match.asset.path for match in index.search_words(query)]
            return [path.removeprefix("/library/").removesuffix(".wav") for path in paths]

        assert find("wood") == find("squeak wood") == ["DOORWood_Squeak"]
        assert find("door squeak none") == ["DOORWood_Squeak"]  # at least half of the words
        assert find("door")[:2] == ["door", "DOORWood_Squeak"]  # the words whole, and few others
        assert find("door", limit=1) == ["door"]
        assert find("calm night") == ["door"]
        assert find("turknarren 2") == find("tuerknarren") == ["Türknarren 02"]
        assert find("none") == []
        assert find("door", target="video") == ["door.mov"]
        assert find("door", filter=Filter(metadata={"take": 3})) == ["door"]
        if self.finds_beginnings:
            assert find("squea") == ["DOORWood_Squeak"]
            assert find("door")[2:] == ["Türknarren 02"]
        (match,) = index.search_words(WordQuery(words=("rain",), target="audio", limit=1))
        assert (match.asset, match.start_seconds, match.end_seconds) == (
            index.get_asset(make_id("rain")),
            0.0,
            10.0,
        )
        assert index.set_paths(make_id("rain"), paths=["/library/storm.wav"], media={})
        assert find("rain") == []
        assert find("storm") == ["storm"]
        assert index.set_metadata(make_id("rain"), {"title": "Gewitter"})
        assert find("storm gewitter") == ["storm"]
        index.delete_asset(make_id("rain"))
        assert find("storm") == []

    def test_words_are_found_by_their_beginnings_in_every_script(self, index: Index) -> None:
        if not self.finds_beginnings:
            pytest.skip("it finds whole words alone")
        names = (
            "हिन्दी पानी",
            "Évènement STRAẞE 07",
            "เก็บ ไทยแลนด์",
            "Σίσυφος 犬の声",
            "İstanbul ışık",
            "한국어 نقطة",
        )
        (track,) = make_tracks(1, seed=30)
        for name in names:
            index.write_asset([make_segment(name, audio_track=track)], is_last=True)
        for word in {word for name in names for word in split_words(name)}:
            for length in {1, len(word) // 2 + 1, len(word)}:
                begun = [n for n in names if any(w.startswith(word[:length]) for w in split_words(n))]
                query = WordQuery(words=(word[:length],), target="audio", limit=9)
                found = {match.asset_id for match in index.search_words(query)}
                assert found == set(map(make_id, begun)), word[:length]

    def test_what_files_say_counts_where_people_said_nothing_else(self, index: Index) -> None:
        tracks = make_tracks(2, seed=29)
        said = {"title": "Old gate", "take": "3", "keywords": ["wood", "creak"], "coding_history": "pcm"}
        said |= {"bpm": "128.5", "track": "3/12"}
        index.write_asset(
            make_asset("gate", tracks, path="/library/1.wav", media={"said": said}), is_last=True
        )

        def found(**wanted: Any) -> tuple[int, int]:
            chosen = Filter(metadata=wanted)
            query = VectorQuery(track=tracks[1], target="audio", limit=9, filter=chosen)
            return len(all_assets(index, filter=chosen)), len(index.search(query))

        def finds(*words: str) -> bool:
            return bool(index.search_words(WordQuery(words=words, target="audio", limit=9)))

        assert (
            found(title="Old gate") == found(take="3") == found(take=3) == found(keywords="creak") == (1, 2)
        )
        fast = Bounds(at_least=100)
        assert (
            found(bpm=fast, take=Bounds(at_most=3))
            == found(bpm=Bounds(at_least=128.5, at_most=128.5))
            == (1, 2)
        )
        for missed in ({"bpm": Bounds(at_most=128)}, {"track": Bounds(at_least=0)}, {"title": fast}):
            assert found(**missed) == (0, 0)
        assert finds("gate")
        assert finds("creak")
        assert not finds("pcm")
        index.set_metadata(make_id("gate"), {"title": "New door", "bpm": 64})
        assert (found(bpm=fast), found(bpm=Bounds(at_most=64))) == ((0, 0), (1, 2))
        assert (found(title="Old gate"), found(title="New door"), found(take="3")) == ((0, 0), (1, 2), (1, 2))
        assert (finds("gate"), finds("door")) == (False, True)
        index.set_paths(
            make_id("gate"), paths=["/library/1.wav"], media={"said": {"title": "x", "take": "4"}}
        )
        assert (found(take="3"), found(take="4"), found(title="New door")) == ((0, 0), (1, 2), (1, 2))
        index.set_metadata(make_id("gate"), {})
        assert found(title="x") == found(take=Bounds(at_least=4)) == (1, 2)
        assert found(bpm=fast) == (0, 0)
        asset = index.get_asset(make_id("gate"))
        assert asset is not None
        assert (asset.metadata, asset.media["said"]["title"]) == ({}, "x")

    def test_filters_that_make_no_sense_are_refused(self) -> None:
        refused: list[tuple[dict[str, Any], str]] = [
            ({"folder": "library"}, "absolute path or an address, got 'library'"),
            ({"folder": "/a\0b"}, "absolute path"),
            ({"modality": "smell"}, "audio or video, got 'smell'"),
            ({"min_duration_seconds": math.nan}, "must be finite, got nan"),
            ({"modified_before": math.inf}, "must be finite, got inf"),
            (
                {"min_duration_seconds": 2.0, "max_duration_seconds": 1.0},
                r"above the upper, got 2\.0 and 1\.0",
            ),
            ({"metadata": {"x": math.nan}}, "'x' has nan"),
            ({"metadata": {"x": ["a", None]}}, r"'x' has \['a', None\]"),
            ({"metadata": {"x": Bounds(at_least=2, at_most=1.5)}}, "above the upper, got 2 and 1.5"),
            ({"metadata": {"x": Bounds(at_most=math.inf)}}, "must be finite, got inf"),
            ({"metadata": {'x"': Bounds(at_most=1)}}, "a key with a quote"),
        ]
        for conditions, message in refused:
            with pytest.raises(InvalidFilter, match=message):
                Filter(**conditions)

    def test_a_path_that_is_not_utf8_comes_back(self, index: Index) -> None:
        path = "/library/caf\udce9 \N{SNOWMAN}.mp4"  # a latin-1 é as Python reads it from a folder
        index.write_asset(
            [make_segment("a", audio_track=make_tracks(1, seed=21)[0], path=path)], is_last=True
        )
        found = index.find_path(path)
        assert found is not None
        assert found.path == path

    def test_many_threads_write_and_search(self, index: Index) -> None:
        tracks = make_tracks(8, seed=22)
        failures: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                for turn in range(2):
                    name = f"{worker}-{turn}"
                    index.write_asset(make_asset(name, tracks[:2]), is_last=True)
                    asset = index.get_asset(make_id(name))
                    assert asset is not None
                    assert asset.num_segments == 2
                    matches = index.search(VectorQuery(track=tracks[worker], target="audio", limit=100))
                    assert {make_id(name)} <= {m.asset_id for m in matches}
            except BaseException as exc:  # a thread's failure must reach the test
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert index.count_segments() == 8 * 2 * 2


LAYOUTS: dict[str, VectorLayout] = {
    "sound alone": VectorLayout(tracks={"audio": (1, 24)}),
    "picture alone": VectorLayout(tracks={"video": (4, 16)}),
    "two shapes": VectorLayout(tracks={"audio": (1, 24), "video": (4, 20)}),
    "dot": VectorLayout(tracks={"audio": (1, 24), "video": (1, 24)}, similarity="dot"),
    "dot, two shapes": VectorLayout(tracks={"audio": (6, 8), "video": (4, 20)}, similarity="dot"),
    "weighed": VectorLayout(tracks={"audio": (6, 24), "video": (6, 24)}, weighs_moments=True),
}


def make_layout_tracks(
    layout: VectorLayout, modality: Modality, count: int, *, seed: int
) -> NDArray[np.float32]:
    """Random tracks (count, T, D); their rows have lengths from .1 to 40 where they compare by dot product.

    Rows that are weighed have lengths with a mean of 1.
    """
    num_moments, width = layout.tracks[modality]
    tracks = make_tracks(count, seed=seed, num_moments=num_moments, width=width)
    if layout.similarity == "dot":
        tracks *= np.geomspace(0.1, 40.0, count, dtype=np.float32)[:, None, None]
    if layout.is_weighed(modality):
        lengths = np.random.default_rng(seed).uniform(0.05, 2.0, tracks.shape[:2]).astype(np.float32)
        tracks *= (lengths / lengths.mean(axis=1, keepdims=True))[..., None]
    return tracks


class LayoutContract:
    """The suite for indexes that hold less, or compare otherwise, than sound and picture of one shape by cosine."""

    loss = 2**-10  # of a row that was written, relative to its longest number
    moment_tolerance = TOLERANCE

    @pytest.fixture
    def index(self, opened_as: tuple[Index, VectorLayout]) -> Iterator[Index]:
        index, _ = opened_as
        yield index
        for asset_id in all_assets(index):
            index.delete_asset(asset_id)

    @pytest.fixture
    def layout(self, opened_as: tuple[Index, VectorLayout]) -> VectorLayout:
        return opened_as[1]

    def test_scores_are_the_means_of_the_products_of_moments(
        self, index: Index, layout: VectorLayout
    ) -> None:
        stored = {m: make_layout_tracks(layout, m, 30, seed=n) for n, m in enumerate(layout.tracks)}
        segments = [
            make_segment("a", n, **{f"{m}_track": tracks[n] for m, tracks in stored.items()})
            for n in range(30)
        ]
        index.write_asset(segments, is_last=True)
        for modality, tracks in stored.items():
            for stored_query in make_layout_tracks(layout, modality, 4, seed=9):
                query = layout.to_query(stored_query, modality)
                found = index.search(VectorQuery(track=query, target=modality, limit=30))
                moments = np.einsum("td,ntd->nt", query.astype(np.float64), tracks.astype(np.float64))
                expected = moments.mean(axis=1)
                if layout.is_weighed(modality):
                    moments /= np.linalg.norm(tracks, axis=2)
                    assert np.abs([match.moments for match in found]).max() <= 1
                # what is stored and asked is rounded to float16, 2**-11 of each number
                allowed = TOLERANCE * np.linalg.norm(query) * np.linalg.norm(tracks, axis=(1, 2)).max()
                order = [int(match.start_seconds // 10) for match in found]
                assert sorted(order) == list(range(30))
                np.testing.assert_allclose([m.score for m in found], expected[order], atol=allowed)
                allowed_moment = allowed * self.moment_tolerance / TOLERANCE
                np.testing.assert_allclose([m.moments for m in found], moments[order], atol=allowed_moment)
                np.testing.assert_allclose(np.sort(expected)[::-1], expected[order], atol=2 * allowed)
            assert index.count_segments(modality=modality) == 30

    def test_tracks_come_back_with_their_lengths(self, index: Index, layout: VectorLayout) -> None:
        for modality in layout.tracks:
            tracks = make_layout_tracks(layout, modality, 3, seed=4)
            index.write_asset(
                [make_segment(modality, n, **{f"{modality}_track": track}) for n, track in enumerate(tracks)],
                is_last=True,
            )
            for n, track in enumerate(tracks):
                stored = index.get_track(make_id(modality), index=n, modality=modality)
                found = index.read_pooled([make_id(modality), make_id("none")], index=n, modality=modality)
                assert stored is not None
                (pooled,) = found.values()
                np.testing.assert_allclose(stored, track, rtol=2**-10, atol=self.off(track))
                mean = stored.astype(np.float64).mean(axis=0)
                expected = mean if layout.similarity == "dot" else mean / np.linalg.norm(mean)
                np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=self.off(expected))
            segments = index.read_segments(make_id(modality), limit=9)
            index.write_asset(segments, is_last=True)
            again = index.read_segments(make_id(modality), limit=9)
            for before, after in zip(segments, again, strict=True):
                name = f"{modality}_track"
                off = self.off(getattr(before, name)) if self.loss > 2**-10 else 0.0
                np.testing.assert_allclose(getattr(before, name), getattr(after, name), rtol=0, atol=off)

    def off(self, numbers: NDArray[Any]) -> float:
        """How far numbers may be off that are read, besides float16's rounding."""
        return 1e-6 + (self.loss - 2**-10) * float(np.abs(numbers).max())

    def test_a_modality_that_is_not_held_is_nowhere(self, index: Index, layout: VectorLayout) -> None:
        held = next(iter(layout.tracks))
        track = make_layout_tracks(layout, held, 1, seed=5)[0]
        index.write_asset([make_segment("a", **{f"{held}_track": track})], is_last=True)
        asset = index.get_asset(make_id("a"))
        assert asset is not None
        assert asset.modalities == (held,)
        other = OPPOSITE[held]
        assert index.count_segments(modality=other) == 0
        assert index.get_track(make_id("a"), index=0, modality=other) is None
        assert index.read_pooled([make_id("a")], index=0, modality=other) == {}
        assert all_assets(index, filter=Filter(modality=other)) == []
        if other in layout.tracks:
            return
        with pytest.raises(NotEmbedded, match=f"the index holds {held}, no {other}"):
            index.search(VectorQuery(track=track, target=other, limit=1))
        with pytest.raises(InvalidVector, match=f"holds {held} alone"):
            index.write_asset([make_segment("b", **{f"{other}_track": track})], is_last=True)

    def test_what_cannot_be_stored_is_refused(self, index: Index, layout: VectorLayout) -> None:
        for modality, shape in layout.tracks.items():
            good = make_layout_tracks(layout, modality, 2, seed=6)[1]
            refused = {
                "must hold numbers up to 65504": good * 1e6,
                rf"must be \({shape[0]}, {shape[1]}\)": good[:, :-1],
            }
            refused |= (
                {"of unit length|a mean of 1": good * 0.5}
                if layout.similarity == "cosine"
                else {"cancel out": good * 1e-6}
            )
            for message, track in refused.items():
                with pytest.raises(InvalidVector, match=message):
                    index.write_asset([make_segment("a", **{f"{modality}_track": track})], is_last=True)
            assert index.info().num_segments == 0
