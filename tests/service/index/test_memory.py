"""The index that tests use where no process is needed keeps the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.bundle.bundle import load_bundle
from service.index.contract import Index
from service.index.failure import IndexInUse
from service.index.layout import VectorLayout
from service.index.opening import index_place
from service.system.settings import Settings
from tests.support.index_contract import (
    LAYOUTS,
    WIDTH,
    IndexContract,
    LayoutContract,
    make_asset,
    make_tracks,
)
from tests.support.memory_index import MemoryIndex, memory_indexes


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with MemoryIndex.open(tmp_path_factory.mktemp("index"), layout=VectorLayout.of_both(16, WIDTH)) as index:
        yield index


class TestMemoryIndex(IndexContract):
    pass


@pytest.fixture(scope="module", params=LAYOUTS)
def opened_as(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Index, VectorLayout]]:
    layout = LAYOUTS[request.param]
    with MemoryIndex.open(tmp_path_factory.mktemp("index"), layout=layout) as index:
        yield index, layout


class TestMemoryIndexOfOtherLayouts(LayoutContract):
    pass


def test_a_folder_keeps_its_assets_and_is_open_once(tmp_path: Path) -> None:
    with MemoryIndex.open(tmp_path, layout=VectorLayout.of_both(16, WIDTH)) as index:
        index.write_asset(make_asset("a", make_tracks(2, seed=1)), is_last=True)
        index.write_asset(make_asset("b", make_tracks(2, seed=1)), is_last=False)
        with pytest.raises(IndexInUse, match="is open in another process"):
            MemoryIndex.open(tmp_path, layout=VectorLayout.of_both(16, WIDTH))
    with MemoryIndex.open(tmp_path, layout=VectorLayout.of_both(16, WIDTH)) as index:
        assert (index.info().num_segments, index.info().num_assets) == (2, 1)


def test_it_takes_the_place_of_the_embedded_index(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    bundle = load_bundle(settings.bundle)
    with memory_indexes():
        assert index_place(settings).find(bundle, release_id="r1") is None
        index = index_place(settings).open(bundle, release_id="r1")
        assert isinstance(index, MemoryIndex)
        track = make_tracks(1, seed=2, width=bundle.manifest.embedding_width)
        index.write_asset(make_asset("a", track), is_last=True)
        index.close()
        again = index_place(settings).find(bundle, release_id="r1")
        assert again is not None
        assert again.count_segments() == 1
        again.close()
        index_place(settings).drop("r1")
        assert index_place(settings).find(bundle, release_id="r1") is None
