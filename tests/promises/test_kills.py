"""Kill -9 of any process at any time: the job's result is that of an uninterrupted run.

`make soak` runs it with many kills (FOLEY_KILLS); here are a few.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.encode.spool import CHUNK_SEGMENTS
from service.library.stages import BATCH_CLIPS
from tests.support.killing import TARGETS, Victim
from tests.support.libraries import write_bad, write_tone, write_tones
from tests.support.waiting import wait_until

NUM_KILLS = int(os.environ.get("FOLEY_KILLS", "4"))
KILLS_A_JOB = 4
NUM_GOOD, NUM_BAD = 32, 8
MAX_REDONE = BATCH_CLIPS + CHUNK_SEGMENTS - 1  # one batch of the encoder
LONG_SEGMENTS = 100


@pytest.fixture
def settings(tmp_path: Path, bundle_path: Path) -> dict[str, object]:
    return {"DATA": tmp_path / "data", "BUNDLE": bundle_path, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}


@pytest.fixture
def victim(settings: dict[str, object], tmp_path: Path) -> Iterator[Victim]:
    victim = Victim(settings, tmp_path / "server.log")
    yield victim
    victim.close()


def _ask_for_job(victim: Victim, folder: Path) -> str:
    answer = victim.client.post("/v1/jobs", json={"kind": "index", "paths": [str(folder)]})
    assert answer.status_code == 202
    return answer.headers["location"]


def _wait(victim: Victim, location: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = victim.client.get(location).json()
        return None if job["state"] in ("queued", "running") else job

    return wait_until(ended)


def _stored(victim: Victim, folder: Path) -> dict[str, int]:
    """Segments by path, of all assets in a folder."""
    query = {"folder": str(folder), "limit": 1000}
    assets = victim.client.get("/v1/assets", params=query).json()["assets"]
    paths = Counter(path for asset in assets for path in asset["paths"])
    assert set(paths.values()) <= {1}, "a path belongs to two assets"
    return {path: asset["num_segments"] for asset in assets for path in asset["paths"]}


def _kill_at_random(victim: Victim, location: str, chance: random.Random, *, kills: int) -> None:
    for _ in range(kills):
        time.sleep(chance.uniform(0.0, 0.5))
        if victim.client.get(location).json()["state"] not in ("queued", "running"):
            return
        victim.kill(chance.choice(TARGETS))


@pytest.mark.long
def test_kill_any_process_at_any_time(victim: Victim, tmp_path: Path) -> None:
    chance = random.Random(NUM_KILLS)
    num_jobs = 0
    while sum(victim.killed.values()) < NUM_KILLS:
        folder = tmp_path / f"library-{num_jobs}"
        good = write_tones(folder, NUM_GOOD, first=1000 * num_jobs)
        codes = write_bad(folder, NUM_BAD)
        num_jobs += 1
        location = _ask_for_job(victim, folder)
        _kill_at_random(victim, location, chance, kills=KILLS_A_JOB)
        job = _wait(victim, location)
        # Nothing lost, nothing twice, and told as one run would have told it.
        assert job["state"] == "done", job["error"]
        assert _stored(victim, folder) == dict.fromkeys(map(str, good), 1)
        assert job["report"]["files"] == {"indexed": NUM_GOOD, "unchanged": 0, "failed": NUM_BAD}
        assert {file["path"]: file["code"] for file in job["report"]["quarantined"]} == codes
        files = victim.client.get(f"{location}/files", params={"limit": 1000}).json()
        assert files["counts"] == {"indexed": NUM_GOOD, "quarantined": NUM_BAD}
        assert len(files["files"]) == NUM_GOOD + NUM_BAD
    num_redone = victim.count_redone()
    print(  # noqa: T201 - the figure of `make soak`
        f"\n{num_jobs} jobs, killed {victim.killed}: 0 files lost, 0 twice, {num_redone} segments done again"
    )
    assert num_redone <= MAX_REDONE * sum(victim.killed.values())


@pytest.mark.long
def test_a_long_file_goes_on_where_it_was_killed(victim: Victim, tmp_path: Path) -> None:
    """An asset exists when its last segment is written; what was embedded before a kill counts all the same."""
    path = write_tone(tmp_path / "long" / "long.wav", 1, seconds=10.0 * LONG_SEGMENTS)
    location = _ask_for_job(victim, path.parent)
    targets = ("server", "decode worker", "index engine", "server")
    for place, target in enumerate(targets, start=1):
        num_wanted = LONG_SEGMENTS * place / 5
        wait_until(lambda: victim.count_embedded() >= num_wanted)  # noqa: B023 - looked at before the next turn
        victim.kill(target)
    job = _wait(victim, location)
    assert job["state"] == "done", job["error"]
    assert _stored(victim, path.parent) == {str(path): LONG_SEGMENTS}
    # Written down after it was embedded and before it was kept: a kill in between costs one batch, as one before does.
    assert victim.count_redone() <= MAX_REDONE * len(targets)
    assert victim.count_embedded() <= LONG_SEGMENTS + MAX_REDONE * len(targets)
    kept = list((tmp_path / "data" / "spool").glob("*/*"))
    assert kept == [], "nothing is kept of what is stored"


@pytest.mark.long
def test_control_a_ledger_that_says_done_first_loses_files(
    settings: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "library"
    good = write_tones(folder, NUM_GOOD)
    broken = Victim(settings, tmp_path / "broken.log", is_broken=True)
    try:
        location = _ask_for_job(broken, folder)
        wait_until(lambda: broken.client.get(location).json()["progress"]["num_done"] >= 4)
        broken.kill("server")
        _wait(broken, location)
        lost = set(map(str, good)) - set(_stored(broken, folder))
    finally:
        broken.close()
    assert lost
