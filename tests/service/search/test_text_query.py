"""Words as a query: by their meaning, by names and metadata, or both; several weighted queries together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import Bundle, load_bundle
from service.encode.queue import BatchLimits
from service.encode.text import TextEncoder, TextQueue, TextTooLong, UnusableText
from service.index.contract import Filter
from service.index.layout import VectorLayout
from service.search.matching import NotCalibrated, QueryTrack, SearchResult, fuse
from service.search.mixed_query import Part, TooManyCombinations, WeightedText, of_text, search_parts
from service.search.options import SearchOptions
from service.search.snapshot import Snapshot
from service.search.text_query import embed_text, search_text
from service.system.caller import Caller
from service.system.modality import NotEmbedded
from tests.support.bundles import make_worded
from tests.support.index_contract import make_segment, make_tracks
from tests.support.memory_index import MemoryIndex

T, D = 16, 128
NAMES = ("DOORWood_Squeak", "dog", "rain_1", "rain_2", "night", "wind")
AUDIO = SearchOptions(target="audio")


@pytest.fixture(scope="module")
def texts(worded_bundle: Bundle) -> Iterator[TextQueue]:
    queue = TextQueue(TextEncoder(worded_bundle, num_threads=1), BatchLimits())
    yield queue
    queue.close()


@pytest.fixture(scope="module")
def tracks() -> NDArray[np.float32]:
    return make_tracks(len(NAMES), seed=31, width=D)


@pytest.fixture(scope="module")
def snapshot(
    worded_bundle: Bundle,
    texts: TextQueue,
    tracks: NDArray[np.float32],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Snapshot]:
    """Assets with random tracks, but `wind` sounds as "dog" reads."""
    dog = np.repeat(texts.encoder.embed("dog", target="audio")[None], T, axis=0)
    layout = VectorLayout.of(worded_bundle.manifest)
    with MemoryIndex.open(tmp_path_factory.mktemp("index"), layout=layout) as index:
        for name, track in zip(NAMES, tracks, strict=True):
            sound = dog if name == "wind" else track
            index.write_asset([make_segment(name, audio_track=sound, video_track=track)], is_last=True)
        yield Snapshot(
            encoder=None,  # type: ignore[arg-type] - nothing is encoded here
            index=index,
            bundle=worded_bundle,
            texts=texts.of(Caller()),
        )


def names(results: Any) -> list[str]:
    return [Path(result.match.path).stem for result in results]


def test_a_text_finds_what_it_means_and_what_has_its_words(snapshot: Snapshot) -> None:
    answer = search_text("dog", AUDIO, snapshot=snapshot)
    assert (answer.source, answer.num_query_segments, answer.probability_reason) == ("text", 1, "no_captions")
    first, second = answer.results[:2]
    assert {names([one])[0]: one.found_by for one in answer.results}["dog"] == ("meaning", "words")
    assert {*names([first, second])} == {"dog", "wind"}
    found = {result.match.path: result.to_json() for result in answer.results}
    assert found["/library/wind.mp4"]["score"] == pytest.approx(1, abs=2e-3)
    assert found["/library/wind.mp4"]["found_by"] == ["meaning"]
    assert len(answer.results) == len(NAMES)


def test_the_score_is_the_similarity_of_the_text_with_the_mean_of_the_moments(
    snapshot: Snapshot, texts: TextQueue, tracks: NDArray[np.float32]
) -> None:
    vector = texts.encoder.embed("rain", target="video")
    answer = search_text("rain", SearchOptions(target="video", match="meaning"), snapshot=snapshot)
    expected = dict(zip(NAMES, tracks.mean(axis=1) @ vector, strict=True))
    for result, name in zip(answer.results, names(answer.results), strict=True):
        assert result.match.score == pytest.approx(float(expected[name]), abs=1e-3)
        np.testing.assert_allclose(result.match.moments, tracks[NAMES.index(name)] @ vector, atol=2e-3)
    assert names(answer.results) == sorted(NAMES, key=lambda name: -expected[name])


def test_words_alone_need_no_bundle_that_embeds_them(snapshot: Snapshot, bundle_path: Path) -> None:
    plain = replace(snapshot, bundle=load_bundle(bundle_path), texts=None)
    answer = search_text("door", AUDIO, snapshot=plain)
    (only,) = answer.results
    assert names([only]) == ["DOORWood_Squeak"]
    document = only.to_json()
    assert (document["score"], document["best_moment"], document["moments"]) == (None, None, [])
    assert (document["found_by"], document["end_seconds"]) == (["words"], 10.0)
    assert (answer.num_query_segments, answer.probability_reason) == (0, "words_only")
    assert search_text("xylophone", AUDIO, snapshot=plain).reason == "no_word_found"
    with pytest.raises(NotEmbedded, match="embeds no words"):
        search_text("door", replace(AUDIO, match="meaning"), snapshot=plain)


def test_filters_limits_and_minimum_scores_hold_for_both(snapshot: Snapshot) -> None:
    rainy = search_text("rain", replace(AUDIO, match="words"), snapshot=snapshot)
    assert sorted(names(rainy.results)) == ["rain_1", "rain_2"]
    assert search_text("rain", replace(AUDIO, limit=1), snapshot=snapshot).results[0].found_by[-1] == "words"
    none = search_text("rain", replace(AUDIO, filter=Filter(folder="/elsewhere")), snapshot=snapshot)
    assert (none.results, none.reason) == ((), "nothing_passes_filter")
    least = search_text("dog", replace(AUDIO, min_score=0.9), snapshot=snapshot)
    assert names(least.results) == ["wind"], "what words alone found has no score"
    with pytest.raises(NotCalibrated, match="captions"):
        search_text("dog", replace(AUDIO, min_probability=0.5), snapshot=snapshot)


def test_pages_of_the_joined_ranking(snapshot: Snapshot) -> None:
    whole = search_text("rain dog", replace(AUDIO, offset=0, limit=9), snapshot=snapshot)
    pages = [
        search_text("rain dog", replace(AUDIO, offset=offset, limit=2), snapshot=snapshot)
        for offset in (0, 2, 4)
    ]
    assert list(itertools.chain(*(names(page.results) for page in pages))) == names(whole.results)
    assert [page.next_offset for page in pages] == [2, 4, None]


@pytest.mark.parametrize(
    ("text", "error"), [("", UnusableText), (" ", UnusableText), ("dog " * 9, TextTooLong)]
)
def test_texts_that_are_refused(snapshot: Snapshot, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        search_text(text, AUDIO, snapshot=snapshot)


def test_a_head_that_is_missing(tmp_path: Path, snapshot: Snapshot) -> None:
    heard = make_worded(tmp_path / "heard", heads=("audio",))
    queue = TextQueue(TextEncoder(heard, num_threads=1), BatchLimits())
    deaf = replace(snapshot, bundle=heard, texts=queue.of(Caller()))
    assert search_text("door", SearchOptions(target="video"), snapshot=deaf).num_query_segments == 0
    with pytest.raises(NotEmbedded, match="compare with audio, not with video"):
        search_text("door", SearchOptions(target="video", match="both"), snapshot=deaf)
    queue.close()


def test_rankings_are_joined_by_reciprocal_rank() -> None:
    def found(name: str) -> Any:
        return make_segment(name, audio_track=make_tracks(1, seed=0)[0])

    meaning = [
        SearchResult(match=found(name), query_start_seconds=0.0, query_end_seconds=1.0) for name in "abc"
    ]
    words = [found(name) for name in "cdb"]
    joined = fuse(meaning, words)
    sums = {"a": 1 / 61, "b": 1 / 62 + 1 / 63, "c": 1 / 63 + 1 / 61, "d": 1 / 62}
    assert names(joined) == sorted(sums, key=lambda name: -sums[name])
    by_name = dict(zip(names(joined), joined, strict=True))
    assert by_name["d"].found_by == ("words",)
    assert by_name["c"].found_by == ("meaning", "words")


def one(track: NDArray[np.float32], start: float = 0.0) -> QueryTrack:
    return QueryTrack(track=track, start_seconds=start, end_seconds=start + 10)


def test_several_queries_score_the_weighted_mean_of_their_best(
    snapshot: Snapshot, texts: TextQueue, tracks: NDArray[np.float32]
) -> None:
    """Two segments of a clip, one of an asset, and words: by the formula, in float64."""
    clip = make_tracks(2, seed=32, width=D)
    said = WeightedText(text="night rain", weight=0.5)
    parts = [
        Part(tracks=[one(clip[0]), one(clip[1], 10.0)], weight=2.0),
        Part(tracks=[one(tracks[1])], weight=1.0),
        of_text(said, target="video", snapshot=snapshot),
    ]
    answer = search_parts(parts, SearchOptions(target="video"), snapshot=snapshot)
    assert (answer.source, answer.num_query_segments) == ("mixed", 2)
    assert answer.probability_reason == "several_queries"
    words = embed_text(said.text, target="video", snapshot=snapshot).track.astype(np.float64)

    def score(query: NDArray[Any], track: NDArray[Any]) -> float:
        return float((query.astype(np.float64) * track).sum(axis=1).mean())

    expected = {
        name: (
            2.0 * max(score(clip[0], track), score(clip[1], track))
            + score(tracks[1], track)
            + 0.5 * score(words, track)
        )
        / 3.5
        for name, track in zip(NAMES, tracks, strict=True)
    }
    assert names(answer.results) == sorted(NAMES, key=lambda name: -expected[name])
    for result, name in zip(answer.results, names(answer.results), strict=True):
        assert result.match.score == pytest.approx(expected[name], abs=1e-3)
        best = max((0, 1), key=lambda n: score(clip[n], tracks[NAMES.index(name)]))
        assert result.query_start_seconds == 10.0 * best


def test_weights_of_any_size_count_by_their_ratio(snapshot: Snapshot, tracks: NDArray[np.float32]) -> None:
    def scores(scale: float) -> list[float | None]:
        parts = [Part(tracks=[one(tracks[n])], weight=scale * (1 + n)) for n in range(2)]
        return [r.match.score for r in search_parts(parts, AUDIO, snapshot=snapshot).results]

    np.testing.assert_allclose(scores(1e-300), scores(1.0), atol=1e-6)
    np.testing.assert_allclose(scores(1e300), scores(1.0), atol=1e-6)


def test_too_many_combinations(snapshot: Snapshot, tracks: NDArray[np.float32]) -> None:
    part = Part(tracks=[one(tracks[0])] * 8)
    with pytest.raises(TooManyCombinations, match="make 64 combinations, a search 60 at most"):
        search_parts([part, part], AUDIO, snapshot=snapshot)
