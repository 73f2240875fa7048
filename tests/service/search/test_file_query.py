"""The way of a query: which modality, which segment, which order, and the one form of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from models.media.clip import Clip, NoStream
from service.encode.embedding import EmbeddedSegment, embed_clips
from service.foley import Foley, open_foley
from service.index.contract import Filter, Index, Segment, SegmentMatch
from service.index.layout import VectorLayout
from service.search.calibration import Calibration, Curve, Direction
from service.search.matching import NotCalibrated, SearchAnswer, SearchResult, find_matches
from service.search.options import SearchOptions
from service.search.prefetch import choose_prefetch, measure_alikeness
from service.search.separation import Separation
from service.search.snapshot import Snapshot
from service.search.sources import choose_source
from service.system.modality import Modality
from service.system.settings import Settings
from tests.support.bundles import described_bundle
from tests.support.calibrations import CALIBRATION
from tests.support.memory_index import MemoryIndex, memory_indexes

WIDTH = 8


@pytest.mark.parametrize(
    ("has_audio", "has_video", "target", "source", "expected"),
    [
        (True, True, "audio", None, "video"),
        (True, True, "video", None, "audio"),
        (True, False, "audio", None, "audio"),
        (True, False, "video", None, "audio"),
        (False, True, "audio", None, "video"),
        (False, True, "video", None, "video"),
        (True, True, "audio", "audio", "audio"),
        (True, True, "video", "video", "video"),
    ],
)
def test_source(has_audio: bool, has_video: bool, target: str, source: str, expected: str) -> None:
    present = [name for name, has in (("audio", has_audio), ("video", has_video)) if has]
    chosen = choose_source(present, target=target, source=source, bundle=described_bundle())  # type: ignore[arg-type]
    assert chosen == expected


@pytest.mark.parametrize("source", ["audio", "video"])
def test_source_that_is_not_there(source: str) -> None:
    present = {"audio", "video"} - {source}
    with pytest.raises(NoStream, match=f"no {source} to search from"):
        choose_source(present, target="audio", source=source, bundle=described_bundle())  # type: ignore[arg-type]


def unit_tracks(seed: int, count: int) -> NDArray[np.float32]:
    tracks = np.random.default_rng(seed).standard_normal((count, 16, WIDTH))
    return np.asarray(tracks / np.linalg.norm(tracks, axis=2, keepdims=True), dtype=np.float32)


def query(track: NDArray[np.float32], start: float = 0.0) -> EmbeddedSegment:
    return EmbeddedSegment(start_seconds=start, end_seconds=start + 10, tracks={"video": track})


def snapshot_of(index: Index, calibration: Calibration | None = None) -> Snapshot:
    """A snapshot with no encoder: nothing is embedded here."""
    return Snapshot(encoder=cast(Any, None), index=index, bundle=described_bundle(), calibration=calibration)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with one asset of 300 segments that are all alike, and 12 assets of one."""
    folder = tmp_path_factory.mktemp("crowded")
    base = unit_tracks(0, 1)[0]
    with MemoryIndex.open(folder / "index", layout=VectorLayout.of_both(16, WIDTH)) as index:
        segments = [
            Segment(
                asset_id="f" * 64,
                path="/long",
                index=number,
                start_seconds=10.0 * number,
                end_seconds=10.0 * number + 10,
                audio_track=base,
            )
            for number in range(300)
        ]
        index.write_asset(segments, is_last=True)
        for number, track in enumerate(unit_tracks(1, 12)):
            alone = Segment(
                asset_id=f"{number:064x}",
                path=f"/{number}",
                index=0,
                start_seconds=0,
                end_seconds=10,
                audio_track=track,
            )
            index.write_asset([alone], is_last=True)
        yield index


@pytest.mark.parametrize("limit", [1, 5, 13, 20])
def test_long_asset_leaves_room_for_others(crowded: Index, limit: int) -> None:
    base = unit_tracks(0, 1)[0]
    options = SearchOptions(target="audio", limit=limit)
    found = find_matches([query(base)], options, source="video", snapshot=snapshot_of(crowded)).results
    assert len(found) == min(limit, 13)
    assert len({result.match.asset_id for result in found}) == len(found)
    assert found[0].match.path == "/long"
    expected = sorted((float((base * track).sum(1).mean()) for track in unit_tracks(1, 12)), reverse=True)
    scores = [result.match.score for result in found[1:]]
    np.testing.assert_allclose(scores, expected[: limit - 1], atol=2e-3)  # tracks are stored in float16


def test_each_asset_is_matched_by_its_best_query_segment(crowded: Index) -> None:
    tracks = unit_tracks(1, 12)
    queries = [query(tracks[3], start=0), query(tracks[7], start=10), query(tracks[3], start=20)]
    options = SearchOptions(target="audio", limit=2)
    found = find_matches(queries, options, source="video", snapshot=snapshot_of(crowded)).results
    assert [(r.match.path, r.query_start_seconds, r.query_end_seconds) for r in found] == [
        ("/3", 0, 10),  # of equal query segments the first
        ("/7", 10, 20),
    ]
    assert found[0].match.score == pytest.approx(1, abs=2e-3)


def test_json_of_an_answer() -> None:
    moments = tuple(float(x) for x in np.linspace(-0.5, 0.5, 16))
    match = SegmentMatch(
        asset_id="a" * 64,
        path="/caf\udce9.wav",
        start_seconds=10.0,
        end_seconds=18.0,
        score=0.0,
        moments=moments,
        media={},
        metadata={"take": 3},
    )
    answer = SearchAnswer(
        results=(SearchResult(match=match, query_start_seconds=0.0, query_end_seconds=4.0),),
        target="audio",
        source="video",
        bundle_id="starter-1",
        release_id="starter-1.2",
        similarity="cosine",
        num_query_segments=1,
    )
    assert answer.to_json() == {
        "results": [
            {
                "asset_id": "a" * 64,
                "path": "/caf\\xe9.wav",
                "start_seconds": 10.0,
                "end_seconds": 18.0,
                "match_probability": None,
                "score": 0.0,
                "found_by": ["meaning"],
                # 15/16 of the way through the 8 s of the segment
                "best_moment": {"index": 15, "time_seconds": 17.5, "similarity": 0.5},
                "moments": list(moments),
                "query_start_seconds": 0.0,
                "query_end_seconds": 4.0,
                "metadata": {"take": 3},
            }
        ],
        "target": "audio",
        "from": "video",
        "bundle_id": "starter-1",
        "release_id": "starter-1.2",
        "similarity": "cosine",
        "reason": None,
        "probability_reason": None,
        "query": {"num_segments": 1, "is_partial": False},
        "next_offset": None,
    }


def test_pages_are_cut_from_one_ranking(crowded: Index) -> None:
    """Whatever the size of the pages, and though each round of a search for more assets looks further."""
    base = unit_tracks(0, 1)[0]
    queries = [query(base), query(unit_tracks(1, 12)[3], start=10)]

    def page(offset: int | None, limit: int, *, min_score: float | None = None) -> SearchAnswer:
        options = SearchOptions(
            target="audio", limit=limit, offset=offset, window=13, prefetch=5, min_score=min_score
        )
        return find_matches(queries, options, source="video", snapshot=snapshot_of(crowded))

    whole = page(0, 13)
    assert (len(whole.results), whole.next_offset) == (13, None)
    for limit in (1, 4, 6):
        paged: list[SearchResult] = []
        offset: int | None = 0
        while offset is not None:
            found = page(offset, min(limit, 13 - offset))
            paged += found.results
            offset = found.next_offset
            assert offset in (None, len(paged))
        assert tuple(paged) == whole.results
    assert page(13 - 1, 1).next_offset is None
    assert page(None, 4).next_offset is None
    least = whole.results[3].match.score
    assert page(0, 13, min_score=least).results == whole.results[:4]
    last = page(2, 2, min_score=least)
    assert (last.results, last.next_offset, last.reason) == (whole.results[2:4], None, None)
    assert page(None, 13, min_score=1.1).results == ()
    with pytest.raises(ValueError, match=r"offset \+ limit 13 at most, got 4 and 10"):
        page(10, 4)


def test_a_filter_reaches_every_segment_of_a_query(crowded: Index) -> None:
    tracks = unit_tracks(1, 12)
    options = SearchOptions(target="audio", limit=13, filter=Filter(folder="/nowhere"))
    found = find_matches([query(tracks[0])], options, source="video", snapshot=snapshot_of(crowded))
    assert found.results == ()


def test_like_compared_with_like_has_no_probability(crowded: Index) -> None:
    """What was learned is how often sound and picture of a score are of one file; two sounds score otherwise."""
    curve = Curve(scores=(0.0, 1.0), probabilities=(0.1, 0.9), error=0.01, num_pairs=40, num_held_out=20)
    learned = Direction(best=curve, further=curve, error=0.01, num_queries=40)
    calibration = Calibration(directions={"audio": learned}, num_assets=40)
    track = unit_tracks(1, 12)[0]
    both = EmbeddedSegment(start_seconds=0, end_seconds=10, tracks={"audio": track, "video": track})

    def ask(source: Modality, min_probability: float | None = None) -> tuple[SearchResult, ...]:
        options = SearchOptions(target="audio", limit=1, min_probability=min_probability)
        return find_matches(
            [both], options, source=source, snapshot=snapshot_of(crowded, calibration)
        ).results

    across = ask("video", 0.5)
    assert [result.match_probability for result in across] == [pytest.approx(0.9, abs=1e-3)]
    alike = ask("audio")
    assert [result.match_probability for result in alike] == [None]
    with pytest.raises(NotCalibrated, match="for the other modality: audio was compared with audio"):
        ask("audio", 0.5)


@pytest.mark.parametrize(
    ("calibration", "reason", "words"),
    [
        (None, "not_calibrated", "has learned what its scores mean"),
        (CALIBRATION, None, ""),
        (
            replace(CALIBRATION, separation=Separation(auc=0.51, low=0.44, high=0.58, num_files=94)),
            "cannot_tell",
            "say more than chance: AUC 0.51, 95 % interval 0.44 to 0.58, 94 files",
        ),
    ],
)
def test_an_answer_says_why_it_has_no_probability(
    crowded: Index, calibration: Calibration | None, reason: str | None, words: str
) -> None:
    queries = [query(unit_tracks(1, 12)[0])]
    options = SearchOptions(target="audio", limit=3)
    answer = find_matches(
        queries, options, source="video", snapshot=snapshot_of(crowded, calibration)
    ).to_json()
    assert answer["probability_reason"] == reason
    assert [result["match_probability"] is None for result in answer["results"]] == [reason is not None] * 3
    if reason is not None:
        with pytest.raises(NotCalibrated, match=words):
            find_matches(
                queries,
                replace(options, min_probability=0.1),
                source="video",
                snapshot=snapshot_of(crowded, calibration),
            )


@pytest.fixture(scope="module")
def foley(indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foley]:
    with (
        memory_indexes(),
        open_foley(indexed_settings.replace(data=tmp_path_factory.mktemp("empty"))) as opened,
    ):
        yield opened


def test_batches_do_not_change_embeddings(foley: Foley, library_files: Path) -> None:
    from models.media.clip import decode_segments

    clips = list(decode_segments(library_files / "long.mp4", foley.snapshot().spec).clips)
    silent = Clip(
        start_seconds=30, end_seconds=40, frames=None, frame_times_seconds=None, samples=clips[0].samples
    )
    clips += [silent, clips[0], clips[1]]
    together = embed_clips(clips, encoder=foley.encoder, modalities=("audio", "video"))
    assert [set(segment.tracks) for segment in together] == [
        {"audio", "video"} if clip is not silent else {"audio"} for clip in clips
    ]
    for clip, segment in zip(clips, together, strict=True):
        (alone,) = embed_clips([clip], encoder=foley.encoder, modalities=("audio", "video"))
        for modality, track in alone.tracks.items():
            np.testing.assert_allclose(segment.tracks[modality], track, atol=1e-5)
    pictures = embed_clips(clips, encoder=foley.encoder, modalities=("video",))
    assert len(pictures) == len(clips) - 1


def test_search_of_an_empty_library(foley: Foley, library_files: Path) -> None:
    answer = foley.search_file(library_files / "long.mp4", SearchOptions(target="audio"))
    assert answer.results == ()
    assert (answer.source, answer.num_query_segments) == ("video", 3)


def test_file_without_the_modality_has_no_embedding(foley: Foley, library_files: Path) -> None:
    (path, *_) = sorted(library_files.glob("*.m4a"))
    with pytest.raises(NoStream):
        foley.embed_file(path, modality="video")
    (segment,) = foley.embed_file(path).segments
    assert set(segment.tracks) == {"audio"}


@pytest.mark.parametrize(
    ("own_noise", "expected"), [(0.0, 100), (0.6, 100), (0.9, 200), (1.3, 200), (3.0, 500), (100.0, 500)]
)
def test_the_less_alike_the_moments_of_a_query_the_more_candidates(own_noise: float, expected: int) -> None:
    """`python -m benchmarks.search_prefetch` prints what each of them finds."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((1, 768)) + own_noise * rng.standard_normal((16, 768))
    track = np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
    cosines = track @ track.T
    assert measure_alikeness(track) == pytest.approx((cosines.sum() - 16) / 240, abs=1e-5)
    assert choose_prefetch(track, limit=10) == choose_prefetch(track, limit=1) == expected
    assert choose_prefetch(track, limit=60) == expected + 100
    assert choose_prefetch(track[:1], limit=10) == 100


def test_two_moments_that_point_apart_have_a_number_of_candidates_too() -> None:
    row = np.eye(8, dtype=np.float32)[:1]
    assert choose_prefetch(np.concatenate([row, -row]), limit=10) == 500
