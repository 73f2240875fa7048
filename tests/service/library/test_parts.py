"""Sharing a library among machines: parts are disjoint, together the whole, and lose nothing to each other."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.bundle.bundle import Bundle, load_bundle
from models.media.clip import DecodeLimits
from service.decode.decoder import Decoder
from service.encode.encoder import Encoder
from service.index.contract import Asset, Index
from service.index.iteration import iter_assets
from service.index.layout import VectorLayout
from service.library.indexing import index_paths
from service.library.options import RunOptions
from service.library.parts import Part
from service.library.pipeline import Pipeline
from service.library.report import IndexReport
from service.library.run import LibraryRun
from service.library.scanning import FoundFile, UnusableFile, find_files
from service.operations.migration import join
from service.search.snapshot import Snapshot
from tests.support.libraries import write_tones
from tests.support.memory_index import MemoryIndex


class SharedIndex(MemoryIndex):
    """One that several processes write to."""

    is_shared = True


PARTS = [Part(number, 4) for number in (1, 2, 3, 4)]


def test_parts_are_disjoint_and_together_the_whole(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 3}" / f"{number}.wav").touch()
    (tmp_path / "named").touch()
    roots = [tmp_path, tmp_path / "named", tmp_path / "missing"]
    whole = [f.path for f in find_files(roots) if isinstance(f, FoundFile)]
    found = [list(find_files(roots, part=part)) for part in PARTS]
    paths = [[f.path for f in part if isinstance(f, FoundFile)] for part in found]
    assert sorted(path for part in paths for path in part) == sorted(whole)
    assert min(map(len, paths)) > 0
    for part in found:  # a folder that cannot be read may be that of this machine alone
        assert [f.path.name for f in part if isinstance(f, UnusableFile)] == ["missing"]


def test_the_part_of_a_path_never_changes() -> None:
    """Two versions of Foley may share the work: the number is that of sha256, by another way."""
    path = "/media/rain\udcff.wav"
    remainder = int(hashlib.sha256(b"/media/rain\xff.wav").hexdigest()[:16], 16) % 8
    assert [part.holds(path) for part in (Part(n, 8) for n in range(1, 9))].index(True) == remainder
    assert Part(3, 8).holds("/media/0.wav") == (
        int(hashlib.sha256(b"/media/0.wav").hexdigest()[:16], 16) % 8 == 2
    )


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/", "/8", "3/8 ", "-1/8", "3/0", "1/1000000000"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ValueError, match="its number and how many"):
        Part.parse(text)
    assert (Part.parse("3/8"), Part.parse("")) == (Part(3, 8), Part())


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Encoder:
    return Encoder(bundle, device="cpu")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(num_workers=1) as decoder:
        yield decoder


@pytest.fixture
def snapshots(bundle: Bundle, encoder: Encoder, tmp_path: Path) -> Iterator[list[Snapshot]]:
    """Three, each with an index of its own."""
    layout = VectorLayout.of(bundle.manifest)
    indexes = [SharedIndex.open(tmp_path / "indexes" / str(n), layout=layout) for n in range(3)]
    yield [Snapshot(encoder=encoder, index=index, bundle=bundle) for index in indexes]
    for index in indexes:
        index.close()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Six sounds, and a copy of one that is in the other part of two."""
    first, *_ = write_tones(tmp_path / "media", 6)
    for number in range(20):
        copy = first.with_name(f"copy-{number}.wav")
        if Part(1, 2).holds(copy) != Part(1, 2).holds(first):
            shutil.copy(first, copy)
            return tmp_path / "media"
    raise AssertionError("no name is in the other part")


def _assets(index: Index) -> dict[str, Asset]:
    return {asset.asset_id: asset for asset in iter_assets(index)}


def _check_whole(index: Index, library: Path) -> None:
    paths = sorted(path for asset in _assets(index).values() for path in asset.paths)
    assert paths == sorted(str(path) for path in library.iterdir())
    assert (len(_assets(index)), index.count_segments()) == (6, 6)


@pytest.mark.parametrize("is_first_done", [True, False], ids=["before", "meanwhile"])
def test_two_processes_share_one_index(
    snapshots: list[Snapshot], decoder: Decoder, library: Path, is_first_done: bool
) -> None:
    """The second reads what there is, then the first stores all of its part: before the second's, or meanwhile."""
    one = snapshots[0]

    def index_first() -> IndexReport:
        return index_paths([library], snapshot=one, decoder=decoder, options=RunOptions(part=Part(1, 2)))

    second = LibraryRun(RunOptions(part=Part(2, 2)))
    second.scan([library])
    second.read(one.index)
    with Pipeline(snapshot=one, decoder=decoder, limits=DecodeLimits()) as pipeline:
        first = index_first() if is_first_done else None
        second.index_all(pipeline)
    first = first or index_first()
    second.place(one.index)
    _check_whole(one.index, library)
    indexed = first.files.indexed + second.report.files.indexed
    assert (indexed, first.files.unchanged + second.report.files.unchanged) == (6, 1)
    again = index_paths([library], snapshot=one, decoder=decoder)
    assert (again.files.indexed, again.files.unchanged) == (0, 7)


def test_both_store_one_content_at_the_same_moment(
    snapshots: list[Snapshot], decoder: Decoder, library: Path
) -> None:
    """The last write of an asset wins; whoever ends later adds the path that it hid."""
    one = snapshots[0]
    runs = [LibraryRun(RunOptions(part=Part(number, 2))) for number in (1, 2)]
    for run in runs:
        run.scan([library])
        run.read(one.index)
        run._look_again = lambda _: None  # type: ignore[method-assign] # neither sees the other's
        with Pipeline(snapshot=one, decoder=decoder, limits=DecodeLimits()) as pipeline:
            run.index_all(pipeline)
        del run._look_again  # type: ignore[method-assign]
    for run in runs:
        run.place(one.index)
    _check_whole(one.index, library)


def test_parts_with_indexes_of_their_own_become_one(
    snapshots: list[Snapshot], decoder: Decoder, library: Path
) -> None:
    *parts, whole = snapshots
    for number, snapshot in enumerate(parts, start=1):
        options = RunOptions(part=Part(number, 2))
        index_paths([library], snapshot=snapshot, decoder=decoder, options=options)
    (shared_id,) = _assets(parts[0].index).keys() & _assets(parts[1].index).keys()
    for number, snapshot in enumerate(parts):
        snapshot.index.set_metadata(shared_id, {"said": f"by {number}"})
    done = [join(snapshot.index, whole.index) for snapshot in parts]
    assert [d.num_copied for d in done] == [len(_assets(parts[0].index)), len(_assets(parts[1].index)) - 1]
    assert done[0].num_compared == done[0].num_copied * 2
    _check_whole(whole.index, library)
    assert _assets(whole.index)[shared_id].metadata == {"said": ["by 0", "by 1"]}
    again = [join(snapshot.index, whole.index) for snapshot in parts]
    assert [d.num_copied for d in again] == [0, 0]
    _check_whole(whole.index, library)
    report = index_paths([library], snapshot=whole, decoder=decoder)
    assert (report.files.indexed, report.files.unchanged) == (0, 7)


def test_only_a_shared_index_is_asked_again(
    snapshots: list[Snapshot], decoder: Decoder, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each new file, and after it was stored: an index with one writer has nothing new to say."""
    asked: list[str] = []
    ask = MemoryIndex.get_asset
    monkeypatch.setattr(
        MemoryIndex, "get_asset", lambda self, asset_id: (asked.append(asset_id), ask(self, asset_id))[1]
    )
    for is_shared, snapshot in zip((True, False), snapshots, strict=False):
        asked.clear()
        monkeypatch.setattr(SharedIndex, "is_shared", is_shared)
        report = index_paths([library], snapshot=snapshot, decoder=decoder)
        assert (report.files.indexed, report.files.unchanged, report.num_copied) == (6, 1, 1)
        # 6 looks before and 6 after; the copy has its path written either way
        assert len(asked) == (13 if is_shared else 1)
