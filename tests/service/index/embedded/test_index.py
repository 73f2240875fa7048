"""The embedded index on Qdrant Edge: the contract, and its own promises (processes, folders, crashes)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import qdrant_edge as edge

from service.index.contract import Bounds, Filter, Index, Segment, VectorQuery, WordQuery
from service.index.draft import follow
from service.index.embedded import ranking
from service.index.embedded.closed import check_closed
from service.index.embedded.folder import describe
from service.index.embedded.index import DELETED_AT_ONCE, EmbeddedIndex
from service.index.embedded.messages import ShardConfig, Write
from service.index.embedded.schema import _migrate_asset, create_field_indexes
from service.index.embedded.shard import Shard
from service.index.embedded.shard_process import _Later, serve
from service.index.embedded.tracks import FILE_NAME, TrackCopies
from service.index.failure import IndexDamaged, IndexFailure, IndexFull, IndexInUse, IndexUnavailable
from service.index.layout import VectorLayout
from service.index.payload import MAX_OPEN_INDEXES, OPEN_KEYS, Condition, to_conditions
from service.index.points import to_points
from service.index.words import WORDS_KEY
from service.system.modality import MODALITIES
from service.system.storage import Storage
from tests.support.embedded import NUM_KILLS, check_whole, open_index
from tests.support.index_contract import (
    LAYOUTS,
    NUM_MOMENTS,
    TOLERANCE,
    WIDTH,
    IndexContract,
    LayoutContract,
    all_assets,
    diagonal_means,
    make_asset,
    make_id,
    make_layout_tracks,
    make_segment,
    make_tracks,
)
from tests.support.paths import REPOSITORY
from tests.support.waiting import wait_until


# `FOLEY_KILLS=100 pytest tests/service/index -k killed` is the long version of the durability tests.
@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with open_index(tmp_path_factory.mktemp("index")) as index:
        yield index


class TestEmbeddedIndex(IndexContract):
    pass


class TestFineIndex(IndexContract):
    loss = 4e-3  # of numbers up to 1
    moment_tolerance = 4e-3

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
        with open_index(tmp_path_factory.mktemp("index"), storage="fine") as index:
            assert index.storage == "fine"
            yield index


@pytest.fixture(scope="module", params=LAYOUTS)
def opened_as(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Index, VectorLayout]]:
    layout = LAYOUTS[request.param]
    with open_index(tmp_path_factory.mktemp("index"), layout=layout) as index:
        yield index, layout


class TestEmbeddedIndexOfOtherLayouts(LayoutContract):
    pass


class TestFineIndexOfOtherLayouts(LayoutContract):
    loss = 1e-2
    moment_tolerance = 8e-3

    @pytest.fixture(scope="class", params=LAYOUTS)
    @classmethod
    def opened_as(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[tuple[Index, VectorLayout]]:
        layout = LAYOUTS[request.param]
        with open_index(tmp_path_factory.mktemp("index"), layout=layout, storage="fine") as index:
            yield index, layout


def test_what_was_written_is_there_after_closing(tmp_path: Path) -> None:
    tracks = make_tracks(3, seed=1)
    with open_index(tmp_path) as index:
        index.write_asset(make_asset("a", tracks), is_last=True)
        index.write_asset(make_asset("b", tracks)[:2], is_last=False)
        index.close()  # twice, with the `with`
        with pytest.raises(IndexFailure, match="is closed"):
            index.count_segments()
    with open_index(tmp_path) as index:
        assert index.get_asset(make_id("b")) is None
        assert index.info().num_segments == 3, "what was not finished is swept away"
        check_whole(index, {make_id("a"): 3})
        assert index.search(VectorQuery(track=tracks[2], target="audio", limit=1))[0].start_seconds == 20.0


def test_index_json_says_what_it_said_before_where_it_can() -> None:
    assert describe(VectorLayout.of_both(16, 768)) == {"version": 2, "width": 768, "num_moments": 16}
    dot = VectorLayout(tracks=dict.fromkeys(MODALITIES, (16, 768)), similarity="dot")
    alone = VectorLayout(tracks={"audio": (1, 512)})
    assert describe(dot)["version"] == describe(alone)["version"] == 3
    assert describe(alone) == {"version": 3, "tracks": {"audio": [1, 512]}, "similarity": "cosine"}
    weighed = VectorLayout(tracks=dict.fromkeys(MODALITIES, (16, 768)), weighs_moments=True)
    assert describe(weighed)["weighs_moments"]


def test_a_shard_of_two_shapes_is_rebuilt_and_replayed(tmp_path: Path) -> None:
    """Copies of tracks of two lengths lie in one file, in rows that divide both."""
    layout = LAYOUTS["two shapes"]
    config = ShardConfig(folder=tmp_path, layout=layout, min_free_bytes=0)
    shard = Shard(config)
    tracks = {m: make_layout_tracks(layout, m, 6, seed=n) for n, m in enumerate(layout.tracks)}
    for name in range(3):
        pair = [
            make_segment(name, n, **{f"{m}_track": rows[2 * name + n] for m, rows in tracks.items()})
            for n in range(2)
        ]
        points = to_points(pair, layout=layout)
        draft = follow(None, pair[0], points[0]).extend(points)
        bodies = [draft.label(points[1])]
        write = Write(asset_id=make_id(name), bodies=bodies, head=draft.finish(), body_ids=draft.body_ids)
        assert shard.write([write]) == [None]
    assert shard.stale_share() == 0
    rows = sum(m * d for m, d in layout.tracks.values()) * 6
    assert (tmp_path / "shard" / FILE_NAME).stat().st_size == 2 * rows
    shard.delete_assets([make_id(0)])
    assert shard.stale_share() == 0.5
    shard.begin_copy(0, "float16")
    assert shard.copy_page(None, 100) is None
    changes = shard.roll_copy()
    assert changes is not None
    built = Shard(replace(config, shard="shard.1"))
    built.replay(changes)
    assert built.stale_share() == 0
    for modality, rows_of in tracks.items():
        query = VectorQuery(track=rows_of[5], target=modality, limit=4)
        for one in (shard, built):
            best = one.search(query)[0]
            assert (best.asset_id, best.start_seconds) == (make_id(2), 10.0)
            assert best.score == pytest.approx(1.0, abs=TOLERANCE)
    shard.close()
    built.close()


def test_an_index_of_other_vectors_is_refused(tmp_path: Path) -> None:
    open_index(tmp_path).close()
    with pytest.raises(IndexFailure, match=r"'width': 32.*asked for.*'width': 33"):
        open_index(tmp_path, layout=VectorLayout.of_both(NUM_MOMENTS, 33))
    with pytest.raises(IndexFailure, match=r"'num_moments': 16\}, asked for .*'num_moments': 8"):
        open_index(tmp_path, layout=VectorLayout.of_both(8, WIDTH))
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(IndexFailure, match=r"index\.json cannot be read"):
        open_index(tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(IndexFailure, match=r"holds a shard but no index\.json"):
        open_index(tmp_path)


def make_old(folder: Path) -> None:
    """Bring an index back to version 1: one path in each payload, no metadata, modalities in the heads alone."""
    shard = edge.EdgeShard.load(str(folder / "shard"))
    for record in shard.scroll(edge.ScrollRequest(limit=1000, with_payload=True, with_vector=False))[0]:
        payload = dict(record.payload or {})
        payload["path"] = payload.pop("paths")[0]
        for key in ("folders", "labels", "metadata", *(["modalities"] if payload["index"] else [])):
            del payload[key]
        shard.update(edge.UpdateOperation.overwrite_payload([record.id], payload))
    for key in ("paths", "folders", "labels", "modalities", "media.duration_seconds", "media.modified_ns"):
        shard.update(edge.UpdateOperation.delete_field_index(key))
    shard.update(edge.UpdateOperation.create_field_index("path", edge.KeywordIndexParams(enable_hnsw=False)))
    shard.flush()
    shard.close()
    seal = folder / "index.json"
    seal.write_text(json.dumps({**json.loads(seal.read_text()), "version": 1}))


def take_words(folder: Path) -> None:
    """Bring an index back to the time before words were stored."""
    shard = edge.EdgeShard.load(str(folder / "shard"))
    shard.update(edge.UpdateOperation.delete_payload_by_filter(is_head(), [WORDS_KEY]))
    shard.update(edge.UpdateOperation.delete_field_index(WORDS_KEY))
    shard.flush()
    shard.close()
    (folder / "shard.closed").unlink()


def test_an_index_of_before_gets_the_words_of_its_assets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.index.embedded.index.WORDS_AT_ONCE", 2)
    wanted = WordQuery(words=("rain",), target="audio", limit=9)
    with open_index(tmp_path) as index:
        for name in ("rain_1", "RAINHvy", "wind"):
            index.write_asset(make_asset(name, make_tracks(2, seed=1)), is_last=True)
        expected = index.search_words(wanted)
    assert len(expected) == 2
    take_words(tmp_path)
    with open_index(tmp_path) as index:
        index._words.join()
        assert index.search_words(wanted) == expected
        check_whole(index, {make_id(name): 2 for name in ("rain_1", "RAINHvy", "wind")})


@pytest.mark.parametrize("num_done", [0, 1])  # assets brought over before a crash
def test_a_folder_of_version_1_opens_and_filters(tmp_path: Path, num_done: int) -> None:
    tracks = make_tracks(3, seed=12)
    with open_index(tmp_path) as index:
        pair = [
            make_segment(
                "b", n, audio_track=tracks[n], video_track=[None, tracks[n]][n], path="/x/caf\udce9/b.mp4"
            )
            for n in range(2)
        ]
        index.write_asset(make_asset("a", tracks, path="/lib/a.wav"), is_last=True)
        index.write_asset(pair, is_last=True)
        expected = [index.get_asset(make_id(name)) for name in "ab"]
    make_old(tmp_path)
    (tmp_path / "shard.closed").unlink()  # no older version knows it
    if num_done:
        shard = edge.EdgeShard.load(str(tmp_path / "shard"))
        head = next(iter(shard.scroll(edge.ScrollRequest(limit=1, filter=is_head(), with_payload=True))[0]))
        create_field_indexes(shard)
        _migrate_asset(shard, head.payload or {})
        shard.close()
    for _ in range(2):
        with open_index(tmp_path) as index:
            assert [index.get_asset(make_id(name)) for name in "ab"] == expected
            assert all_assets(index, filter=Filter(folder="/lib")) == [make_id("a")]
            assert all_assets(index, filter=Filter(folder="/x/caf\udce9")) == [make_id("b")]
            assert index.find_path("/lib/a.wav") == expected[0]
            both = index.search(
                VectorQuery(track=tracks[0], target="audio", limit=9, filter=Filter(modality="video"))
            )
            assert [m.asset_id for m in both] == [make_id("b")] * 2
            check_whole(index, {make_id("a"): 3, make_id("b"): 2})
            index.set_metadata(make_id("a"), {"take": 1})
            index.set_metadata(make_id("a"), {})
        assert json.loads((tmp_path / "index.json").read_text())["version"] == 2


def is_head() -> edge.Filter:
    return edge.Filter(must=[edge.FieldCondition("index", match=edge.MatchValue(0))])


def test_an_index_of_a_later_version_is_refused(tmp_path: Path) -> None:
    open_index(tmp_path).close()
    seal = tmp_path / "index.json"
    seal.write_text(seal.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(IndexFailure, match=r"is \{'version': 3.*asked for \{'version': 2"):
        open_index(tmp_path)


def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexFailure, match=r"cannot be used: .*(Not a directory|File exists)"):
        open_index(tmp_path / "file")


def test_a_crash_while_creating_leaves_a_folder_that_opens(tmp_path: Path) -> None:
    with open_index(tmp_path):
        pass
    (tmp_path / "shard").rename(tmp_path / "shard.new")  # as it is between creation and the rename
    (tmp_path / "shard.closed").unlink()
    with open_index(tmp_path) as index:
        assert index.count_segments() == 0


def test_a_damaged_shard_is_reported(tmp_path: Path) -> None:
    with open_index(tmp_path) as index:
        index.write_asset(make_asset("a", make_tracks(2, seed=2)), is_last=True)
    (state,) = (tmp_path / "shard" / "segments").glob("*/segment.json")
    state.write_bytes(b"\0" * 100)
    with pytest.raises(IndexFailure, match=r"segment\.json is damaged"):
        open_index(tmp_path)
    (tmp_path / "shard.closed").unlink()  # as after a kill
    with pytest.raises(IndexFailure, match=r"cannot be read: .*segment"):
        open_index(tmp_path)


def test_a_folder_is_open_once(tmp_path: Path) -> None:
    with open_index(tmp_path) as index:
        with pytest.raises(IndexInUse, match=rf"is open in another process \(number {os.getpid()}\)"):
            open_index(tmp_path)
        assert index.count_segments() == 0
    open_index(tmp_path).close()


def test_a_full_disk_refuses_writes_and_answers_reads(tmp_path: Path) -> None:
    tracks = make_tracks(2, seed=3)
    with open_index(tmp_path) as index:
        index.write_asset(make_asset("a", tracks), is_last=True)
    with open_index(tmp_path, min_free_bytes=2**62) as index:
        with pytest.raises(IndexFull, match=f"bytes free, writing needs {2**62}"):
            index.write_asset(make_asset("b", tracks), is_last=True)
        with pytest.raises(IndexFull, match="bytes free"):
            index.optimize()
        check_whole(index, {make_id("a"): 2})
        assert index.delete_asset(make_id("a")) == 2, "making room is allowed"
    with pytest.raises(IndexFull, match="bytes free"):
        open_index(tmp_path / "new", min_free_bytes=2**62)


def test_a_dead_process_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    *tracks, other = make_tracks(7, seed=4)
    segments = make_asset("long", np.stack(tracks))
    with open_index(tmp_path) as index:
        index.write_asset(make_asset("a", np.stack([other, other])), is_last=True)
        for part in range(3):  # also in the midst of an asset that comes in parts
            index.write_asset(segments[2 * part : 2 * part + 2], is_last=part == 2)
            dead = index.shard_pid
            os.kill(dead, signal.SIGKILL)
            assert index.search(VectorQuery(track=other, target="audio", limit=1))[0].asset_id == make_id("a")
            assert index.shard_pid != dead
        check_whole(index, {make_id("a"): 2, make_id("long"): 6})


def test_a_silent_process_is_replaced(tmp_path: Path) -> None:
    config = ShardConfig(folder=tmp_path, layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH), min_free_bytes=0)
    with EmbeddedIndex(config, call_seconds=1.0) as index:
        index.write_asset(make_asset("a", make_tracks(1, seed=6)), is_last=True)
        os.kill(index.shard_pid, signal.SIGSTOP)
        with pytest.raises(IndexUnavailable, match=r"did not answer in 1\.0 s"):
            index.count_segments()
        assert index.count_segments() == 1


def test_signals_meant_for_the_service_leave_the_shard_process_alone(tmp_path: Path) -> None:
    with open_index(tmp_path) as index:
        pid = index.shard_pid
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        assert index.count_segments() == 0
        assert index.shard_pid == pid


def test_the_service_does_not_load_edge() -> None:
    code = "import sys, service.index.embedded.index; sys.exit('qdrant_edge' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


WRITER = """
    import sys
    from pathlib import Path
    sys.path[:0] = [sys.argv[2]]
    from tests.support.embedded import open_index
    from tests.support.index_contract import make_asset, make_id, make_tracks

    tracks = make_tracks(4, seed=7)
    index = open_index(Path(sys.argv[1]), storage=sys.argv[4])
    print("shard", index.shard_pid, flush=True)
    number = int(sys.argv[3])
    while True:
        segments = make_asset(number, tracks[: 1 + number % 4])
        if number % 3:
            index.write_asset(segments, is_last=True)
        else:
            for position, segment in enumerate(segments):
                index.write_asset([segment], is_last=position == len(segments) - 1)
        print("stored", number, flush=True)
        number += 1
"""


@contextlib.contextmanager
def run_writer(
    folder: Path, first: int, working_folder: Path, storage: Storage
) -> Iterator[subprocess.Popen[str]]:
    """A process without a file as its `__main__` that writes assets and names each acknowledged one."""
    code = textwrap.dedent(WRITER)
    command = [
        sys.executable,
        "-P",
        "-c",
        code,
        str(folder),
        str(REPOSITORY),
        str(first),
        storage,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=working_folder) as process:
        try:
            yield process
        finally:
            process.kill()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def read_lines(process: subprocess.Popen[str], *, seconds: float) -> list[str]:
    """Whole lines a process printed until the time is over and a first one is there."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    lines: list[str] = []
    while time.monotonic() < deadline or not lines:
        if select.select([process.stdout], [], [], 0.01)[0]:
            lines.append(process.stdout.readline())
            assert lines[-1], "the writer ended"
    return lines


@pytest.mark.parametrize("storage", ["float16", "fine"])
def test_a_killed_service_loses_nothing_acknowledged_and_leaves_no_process(
    tmp_path: Path, storage: Storage
) -> None:
    folder, working_folder = tmp_path / "index", tmp_path / "cwd"
    working_folder.mkdir()
    (working_folder / "numpy.py").write_text("raise SystemExit('the working directory is imported')")
    rng = random.Random(8)
    acknowledged: dict[str, int] = {}
    first = 0
    for _ in range((NUM_KILLS + 1) // 2):
        with run_writer(folder, first, working_folder, storage) as process:
            pid = int(read_lines(process, seconds=0.0)[0].split()[1])
            assert process.stdout is not None
            lines = read_lines(process, seconds=rng.uniform(0.05, 0.6))
            process.kill()
            wait_until(lambda: not is_running(pid))  # noqa: B023 - the process does not outlive its service
            lines += process.stdout.readlines()
        stored = [int(line.split()[1]) for line in lines if line.endswith("\n")]
        acknowledged |= {make_id(number): 1 + number % 4 for number in stored}
        first = max(stored) + 1
    with open_index(folder) as index:
        assert index.storage == storage
        for asset_id in acknowledged:
            assert len(index.read_segments(asset_id, limit=9)) == acknowledged[asset_id], "every row is whole"
        check_whole(index, acknowledged)
        # the check itself can fail
        index.delete_asset(next(iter(acknowledged)))
        with pytest.raises(AssertionError, match="1 acknowledged assets are missing"):
            check_whole(index, acknowledged)


def test_a_busy_process_dies_with_its_service(tmp_path: Path) -> None:
    """No Python runs in the process while Edge works: the kernel has to end it."""
    code = """
        import ctypes, os, sys
        sys.path.insert(0, sys.argv[1])
        from service.index.embedded import shard_process
        shard_process._die_with(int(sys.argv[2]))
        print("busy", flush=True)
        ctypes.PyDLL(None).sleep(60)  # a foreign call that keeps Python's lock
    """
    read_end, write_end = os.pipe()
    command = [sys.executable, "-c", textwrap.dedent(code), str(REPOSITORY), str(read_end)]
    with subprocess.Popen(command, pass_fds=[read_end], stdout=subprocess.PIPE, text=True) as process:
        os.close(read_end)
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        os.close(write_end)
        assert process.wait(5.0) == -signal.SIGIO


def test_optimize_builds_graphs_that_find_the_same(tmp_path: Path) -> None:
    num_assets, per_asset = 4, 250
    tracks = make_tracks(num_assets * per_asset, seed=9, clusters=40)
    queries = make_tracks(20, seed=9, clusters=40)
    with open_index(tmp_path, exact_below=200) as index:
        for name in range(num_assets):
            part = tracks[name * per_asset : (name + 1) * per_asset]
            segments = [
                Segment(
                    asset_id=make_id(name),
                    path=f"/{name}.mp4",
                    index=n,
                    start_seconds=10.0 * n,
                    end_seconds=10.0 * n + 10.0,
                    audio_track=track,
                    video_track=track,
                )
                for n, track in enumerate(part)
            ]
            index.write_asset(segments, is_last=True)
        assert index.info().num_indexed_vectors == 0
        before = [index.search(VectorQuery(track=query, target="video", limit=10)) for query in queries]
        index.optimize()
        assert index.info().num_indexed_vectors == 4 * len(tracks)
        graphs = list((tmp_path / "shard" / "segments").glob("*/vector_index-video/links*.bin"))
        assert sum(path.stat().st_size for path in graphs) > 10 * len(tracks), "no graph was built"
        after = [index.search(VectorQuery(track=query, target="video", limit=10)) for query in queries]
        kept = [
            len({(m.asset_id, m.start_seconds) for m in b} & {(m.asset_id, m.start_seconds) for m in a})
            for b, a in zip(before, after, strict=True)
        ]
        assert np.mean(kept) >= 9.9
        for query, matches in zip(queries, after, strict=True):
            best = np.sort(diagonal_means(query, tracks))[::-1][:10]
            np.testing.assert_allclose([m.score for m in matches][:3], best[:3], atol=TOLERANCE)
            by_asset = diagonal_means(query, tracks).reshape(num_assets, per_asset).max(axis=1)
            assets = index.search_assets(VectorQuery(track=query, target="video", limit=num_assets))
            found = {m.asset_id: m.score for m in assets}
            expected = {make_id(name): by_asset[name] for name in np.argsort(-by_asset)[:3]}
            assert {name: found[name] for name in expected} == pytest.approx(expected, abs=TOLERANCE)
        late = make_tracks(1, seed=10)[0]
        index.write_asset([make_segment("late", audio_track=late)], is_last=True)
        assert index.search(VectorQuery(track=late, target="audio", limit=1))[0].asset_id == make_id("late")
        assert index.delete_asset(make_id(0)) == per_asset
        assert index.count_segments() == len(tracks) + 1 - per_asset
    with open_index(tmp_path, exact_below=200) as index:
        check_whole(index, {make_id(name): per_asset for name in range(1, num_assets)} | {make_id("late"): 1})


def test_no_other_call_goes_through_while_it_optimizes(tmp_path: Path) -> None:
    with open_index(tmp_path) as index:
        index.write_asset(make_asset("a", make_tracks(1, seed=11)), is_last=True)
        os.kill(index.shard_pid, signal.SIGSTOP)
        thread = threading.Thread(target=index.optimize)
        thread.start()
        wait_until(lambda: index._shard.is_optimizing, every=0.001)
        with pytest.raises(IndexUnavailable, match="is being optimized"):
            index.count_segments()
        with pytest.raises(IndexUnavailable, match="optimized already"):
            index.optimize()
        os.kill(index.shard_pid, signal.SIGCONT)
        thread.join()
        assert index.count_segments() == 1


@pytest.mark.parametrize("damage", ["none", "missing", "zeros", "shifted", "cut"])
def test_moments_are_right_whatever_became_of_the_copies_of_tracks(tmp_path: Path, damage: str) -> None:
    """Copies that are there are read; those that do not fit Edge's score give way to its own vectors."""
    tracks = make_tracks(20, seed=31)
    with open_index(tmp_path) as index:
        index.write_asset(make_asset("a", tracks), is_last=True)
    path = tmp_path / "shard" / FILE_NAME
    copies = np.fromfile(path, dtype=np.float16).reshape(len(tracks), -1)
    np.testing.assert_array_equal(
        np.sort(copies, axis=0), np.sort(tracks.astype(np.float16).reshape(copies.shape), axis=0)
    )
    if damage == "missing":
        path.unlink()
    elif damage == "zeros":
        np.zeros_like(copies).tofile(path)
    elif damage == "shifted":
        np.roll(copies, 1, axis=0).tofile(path)
    elif damage == "cut":
        copies.ravel()[: copies.size // 2 - 5].tofile(path)
    with open_index(tmp_path) as index:
        index.write_asset(make_asset("b", make_tracks(1, seed=32)), is_last=True)
        found = index.search(VectorQuery(track=tracks[0], target="audio", limit=30))
    assert len(found) == len(tracks) + 1
    for match in found:
        if match.asset_id == make_id("a"):
            stored = tracks[round(match.start_seconds / 10)].astype(np.float16).astype(np.float32)
            expected = np.einsum("td,td->t", tracks[0].astype(np.float16).astype(np.float32), stored)
            np.testing.assert_allclose(match.moments, np.clip(expected, -1, 1), atol=1e-6)


@pytest.fixture
def config(tmp_path: Path) -> ShardConfig:
    """An index that holds one asset of 20 segments."""
    config = ShardConfig(
        folder=tmp_path / "i", layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH), min_free_bytes=0
    )
    config.folder.mkdir()
    shard = Shard(config)
    segments = make_asset("a", make_tracks(20, seed=31))
    points = to_points(segments, layout=config.layout)
    draft = follow(None, segments[0], points[0]).extend(points)
    bodies = [draft.label(point) for point in points if point is not draft.head]
    shard.write([Write(asset_id=make_id("a"), bodies=bodies, head=draft.finish(), body_ids=draft.body_ids)])
    shard.check()
    shard.close()
    return config


def test_lost_segments_are_missed_when_it_opens(config: ShardConfig) -> None:
    (segment,) = [s for s in (config.folder / "shard" / "segments").iterdir() if _holds_points(s)]
    shutil.rmtree(segment)
    for _ in range(2):
        with pytest.raises(IndexDamaged, match=r"has \d of its 20 segments; .*`foley repair`"):
            Shard(config)


def _holds_points(segment: Path) -> bool:
    return (segment / "segment.json").exists()


def test_lost_tracks_are_missed_until_they_are_copied_anew(config: ShardConfig) -> None:
    path = config.folder / "shard" / FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        shard = Shard(config)
        with pytest.raises(IndexDamaged, match=r"has lost \d+ tracks; .*`foley repair`"):
            shard.check()
        shard.close()
    assert shard.count_segments  # it answers, by the tracks of Edge
    path.write_bytes(whole)
    shard = Shard(config)
    shard.check()
    shard.close()


def _flip(path: Path, offset: int) -> None:
    """Change one byte of a file where it lies."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_a_changed_byte_in_any_small_file_is_found(config: ShardConfig) -> None:
    shard = config.folder / "shard"
    note = shard.with_name("shard.closed")
    names = [json.loads(line)[0] for line in note.read_text().splitlines()[1:]]
    assert len(names) > 50
    for name in names:
        size = (shard / name).stat().st_size
        for offset in {0, size // 2, size - 1} if size else ():
            _flip(shard / name, offset)
            with pytest.raises(
                IndexDamaged, match=rf"{re.escape(name)} is damaged: .* when the index was closed"
            ):
                check_closed(shard)
            _flip(shard / name, offset)  # what was a hole is filled now
    check_closed(shard)
    assert not note.exists()


def test_a_changed_payload_is_found_when_it_opens(config: ShardConfig) -> None:
    note = config.folder / "shard.closed"
    (page,) = (config.folder / "shard").glob("segments/*/payload_storage/page_0.dat")
    before = note.read_bytes()
    for found in re.finditer(b"/library/a.mp4", page.read_bytes()):
        _flip(page, found.start() + 1)
    with pytest.raises(IndexDamaged, match=r"page_0\.dat is damaged: .*`foley repair`"):
        Shard(config)
    assert note.read_bytes() == before, "it is found again and again"
    note.unlink()  # the control: as after a kill
    shard = Shard(config)
    assert shard.get_assets([make_id("a")])[0].path == "/mibrary/a.mp4", "another file would be played"
    assert not note.exists(), "what is open may change"
    shard.close()
    Shard(config).close()
    note.write_bytes(note.read_bytes()[:-1])
    Shard(config).close()  # a note that is damaged itself says nothing


def test_what_is_deleted_is_not_missed_after_a_kill(config: ShardConfig) -> None:
    shard = Shard(config)
    shard.flush = lambda: None  # type: ignore[method-assign]  # killed before it is noted
    shard.delete_assets([make_id("a")])
    shard.close()
    shard = Shard(config)
    assert shard.count_segments(None) == 0
    shard.close()


def test_changes_that_wait_share_a_flush(config: ShardConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard(config)
    (head,) = to_points(make_asset("b", make_tracks(1, seed=32)), layout=config.layout)
    write = Write(asset_id=make_id("b"), bodies=(), head=head)
    flushes: list[None] = []
    flush = shard.flush
    monkeypatch.setattr(shard, "flush", lambda: (flushes.append(None), flush()))
    ours, theirs = Pipe()
    requests = [("write", write), ("delete_asset", make_id("a")), *[("delete_asset", make_id("b"))] * 40]
    for number, (method, argument) in enumerate(requests):
        ours.send((number, method, (argument,)))
    ours.send(None)
    serve(theirs, shard)
    counts = [ours.recv()[1] for _ in requests]
    assert (counts, len(flushes)) == ([None, 20, 1, *[0] * 39], 2)
    shard.close()


def test_thousands_of_deletions_share_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback after 5,000 deletions: with a flush of .4 s for 256 of them it took 8 s longer."""
    layout = VectorLayout.of_both(NUM_MOMENTS, WIDTH)
    with EmbeddedIndex.open(tmp_path, layout=layout, min_free_bytes=0) as index:
        index.write_asset(make_asset("a", make_tracks(2, seed=34)), is_last=True)
        asked: list[tuple[object, ...]] = []
        call = index._shard.call

        def note(method: str, *arguments: Any) -> Any:
            asked.append((method, *map(len, arguments)))
            return call(method, *arguments)

        monkeypatch.setattr(index._shard, "call", note)
        assert index.delete_assets([*map(make_id, range(DELETED_AT_ONCE + 1)), make_id("a")]) == 2
        assert asked == [("drop_assets", DELETED_AT_ONCE), ("drop_assets", 2), ("flush",)]


def test_a_group_waits_for_writes_that_follow_each_other() -> None:
    """A process takes a write faster than many threads send the next: without a wait two of 64 shared a flush."""
    ready = iter([False, True, False, "later", False, False])
    requests = iter([*((number, "write", (number,)) for number in range(5)), None])
    groups: list[list[int]] = []

    class Slow:
        def recv(self) -> object:
            return next(requests)

        def poll(self, timeout: float) -> bool:
            is_there = next(ready)
            return timeout > 0 if is_there == "later" else bool(is_there)

        def send(self, answer: object) -> None:
            pass

    class Shards:
        def write(self, writes: list[int]) -> list[None]:
            groups.append(writes)
            return [None] * len(writes)

    serve(Slow(), Shards())  # type: ignore[arg-type]
    assert groups == [[0], [1, 2], [3, 4]]


def test_segments_are_read_from_the_copies_that_are_their_tracks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24,576 floats of a segment of D 768 from Edge took 2.2 core-ms, and as long no search was answered."""
    layout = VectorLayout.of_both(NUM_MOMENTS, WIDTH)
    shard = Shard(ShardConfig(folder=tmp_path, layout=layout, min_free_bytes=0))
    points = to_points(make_asset("a", make_tracks(6, seed=33)), layout=layout)
    ids = [point.point_id for point in points[1:]]
    shard.write([Write(asset_id=make_id("a"), bodies=points[1:], head=points[0], body_ids=ids)])
    asked: list[int] = []
    read = TrackCopies.to_points
    monkeypatch.setattr(
        TrackCopies, "to_points", lambda self, some, names: asked.append(len(some)) or read(self, some, names)
    )

    def check(num_asked: int) -> None:
        found = shard.read_segments(make_id("a"), 0, 10, layout.track_names)
        assert [point.point_id for point in found] == [point.point_id for point in points]
        for point, stored in zip(found, points, strict=True):
            assert set(point.vectors) == set(stored.vectors) & set(layout.track_names)
            for name, vector in point.vectors.items():
                assert np.array_equal(vector, stored.vectors[name])
        assert (asked.pop(), asked) == (num_asked, [])

    check(0)
    with (tmp_path / "shard" / FILE_NAME).open("r+b") as file:
        byte = file.read(1)[0] ^ 1  # the last bit of a number
        file.seek(0)
        file.write(bytes([byte]))
    check(1)
    os.truncate(file.name, 0)
    check(6)
    shard.close()


def test_moments_come_from_the_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tracks read from Edge take ten times as long, and nothing else would show it."""
    tracks = make_tracks(20, seed=31)
    config = ShardConfig(folder=tmp_path, layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH), min_free_bytes=0)
    shard = Shard(config)
    points = to_points(make_asset("a", tracks), layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH))
    ids = [point.point_id for point in points[1:]]
    shard.write([Write(asset_id=make_id("a"), bodies=points[1:], head=points[0], body_ids=ids)])
    read: list[edge.PointId] = []
    monkeypatch.setattr(ranking, "read_tracks", lambda shard, ids, name: read.extend(ids) or {})
    query = VectorQuery(track=tracks[0], target="audio", limit=len(tracks))
    assert len(shard.search(query)) == len(tracks)
    assert read == []
    shard.close()


def test_bounds_of_metadata_get_few_indexes(tmp_path: Path) -> None:
    """Bounds that few files fit read everything without one; each makes flushes dearer, so they are few."""
    config = ShardConfig(folder=tmp_path, layout=LAYOUTS["two shapes"], min_free_bytes=0)
    shard = Shard(config)

    def bound(key: str) -> list[Condition]:
        return to_conditions(Filter(metadata={key: Bounds(at_least=1)}))

    def ask(conditions: list[Condition]) -> None:
        assert shard.count_assets(conditions) == 0
        later.note((conditions,))

    later = _Later()
    busy, idle = (Mock(**{"poll.return_value": is_busy}) for is_busy in (True, False))
    for key in ("bpm", "f.p s", "bpm", "take"):
        ask(bound(key))
    assert not [key for key in shard._edge.info().payload_schema if key.startswith(OPEN_KEYS)], (
        "answered first"
    )
    for _ in range(70):  # others wait all the time: their turns come, and so does that of an index
        later.work(shard, busy)
    assert len([key for key in shard._edge.info().payload_schema if key.startswith(OPEN_KEYS)]) == 1
    for _ in range(9):
        later.work(shard, idle)
    indexed = {key for key in shard._edge.info().payload_schema if key.startswith(OPEN_KEYS)}
    assert len(indexed) == 6
    for number in range(9):
        ask(bound(f"key {number}"))
    for _ in range(20):
        later.work(shard, idle)
    indexed = {key for key in shard._edge.info().payload_schema if key.startswith(OPEN_KEYS)}
    assert len(indexed) == MAX_OPEN_INDEXES
