"""Two releases of one library, and clients that find out whether an answer is of one of them alone.

Every answer names its release. A file is embedded by an encoder and compared with an index; the score that comes of it
is that of one release only where both are of that release. So each query's answer was taken from each release alone
before, and an answer whose scores are not those of the release it names is mixed, or wrong.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from models.bundle.bundle import load_bundle
from service.foley import Foley, open_foley
from service.library.indexing import index_paths
from service.releases.opening import open_release
from service.releases.store import ReleaseStore
from service.search.options import SearchOptions
from service.system.modality import Modality
from service.system.settings import Settings
from tests.support.pressure import percentile

TOLERANCE = 1e-4
"""Between two runs of one release; two releases are at least `LEAST_DIFFERENCE` apart."""
LEAST_DIFFERENCE = 5e-3
TARGET: Modality = "video"
TIMEOUT_SECONDS = 60.0

Expected = Mapping[str, float]
"""Score of every asset of the answer."""


@dataclass(frozen=True, kw_only=True)
class TwoReleases:
    """A data folder with two releases of one library.

    Attributes:
        settings: Of the folder.
        names: Their ids; the first one is active.
        bundle_ids: Of their bundles.
        queries: Sounds to search with.
        expected: What each release alone answers, by release and query.
    """

    settings: Settings
    names: tuple[str, str]
    bundle_ids: tuple[str, str]
    queries: tuple[Path, ...]
    expected: Mapping[str, Mapping[Path, Expected]]

    def moved(self, data: Path) -> TwoReleases:
        """The same in a copy of the folder."""
        return replace(self, settings=self.settings.replace(data=data))

    def environment(self) -> dict[str, object]:
        """Settings for a server process."""
        return {
            "DATA": self.settings.data,
            "BUNDLE": self.settings.bundle,
            "DEVICE": "cpu",
            "MIN_FREE_BYTES": 0,
            "NUM_THREADS": 1,
            "SEARCH_WORKERS": self.settings.search_workers,
            "DECODE_WORKERS": self.settings.decode_workers,
            "ENCODE_QUEUE_SEGMENTS": self.settings.encode_queue_segments or 64,
        }

    def explain(self, query: Path, answer: Mapping[str, Any]) -> str | None:
        """What is wrong with an answer, None where it is that of the release it names."""
        name = answer["release_id"]
        if name not in self.names:
            return f"no such release: {name}"
        if answer["bundle_id"] != self.bundle_ids[self.names.index(name)]:
            return f"{name} answered with bundle {answer['bundle_id']}"
        found = scores_of(answer)
        expected = self.expected[name][query]
        if found.keys() == expected.keys() and all(
            abs(found[asset] - expected[asset]) <= TOLERANCE for asset in found
        ):
            return None
        return f"{name} does not score {query.name} like that: {found} instead of {expected}"


def scores_of(answer: Mapping[str, Any]) -> dict[str, float]:
    """Score by asset."""
    return {result["asset_id"]: result["score"] for result in answer["results"]}


def prepare_releases(
    data: Path, *, library: Path, queries: Sequence[Path], first: Path, second: Path
) -> TwoReleases:
    """Index a library under two bundles, the first of them active, and ask each of them every query."""
    settings = Settings(
        data=data,
        bundle=first,
        device="cpu",
        precision="fp32",
        num_threads=1,
        decode_workers=1,
        search_workers=2,
        encode_queue_segments=256,
        min_free_bytes=0,
    )
    store = ReleaseStore(settings.release_folder)
    bundles = (load_bundle(first), load_bundle(second))
    expected = {}
    for bundle in bundles:
        release = store.create(bundle, outcome="ready")
        live = open_release(settings, release.release_id, store.load_bundle(release.release_id))
        try:
            with open_foley(settings.replace(data=data / "scratch")) as foley:
                snapshot = live.snapshot(priority="bulk")
                report = index_paths([library], snapshot=snapshot, decoder=foley.decoder)
                assert not report.failed
                expected[release.release_id] = {
                    path: scores_of(
                        foley.search_file(path, SearchOptions(target=TARGET), snapshot=snapshot).to_json()
                    )
                    for path in queries
                }
        finally:
            live.close()
    names = (bundles[0].bundle_id, bundles[1].bundle_id)
    store.activate(names[0], previous=None)
    for path in queries:
        old, new = (expected[name][path] for name in names)
        assert max(abs(old[asset] - new[asset]) for asset in old.keys() & new.keys()) > LEAST_DIFFERENCE
    return TwoReleases(
        settings=settings, names=names, bundle_ids=names, queries=tuple(queries), expected=expected
    )


@dataclass(kw_only=True)
class SwapReport:
    """What clients saw.

    Attributes:
        failed: Answers that were none, or no 200.
        mixed: What is wrong with answers.
        answers: Answers by release.
        seconds: When each answer came, and how long it took.
    """

    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[tuple[float, float]] = field(default_factory=list)

    def p99(self, spans: Sequence[tuple[float, float]] | None = None) -> float:
        """p99 of the answers that came in some spans of time, or in all."""
        chosen = [
            took
            for at, took in self.seconds
            if spans is None or any(first <= at and at - took <= last for first, last in spans)
        ]
        return percentile(chosen, 99) if chosen else float("nan")

    def check(self) -> None:
        """Fail where an answer failed or was mixed."""
        assert not self.failed, f"{len(self.failed)} failed: {self.failed[:3]}"
        assert not self.mixed, f"{len(self.mixed)} mixed: {self.mixed[:3]}"


class Clients:
    """Closed-loop clients of a server, each asking again as soon as it has its answer, until the block ends.

    With a pause they are people instead of a load.
    """

    def __init__(
        self, address: str, releases: TwoReleases, *, count: int, pause_seconds: float = 0.0
    ) -> None:
        self.report = SwapReport()
        self._pause_seconds = pause_seconds
        self._address = address
        self._releases = releases
        self._contents = [(path, path.read_bytes()) for path in releases.queries]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._address, timeout=TIMEOUT_SECONDS) as client:
            while not self._stop.wait(self._pause_seconds):
                path, content = self._contents[number % len(self._contents)]
                number += 1
                self._ask_once(client, path, content)

    def _ask_once(self, client: httpx.Client, path: Path, content: bytes) -> None:
        began = time.monotonic()
        try:
            answer = client.post("/v1/search", files={"file": (path.name, content)}, data={"target": TARGET})
            problem = None if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as exc:
            problem = repr(exc)
        ended = time.monotonic()
        with self._lock:
            if problem is not None:
                self.report.failed.append(problem)
                return
            fields = json.loads(answer.content)
            self.report.seconds.append((ended, ended - began))
            self.report.answers[fields.get("release_id")] += 1
            wrong = self._releases.explain(path, fields)
            if wrong is not None:
                self.report.mixed.append(wrong)


def ask_foley(foley: Foley, releases: TwoReleases, path: Path) -> str | None:
    """Ask an engine in this process; what is wrong with its answer."""
    with foley.lease() as snapshot:
        answer = foley.search_file(path, SearchOptions(target=TARGET), snapshot=snapshot)
    return releases.explain(path, answer.to_json())
