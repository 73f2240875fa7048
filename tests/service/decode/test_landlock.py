"""What a decode worker may reach: its own code and the one file it is given. Each refusal has its control."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.media.clip import NotARegularFile, hash_media
from service.decode import decoder as decoding
from service.decode import landlock
from service.decode.decoder import Decoder
from service.decode.landlock import describe_landlock, landlock_version
from service.decode.lane import DecoderCrashed
from service.decode.sandbox import WorkerLimits
from tests.support import hostile_tasks
from tests.support.paths import REPOSITORY

TASKS = (REPOSITORY / "tests",)
needs_landlock = pytest.mark.skipif(landlock_version() < 6, reason="needs Landlock version 6, Linux 6.12")


@pytest.fixture(scope="module")
def walled() -> Iterator[Decoder]:
    with Decoder(num_workers=1, limits=WorkerLimits(readable_folders=TASKS)) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def unwalled() -> Iterator[Decoder]:
    with Decoder(num_workers=1, limits=WorkerLimits(restricts_files=False)) as decoder:
        yield decoder


@pytest.fixture
def listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@needs_landlock
@pytest.mark.parametrize(
    "action", ["read", "list", "write", "create", "rename", "remove", "truncate", "link", "execute"]
)
def test_no_other_file(action: str, walled: Decoder, unwalled: Decoder, tmp_path: Path) -> None:
    target = tmp_path if action == "list" else tmp_path / "target"
    if action == "execute":
        target.write_text("#!/bin/sh\n")
        target.chmod(0o755)
    elif action not in ("list", "create"):
        target.touch()
    assert walled.call(hostile_tasks.attempt, 20.0, action, str(target)) == "EACCES"
    assert unwalled.call(hostile_tasks.attempt, 20.0, action, str(target)) == "allowed"


@needs_landlock
@pytest.mark.parametrize(
    ("action", "number"), [("connect", "EACCES"), ("listen", "EACCES"), ("signal", "EPERM")]
)
def test_no_network_and_no_other_process(
    action: str, number: str, walled: Decoder, unwalled: Decoder, listener: str
) -> None:
    args = {"connect": (listener,), "listen": (), "signal": (str(os.getpid()),)}[action]
    assert walled.call(hostile_tasks.attempt, 20.0, action, *args) == number
    assert unwalled.call(hostile_tasks.attempt, 20.0, action, *args) == "allowed"


@needs_landlock
def test_the_file_of_the_task_is_read_and_no_other_way_leads_to_it(walled: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert walled.read(path, hash_media, 20.0) == hash_media(path)
    with pytest.raises(NotARegularFile, match="Permission denied"):
        walled.call(hash_media, 20.0, path)
    for place in ("/etc/passwd", "/proc/self/environ", f"/proc/{os.getpid()}/environ", "/dev/null"):
        assert walled.call(hostile_tasks.attempt, 20.0, "read", place) == "EACCES"


def test_no_thread_is_older_than_the_wall(walled: Decoder) -> None:
    """Landlock holds for the thread that asks for it and for later ones."""
    pid = walled.call(hostile_tasks.worker_pid, 20.0)
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def test_each_task_gets_its_own_file(walled: Decoder, tmp_path: Path) -> None:
    for number in range(70):  # more than it may have open
        path = tmp_path / str(number)
        path.write_bytes(b"%d" % number)
        assert walled.read(path, hash_media, 20.0)[0] == hash_media(path)[0]
    with pytest.raises(NotARegularFile, match="No such file"):
        walled.read(tmp_path / "missing", hash_media, 20.0)


def test_a_file_that_nobody_took_is_passed_over(tmp_path: Path) -> None:
    """As after a worker that was killed before it took its file."""
    (tmp_path / "stale").write_bytes(b"stale")
    (tmp_path / "wanted").write_bytes(b"wanted")
    with Decoder(num_workers=1) as decoder:
        digest, *_ = decoder.read(tmp_path / "wanted", hash_media, 20.0)
        passage = decoder._lanes[0]._passage
        assert passage is not None
        with (tmp_path / "stale").open("rb") as stale:
            passage.send(stale.fileno())
        assert decoder.read(tmp_path / "wanted", hash_media, 20.0)[0] == digest


def test_a_worker_that_cannot_be_restricted_does_not_work() -> None:
    """Where there is Landlock, it holds or nothing is decoded."""
    if landlock_version() == 0:
        pytest.skip("needs Landlock")
    program = "from service.decode import landlock; landlock.RESTRICT_SELF = 1_000_000; landlock.restrict([])"
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 1
    assert b"landlock restrict_self: Function not implemented" in ended.stderr


def test_a_kernel_without_landlock_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(landlock, "landlock_version", lambda: 0)
    landlock.restrict([Path("/nowhere")])  # and nothing happens
    Path(__file__).read_bytes()
    decoding._warn_of_landlock.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            Decoder().close()
    decoding._warn_of_landlock.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [describe_landlock()]
    assert "this kernel has no Landlock" in caplog.text
    monkeypatch.setattr(landlock, "landlock_version", lambda: 3)
    assert (
        describe_landlock()
        == "Landlock version 3 keeps decode workers from files, but not from the network (Linux 6.7)"
    )
    monkeypatch.setattr(landlock, "landlock_version", lambda: 4)
    assert describe_landlock() is None


def test_errors_of_the_worker_still_say_what_went_wrong(walled: Decoder) -> None:
    with pytest.raises(DecoderCrashed, match="KeyError: 'a bug that one odd file found'"):
        walled.call(hostile_tasks.fail_oddly, 20.0)
