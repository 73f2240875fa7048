"""Bad bundles: none goes live, each is refused with its reason, and requests are answered all the while.

FOLEY_BAD_BUNDLES=all pytest tests/promises/test_bad_bundles.py -s      all of them
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.bundle.bundle import Bundle
from service.releases import trial
from tests.support.bad_bundles import BAD, SHORT, make_bad
from tests.support.serving import serve_in_thread
from tests.support.swapping import Clients, TwoReleases
from tests.support.waiting import wait_until

NAMES = tuple(BAD) if os.environ.get("FOLEY_BAD_BUNDLES") == "all" else SHORT
STEP_SECONDS = {"loaded": 60.0, "golden": 60.0, "precision": 60.0, "timed": 60.0}


@pytest.fixture(scope="module")
def service(
    pristine_releases: TwoReleases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[serve_in_thread, Clients]]:
    """A server and a client that asks it all the while."""
    data = tmp_path_factory.mktemp("bad") / "data"
    shutil.copytree(pristine_releases.settings.data, data)
    releases = pristine_releases.moved(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "STEP_SECONDS", STEP_SECONDS)
        with (
            serve_in_thread(
                releases.settings.replace(release_trial_bytes=4 << 30, release_stall_seconds=3)
            ) as server,
            Clients(server.address, releases, count=1, pause_seconds=0.25) as clients,
        ):
            yield server, clients
    clients.report.check()
    assert set(clients.report.answers) == {releases.names[0]}
    assert clients.report.answers.total() >= len(NAMES)
    print(  # noqa: T201 - the figure of `make soak`
        f"\n{len(NAMES)} bad bundles: none went live; meanwhile {clients.report.answers.total()} answers, 0 failed"
    )


def build(server: serve_in_thread, bundle: Path) -> dict[str, Any]:
    """Have a release built and activated, by a job; its end."""
    answer = server.client.post("/v1/releases", json={"bundle": str(bundle), "activate": True})
    assert answer.status_code == 202, answer.text

    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = server.client.get(answer.headers["location"]).json()
        return None if job["state"] in ("queued", "running") else job

    return wait_until(ended)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_bundle_is_refused(
    name: str,
    service: tuple[serve_in_thread, Clients],
    second_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, clients = service
    if name == "an endless loop":  # which outlasts any limit
        monkeypatch.setitem(STEP_SECONDS, "golden", 1.0)
    bundle = make_bad(name, second_bundle.path, tmp_path / "bundle")
    before = clients.report.answers.total()
    job = build(server, bundle)
    assert job["state"] == "failed"
    assert job["error"]["code"] in ("broken_bundle", "release_refused", "not_readable"), job["error"]
    assert re.search(BAD[name][1], job["error"]["detail"]), job["error"]["detail"]
    releases = server.client.get("/v1/releases").json()
    made = {release["release_id"]: release["state"] for release in releases["releases"]}
    assert releases["active"] == next(iter(made)), "another one answers"
    assert set(made.values()) <= {"active", "ready", "refused"}
    for release, state in made.items():
        if state == "refused":  # nor does it when somebody insists
            forced = server.client.post(f"/v1/releases/{release}:activate", json={"force": "I want it"})
            assert forced.status_code == 409
            server.client.delete(f"/v1/releases/{release}").raise_for_status()
    wait_until(
        lambda: clients.report.failed or clients.report.answers.total() > before
    )  # somebody was answered since
    assert not clients.report.failed


def test_there_are_forty_and_the_short_form_is_of_them() -> None:
    assert len(BAD) >= 40
    assert trial.STEP_SECONDS.keys() == STEP_SECONDS.keys()
    assert set(SHORT) <= set(BAD)
