"""Kill -9 at random points of the switch: the old release or the new one, complete; the new one if that was said.

FOLEY_KILLS=200 pytest tests/promises/test_switch_kills.py -s      prints its figures
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from service.foley import open_foley
from service.index.contract import Index
from service.index.failure import IndexInUse
from service.index.iteration import iter_assets
from service.index.opening import index_place
from service.releases.opening import active_release, write_settings
from service.releases.store import ReleaseStore
from tests.support.paths import REPOSITORY, SUPPORT
from tests.support.swapping import TwoReleases, ask_foley
from tests.support.waiting import wait_until

NUM_KILLS = int(os.environ.get("FOLEY_KILLS", "10"))
MOST_SECONDS = 0.8  # some switches, each with an index to open


class Switcher:
    """A process that switches without end."""

    def __init__(self, releases: TwoReleases, *, is_broken: bool = False) -> None:
        command = [sys.executable, SUPPORT / "switcher.py", write_settings(releases.settings).strip()]
        self.process = subprocess.Popen(
            [*command, *releases.names, *(["broken"] if is_broken else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.lines: list[str] = []
        self.read("ready")

    def read(self, first: str) -> None:
        """Read to the next line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith(first):
                return
        raise AssertionError(f"it ended by itself with {self.process.wait()}")

    def kill(self) -> list[str]:
        """Kill it; everything it said."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        assert self.process.poll() is None, "it ended by itself"
        self.process.send_signal(signal.SIGKILL)
        self.lines += self.process.stdout.read().splitlines()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        return self.lines


def open_when_free(releases: TwoReleases, name: str) -> Index:
    """The shard process of a killed process takes a moment to notice."""

    def opened() -> Index | None:
        try:
            store = ReleaseStore(releases.settings.release_folder)
            return index_place(releases.settings).open(store.load_bundle(name), release_id=name)
        except IndexInUse:
            return None

    return wait_until(opened)


def look(releases: TwoReleases) -> dict[str, dict[str, int]]:
    """Segments of each asset, in each release."""
    found = {}
    for name in releases.names:
        index = open_when_free(releases, name)
        try:
            found[name] = {asset.asset_id: asset.num_segments for asset in iter_assets(index)}
        finally:
            index.close()
    return found


def may_be_active(lines: list[str], before: str) -> set[str]:
    """What may answer after everything that was said: the last one that was done, and one that was asked for since."""
    allowed = {before}
    for line in lines:
        word, _, name = line.partition(" ")
        if word == "done":
            allowed = {name}
        elif word == "ask":
            allowed.add(name)
    return allowed


def test_old_or_new_and_complete_after_any_kill(two_releases: TwoReleases) -> None:
    settings, chance = two_releases.settings, random.Random(7)
    whole = look(two_releases)
    assert len(set(map(str, whole.values()))) == 1
    assert len(whole[two_releases.names[0]]) > 3
    before = two_releases.names[0]
    seen: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(NUM_KILLS):
        switcher = Switcher(two_releases)
        if number % 3 == 2:
            switcher.read("done")  # killed at once: it was said
        else:
            time.sleep(chance.uniform(0.0, MOST_SECONDS))
        lines = switcher.kill()
        active, bundle = active_release(settings)
        assert active in may_be_active(lines, before), f"kill {number}: {active} after {lines[-3:]}"
        assert bundle.bundle_id == two_releases.bundle_ids[two_releases.names.index(active)]
        seen["between" if lines[-1].startswith("done") else "during"] += 1
        seen[active] += 1
        before = active
        if number % 10 == NUM_KILLS % 10 or number == NUM_KILLS - 1:
            assert look(two_releases) == whole
    with open_foley(settings) as foley:
        assert [ask_foley(foley, two_releases, path) for path in two_releases.queries[:2]] == [None, None]
        assert foley.releases.current.release_id == before
    print(  # noqa: T201 - the figure of `make soak`
        f"\n{NUM_KILLS} kills in {time.monotonic() - began:.0f} s: {dict(seen)}; always old or new, and complete"
    )
    assert seen["during"] > 0


def test_saying_it_before_would_be_seen(two_releases: TwoReleases) -> None:
    """The control: a switch that is said to be done before it is durable."""
    switcher = Switcher(two_releases, is_broken=True)
    switcher.read("done")
    lines = switcher.kill()
    active, _ = active_release(two_releases.settings)
    assert active not in may_be_active(lines, two_releases.names[0])


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        (["ready"], {"a"}),
        (["ready", "ask b"], {"a", "b"}),
        (["ready", "ask b", "done b"], {"b"}),
        (["ready", "ask b", "done b", "ask a"], {"a", "b"}),
    ],
)
def test_what_is_allowed(lines: list[str], allowed: set[str]) -> None:
    assert may_be_active(lines, "a") == allowed
