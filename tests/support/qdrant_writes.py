"""Writers and searchers that never pause: which writes were acknowledged, which searches failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from service.index.contract import Index, VectorQuery
from service.index.failure import IndexFailure
from tests.support.index_contract import make_asset, make_id, make_tracks
from tests.support.waiting import wait_until

NUM_SEGMENTS = 2


class Loop:
    """A thread for each of some functions that calls it with 0, 1, 2, … until `stop`."""

    def __init__(self, works: Sequence[Callable[[int], None]]) -> None:
        self._is_stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End after the present calls."""
        self._is_stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[int], None]) -> None:
        turn = 0
        while not self._is_stopping.is_set():
            work(turn)
            turn += 1


class Writing(Loop):
    """Writes assets through some indexes, a thread each.

    Attributes:
        asked: Ids of all assets.
        done: Names of those whose write was acknowledged.
        failures: What the others were told.
        slowest_seconds: The longest write that was acknowledged.
    """

    def __init__(self, indexes: Sequence[Index], *, name: str = "") -> None:
        self.asked: set[str] = set()
        self.done: list[str] = []
        self.failures: list[str] = []
        self.slowest_seconds = 0.0
        super().__init__([self._writer(index, f"{name}{n}") for n, index in enumerate(indexes)])

    def _writer(self, index: Index, first: str) -> Callable[[int], None]:
        def write(turn: int) -> None:
            name = f"{first}-{turn}"
            self.asked.add(make_id(name))
            began = time.monotonic()
            try:
                index.write_asset(make_asset(name, tracks_of(name)), is_last=True)
            except IndexFailure as exc:
                self.failures.append(str(exc))
            else:
                self.done.append(name)
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)

        return write

    def wait_for(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.done) + count
        wait_until(lambda: len(self.done) >= wanted)

    def find_lost(self, index: Index) -> set[str]:
        """Names of assets whose write was acknowledged, and which are not there whole."""
        return {name for name in list(self.done) if not _is_whole(index, name)}


def tracks_of(name: str) -> np.ndarray:
    """The tracks of an asset."""
    return make_tracks(NUM_SEGMENTS, seed=int(make_id(name)[:8], 16))


def _is_whole(index: Index, name: str) -> bool:
    asset = index.get_asset(make_id(name))
    if asset is None or asset.num_segments != NUM_SEGMENTS:
        return False
    for number, track in enumerate(tracks_of(name)):
        stored = index.get_track(make_id(name), index=number, modality="audio")
        if stored is None or not np.array_equal(stored, track.astype(np.float16).astype(np.float32)):
            return False
    return True


class Searching(Loop):
    """Searches some indexes for assets that are there, a thread each.

    Attributes:
        failures: What failed, or was not found.
        seconds: How long each search took that found its asset.
    """

    def __init__(self, indexes: Sequence[Index], names: Sequence[str]) -> None:
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self._names = names
        super().__init__([self._searcher(index) for index in indexes])

    def _searcher(self, index: Index) -> Callable[[int], None]:
        def search(turn: int) -> None:
            name = self._names[turn % len(self._names)]
            began = time.monotonic()
            try:
                (best,) = index.search(VectorQuery(track=tracks_of(name)[0], target="audio", limit=1))
                if best.asset_id != make_id(name):
                    self.failures.append(f"{name} was not found")
            except (IndexFailure, ValueError) as exc:
                self.failures.append(str(exc))
            self.seconds.append(time.monotonic() - began)

        return search
