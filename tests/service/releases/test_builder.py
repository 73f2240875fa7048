"""The process that embeds the library for a release: how it begins, and how it ends what does not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from models.bundle.bundle import load_bundle
from service.index.failure import IndexFull, IndexInUse
from service.index.layout import VectorLayout
from service.index.opening import index_place
from service.jobs.lane import JobResult, RunningJob
from service.jobs.ledger import Ledger
from service.jobs.release_jobs import open_release_lane
from service.releases import builder, building
from service.releases.builder import open_patiently
from service.releases.cost import Cost
from service.releases.documents import explain_refusal
from service.releases.opening import read_settings, write_settings
from service.releases.store import Release, ReleaseStore
from service.releases.switch import OpenRelease
from service.system.caller import Caller, CallerGone
from service.system.files import NoRoom
from service.system.settings import Settings
from tests.support.gates import TRIAL
from tests.support.memory_index import MemoryIndex
from tests.support.waiting import wait_until


@pytest.fixture
def settings(tmp_path: Path, bundle_path: Path) -> Settings:
    return Settings(data=tmp_path, bundle=bundle_path, device="cpu", precision="fp32", min_free_bytes=0)


def test_it_waits_for_the_builder_of_a_service_that_was_killed(settings: Settings) -> None:
    bundle = load_bundle(settings.bundle)
    held = index_place(settings).open(bundle, release_id="r")
    closing = threading.Timer(1.0, held.close)
    closing.start()
    began = time.monotonic()
    open_patiently(settings, "r", bundle).close()
    assert time.monotonic() - began > 0.75
    closing.join()


def test_it_does_not_wait_for_ever(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "HELD_SECONDS", 0.0)
    bundle = load_bundle(settings.bundle)
    held = index_place(settings).open(bundle, release_id="r")
    with pytest.raises(IndexInUse):
        open_patiently(settings, "r", bundle)
    held.close()


@pytest.mark.parametrize(("run_seconds", "code"), [(0.0, 0), (60.0, 1)])
def test_a_run_that_takes_too_long_ends_the_process(run_seconds: float, code: int) -> None:
    script = f"""
        import time
        import numpy as np
        from service.encode.queue import BatchLimits
        from service.encode.batching import Batcher
        from service.system.caller import Caller
        from service.releases.builder import watch_encoder

        class Slow:
            def encode_audio(self, samples, num_heard=None):
                time.sleep({run_seconds})
                return np.zeros((len(samples), 16, 8), np.float32)
            encode_video = encode_audio

        with Batcher(Slow(), BatchLimits()) as batcher:
            watch_encoder(batcher, 0.2)
            time.sleep(0.6)
            batcher.encoder_of(Caller()).encode_audio([np.zeros(16, np.float32)])
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < 60, "it did not wait for the run"
    if code:
        assert json.loads(done.stdout)["stalled_seconds"] >= 0.2


def test_a_build_below_the_floor_of_the_disk_has_no_room_and_waits(settings: Settings) -> None:
    """Before anything is copied; and if the disk fills up later, as the process that embeds finds it."""
    full, store = settings.replace(min_free_bytes=2**60), ReleaseStore(settings.release_folder)
    store.folder.mkdir()
    bundle, active = (
        load_bundle(settings.bundle),
        cast(OpenRelease, None),
    )  # not looked at before there is room
    with pytest.raises(
        IndexFull, match=rf"copying the bundle takes about \d+ bytes; \d+ are free and {2**60} must"
    ):
        building.build_release(full, store, active, bundle)
    assert store.list() == []
    release = store.create(bundle, outcome="building")
    with pytest.raises(IndexFull, match=rf"bytes free, writing needs {2**60}"):
        building._run_builder(full, release.release_id, [], lambda _: None, Caller())


def test_settings_of_a_server_that_was_updated_meanwhile_are_read(settings: Settings) -> None:
    assert read_settings(write_settings(settings)) == settings
    older = settings.replace()
    del older.__dict__["index_call_seconds"]
    older.__dict__["gone_since"] = 1
    assert read_settings(write_settings(older)).index_call_seconds == 30


def test_a_builder_waits_longer_for_its_index_and_says_why_it_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Settings]()

    def start_child(*_: str, **how: int) -> subprocess.Popen[str]:
        script = (
            'import sys; print(\'{"failed": "IndexUnavailable: no answer"}\'); sys.stdin.read(); sys.exit(1)'
        )
        return subprocess.Popen([sys.executable, "-S", "-c", script], text=True, **how)  # type: ignore[call-overload,no-any-return]

    def write(settings: Settings) -> str:
        given.append(settings)
        return "\n"

    monkeypatch.setattr(building, "start_child", start_child)
    monkeypatch.setattr(building, "write_settings", write)
    with pytest.raises(building.BuildFailed, match="ended with 1: IndexUnavailable: no answer"):
        building._run_builder(settings, "new", [], lambda _: None, Caller())
    assert settings.index_call_seconds == 30
    assert given[0].index_call_seconds == settings.release_stall_seconds == 600


@pytest.mark.parametrize("cost", ["limited", "measured", "any"])
def test_a_cost_that_is_not_meant_is_refused_before_the_library_is_embedded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, cost: Cost
) -> None:
    dear = TRIAL | {"segment_seconds": 10.0, "peak_bytes": 6_000_000_000}
    monkeypatch.setattr(building, "try_bundle", lambda *_, **__: dear)
    monkeypatch.setattr(MemoryIndex, "count_segments", lambda _: 1000)
    store, bundle = ReleaseStore(settings.release_folder), load_bundle(settings.bundle)
    store.folder.mkdir()
    steps: list[str] = []

    def embed(*_: object) -> NoReturn:
        raise CallerGone("it began")

    monkeypatch.setattr(building, "_embed", embed)
    with MemoryIndex.open(settings.data / "memory", layout=VectorLayout.of(bundle.manifest)) as index:
        active = cast(OpenRelease, SimpleNamespace(index=index, bundle=bundle))

        def build() -> Release:
            return building.build_release(
                settings, store, active, bundle, cost=cost, on_progress=lambda found: steps.append(found.step)
            )

        if cost != "limited":
            with pytest.raises(CallerGone, match="it began"):
                build()
            return
        release = build()
    assert release.outcome == "refused"
    assert steps == ["trial"]
    words = explain_refusal(release.to_json())
    assert (
        "latency is 10 s a segment, of the active release 0.1: 100.00 x, 2 x is allowed; memory is" in words
    )
    assert "Its encoder takes about 2.8 hours for the 1000 segments" in words
    assert "`foley releases create BUNDLE --any-cost`" in words


@pytest.mark.parametrize("full", [IndexFull("no room"), NoRoom("no room")])
def test_a_job_that_builds_waits_for_room(tmp_path: Path, full: Exception) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        lane = open_release_lane(ledger)
        lane._wait_seconds = 0.01
        failures = iter([full, full])

        def work(_: RunningJob) -> JobResult[None]:
            if failure := next(failures, None):
                raise failure
            return JobResult(value=None, report={})

        job_id = lane.submit("release", {}).job.job_id
        lane.start(lambda job_id: lane.run(job_id, work))
        job = wait_until(lambda: (job := ledger.get_job(job_id)).has_ended and job)
        lane.stop()
        assert (job.state, job.error_code) == ("done", None)
