"""Kill −9 of the store under two writers and four readers: nothing acknowledged is lost, nothing is there twice.

FOLEY_KILLS=100 pytest tests/promises/test_killed_store.py -s      prints its figures
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from service.index.contract import Segment, VectorQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.failure import IndexUnavailable
from tests.support.embedded import NUM_KILLS, check_whole, open_index
from tests.support.index_contract import make_asset, make_id, make_tracks
from tests.support.waiting import wait_until

READY_SECONDS = 10.0
TRACKS = make_tracks(3, seed=5)


class Traffic:
    """Two writers and four readers, who note what was acknowledged and what they miss of it."""

    def __init__(self, index: EmbeddedIndex, write: Callable[[Sequence[Segment]], None]) -> None:
        self.index = index
        self.write = write
        self.acknowledged: dict[str, int] = {}
        self.failures: list[BaseException] = []
        self.num_reads = 0
        self._stop = threading.Event()
        works: list[Callable[[], None]] = [partial(self._write, n) for n in range(2)] + [self._read] * 4
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:  # a thread's failure must reach the test
            self.failures.append(exc)

    def _write(self, worker: int) -> None:
        turn = 0
        while not self._stop.is_set():
            name, turn = f"{worker}-{turn}", turn + 1
            segments = make_asset(name, TRACKS[: 1 + turn % 3])
            with contextlib.suppress(IndexUnavailable):  # twice dead in one call: not acknowledged
                self.write(segments)
                self.acknowledged[make_id(name)] = len(segments)

    def _read(self) -> None:
        rng = random.Random(threading.get_ident())
        while not self._stop.is_set():
            known = list(self.acknowledged.items())
            with contextlib.suppress(IndexUnavailable):
                self.index.search_assets(VectorQuery(track=TRACKS[0], target="audio", limit=5))
                if known:
                    asset_id, num_segments = rng.choice(known)
                    asset = self.index.get_asset(asset_id)
                    assert asset is not None, "an acknowledged asset is missing"
                    assert asset.num_segments == num_segments
                self.num_reads += 1


def kill_often(index: EmbeddedIndex, *, num_kills: int) -> float:
    """Kill the shard process at random times; the longest that the next answer took, in seconds."""
    rng = random.Random(0)
    slowest = 0.0
    for _ in range(num_kills):
        time.sleep(rng.uniform(0.05, 0.4))
        with contextlib.suppress(ProcessLookupError):
            os.kill(index.shard_pid, signal.SIGKILL)
        began = time.monotonic()
        while True:
            try:
                index.count_segments()
                break
            except IndexUnavailable:
                assert time.monotonic() - began < READY_SECONDS
        slowest = max(slowest, time.monotonic() - began)
    return slowest


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    with open_index(tmp_path / "index") as index:
        yield index


def test_a_killed_store_loses_nothing_acknowledged(index: EmbeddedIndex, tmp_path: Path) -> None:
    with Traffic(index, lambda segments: index.write_asset(segments, is_last=True)) as traffic:
        slowest = kill_often(index, num_kills=NUM_KILLS)
        wait_until(lambda: len(traffic.acknowledged) >= 4 or traffic.failures)  # a busy machine may only kill
    assert traffic.failures == []
    index.close()
    with open_index(tmp_path / "index") as again:
        stored = stored_in(again)
        assert {a: n for a, n in stored.items() if a in traffic.acknowledged} == traffic.acknowledged
        check_whole(again, stored)
    assert slowest <= READY_SECONDS
    sys.stdout.write(
        f"\n{NUM_KILLS} kills, {len(traffic.acknowledged)} assets acknowledged, {traffic.num_reads} reads: 0 missing, "
        f"0 twice; ready again after {slowest:.2f} s at most\n"
    )


def stored_in(index: EmbeddedIndex) -> dict[str, int]:
    page = index.list_assets(limit=100_000)
    assert page.next_cursor is None
    return {asset.asset_id: asset.num_segments for asset in page.assets}


def test_a_store_that_acknowledges_too_early_is_caught(index: EmbeddedIndex) -> None:
    """The control: the same traffic on a store that says "done" of a third of the assets before it has them."""

    def send(segments: Sequence[Segment]) -> None:
        if len(segments) != 3:
            index.write_asset(segments, is_last=True)

    with Traffic(index, send) as traffic:
        kill_often(index, num_kills=1)
        wait_until(lambda: any("an acknowledged asset is missing" in str(exc) for exc in traffic.failures))
    with pytest.raises(AssertionError, match="acknowledged assets are missing"):
        check_whole(index, traffic.acknowledged)
