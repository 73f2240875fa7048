"""Leases: a release lives until its last user is done. And the gate that writers pass."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import replace
from typing import Any, cast

import pytest

from service.releases.switch import OpenRelease, ReleaseSwitch, WriteGate
from service.search.calibration import Calibration

NOTHING = Calibration(directions={}, num_assets=0)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests keep the releases that they close; nobody waits until they let go, or looks for cycles."""
    monkeypatch.setattr("service.releases.switch.LET_GO_SECONDS", 0.0)
    monkeypatch.setattr("service.releases.switch.gc.collect", lambda: None)


class Closed:
    """Notes that it was closed."""

    def __init__(self, *, fails: bool = False) -> None:
        self.num_closed = 0
        self.fails = fails
        self.was_closed = threading.Event()

    def close(self) -> None:
        self.num_closed += 1
        self.was_closed.set()
        if self.fails:
            raise OSError("the disk is gone")


def make_live(name: str, *, fails: bool = False) -> tuple[OpenRelease, Closed]:
    closed = Closed(fails=fails)
    release = OpenRelease(
        release_id=name,
        bundle=cast(Any, None),
        encoder=cast(Any, Closed()),
        batcher=cast(Any, Closed()),
        index=cast(Any, closed),
    )
    return release, closed


def test_an_unused_release_closes_at_once() -> None:
    (first, was_first), (second, was_second) = make_live("first"), make_live("second")
    releases = ReleaseSwitch(first)
    releases.switch(second)
    assert was_first.was_closed.wait(5)
    assert releases.current is second
    assert releases.num_open == 1
    assert was_second.num_closed == 0
    releases.close()
    releases.close()
    assert was_first.num_closed == 1
    assert was_second.num_closed >= 1


def test_the_old_one_closes_after_its_last_user() -> None:
    (first, was_first), (second, _) = make_live("first"), make_live("second")
    releases = ReleaseSwitch(first)
    one, two = releases.lease(), releases.lease()
    assert one.__enter__() is two.__enter__() is first
    releases.switch(second)
    with releases.lease() as release:
        assert release is second
    assert releases.num_open == 2
    one.__exit__(None, None, None)
    assert not was_first.was_closed.wait(0.05)
    two.__exit__(None, None, None)
    assert was_first.was_closed.wait(5)
    assert releases.num_open == 1
    releases.close()
    assert was_first.num_closed == 1


def test_a_lease_that_ends_with_an_error_ends_too() -> None:
    (first, was_first), (second, _) = make_live("first"), make_live("second")
    releases = ReleaseSwitch(first)
    with pytest.raises(ValueError, match="mine"), releases.lease():  # noqa: PT012 - a request that fails
        releases.switch(second)
        raise ValueError("mine")
    assert was_first.was_closed.wait(5)
    releases.close()


def test_one_that_still_answers_somebody_is_taken_back() -> None:
    (first, was_first), (second, was_second) = make_live("first"), make_live("second")
    releases = ReleaseSwitch(first)
    long = releases.lease()
    long.__enter__()
    releases.switch(second)
    with releases.lease_old("first") as used:
        assert used is first
        long.__exit__(None, None, None)
        assert not was_first.was_closed.wait(0.05), "it is about to answer again"
        releases.switch(first)
    assert releases.current is first
    assert was_second.was_closed.wait(5)
    assert not was_first.was_closed.wait(0.05)
    assert releases.num_open == 1
    releases.switch(make_live("third")[0])
    assert was_first.was_closed.wait(5)
    releases.close()


def test_one_that_is_not_taken_back_closes_all_the_same() -> None:
    (first, was_first), (second, _) = make_live("first"), make_live("second")
    releases = ReleaseSwitch(first)
    with releases.lease():
        releases.switch(second)
        with releases.lease_old("first") as used:
            assert used is first
        assert not was_first.was_closed.wait(0.05)
    assert was_first.was_closed.wait(5)
    with releases.lease_old("first") as used:
        assert used is None
    releases.close()
    assert was_first.num_closed == 1


def test_one_that_closes_is_waited_for() -> None:
    (first, was_first), (second, _) = make_live("first"), make_live("second")
    releases = ReleaseSwitch(first)
    goes_on = threading.Event()
    releases._closer.submit(goes_on.wait)
    releases.switch(second)
    threading.Timer(0.1, goes_on.set).start()
    with releases.lease_old("first") as used:
        assert used is None
        assert was_first.num_closed == 1, "its folder is free"
    releases.close()


def test_a_release_that_cannot_be_closed_harms_no_other() -> None:
    (first, was_first), (second, was_second), (third, _) = (
        make_live("first", fails=True),
        make_live("second"),
        make_live("third"),
    )
    releases = ReleaseSwitch(first)
    releases.switch(second)
    releases.switch(third)
    assert was_first.was_closed.wait(5)
    assert was_second.was_closed.wait(5)
    releases.close()


def test_a_lease_keeps_its_calibration() -> None:
    first, _ = make_live("first")
    releases = ReleaseSwitch(first)
    with releases.lease() as before:
        assert releases.recalibrate("first", NOTHING)
        assert before.calibration is None
        with releases.lease() as after:
            assert after == replace(first, calibration=NOTHING)
    assert not releases.recalibrate("another", NOTHING)
    releases.close()


def test_leases_and_switches_of_many_threads() -> None:
    """Whoever has a lease never finds its release closed; in the end all but one are, each once."""
    made = [make_live(f"{n}") for n in range(12)]
    closed = {release.release_id: was for release, was in made}
    releases = ReleaseSwitch(made[0][0])
    wrong: list[str] = []
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            with releases.lease() as release:
                time.sleep(0.0005)
                if closed[release.release_id].num_closed:
                    wrong.append(release.release_id)

    users = [threading.Thread(target=use) for _ in range(6)]
    for user in users:
        user.start()
    for release, _ in made[1:]:
        time.sleep(0.005)
        releases.switch(release)
    stop.set()
    for user in users:
        user.join()
    assert not wrong
    assert releases.num_open == 1
    assert made[-1][1].num_closed == 0
    releases.close()
    assert [was.num_closed for was in closed.values()] == [1] * 12


def test_memory_is_given_back_when_the_encoder_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, there would be nothing to give back: even the thread that closes must not hold the last reference."""
    release = make_live("first")[0]
    encoder = weakref.ref(release.encoder)
    is_gone: list[bool] = []
    trimmed = threading.Event()

    def trim() -> None:
        is_gone.append(encoder() is None)
        trimmed.set()

    def collect() -> None:
        raise AssertionError("a collection stops every thread, and there is nothing to collect")

    monkeypatch.setattr("service.releases.switch.LET_GO_SECONDS", 5.0)
    monkeypatch.setattr("service.releases.switch.trim_memory", trim)
    monkeypatch.setattr("service.releases.switch.gc.collect", collect)
    releases = ReleaseSwitch(release)
    with releases.lease():
        releases.switch(make_live("second")[0])
        del release
    assert trimmed.wait(5)
    assert is_gone == [True]
    releases.close()


class Eager(ReleaseSwitch):
    """The control: closes the old release where it stands."""

    def switch(self, release: OpenRelease) -> None:
        old = self.current
        super().switch(release)
        old.close()


def test_closing_at_once_would_be_seen() -> None:
    (first, was_first), (second, _) = make_live("first"), make_live("second")
    releases = Eager(first)
    with releases.lease():
        releases.switch(second)
        assert was_first.num_closed == 1
    releases.close()


def test_the_gate_waits_for_writers_and_they_for_it() -> None:
    gate = WriteGate()
    seen: list[str] = []
    is_writing, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with gate.passing():
            is_writing.set()
            may_end.wait(5)
            seen.append("first write")

    def write_later() -> None:
        with gate.passing():
            seen.append("second write")

    first = threading.Thread(target=write)
    first.start()
    assert is_writing.wait(5)
    later = threading.Thread(target=write_later)

    def switch() -> None:
        with gate.closed():
            later.start()
            time.sleep(0.05)
            seen.append("switch")

    closing = threading.Thread(target=switch)
    closing.start()
    time.sleep(0.05)
    assert seen == []
    may_end.set()
    closing.join(5)
    later.join(5)
    first.join(5)
    assert seen == ["first write", "switch", "second write"]


def test_writers_pass_together_and_an_error_opens_the_gate() -> None:
    gate = WriteGate()
    with gate.passing(), gate.passing():
        pass
    with pytest.raises(ValueError, match="mine"), gate.closed():
        raise ValueError("mine")
    with pytest.raises(ValueError, match="mine"), gate.passing():
        raise ValueError("mine")
    with gate.closed():
        pass
    with gate.passing():
        pass
