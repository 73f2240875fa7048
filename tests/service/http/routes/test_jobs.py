"""`/v1/jobs` on a real server: asked for once however often, followed, cancelled, and kept to its folders."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http import events as events_module
from service.jobs.records import JobRequest
from service.system.settings import Settings
from tests.support.libraries import write_bad, write_tones
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, bundle_path: Path, root: Path
) -> Iterator[serve_in_thread]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data"),
        bundle=bundle_path,
        device="cpu",
        min_free_bytes=0,
        library_roots=(root,),
    )
    with memory_indexes(), serve_in_thread(settings) as running:
        yield running


@pytest.fixture
def http(running: serve_in_thread) -> httpx.Client:
    return running.client


@pytest.fixture(scope="module")
def done(running: serve_in_thread, root: Path) -> dict[str, Any]:
    """A job over five good and three bad files that is done."""
    write_tones(root / "done", 5)
    write_bad(root / "done", 3)
    answer = running.client.post("/v1/jobs", json={"kind": "index", "paths": [str(root / "done")]})
    assert answer.status_code == 202
    return _wait(running.client, answer.headers["location"])


def _wait(http: httpx.Client, location: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = http.get(location).json()
        return job if job["state"] in ("done", "failed", "cancelled") else None

    return wait_until(ended)


def _read_events(http: httpx.Client, location: str, **headers: str) -> list[dict[str, str]]:
    with http.stream("GET", f"{location}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        blocks = "".join(answer.iter_text()).split("\n\n")
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if block]
    return [event for event in events if "event" in event]


def test_a_job_from_its_post_to_its_files(http: httpx.Client, done: dict[str, Any], root: Path) -> None:
    assert (done["state"], done["kind"], done["error"]) == ("done", "index", None)
    assert done["report"]["files"] == {"indexed": 5, "unchanged": 0, "failed": 3}
    assert done["progress"]["num_done"] == 8
    location = f"/v1/jobs/{done['job_id']}"
    pages, cursor = [], None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = http.get(f"{location}/files", params=query).json()
        pages.append(page["files"])
        assert page["counts"] == {"indexed": 5, "quarantined": 3}
        if (cursor := page["next_cursor"]) is None:
            break
    assert [len(files) for files in pages] == [3, 3, 2]
    paths = [file["path"] for files in pages for file in files]
    assert paths == sorted(str(path) for path in (root / "done").iterdir())
    quarantine = http.get(f"{location}/files", params={"outcome": "quarantined"}).json()["files"]
    assert {file["code"] for file in quarantine} == {"empty", "not_media"}
    assert all(file["reason"] and file["attempts"] == 1 for file in quarantine)


def test_nothing_is_told_of_what_is_no_media(http: httpx.Client, done: dict[str, Any], root: Path) -> None:
    location = f"/v1/jobs/{done['job_id']}"
    files = http.get(f"{location}/files").json()["files"]
    assert {file["outcome"] for file in files} == {"indexed", "quarantined"}
    for file in files:
        is_indexed = file["outcome"] == "indexed"
        assert (file["asset_id"] is not None, file["size_bytes"] is not None) == (is_indexed, is_indexed)
    told = json.dumps([done, http.get("/v1/jobs").json(), files])
    for file in files:
        path = Path(file["path"])
        if file["outcome"] == "quarantined" and path.stat().st_size > 9:
            assert hashlib.sha256(path.read_bytes()).hexdigest() not in told
            assert str(path.stat().st_size) not in told.replace(str(root), "")


@pytest.mark.parametrize("kind", ["index", "sync"])
def test_a_folder_that_is_swapped_after_its_job_was_accepted_is_not_entered(
    running: serve_in_thread, root: Path, tmp_path: Path, kind: str
) -> None:
    http, jobs = running.client, running.app.state.shared.jobs
    folder, outside = root / f"swapped-{kind}", tmp_path / "outside"
    outside.mkdir()
    write_tones(folder, 1, first=700)
    write_tones(outside, 1, first=701)
    with jobs.library.lane.paused():
        answer = http.post("/v1/jobs", json={"kind": kind, "paths": [str(folder)]})
        assert answer.status_code == 202
        folder.rename(root / f"aside-{kind}")
        folder.symlink_to(outside)
    job = _wait(http, answer.headers["location"])
    folder.unlink()
    if kind == "sync":
        assert (job["state"], job["error"]["code"]) == ("failed", "sync_refused")
    else:
        assert [(file["path"], file["code"]) for file in job["report"]["failed"]] == [
            (str(folder), "path_not_allowed")
        ]
    assert str(outside) not in json.dumps(job)
    assert http.get("/v1/assets", params={"folder": str(folder)}).json()["assets"] == []


def test_a_part_is_given_to_index_alone(http: httpx.Client, done: dict[str, Any], root: Path) -> None:
    for kind, part in (("index", "9/8"), ("index", "a"), ("sync", "1/2")):
        answer = http.post("/v1/jobs", json={"kind": kind, "paths": [str(root)], "part": part})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
        assert [error["parameter"] for error in answer.json()["errors"]] == ["part"]
    counts = []
    for part in ("1/2", "2/2"):
        body = {"kind": "index", "paths": [str(root / "done")], "part": part}
        job = _wait(http, http.post("/v1/jobs", json=body).headers["location"])
        assert job["request"]["part"] == part
        counts.append(sum(job["report"]["files"].values()))
    assert (sum(counts), max(counts) < 8) == (8, True)


def test_a_job_over_a_name_that_is_not_utf8(running: serve_in_thread, root: Path) -> None:
    """Such a one comes from the command line, or from a switch of releases."""
    path = root / b"\xff\xfe.mp4".decode("utf-8", "surrogateescape")
    runner = running.app.state.shared.jobs
    location = f"/v1/jobs/{runner.library.submit('index', JobRequest(paths=(str(path),))).job.job_id}"
    shown = _wait(running.client, location)
    assert shown["request"]["paths"] == [f"{root}/\\xff\\xfe.mp4"]
    listed = running.client.get("/v1/jobs", params={"limit": 1})
    assert listed.status_code == 200
    assert listed.json()["jobs"][0]["request"] == shown["request"]
    assert _read_events(running.client, location)[-1]["event"] == "end"


def test_events_tell_of_progress_and_end_with_the_final_state(http: httpx.Client, root: Path) -> None:
    write_tones(root / "events", 30, first=100)
    location = http.post("/v1/jobs", json={"kind": "index", "paths": [str(root / "events")]}).headers[
        "location"
    ]
    events = _read_events(http, location)
    assert [event["event"] for event in events] == ["progress"] * (len(events) - 1) + ["end"]
    assert len({event["id"] for event in events}) == len(events)
    counts = [json.loads(event["data"])["progress"]["num_done"] for event in events]
    assert counts == sorted(counts)
    last = json.loads(events[-1]["data"])
    assert (last["state"], last["progress"]["num_done"], last["report"]["files"]["indexed"]) == (
        "done",
        30,
        30,
    )

    # A client that comes back gets what it has not seen; one that has seen the end is told to stay away.
    (end,) = _read_events(http, location, **{"Last-Event-ID": events[0]["id"]})
    assert end == events[-1]
    gone = http.get(f"{location}/events", headers={"Last-Event-ID": end["id"]})
    assert (gone.status_code, gone.content) == (204, b"")


def test_a_quiet_job_has_a_heartbeat(
    http: httpx.Client, running: serve_in_thread, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "HEARTBEAT_SECONDS", 0.3)
    lane = running.app.state.shared.jobs.library.lane
    monkeypatch.setattr(lane, "_next", lambda: time.sleep(0.05))  # jobs wait
    time.sleep(0.2)
    location = http.post("/v1/jobs", json={"kind": "index", "paths": [str(root)]}).headers["location"]
    with http.stream("GET", f"{location}/events") as answer:
        lines = answer.iter_lines()
        assert any(line == ": heartbeat" for line in lines)
    assert http.post(f"{location}:cancel").json()["state"] == "cancelled"


def test_one_key_makes_one_job_however_often_it_comes(http: httpx.Client, root: Path) -> None:
    write_tones(root / "key", 2, first=200)
    body = {"kind": "index", "paths": [str(root / "key")]}
    num_before = len(http.get("/v1/jobs", params={"limit": 1000}).json()["jobs"])
    barrier = threading.Barrier(50)

    def post(_: int) -> tuple[int, str, bytes]:
        with httpx.Client(base_url=http.base_url, timeout=30) as client:
            barrier.wait()
            answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "once"})
            return answer.status_code, answer.headers["location"], answer.content

    with ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(post, range(50)))
    ((status, location, _),) = answers  # all the same, to the byte
    assert status == 202
    assert _wait(http, location)["report"]["files"]["indexed"] == 2
    assert post_again(http, body, "once").headers["location"] == location
    assert len(http.get("/v1/jobs", params={"limit": 1000}).json()["jobs"]) == num_before + 1

    other = post_again(http, {**body, "kind": "sync"}, "once")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    # Control: without a key each post is a job of its own.
    assert http.post("/v1/jobs", json=body).headers["location"] != location


def post_again(http: httpx.Client, body: dict[str, Any], key: str) -> httpx.Response:
    return http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


def test_jobs_keep_to_their_folders(http: httpx.Client, root: Path, tmp_path: Path) -> None:
    (root / "way-out").symlink_to(tmp_path)
    for path in (tmp_path, root / ".." / "x", root / "way-out", root / "way-out" / "a.mp4", Path("/")):
        answer = http.post("/v1/jobs", json={"kind": "index", "paths": [str(root), str(path)]})
        assert (answer.status_code, answer.json()["code"]) == (403, "path_not_allowed"), path
    (root / "way-out").unlink()
    for path in (
        "/proc/self/root",
        f"/proc/1/root{root}",
        f"{root}{20 * '/..'}/proc/self/cwd",
        "/dev/fd/0",
    ):
        answer = http.post("/v1/jobs", json={"kind": "index", "paths": [path]})
        assert (answer.status_code, answer.json()["code"]) == (403, "path_not_allowed"), path
        answer = http.post("/v1/releases", json={"bundle": path})
        assert (answer.status_code, answer.json()["code"]) == (403, "path_not_allowed"), path
    for paths in (["relative"], [], ["/a\0b"], [7], "text"):
        answer = http.post("/v1/jobs", json={"kind": "index", "paths": paths})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter"), paths
    surrogate = b'{"kind": "index", "paths": ["/\\ud800"]}'
    answer = http.post("/v1/jobs", content=surrogate, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_options_that_make_no_sense_are_refused(http: httpx.Client, root: Path) -> None:
    for body in (
        {"kind": "index", "allow_empty": True},
        {"kind": "index", "dry_run": True},
        {"kind": "sync", "settle_seconds": -1},
        {"kind": "sync", "dry_run": "yes"},
        {"kind": "polish"},
        {"kind": "sync", "colour": "red"},
    ):
        answer = http.post("/v1/jobs", json={"paths": [str(root)], **body})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter"), body


def test_a_rehearsal_over_http_has_a_plan(http: httpx.Client, root: Path) -> None:
    (path,) = write_tones(root / "plan", 1, first=300)
    body = {"kind": "sync", "paths": [str(root / "plan")], "dry_run": True}
    job = _wait(http, http.post("/v1/jobs", json=body).headers["location"])
    assert job["report"]["plan"] == [{"does": "new", "path": str(path)}]
    assert http.get("/v1/assets", params={"folder": str(root / "plan")}).json()["assets"] == []


def test_a_sync_that_is_refused_says_why(http: httpx.Client, root: Path) -> None:
    body = {"kind": "sync", "paths": [str(root / "nowhere")]}
    job = _wait(http, http.post("/v1/jobs", json=body).headers["location"])
    assert (job["state"], job["error"]["code"]) == ("failed", "sync_refused")
    assert "mount its disk" in job["error"]["detail"]


def test_cancel_and_retry(http: httpx.Client, root: Path, done: dict[str, Any]) -> None:
    write_tones(root / "cancel", 60, first=400)
    location = http.post("/v1/jobs", json={"kind": "index", "paths": [str(root / "cancel")]}).headers[
        "location"
    ]
    wait_until(lambda: http.get(location).json()["progress"]["num_done"] >= 2)
    early = http.post(f"{location}:retry")
    assert (early.status_code, early.json()["code"]) == (409, "job_not_ended")
    assert http.post(f"{location}:cancel").status_code == 200
    assert _wait(http, location)["state"] == "cancelled"
    answer = http.post(f"{location}:retry")
    assert (answer.status_code, answer.json()["state"], answer.headers["location"]) == (
        202,
        "queued",
        location,
    )
    assert _wait(http, location)["report"]["files"]["indexed"] == 60
    late = http.post(f"/v1/jobs/{done['job_id']}:cancel")
    assert (late.status_code, late.json()["code"]) == (409, "job_ended")


def test_jobs_are_listed_the_newest_first(http: httpx.Client, done: dict[str, Any]) -> None:
    whole = http.get("/v1/jobs", params={"limit": 1000}).json()
    assert whole["next_cursor"] is None
    created = [job["created_at"] for job in whole["jobs"]]
    assert created == sorted(created, reverse=True)
    assert all(job["report"] is None for job in whole["jobs"])
    seen: list[str] = []
    cursor = None
    while True:
        page = http.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["job_id"] for job in page["jobs"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == [job["job_id"] for job in whole["jobs"]]
    states = {job["state"] for job in http.get("/v1/jobs", params={"state": "done"}).json()["jobs"]}
    assert states == {"done"}


@pytest.mark.parametrize("path", ["", "/files", "/events", ":cancel", ":retry"])
def test_a_job_that_is_not_there(http: httpx.Client, path: str) -> None:
    method = "POST" if path.startswith(":") else "GET"
    answer = http.request(method, f"/v1/jobs/none{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("query", [{"cursor": "x y"}, {"cursor": "99999999999999999999"}, {"state": "lazy"}])
def test_cursors_and_states_are_checked(http: httpx.Client, query: dict[str, str]) -> None:
    assert http.get("/v1/jobs", params=query).status_code == 422


def test_cursors_of_files_are_checked(http: httpx.Client, done: dict[str, Any]) -> None:
    for cursor in ("%", "é", "a"):
        answer = http.get(f"/v1/jobs/{done['job_id']}/files", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter"), cursor


def test_a_stopping_server_ends_its_streams_and_the_next_goes_on(
    tmp_path: Path, bundle_path: Path, root: Path
) -> None:
    write_tones(root / "stop", 60, first=500)
    settings = Settings(data=tmp_path, bundle=bundle_path, device="cpu", min_free_bytes=0)
    with serve_in_thread(settings) as first:
        body = {"kind": "index", "paths": [str(root / "stop")]}
        location = first.client.post("/v1/jobs", json=body).headers["location"]
        wait_until(lambda: first.client.get(location).json()["progress"]["num_done"] >= 2)
        first.app.state.shared.jobs.stop_soon()
        assert all(event["event"] == "progress" for event in _read_events(first.client, location))
    with serve_in_thread(settings) as second:
        job = _wait(second.client, location)
    assert job["report"]["files"] == {"indexed": 60, "unchanged": 0, "failed": 0}
