"""The decoder against tasks that crash, hang or gobble memory: one worker is lost, never the next file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from models.bundle.bundle import load_bundle, starter_path
from models.media.clip import ClipSpec, DecodeLimits, EmptyFile
from service.decode.decoder import Decoder
from service.decode.lane import DecodeFailure, DecoderClosed, DecoderCrashed, DecodeTimedOut
from service.decode.sandbox import WorkerContext, WorkerLimits
from tests.support import hostile_tasks
from tests.support.hostile.sources import write_bomb
from tests.support.paths import REPOSITORY
from tests.support.waiting import GENEROUS_SECONDS, wait_until

LIMITS = WorkerLimits(readable_folders=(REPOSITORY / "tests",))
UNWALLED = WorkerLimits(restricts_files=False)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """One worker for the whole module: every test must leave it fit for the next."""
    with Decoder(num_workers=1, limits=LIMITS) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bomb(tmp_path_factory.mktemp("bomb") / "bomb.mov")


@pytest.fixture(scope="module")
def open_decoder() -> Iterator[Decoder]:
    """A worker that opens files: for tasks that leave marks, and as the control of those that may not."""
    with Decoder(num_workers=1, limits=UNWALLED) as decoder:
        yield decoder


def test_arrays_come_back_exactly(decoder: Decoder) -> None:
    values = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8)
    np.testing.assert_array_equal(decoder.call(hostile_tasks.double, 20.0, values), np.tile(values, 2))


def test_worker_serves_many_tasks(decoder: Decoder) -> None:
    assert decoder.call(hostile_tasks.worker_pid, 20.0) == decoder.call(hostile_tasks.worker_pid, 20.0)


def test_much_memory_costs_the_worker(decoder: Decoder) -> None:
    """Half of its memory during a task, or a quarter of a gigabyte kept after it; less costs nothing."""
    with Decoder(num_workers=1, limits=replace(LIMITS, memory_bytes=1 << 30)) as small:
        pid = small.call(hostile_tasks.worker_pid, 20.0)
        for num_mebibytes, end, costs in ((300, "return", False), (600, "raise", True), (300, "keep", True)):
            with suppress(EmptyFile):
                assert small.call(hostile_tasks.use_memory, 20.0, num_mebibytes << 20, end) == pid
            before, pid = pid, small.call(hostile_tasks.worker_pid, 20.0)
            assert (pid != before) is costs, (num_mebibytes, end)


@pytest.mark.parametrize(
    ("memory_bytes", "idle_bytes", "costs"),
    [(3 << 30, 64 << 20, True), (450 << 20, 1 << 40, True), (3 << 30, 1 << 40, False)],
    ids=["kept", "half", "no rule"],
)
def test_a_small_file_that_takes_much_memory_costs_the_worker(
    bomb: Path, memory_bytes: int, idle_bytes: int, costs: bool
) -> None:
    """By what it keeps or by what it took; without the rules it keeps that as long as it is idle."""
    assert bomb.stat().st_size < 150_000
    spec = load_bundle(starter_path()).manifest.clip_spec
    limits = replace(LIMITS, memory_bytes=memory_bytes, idle_bytes=idle_bytes)
    with Decoder(num_workers=1, limits=limits) as decoder:
        worker = psutil.Process(decoder.call(hostile_tasks.worker_pid, 20.0))
        fresh = worker.memory_info().rss
        assert len(decoder.submit(bomb, spec).result().clips) == 1
        if costs:
            wait_until(lambda: _is_gone(worker.pid))
            assert decoder.call(hostile_tasks.worker_pid, 20.0) != worker.pid
        else:
            assert worker.memory_info().rss - fresh > 64 << 20
            assert decoder.call(hostile_tasks.worker_pid, 20.0) == worker.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_costs_one_task(decoder: Decoder, number: signal.Signals) -> None:
    with pytest.raises(DecoderCrashed, match=f"killed by {number.name}"):
        decoder.call(hostile_tasks.kill_self, 20.0, int(number))
    assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_worker_that_exits(decoder: Decoder) -> None:
    with pytest.raises(DecoderCrashed, match="exit code 3"):
        decoder.call(hostile_tasks.exit_at_once, 20.0, 3)
    assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_worker_killed_from_outside_in_mid_task(open_decoder: Decoder, tmp_path: Path) -> None:
    decoder = open_decoder
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            decoder.call(hostile_tasks.mark_and_sleep, 60.0, str(tmp_path), 60.0)
        except DecodeFailure as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    os.kill(int(_wait_for_file(tmp_path).name), signal.SIGKILL)
    thread.join(50)
    assert isinstance(outcome[0], DecoderCrashed)
    assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_worker_killed_while_idle_costs_nothing(decoder: Decoder) -> None:
    pid = decoder.call(hostile_tasks.worker_pid, 20.0)
    os.kill(pid, signal.SIGKILL)
    assert decoder.call(hostile_tasks.worker_pid, 20.0) != pid
    os.kill(decoder.call(hostile_tasks.worker_pid, 20.0), signal.SIGKILL)
    time.sleep(0.5)  # now the pool has noticed before the next task
    assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_worker_killed_while_it_sends_its_result(decoder: Decoder) -> None:
    with pytest.raises(DecoderCrashed, match="SIGKILL"):
        decoder.call(hostile_tasks.send_half_and_die, 20.0, 8_000_000)
    assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_task_that_sleeps_past_its_time(open_decoder: Decoder, tmp_path: Path) -> None:
    decoder = open_decoder
    started = time.monotonic()
    with pytest.raises(DecodeTimedOut, match=r"longer than 0\.5 s"):
        decoder.call(hostile_tasks.mark_and_sleep, 0.5, str(tmp_path), 60.0)
    assert time.monotonic() - started < 50, "it waited for the task"
    assert _is_gone(int(_wait_for_file(tmp_path).name))
    assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_task_that_burns_its_time(decoder: Decoder) -> None:
    with pytest.raises(DecodeTimedOut):
        decoder.call(hostile_tasks.spin, 0.5)
    assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_memory_limit() -> None:
    with Decoder(num_workers=1, limits=replace(LIMITS, memory_bytes=256 << 20)) as decoder:
        # The control: what fits is allowed, so the limit and not something else refuses the rest.
        assert decoder.call(hostile_tasks.allocate, 20.0, 100 << 20) == 100 << 20
        with pytest.raises(DecoderCrashed, match="more memory than a worker may use"):
            decoder.call(hostile_tasks.allocate, 20.0, 300 << 20)
        assert decoder.call(hostile_tasks.worker_pid, 20.0)


def test_worker_writes_no_file(open_decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(DecoderCrashed, match="File too large"):
        open_decoder.call(hostile_tasks.write_file, 20.0, str(tmp_path / "out"))
    assert hostile_tasks.write_file(str(tmp_path / "control")) == 4096


def test_worker_opens_few_files(open_decoder: Decoder) -> None:
    with pytest.raises(DecoderCrashed, match="Too many open files"):
        open_decoder.call(hostile_tasks.open_many, 20.0, 100)
    assert open_decoder.call(hostile_tasks.open_many, 20.0, 20) == 20


def test_worker_is_replaced_after_its_share_of_tasks() -> None:
    with Decoder(num_workers=1, limits=replace(LIMITS, max_tasks=2)) as decoder:
        pids = [decoder.call(hostile_tasks.worker_pid, 20.0) for _ in range(5)]
    assert len(set(pids)) == 3


def test_own_errors_pass_and_others_are_named(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(EmptyFile):
        decoder.submit(tmp_path / "empty.mp4", ClipSpec(), timeout_seconds=20.0).result()
    with pytest.raises(DecoderCrashed, match="KeyError: 'a bug that one odd file found'"):
        decoder.call(hostile_tasks.fail_oddly, 20.0)


def test_decodes_a_real_file_as_the_plain_function_does(decoder: Decoder, shared_media: Path) -> None:
    path = shared_media / "v06_bbb_30s_vp8_vorbis.webm"
    media = decoder.submit(
        path, ClipSpec(), first=1, count=1, limits=DecodeLimits(), timeout_seconds=60.0
    ).result()
    (clip,) = media.clips
    assert (clip.start_seconds, clip.end_seconds) == (10.0, 20.0)
    assert clip.frames is not None
    assert clip.frames.shape == (16, 224, 224, 3)


def test_several_workers_share_the_work() -> None:
    with Decoder(num_workers=2, limits=LIMITS) as decoder:
        pids: set[int] = set()
        threads = [
            threading.Thread(target=lambda: pids.add(decoder.call(hostile_tasks.pid_after, 20.0, 0.3)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(pids) == 2


def test_close_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    decoder = Decoder(num_workers=1, limits=UNWALLED)
    running: Future[None] = decoder._enqueue(hostile_tasks.mark_and_sleep, (str(tmp_path), 60.0), {}, 60.0)
    waiting: Future[None] = decoder._enqueue(hostile_tasks.mark_and_sleep, (str(tmp_path), 60.0), {}, 60.0)
    pid = int(_wait_for_file(tmp_path).name)
    started = time.monotonic()
    decoder.close()
    decoder.close()
    assert time.monotonic() - started < 50, "it waited for the task"
    assert isinstance(running.exception(), DecoderClosed)
    assert isinstance(waiting.exception(), DecoderClosed)
    assert _is_gone(pid)
    with pytest.raises(DecoderClosed, match="closed"):
        decoder.call(hostile_tasks.worker_pid, 1.0)


def test_worker_dies_with_its_parent(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    parent = _start_script(
        tmp_path, f"decoder.call(hostile_tasks.mark_and_sleep, 60.0, {str(marks)!r}, 60.0)"
    )
    worker = int(_wait_for_file(marks).name)
    with parent:
        parent.kill()
    wait_until(lambda: _is_gone(worker), seconds=50)  # long before it wakes up


def test_main_script_is_not_run_again(tmp_path: Path) -> None:
    """An unguarded script, the usual way to hang or fork-bomb a spawning program."""
    script = _start_script(tmp_path, "sys.stdout.write(f'ran {decoder.call(hostile_tasks.main_file, 20.0)}')")
    with script:
        output, _ = script.communicate(timeout=GENEROUS_SECONDS)
    assert output.decode() == "ran None"


def test_worker_imports_no_more_than_it_needs(decoder: Decoder) -> None:
    modules = set(decoder.call(hostile_tasks.loaded_modules, 20.0))
    assert modules.isdisjoint({"pytest", "typer", "rich", "fastapi", "onnxruntime", "qdrant_edge", "torch"})


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_is_required(decoder: Decoder, seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout_seconds must be positive and finite"):
        decoder.call(hostile_tasks.worker_pid, seconds)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        Decoder(num_workers=0)
    with pytest.raises(ValueError, match="memory_bytes must be at least 1, got 0"):
        WorkerLimits(memory_bytes=0)


def _wait_for_file(folder: Path) -> Path:
    return wait_until(lambda: next(folder.iterdir(), None))


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


def _start_script(folder: Path, last_line: str) -> subprocess.Popen[bytes]:
    script = folder / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path[:0] = {[str(REPOSITORY)]!r}
        from tests.support import hostile_tasks
        from service.decode.decoder import Decoder, WorkerLimits
        decoder = Decoder(num_workers=1, limits=WorkerLimits(restricts_files=False))
        """)
        + last_line
    )
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)


def test_a_worker_is_deaf_to_ctrl_c_from_its_first_moment() -> None:
    """The control is a plain spawned process, which the signal ends."""
    codes = []
    for context in (WorkerContext(), multiprocessing.get_context("spawn")):
        theirs, ours = context.Pipe()
        process = context.Process(target=theirs.recv)
        process.start()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        if not codes:
            ours.send("end")
        process.join(GENEROUS_SECONDS)
        codes.append(process.exitcode)
    assert codes[0] == 0
    assert codes[1] != 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
