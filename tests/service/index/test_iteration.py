"""Going through an index: every asset and segment once, whatever the sizes of pages and parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from service.index import iteration
from service.index.contract import Filter, Index, Segment
from service.index.failure import IndexUnavailable
from service.index.iteration import WRITE_ATTEMPTS, copy_assets, iter_assets, iter_segments, write_in_parts
from service.index.layout import VectorLayout
from tests.support.index_contract import WIDTH, make_asset, make_id, make_segment, make_tracks
from tests.support.memory_index import MemoryIndex

SIZES = (1, 2, 3, 4, 7)
TRACKS = make_tracks(max(SIZES), seed=1)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of_both(16, WIDTH)) as index:
        for size in SIZES:
            index.write_asset(make_asset(size, TRACKS[:size]), is_last=True)
        yield index


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iteration, "ASSETS_PER_PAGE", 2)
    monkeypatch.setattr(iteration, "SEGMENTS_PER_CALL", 2)


def test_every_asset_comes_once(index: Index) -> None:
    assets = list(iter_assets(index))
    assert assets == list(index.list_assets(limit=100).assets)
    assert {asset.asset_id: asset.num_segments for asset in assets} == {make_id(n): n for n in SIZES}


def test_the_filter_holds_on_every_page(index: Index) -> None:
    index.write_asset([make_segment("picture", video_track=TRACKS[0])], is_last=True)
    assert len(list(iter_assets(index))) == len(SIZES) + 1
    assert len(list(iter_assets(index, filter=Filter(modality="audio")))) == len(SIZES)


def test_every_segment_comes_once_and_in_order(index: Index) -> None:
    for asset in iter_assets(index):
        segments = list(iter_segments(index, asset))
        assert [segment.index for segment in segments] == list(range(asset.num_segments))


def test_a_deleted_asset_has_no_segments(index: Index) -> None:
    asset = next(iter_assets(index))
    index.delete_asset(asset.asset_id)
    assert list(iter_segments(index, asset)) == []


@pytest.mark.parametrize("size", SIZES)
def test_an_asset_is_written_whole_in_parts(index: Index, size: int) -> None:
    write_in_parts(index, iter(make_asset("parts", TRACKS[:size])))
    asset = index.get_asset(make_id("parts"))
    assert asset is not None
    assert asset.num_segments == size


def test_a_copy_holds_the_same_and_skips_what_is_there(index: Index, tmp_path: Path) -> None:
    with MemoryIndex.open(tmp_path / "copy", layout=VectorLayout.of_both(16, WIDTH)) as copy:
        assert list(copy_assets(index, copy)) == [True] * len(SIZES)
        assert set(map(repr, iter_assets(copy))) == set(map(repr, iter_assets(index)))
        index.set_metadata(make_id(3), {"take": 1})
        assert sum(copy_assets(index, copy)) == 1
        assert list(copy_assets(index, copy)) == [False] * len(SIZES)


@pytest.mark.parametrize("num_failures", [WRITE_ATTEMPTS - 1, WRITE_ATTEMPTS])
def test_a_write_is_tried_again_while_the_index_is_away(
    index: Index, monkeypatch: pytest.MonkeyPatch, num_failures: int
) -> None:
    monkeypatch.setattr(iteration, "RETRY_SECONDS", 0.0)
    write, failures = index.write_asset, [IndexUnavailable("starting")] * num_failures

    def write_when_back(segments: Sequence[Segment], *, is_last: bool) -> None:
        if failures:
            raise failures.pop()
        write(segments, is_last=is_last)

    monkeypatch.setattr(index, "write_asset", write_when_back)
    expected = pytest.raises(IndexUnavailable) if num_failures == WRITE_ATTEMPTS else nullcontext()
    with expected:
        write_in_parts(index, make_asset("parts", TRACKS[:3]))
    assert (index.get_asset(make_id("parts")) is None) == (num_failures == WRITE_ATTEMPTS)
