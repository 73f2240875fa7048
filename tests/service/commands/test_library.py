"""`foley index`, `foley sync` and `foley jobs` as people run them: alone, and beside a server that has the index."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import httpx
import pytest
import typer

from service.commands import here_or_there as running
from service.commands import library as library_commands
from service.commands import watching
from service.commands.here_or_there import JobFailed
from service.jobs.documents import LEDGER_NAME, list_jobs, show_job
from service.jobs.ledger import Ledger
from service.jobs.records import JobRequest, ReleaseRequest
from service.library.report import IndexReport
from service.library.sync import TooManyGone
from service.releases.manager import name_of_user
from service.system.failure import Failure
from service.system.settings import Settings
from tests.support.libraries import write_bad, write_tone, write_tones
from tests.support.memory_index import memory_indexes
from tests.support.paths import REPOSITORY
from tests.support.serving import find_free_port, run_server
from tests.support.waiting import GENEROUS_SECONDS, wait_until


class Foley:
    """Runs the command with a data folder of its own."""

    def __init__(self, data: Path, bundle: Path) -> None:
        self.port = find_free_port()
        ours = {
            "DATA": data,
            "BUNDLE": bundle,
            "DEVICE": "cpu",
            "PRECISION": "fp32",
            "DECODE_WORKERS": 1,
            "MIN_FREE_BYTES": 0,
            "PORT": self.port,
        }
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
        self.settings = ours
        self.environment = {
            **theirs,
            **{f"FOLEY_{name}": str(value) for name, value in ours.items()},
            "COLUMNS": "200",
        }

    def __call__(self, *args: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*args)
        output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, output, errors)

    def start(self, *args: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", *map(str, args)],
            env=self.environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, *args: object) -> dict[str, Any]:
        result = self(*args, "--json")
        assert result.returncode == 0, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        return document


@pytest.fixture
def foley(tmp_path: Path, bundle_path: Path) -> Foley:
    return Foley(tmp_path / "data", bundle_path)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    write_tones(tmp_path / "library", 4)
    write_bad(tmp_path / "library", 1)
    return tmp_path / "library"


class _Server(run_server):
    """A server of the same settings, on the port that the command looks at."""

    def __init__(self, foley: Foley, log: Path) -> None:
        super().__init__(foley.settings, log)
        self.port = foley.port
        self.environment["FOLEY_PORT"] = str(foley.port)


@pytest.fixture
def served(foley: Foley, tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        _Server(foley, tmp_path / "server.log") as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client


def test_a_library_that_changes(foley: Foley, library: Path) -> None:
    first = foley.read("sync", library)
    assert (first["files"], len(first["quarantined"])) == ({"indexed": 4, "unchanged": 0, "failed": 1}, 1)
    (library / "00000.wav").rename(library / "moved.wav")
    (library / "00001.wav").unlink()
    write_tone(library / "new.wav", 77)
    shown = foley("sync", library, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["new", str(library / "new.wav")] in lines
    assert ["moved", str(library / "moved.wav"), str(library / "00000.wav")] in lines
    assert ["deleted", str(library / "00001.wav")] in lines
    again = foley.read("sync", library)
    assert (again["files"]["indexed"], again["moved"], again["deleted"]) == (1, 1, 1)
    assert again["stages"]["elapsed_seconds"] > 0

    listed = foley.read("jobs")["jobs"]
    assert [(job["kind"], job["state"]) for job in listed] == [("sync", "done")] * 3
    job, _ = show_job(Settings(data=foley.settings["DATA"]), listed[0]["job_id"])
    assert job["counts"] == {"indexed": 1, "unchanged": 2, "moved": 1, "deleted": 1, "quarantined": 1}
    people = foley("jobs", "show", listed[0]["job_id"])
    assert "1 quarantined: skipped until they change; --retry tries them again" in people.stdout


def test_what_cannot_be_is_one_line(foley: Foley, library: Path) -> None:
    result = foley("sync", library.with_name("none"))
    assert result.returncode == 1
    assert result.stderr.startswith(f"foley: {library.with_name('none')} is not there: mount its disk")
    assert result.stderr.count("\n") == 1
    both = foley("sync", library, "--watch", "--dry-run")
    assert (both.returncode, both.stderr) == (2, "foley: --dry-run and --watch cannot be used together\n")


@pytest.mark.parametrize(
    "refusal", [TooManyGone("12 of 20"), JobFailed("too_many_gone", "12 of 20")], ids=["here", "there"]
)
@pytest.mark.parametrize("answer", [True, False, None])
def test_somebody_at_a_terminal_is_asked_before_most_of_a_folder_goes(
    monkeypatch: pytest.MonkeyPatch, refusal: Failure, answer: bool | None
) -> None:
    asked = []

    def run_job(settings: object, kind: str, request: JobRequest, **_: object) -> IndexReport:
        if not request.allow_gone:
            raise refusal
        return IndexReport(num_deleted=12)

    def confirm(question: str, *, err: bool) -> bool | None:
        asked.append(question)
        return answer

    monkeypatch.setattr(running, "run_job", run_job)
    monkeypatch.setattr(typer, "confirm", confirm)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(library_commands, "log_to_stderr", lambda: None)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: answer is not None))
    request = JobRequest(paths=("/videos",))
    if answer:
        assert library_commands._sync(Settings(), request).num_deleted == 12
    else:
        with pytest.raises(typer.Exit):
            library_commands._sync(Settings(), request)
    assert ["12 of 20" in question for question in asked] == [True] * (answer is not None)


def test_a_part_of_the_files_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without files is no failure, as that of a small library can be."""
    asked = []
    monkeypatch.setattr(running, "run_job", lambda *args, **_: asked.append(args[2]) or IndexReport())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(library_commands, "log_to_stderr", lambda: None)
    library_commands.index(["/videos", "s3://archive/a//b/"], part="3/8", as_json=True)
    assert asked == [JobRequest(paths=("/videos", "s3://archive/a//b"), part="3/8")]
    for path, part, code in (("/videos", "9/8", 2), ("s3://user:secret@archive", "", 2), ("/videos", "", 1)):
        with pytest.raises(typer.Exit) as ended:
            library_commands.index([path], part=part, as_json=True)
        assert ended.value.exit_code == code


def test_a_build_is_retried_as_a_build(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for name, value in {"DATA": data, "BUNDLE": bundle_path, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}.items():
        monkeypatch.setenv(f"FOLEY_{name}", str(value))
    monkeypatch.setattr(library_commands, "log_to_stderr", lambda: None)
    request = ReleaseRequest(bundle=str(tmp_path / "none"), who="who asked first")
    with Ledger.open(data / LEDGER_NAME) as ledger:
        job_id = ledger.create_job("release", request.to_json()).job.job_id
        ledger.end_job(job_id, "failed", report=None, error_code="disk_full", error="the disk is full")
    with memory_indexes(), pytest.raises(typer.Exit):
        library_commands.retry(job_id)
    job, _ = show_job(Settings(data=data), job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "broken_bundle")
    assert job["request"]["who"] == name_of_user()
    assert "none" in capsys.readouterr().err


def test_a_server_that_has_the_index_does_the_job(foley: Foley, served: httpx.Client, library: Path) -> None:
    result = foley("index", library, "--json")
    assert result.returncode == 0, result.stderr
    (job,) = served.get("/v1/jobs").json()["jobs"]
    address = f"127.0.0.1:{foley.port}"
    assert (
        result.stderr == f"foley: the server on {address} has the index open and runs job {job['job_id']}\n"
    )
    answer = json.loads(result.stdout)
    assert answer["files"] == {"indexed": 4, "unchanged": 0, "failed": 1}
    assert [file["code"] for file in answer["quarantined"]] == ["empty"]
    retried = foley.read("jobs", "retry", job["job_id"])
    assert retried["files"] == {"indexed": 4, "unchanged": 0, "failed": 1}
    refused = foley("sync", library.with_name("none"))
    assert (refused.returncode, refused.stderr[-15:]) == (1, "(sync_refused)\n")


def test_ctrl_c_cancels_the_job_on_the_server(foley: Foley, served: httpx.Client, tmp_path: Path) -> None:
    write_tones(tmp_path / "many", 150, seconds=3.0)
    process = foley.start("index", tmp_path / "many", "--json")
    (job,) = wait_until(
        lambda: [one for one in served.get("/v1/jobs").json()["jobs"] if one["progress"]["num_done"] >= 2]
    )
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=GENEROUS_SECONDS)
    assert process.returncode == 130, errors
    assert json.loads(output)["files"]["indexed"] < 150
    assert served.get(f"/v1/jobs/{job['job_id']}").json()["state"] == "cancelled"


def test_a_killed_command_is_resumed(foley: Foley, tmp_path: Path) -> None:
    write_tones(tmp_path / "many", 60)
    process = foley.start("index", tmp_path / "many")
    wait_until(lambda: _count_done(tmp_path / "data") >= 2)
    process.kill()
    process.communicate()
    (job,) = list_jobs(Settings(data=tmp_path / "data"), limit=9)
    assert job["state"] == "running"
    again = foley("index", tmp_path / "many", "--json")
    assert again.stderr.startswith(f"foley: resuming job {job['job_id']}, which was interrupted\n")
    assert json.loads(again.stdout)["files"] == {"indexed": 60, "unchanged": 0, "failed": 0}
    (job,) = list_jobs(Settings(data=tmp_path / "data"), limit=9)
    assert job["state"] == "done"


def _count_done(data: Path) -> int:
    path = data / "ledger.sqlite"
    if not path.exists():
        return 0
    with Ledger.open(path, is_worker=False) as ledger:
        return len(ledger.read("SELECT * FROM files WHERE outcome = 'indexed'"))


def test_watching_sees_what_happens(foley: Foley, tmp_path: Path) -> None:
    library = tmp_path / "library"
    write_tones(library, 2)
    process = foley.start("sync", library, "--watch", "--interval", 0.2, "--settle", 0.2, "--json")
    assert process.stdout is not None
    try:
        first = _next_report(process)
        while first["files"]["indexed"] + first["files"]["unchanged"] < 2:  # the files had not settled
            first = _next_report(process)
        write_tone(library / "new.wav", 50)
        assert _next_with(process, "files", "indexed") == 1
        (library / "new.wav").rename(library / "other.wav")
        assert _next_with(process, "moved") == 1
        (library / "other.wav").unlink()
        assert _next_with(process, "deleted") == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=GENEROUS_SECONDS)
        assert process.returncode == 0, errors
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def _next_report(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the command ended"
    report: dict[str, Any] = json.loads(line)
    return report


def _next_with(process: subprocess.Popen[str], *names: str) -> int:
    """How much was done, of the next report in which something was."""

    def done() -> int:
        value: Any = _next_report(process)
        for name in names:
            value = value[name]
        return int(value)

    return wait_until(done)


def test_ctrl_c_ends_a_watch_wherever_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between two looks it sleeps, but it may as well be looking or telling what was done."""
    shown: list[IndexReport] = []

    def stop(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    def show(report: IndexReport) -> None:
        shown.append(report)
        raise KeyboardInterrupt

    request = JobRequest(paths=(str(tmp_path),))
    watch = partial(
        watching.watch_library,
        Settings(data=tmp_path),
        request,
        interval_seconds=0.01,
        on_progress=lambda _: None,
        say=lambda _: None,
    )
    with monkeypatch.context() as patch:
        patch.setattr(watching, "_fingerprint", stop)
        watch(on_report=shown.append)
    assert shown == []
    monkeypatch.setattr(running, "run_job", lambda *_, **__: IndexReport())
    watch(on_report=show)
    assert len(shown) == 1
