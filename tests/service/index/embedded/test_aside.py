"""A shard optimized aside: the same index, while it answers and is written to, and whole after any kill.

FOLEY_KILLS=100 pytest tests/service/index/embedded/test_aside.py -k killed -s
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge

from service.index.contract import Filter, VectorQuery
from service.index.embedded import aside
from service.index.embedded.aside import PAGE_POINTS, AsideBuild, page_points
from service.index.embedded.changes import (
    DeleteAsset,
    DeletePoints,
    SetAsset,
    SetPoints,
    Upsert,
    apply_change,
    read_changes,
)
from service.index.embedded.generation import SealReading, check_shard, current_shard, read_seal
from service.index.embedded.index import EmbeddedIndex
from service.index.embedded.messages import ShardConfig, Write
from service.index.embedded.process import ShardProcess
from service.index.embedded.shard import Shard
from service.index.embedded.tracks import FILE_NAME, ROWS, TrackCopies
from service.index.failure import IndexFailure, IndexUnavailable
from service.index.layout import TRACK_NAMES, VectorLayout
from service.index.points import StoredPoint, to_points
from service.system.storage import STORAGES, Storage
from tests.support.embedded import NUM_KILLS, check_whole, open_index, open_when_free
from tests.support.index_contract import NUM_MOMENTS, WIDTH, make_asset, make_id, make_segment, make_tracks
from tests.support.paths import REPOSITORY
from tests.support.waiting import GENEROUS_SECONDS, wait_until

TRACKS = make_tracks(300, seed=1, clusters=10)


def fill(index: EmbeddedIndex, *, num_assets: int = 3) -> dict[str, int]:
    for name in range(num_assets):
        part = TRACKS[name * 100 : name * 100 + 100]
        segments = [
            make_segment(name, n, audio_track=track, video_track=track) for n, track in enumerate(part)
        ]
        index.write_asset(segments, is_last=True)
    return {make_id(name): 100 for name in range(num_assets)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(folder: Path) -> Iterator[EmbeddedIndex]:
    with open_index(folder, exact_below=100) as index:
        yield index


def test_the_shard_built_aside_holds_the_same(index: EmbeddedIndex, folder: Path) -> None:
    acknowledged = fill(index)
    index.set_metadata(make_id(1), {"take": 1})
    index.write_asset(make_asset("half", TRACKS[:2]), is_last=False)
    before = index.list_assets(limit=10).assets
    found = [index.search(VectorQuery(track=track, target="video", limit=5)) for track in TRACKS[::30]]
    first_pid = index.shard_pid
    index.optimize_aside()
    assert index.shard_pid != first_pid
    assert index.info().num_indexed_vectors >= 4 * 300
    assert index.list_assets(limit=10).assets == before
    again = [index.search(VectorQuery(track=track, target="video", limit=5)) for track in TRACKS[::30]]
    kept = [
        len({m.start_seconds for m in b} & {m.start_seconds for m in a})
        for b, a in zip(found, again, strict=True)
    ]
    assert np.mean(kept) >= 4.5
    rest = make_segment("half", 2, audio_track=TRACKS[2])
    index.write_asset([rest], is_last=True)  # what was half written goes on
    acknowledged[make_id("half")] = 3
    check_whole(index, acknowledged)
    priorities: set[int] = set()
    mine = os.getpriority(os.PRIO_PROCESS, 0)

    def note_priorities(*_: int) -> None:
        children = Path("/proc/self/task").glob("*/children")
        pids = [pid for file in children for pid in file.read_text().split()]
        priorities.update(os.getpriority(os.PRIO_PROCESS, int(pid)) - mine for pid in pids)

    index.store_as("float16", on_copied=note_priorities)
    # The builder has a share of busy cores: at 19 a client that never paused would leave it a seventieth of one.
    assert priorities == {0, min(10, 19 - mine)}
    check_whole(index, acknowledged)
    index.close()
    assert current_shard(folder) == "shard.2"
    assert sorted(path.name for path in folder.glob("shard*")) == [
        "shard.2",
        "shard.2.closed",
        "shard.2.json",
    ]
    check_shard(folder / "shard.2", hashes=True)
    with open_index(folder, exact_below=100) as opened:
        check_whole(opened, acknowledged)
        assert [
            a.asset_id for a in opened.list_assets(limit=9, filter=Filter(metadata={"take": 1})).assets
        ] == [make_id(1)]


def test_it_answers_and_is_written_to_meanwhile(index: EmbeddedIndex, folder: Path) -> None:
    acknowledged = fill(index)
    stop = threading.Event()
    failures: list[BaseException] = []
    num_searches = 0
    names: list[str] = []

    def search() -> None:
        nonlocal num_searches
        assert index.search(VectorQuery(track=TRACKS[3], target="audio", limit=1))[0].score > 0.99
        num_searches += 1

    def write() -> None:
        name = make_id(len(names))
        names.append(name)
        index.write_asset(make_asset(name, TRACKS[:2]), is_last=True)
        acknowledged[make_id(name)] = 2
        index.set_metadata(make_id(name), {"number": len(names)})
        if len(names) % 3 == 0:
            index.delete_asset(make_id(name))
            del acknowledged[make_id(name)]

    def repeat(work: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as exc:  # a thread's failure must reach the test
            failures.append(exc)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in (search, write)]
    for thread in threads:
        thread.start()
    index.optimize_aside()
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert num_searches > 0
    check_whole(index, acknowledged)
    late = [a for a in index.list_assets(limit=10_000).assets if a.num_segments == 2]
    assert late
    assert all("number" in asset.metadata for asset in late)


def points_of(shard: Shard) -> dict[str, tuple[str, dict[str, list[float]]]]:
    """Everything in a shard, by id, but for the numbers of rows."""
    if shard._tracks.holds_alone:
        request = edge.ScrollRequest(limit=10_000, with_payload=True, with_vector=False)
        points = shard._tracks.to_points(shard._edge.scroll(request)[0], TRACK_NAMES)
        return {
            point.point_id: (
                json.dumps(dict(point.payload), sort_keys=True),
                {name: row.tolist() for name, row in point.vectors.items()},
            )
            for point in points
        }
    request = edge.ScrollRequest(limit=10_000, with_payload=True, with_vector=True)
    found = {}
    for record in shard._edge.scroll(request)[0]:
        payload, vectors = dict(record.payload or {}), dict(record.vector or {})  # type: ignore[arg-type]
        for name, row in payload.pop(ROWS).items():
            assert isinstance(shard._tracks, TrackCopies)
            (copy,), (is_there,) = shard._tracks.read([row], shape=(NUM_MOMENTS * WIDTH,))
            assert is_there
            assert copy.tolist() == vectors[name]
        found[str(record.id)] = json.dumps(payload, sort_keys=True), vectors
    return found


def open_shard(folder: Path, **changes: Any) -> Shard:
    folder.mkdir(exist_ok=True)
    facts = {"folder": folder, "layout": VectorLayout.of_both(NUM_MOMENTS, WIDTH), "min_free_bytes": 0}
    return Shard(ShardConfig(**{**facts, **changes}))


def write_to(shard: Shard, name: str, tracks: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    points = to_points(make_asset(name, tracks), layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH))
    facts = {"modalities": ["audio"], "num_segments": len(points), "last_index": len(points) - 1}
    head = StoredPoint(
        point_id=points[0].point_id, vectors=points[0].vectors, payload={**points[0].payload, **facts}
    )
    bodies = [point.point_id for point in points[1:]]
    shard.write(
        [Write(asset_id=make_id(name), bodies=points[1:], head=head, body_ids=bodies, outdated_ids=bodies)]
    )


def change_at_random(shard: Shard, rng: random.Random) -> None:
    name = f"n{rng.randrange(12)}"
    kind = rng.randrange(4)
    if kind == 0:
        shard.delete_assets([make_id(name)])
    elif kind == 1:
        shard.set_facts(make_id(name), {"written_at_seconds": rng.random()})
    else:
        first = rng.randrange(200)
        write_to(shard, name, TRACKS[first : first + rng.randrange(1, 6)])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("seed", range(max(1, NUM_KILLS // 10)))
def test_pages_and_changes_in_one_order_make_the_same_shard(
    tmp_path: Path, seed: int, storage: Storage
) -> None:
    """And where one change is lost on the way (the control), another one. Rows are copied as they are."""
    rng = random.Random(seed)
    answering, built, broken = (open_shard(tmp_path / name, storage=storage) for name in "abc")
    for name in range(12):
        write_to(answering, f"n{name}", TRACKS[name * 10 : name * 10 + 4])
    answering.begin_copy(0, storage)
    offset: str | None = None
    files = []
    for turn in range(1000):
        if turn == 0 or offset is not None:
            offset = answering.copy_page(offset, 3)
        change_at_random(answering, rng)
        if turn % 5 == 4:
            files.append(answering.roll_copy())
        if offset is None and turn > 24:
            break
    last, unfinished = answering.freeze()
    assert unfinished == frozenset()
    changes = [change for path in [*files, last] if path for change in read_changes(path)]
    assert {type(change) for change in changes} == {Upsert, DeleteAsset, DeletePoints, SetAsset, SetPoints}
    lost = max(n for n, change in enumerate(changes) if isinstance(change, Upsert) and change.points)
    for number, change in enumerate(changes):
        apply_change(built._edge, built._tracks, change)
        if number != lost:
            apply_change(broken._edge, broken._tracks, change)
    assert points_of(built) == points_of(answering)
    assert points_of(broken) != points_of(answering)
    with pytest.raises(IndexUnavailable, match="switched to a new shard"):
        write_to(answering, "n0", TRACKS[:1])
    answering.end_copy()
    write_to(answering, "n0", TRACKS[:1])
    for shard in (answering, built, broken):
        shard.close()


def test_no_step_keeps_a_search_waiting_for_20_ms(tmp_path: Path) -> None:
    """Processor time of each step on the process that answers, at the published width: a search waits that long.

    Of this thread, on which Edge does all of it (as the control shows): other tests leave threads behind that work.
    """
    width = 768
    shard = open_shard(tmp_path, layout=VectorLayout.of_both(NUM_MOMENTS, width))
    tracks = make_tracks(48, seed=2, width=width)
    segments = [make_segment("a", n, audio_track=track, video_track=track) for n, track in enumerate(tracks)]
    change = Upsert(points=to_points(segments, layout=VectorLayout.of_both(NUM_MOMENTS, width)))
    apply_change(shard._edge, shard._tracks, change)
    limit = page_points(VectorLayout.of_both(NUM_MOMENTS, width), "float16")
    assert (limit, page_points(VectorLayout.of_both(NUM_MOMENTS, width), "fine")) == (2, PAGE_POINTS)
    seconds = []
    offset: str | None = None
    shard.begin_copy(0, "float16")
    for _ in range(len(tracks) // limit):
        began = time.thread_time()
        offset = shard.copy_page(offset, limit)
        seconds.append(time.thread_time() - began)
    assert offset is None
    for step in (shard.roll_copy, shard.freeze):
        began = time.thread_time()
        step()
        seconds.append(time.thread_time() - began)
    assert np.median(seconds) < 0.020, f"{1e3 * max(seconds):.1f} ms"
    began = time.thread_time()
    shard.copy_page(None, len(tracks))  # the control: a page of everything
    assert time.thread_time() - began > 0.020
    shard.close()


STEPS = ("begin_copy", "copy_page", "roll_copy", "replay", "optimize", "prepare_switch", "freeze", "switch")


@pytest.mark.parametrize("parity", [0, 1] if NUM_KILLS > 5 else [0])
def test_a_process_killed_at_any_step_leaves_a_whole_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch, parity: int
) -> None:
    """The process that was asked, or the other one: by turns, and in the long version both at each step."""
    submit = ShardProcess.submit
    processes: list[ShardProcess] = []
    kill_at: list[str] = []

    def kill_and_submit(process: ShardProcess, method: str, *arguments: Any) -> Any:
        if process not in processes:
            processes.append(process)
        if kill_at == [method]:
            kill_at.clear()
            others = [other for other in processes if other is not process and other.is_alive]
            future = submit(process, method, *arguments)
            os.kill(
                (process if STEPS.index(method) % 2 == parity else (others or [process])[-1]).pid,
                signal.SIGKILL,
            )
            return future
        return submit(process, method, *arguments)

    monkeypatch.setattr(ShardProcess, "submit", kill_and_submit)
    with open_index(folder, exact_below=100) as index:
        acknowledged = fill(index, num_assets=1)
        for step in STEPS:
            kill_at[:] = [step]
            with contextlib.suppress(IndexUnavailable):
                index.optimize_aside()
            assert kill_at == [], f"{step} never came"
            index.write_asset(make_asset(step, TRACKS[:2]), is_last=True)
            acknowledged[make_id(step)] = 2
            check_whole(index, acknowledged)
        index.optimize_aside()
        check_whole(index, acknowledged)
    with open_index(folder, exact_below=100) as index:
        check_whole(index, acknowledged)


BUILDER = """
    import sys, threading
    from pathlib import Path
    sys.path[:0] = [sys.argv[2]]
    from tests.support.embedded import open_index
    from tests.support.index_contract import make_asset, make_tracks

    tracks = make_tracks(60, seed=1)
    index = open_index(Path(sys.argv[1]), exact_below=50)
    number = int(sys.argv[3])

    def build():
        while True:
            index.optimize_aside()
            print("built", flush=True)

    index.write_asset(make_asset(number, tracks), is_last=True)
    print("stored", number, 60, flush=True)
    threading.Thread(target=build, daemon=True).start()
    while True:
        number += 1
        # Not hundreds of equal vectors: a graph of these does not lead to each of them.
        index.write_asset(make_asset(number, make_tracks(2, seed=number)), is_last=True)
        print("stored", number, 2, flush=True)
"""


def test_a_service_killed_in_a_build_leaves_a_whole_index(folder: Path, tmp_path: Path) -> None:
    """Old or new, complete, and everything that was acknowledged in it."""
    rng = random.Random(0)
    acknowledged: dict[str, int] = {}
    shards: set[str] = set()
    number = num_built = 0
    for _ in range(max(2, NUM_KILLS // 2)):
        command = [sys.executable, "-P", "-c", textwrap.dedent(BUILDER)]
        paths = [str(folder), str(REPOSITORY), str(number)]
        with subprocess.Popen([*command, *paths], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(rng.uniform(0.0, 2.0))
            process.kill()
            lines += [line for line in process.stdout if line.endswith("\n")]
        for word, *facts in map(str.split, lines):
            if word == "stored":
                number = int(facts[0])
                acknowledged[make_id(number)] = int(facts[1])
            num_built += word == "built"
        number += 1
        with open_when_free(folder, exact_below=50) as index:
            stored = {asset.asset_id: asset.num_segments for asset in index.list_assets(limit=100_000).assets}
            assert {asset_id: stored.get(asset_id) for asset_id in acknowledged} == acknowledged
            check_whole(index, stored)
        shards.add(current_shard(folder))
    sys.stdout.write(
        f"\n{max(2, NUM_KILLS // 2)} kills, {num_built} builds, {len(acknowledged)} assets acknowledged: none lost; "
        f"{len(shards)} shards counted in turn\n"
    )


def test_what_a_crash_leaves_is_swept_away(index: EmbeddedIndex, folder: Path) -> None:
    acknowledged = fill(index, num_assets=1)
    index.optimize_aside()
    index.close()
    for name in ("shard", "shard.2", "building"):
        (folder / name).mkdir()
        (folder / name / "half").write_text("")
    for name in ("shard.2.json", "generation.new", "shard.2.new", ".shard.3.json.new"):
        (folder / name).write_text("{")
    with open_index(folder, exact_below=100) as opened:
        check_whole(opened, acknowledged)
        opened.optimize_aside()
        check_whole(opened, acknowledged)
    assert sorted(path.name for path in folder.glob("shard*")) == [
        "shard.2",
        "shard.2.closed",
        "shard.2.json",
    ]
    assert not (folder / "building").exists()
    assert not (folder / ".shard.3.json.new").exists()


def test_a_sealed_file_that_changed_is_reported(index: EmbeddedIndex, folder: Path) -> None:
    fill(index, num_assets=2)
    index.optimize_aside()
    index.close()
    shard = folder / "shard.1"
    seal = read_seal(shard)
    assert seal is not None
    assert seal.num_points == 200
    assert {Path(name).name for name in seal.files} >= {"matrix.dat", "graph.bin"}
    name = max(seal.files, key=lambda name: seal.files[name].num_bytes)
    content = (shard / name).read_bytes()
    (shard / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IndexFailure, match="is damaged: its content is not what was sealed"):
        check_shard(shard, hashes=True)
    check_shard(shard)  # opening looks at sizes alone
    reading = SealReading(shard)  # a server reads them afterwards
    with pytest.raises(IndexFailure, match="is damaged: its content is not what was sealed"):
        wait_until(reading.check)
    shard.with_name("shard.1.closed").unlink()  # they are so small that it has noted them too
    (shard / name).write_bytes(content[:-1])
    with pytest.raises(IndexFailure, match=f"is damaged: it had {len(content)} bytes when it was sealed"):
        open_index(folder)
    (folder / "shard.1.json").write_text("{}")
    with pytest.raises(IndexFailure, match=r"shard\.1\.json cannot be read"):
        open_index(folder)
    (folder / "generation.json").write_text('{"shard": "shard.9"}')
    with pytest.raises(IndexFailure, match=r"names the shard 'shard\.9', which is not there"):
        open_index(folder)
    (folder / "generation.json").write_text("[]")
    with pytest.raises(IndexFailure, match=r"generation\.json cannot be read"):
        open_index(folder)


def test_one_build_at_a_time_and_none_after_closing(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(index, num_assets=1)
    inside, outcomes = threading.Event(), []
    ask = AsideBuild._ask

    def wait_inside(build: AsideBuild, process: ShardProcess, method: str, *arguments: Any) -> Any:
        if method == "optimize":
            os.kill(process.pid, signal.SIGSTOP)
            inside.set()
        return ask(build, process, method, *arguments)

    def build() -> None:
        try:
            index.optimize_aside()
        except IndexUnavailable as exc:
            outcomes.append(str(exc))

    monkeypatch.setattr(AsideBuild, "_ask", wait_inside)
    thread = threading.Thread(target=build)
    thread.start()
    assert inside.wait(GENEROUS_SECONDS)
    for method in (index.optimize_aside, index.optimize):
        with pytest.raises(IndexUnavailable, match="optimized already"):
            method()
    began = time.monotonic()
    index.close()
    thread.join()
    assert time.monotonic() - began < 60
    assert outcomes == ["the build is given up: the index closes"]


def test_it_happens_by_itself_when_enough_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "CHECK_SECONDS", 0.05)
    with open_index(folder, exact_below=100) as index:
        assert not index.is_optimizing_due(0.3)
        fill(index, num_assets=1)
        assert not index.is_optimizing_due(0.3), "100 need no graph"
        acknowledged = fill(index)
        assert index.is_optimizing_due(0.3)
        index._watch.start(0.3)
        wait_until(lambda: read_seal(folder / current_shard(folder)) is not None)
        assert current_shard(folder) == "shard.1"
        assert not index.is_optimizing_due(0.3)
        index.delete_asset(make_id(0))
        assert index.is_optimizing_due(0.3)
        del acknowledged[make_id(0)]
        check_whole(index, acknowledged)


def test_it_happens_too_where_files_are_replaced(folder: Path) -> None:
    """As many segments as before, but each replaced one leaves the copies of its tracks behind."""
    with open_index(folder, exact_below=100) as index:
        acknowledged = fill(index)
        assert index.is_optimizing_due(0.3)
        index.optimize()
        assert not index.is_optimizing_due(0.3), "not aside, but all the same"
        index.optimize_aside()
        file = folder / current_shard(folder) / FILE_NAME
        num_bytes = file.stat().st_size
        assert num_bytes == 600 * NUM_MOMENTS * WIDTH * 2
        assert not index.is_optimizing_due(0.3)
        fill(index, num_assets=1)
        assert file.stat().st_size == num_bytes + num_bytes // 3
        assert index.is_optimizing_due(0.3)
        index.optimize_aside()
        assert (folder / current_shard(folder) / FILE_NAME).stat().st_size == num_bytes
        assert not index.is_optimizing_due(0.3)
        check_whole(index, acknowledged)
