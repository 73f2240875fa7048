"""A driver and its workers: whatever dies, every file is stored, once, and the report tells of one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.bundle.bundle import Bundle, load_bundle
from service.decode.decoder import Decoder
from service.encode.encoder import Encoder
from service.index.contract import Asset
from service.index.iteration import iter_assets
from service.index.layout import VectorLayout
from service.library.batches import MAX_LOSSES, Batch
from service.library.cluster import BatchEnded, Driver, Event, FileEnded, index_on_cluster
from service.library.indexing import index_paths
from service.library.options import RunOptions
from service.library.report import IndexReport, Progress
from service.library.run import LibraryRun
from service.search.snapshot import Snapshot
from tests.support.libraries import write_bad, write_tone, write_tones
from tests.support.local_pool import Death, LocalPool
from tests.support.memory_index import MemoryIndex

NUM_FILES, NUM_BAD = 10, 3


class SharedIndex(MemoryIndex):
    """One that several processes write to."""

    is_shared = True


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
def snapshot(bundle: Bundle, encoder: Encoder, tmp_path: Path) -> Iterator[Snapshot]:
    with SharedIndex.open(tmp_path / "index", layout=VectorLayout.of(bundle.manifest)) as index:
        yield Snapshot(encoder=encoder, index=index, bundle=bundle)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    write_tones(tmp_path / "media", NUM_FILES)
    write_bad(tmp_path / "media", NUM_BAD)
    return tmp_path / "media"


@pytest.fixture
def make_pool(snapshot: Snapshot, decoder: Decoder) -> Callable[[], LocalPool]:
    return lambda: LocalPool(
        lambda: Snapshot(encoder=snapshot.encoder, index=snapshot.index, bundle=snapshot.bundle), decoder
    )


@pytest.fixture
def run(snapshot: Snapshot, decoder: Decoder, library: Path) -> Callable[..., IndexReport]:
    def run(pool: LocalPool, **options: Any) -> IndexReport:
        given = RunOptions(**options)
        return index_on_cluster([library], snapshot=snapshot, pool=pool, decoder=decoder, options=given)

    return run


def assets(snapshot: Snapshot) -> dict[str, Asset]:
    return {asset.asset_id: asset for asset in iter_assets(snapshot.index)}


def missing(snapshot: Snapshot, library: Path) -> list[str]:
    """Good files that the index lacks; none is there twice."""
    paths = [path for asset in assets(snapshot).values() for path in asset.paths]
    assert len(set(paths)) == len(paths)
    return sorted({str(path) for path in library.glob("[!b]*")} - set(paths))


def facts(report: IndexReport) -> dict[str, Any]:
    """A report without times."""
    return {name: value for name, value in report.to_json().items() if name not in ("seconds", "stages")}


def test_many_workers_do_what_one_process_does(
    snapshot: Snapshot, decoder: Decoder, library: Path, make_pool: Any, run: Any
) -> None:
    told: list[Progress] = []
    pool = make_pool()
    report = run(pool, on_progress=told.append)
    assert missing(snapshot, library) == []
    assert {len(batch.tasks) for batch in pool.handed} == {1, 2}
    assert (told[-1].num_done, told[-1].num_files, told[-1].num_segments) == (13, 13, 10)
    assert report.stages.elapsed_seconds > 0
    by_workers = assets(snapshot)
    snapshot.index.delete_assets(list(by_workers))
    alone = index_paths([library], snapshot=snapshot, decoder=decoder)
    assert (assets(snapshot), facts(alone)) == (by_workers, facts(report))


def test_what_the_index_has_is_not_handed_out(
    snapshot: Snapshot, library: Path, make_pool: Any, run: Any
) -> None:
    run(make_pool())
    write_tone(library / "new.wav", 77)
    pool = make_pool()
    report = run(pool)
    names = {task.found.path.name for batch in pool.handed for task in batch.tasks}
    assert names == {"new.wav", *(path.name for path in library.glob("bad*"))}
    assert (report.files.indexed, report.files.unchanged, report.files.failed) == (1, NUM_FILES, NUM_BAD)
    verified = make_pool()
    assert run(verified, verify=True).files.unchanged == NUM_FILES + 1
    assert verified.num_files_handed == NUM_FILES + 1 + NUM_BAD


@pytest.mark.parametrize("every", [1, 2, 5])
def test_workers_that_die(snapshot: Snapshot, library: Path, make_pool: Any, run: Any, every: int) -> None:
    """After what was stored is durable and before the driver hears of it: the worst moment."""
    pool, count = make_pool(), 0

    def die(event: Event) -> None:
        nonlocal count
        count += 1
        if count % every == 0 and count < 8 * every:
            raise Death

    pool.before_telling = die
    report = run(pool)
    assert missing(snapshot, library) == []
    assert (report.files.indexed, report.files.unchanged, report.files.failed) == (NUM_FILES, 0, NUM_BAD)
    assert (report.segments.indexed, report.segments.unchanged) == (NUM_FILES, 0)
    assert {failed.code for failed in report.failed} == {"empty", "not_media"}
    assert pool.num_files_handed >= NUM_FILES + NUM_BAD + (every != 2)


def test_a_file_that_kills_its_workers(snapshot: Snapshot, library: Path, make_pool: Any, run: Any) -> None:
    pool, num_deaths = make_pool(), 0
    victim = str(library / "00004.wav")

    def work(batch: Batch, tell: Callable[[Event], object]) -> None:
        nonlocal num_deaths
        if any(str(task.found.path) == victim for task in batch.tasks):
            num_deaths += 1
            raise Death
        LocalPool.work(pool, batch, tell)

    pool.work = work
    report = run(pool)
    assert num_deaths == MAX_LOSSES
    assert missing(snapshot, library) == [victim]
    lost = [failed for failed in report.failed if failed.code == "worker_lost"]
    assert [(one.path, one.is_quarantined, one.reason) for one in lost] == [(victim, False, "a worker died")]
    assert report.files.indexed == NUM_FILES - 1


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_driver_that_dies_is_resumed_by_the_index(
    snapshot: Snapshot, library: Path, make_pool: Any, run: Any, turn: int
) -> None:
    pool, count = make_pool(), 0

    def die(event: Event) -> None:
        nonlocal count
        count += isinstance(event, FileEnded)
        if count == turn:
            raise KeyboardInterrupt

    pool.before_telling = die
    report = run(pool)
    assert report.is_interrupted
    num_stored = len(assets(snapshot))
    again = run(make_pool())
    assert missing(snapshot, library) == []
    assert (again.files.indexed, again.files.unchanged) == (NUM_FILES - num_stored, num_stored)


class Hasty(LocalPool):
    """The control: a worker that says what is stored before it is, and dies."""

    def work(self, batch: Batch, tell: Callable[[Event], object]) -> None:
        if len(self.handed) > 4:
            super().work(batch, tell)
            return
        told: list[Event] = []
        index = self._snapshot().index
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(index), "write_asset", lambda *_, **__: None)
            super().work(batch, told.append)
        for event in told:
            if not isinstance(event, BatchEnded):
                tell(event)
        raise Death


@pytest.mark.parametrize("looks", [True, False])
def test_a_worker_that_speaks_too_early_is_found_out(
    snapshot: Snapshot,
    decoder: Decoder,
    library: Path,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    looks: bool,
) -> None:
    """By the look at the index at the end; a driver without it loses files, and this check sees that."""
    if not looks:
        monkeypatch.setattr(Driver, "compare", lambda *_, **__: False)
    report = run(Hasty(lambda: snapshot, decoder))
    assert report.files.indexed == NUM_FILES
    assert bool(missing(snapshot, library)) != looks


def test_an_index_that_loses_a_file_again_and_again_is_told_of(
    snapshot: Snapshot, decoder: Decoder, library: Path, make_pool: Any, run: Any
) -> None:
    victim = index_paths([library / "00000.wav"], snapshot=snapshot, decoder=decoder)
    (asset_id,) = assets(snapshot)
    snapshot.index.delete_asset(asset_id)
    assert victim.files.indexed == 1
    pool = make_pool()
    pool.before_telling = lambda _: snapshot.index.delete_asset(asset_id)
    report = run(pool)
    assert [(f.code, f.reason) for f in report.failed if f.path.endswith("00000.wav")] == [
        ("worker_lost", "a worker stored it, and the index does not have it")
    ]
    assert (report.files.indexed, report.files.failed) == (NUM_FILES - 1, NUM_BAD + 1)


def test_copies_moves_and_changes_are_written_by_the_driver(
    snapshot: Snapshot, library: Path, make_pool: Any, run: Any
) -> None:
    for number in range(4):  # one content in several batches
        shutil.copy(library / "00009.wav", library / f"copy-{number}.wav")
    report = run(make_pool())
    assert missing(snapshot, library) == []
    assert (report.files.indexed, report.files.unchanged, report.num_copied) == (NUM_FILES, 4, 4)
    (first,) = (a for a in assets(snapshot).values() if str(library / "00000.wav") in a.paths)
    snapshot.index.set_metadata(first.asset_id, {"take": "best"})
    (library / "00001.wav").rename(library / "moved.wav")
    write_tone(library / "00000.wav", 55)
    report = run(make_pool())
    assert missing(snapshot, library) == []
    assert (report.num_moved, report.num_copied, report.num_removed) == (1, 0, 1)
    assert (report.files.indexed, report.files.unchanged) == (1, NUM_FILES + 3)
    stored = assets(snapshot)
    assert first.asset_id not in stored
    (heir,) = (a for a in stored.values() if str(library / "00000.wav") in a.paths)
    assert heir.metadata == {"take": "best"}


def test_a_path_that_another_workers_write_hid_is_written_at_the_end(
    snapshot: Snapshot, library: Path, make_pool: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both embed the same content and neither sees the other's: the last write wins, with one path."""
    shutil.copy(library / "00009.wav", library / "copy.wav")
    monkeypatch.setattr(LibraryRun, "_look_again", lambda *_: None)
    report = run(make_pool())
    monkeypatch.undo()
    assert missing(snapshot, library) == []
    assert (report.files.indexed, len(assets(snapshot))) == (NUM_FILES + 1, NUM_FILES)
    assert run(make_pool()).files.unchanged == NUM_FILES + 1
