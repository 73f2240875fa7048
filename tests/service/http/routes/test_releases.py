"""Releases over HTTP and by command: built by a job that survives a kill, switched, rolled back, deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from models.bundle.bundle import Bundle
from service.cli import app
from tests.support.killing import Victim
from tests.support.libraries import write_tones
from tests.support.waiting import wait_until

NUM_FILES = 28


@pytest.fixture
def victim(tmp_path: Path, bundle_path: Path) -> Iterator[Victim]:
    """A server over a library of short sounds."""
    write_tones(tmp_path / "media", NUM_FILES)
    settings = {
        "DATA": tmp_path / "data",
        "BUNDLE": bundle_path,
        "DEVICE": "cpu",
        "MIN_FREE_BYTES": 0,
        "NUM_THREADS": 1,
        "DECODE_WORKERS": 1,
        "RELEASE_MAX_LATENCY_RATIO": 50,  # of a machine that does other things too
    }
    victim = Victim(settings, tmp_path / "server.log")
    location = victim.client.post(
        "/v1/jobs", json={"kind": "index", "paths": [str(tmp_path / "media")]}
    ).headers["location"]
    assert wait(victim, location)["state"] == "done"
    yield victim
    victim.close()


def wait(victim: Victim, location: str) -> dict[str, Any]:
    """The end of a job."""

    def ended() -> dict[str, Any] | None:
        answer = victim.client.get(location)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return None if job["state"] in ("queued", "running") else job

    return wait_until(ended)


def wait_until_embedding(victim: Victim, location: str, *, num_done: int) -> None:
    """Wait until a build has embedded so many files."""

    def embeds() -> bool:
        job = victim.client.get(location).json()
        assert job["state"] in ("queued", "running"), job
        progress = job["progress"]
        return progress.get("step") == "embedding" and progress.get("num_done", 0) >= num_done

    wait_until(embeds)


def run_command(victim: Victim, *args: object) -> Result:
    """`foley releases` with the settings of the server."""
    settings = {name: value for name, value in victim._environment.items() if name.startswith("FOLEY_")}
    return CliRunner().invoke(app, ["releases", *map(str, args)], env={**settings, "COLUMNS": "200"})


@pytest.mark.long
def test_a_build_survives_a_cancel_and_a_kill_and_the_release_answers(
    victim: Victim, second_bundle: Bundle, tmp_path: Path
) -> None:
    http = victim.client
    first = http.get("/v1/releases").json()["active"]
    body = {"bundle": str(second_bundle.path)}
    made = [http.post("/v1/releases", json=body, headers={"Idempotency-Key": "one"}) for _ in range(3)]
    assert [answer.status_code for answer in made] == [202] * 3
    assert len({answer.json()["job_id"] for answer in made}) == 1, "one key, one job"
    location = made[0].headers["location"]

    wait_until_embedding(victim, location, num_done=1)
    other = http.post("/v1/releases", json=body).headers["location"]
    assert http.get(other).json()["state"] == "queued", "one at a time"
    assert http.post(f"{other}:cancel").status_code in (200, 202)
    assert http.post(f"{location}:cancel").status_code in (200, 202)
    assert wait(victim, location)["state"] == "cancelled"
    assert wait(victim, other)["state"] == "cancelled"
    name = second_bundle.bundle_id
    assert http.get(f"/v1/releases/{name}").json()["state"] == "building"
    refused = http.post(f"/v1/releases/{name}:activate", json={"force": "I want it"})
    assert refused.status_code == 409
    assert "is not complete" in refused.json()["detail"]

    location = http.post("/v1/releases", json=body).headers["location"]
    wait_until_embedding(victim, location, num_done=1)
    victim.kill("server")
    job = wait(victim, location)
    assert job["state"] == "done", job
    release = job["report"]["release"]
    assert release["outcome"] == "ready", release["gates"]
    assert release["missing"] == []
    assert release["library"]["num_assets"] == NUM_FILES
    assert release["library"]["num_embedded"] < NUM_FILES, "what was there is embedded again"
    assert release["library"]["num_segments"] == NUM_FILES
    second = release["release_id"]
    assert second == second_bundle.bundle_id
    assert http.get("/v1/releases").json()["active"] == first, "nobody asked for it to answer"

    # by HTTP
    switched = http.post(f"/v1/releases/{second}:activate").json()
    assert (switched["release_id"], switched["previous"], switched["num_behind"]) == (second, first, 0)
    assert switched["switch_seconds"] < 5
    again = http.post(f"/v1/releases/{second}:activate")
    assert (again.status_code, again.json()["code"]) == (409, "release_error")
    query = (tmp_path / "media" / "00003.wav").read_bytes()
    answer = http.post("/v1/search", files={"file": query}, data={"target": "audio"}).json()
    assert (answer["release_id"], answer["bundle_id"]) == (second, second_bundle.bundle_id)
    assert answer["results"][0]["score"] > 0.99, "the sounds are like each other, and this one is stored"
    for name in (first, second):
        refused = http.delete(f"/v1/releases/{name}")
        assert (refused.status_code, refused.json()["code"]) == (409, "release_in_use")
    for path in ("/v1/releases/none", "/v1/releases/none/comparison/other"):
        assert http.get(path).json()["code"] == "release_not_found"
    page = http.get(f"/v1/releases/{first}/comparison/{second}")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]

    # by command, while the server answers
    listed = json.loads(run_command(victim, "list", "--json").stdout)
    assert {one["release_id"]: one["state"] for one in listed["releases"]} == {
        first: "ready",
        second: "active",
    }
    back = run_command(victim, "rollback")
    assert back.exit_code == 0, back.stderr
    assert f"release {first} is active: switched" in back.stderr
    assert http.get("/v1/releases").json()["active"] == first

    # by command, without it
    victim.process.terminate()
    victim.process.wait(40)
    done = run_command(victim, "activate", second, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["release_id"] == second
    wrong = run_command(victim, "activate", "none")
    assert wrong.exit_code == 1
    assert wrong.stderr.strip().endswith("there is no release none")
    assert len(wrong.stderr.strip().splitlines()) == 1
    output = tmp_path / "page.html"
    assert run_command(victim, "compare", first, second, "--output", output).exit_code == 0
    assert second in output.read_text()
    in_use = run_command(victim, "delete", second)
    assert (in_use.exit_code, "is active" in in_use.stderr) == (1, True)
    previous = run_command(victim, "delete", first)
    assert (previous.exit_code, "--force" in previous.stderr) == (1, True)
    assert run_command(victim, "delete", first, "--force").exit_code == 0
    nowhere = run_command(victim, "rollback")
    assert (nowhere.exit_code, "no release before" in nowhere.stderr) == (1, True)
    few = run_command(victim, "calibrate")
    assert (few.exit_code, "0 assets have sound and picture" in few.stderr) == (1, True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"bundle": "relative/path"}, "bundle"),
        ({"bundle": "/a\0b"}, "bundle"),
        ({"bundle": "/bundle", "force": "why"}, "force"),
        ({"bundle": "/bundle", "activate": "yes"}, "activate"),
        ({"bundle": "/bundle", "more": 1}, "more"),
        ({}, "bundle"),
    ],
)
def test_requests_that_make_no_sense(client: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/releases", json=body)
    assert answer.status_code == 422
    assert field in answer.text


def test_there_is_nothing_to_roll_back_to(client: httpx.Client) -> None:
    answer = client.post("/v1/releases:rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "release_error")
    assert "no release before" in answer.json()["detail"]
    assert os.sep not in answer.json()["detail"]
