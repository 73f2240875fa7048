"""Many callers, one encoder: everybody gets what it would have got alone, or a clear error, and nobody hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.encode.batching import Batcher, BatcherClosed, QueueFull
from service.encode.engines.contract import EncoderFailure
from service.encode.queue import BatchLimits
from service.system.caller import Caller, CallerGone, DeadlinePassed
from tests.support.waiting import GENEROUS_SECONDS, wait_until

POISON = -1.0
SECONDS = GENEROUS_SECONDS  # a test that waits so long has found a deadlock


class Recorder:
    """An encoder that notes what it is given; a segment is one number, and so is its track.

    `gate` holds every run back until it is set.
    """

    def __init__(self) -> None:
        self.runs: list[tuple[str, list[float]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.num_running = 0
        self.peak = 0
        self._lock = threading.Lock()

    def encode_audio(
        self, samples: Sequence[NDArray[np.float32]], num_heard: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        assert num_heard is None or list(num_heard) == list(map(len, samples))
        return self._encode("audio", samples)

    def encode_video(self, frames: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        return self._encode("video", frames)

    def _encode(self, modality: str, rows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        values = [float(row[0]) for row in rows]
        with self._lock:
            self.runs.append((modality, values))
            self.num_running += 1
            self.peak = max(self.peak, self.num_running)
        assert self.gate.wait(SECONDS)
        with self._lock:
            self.num_running -= 1
        if POISON in values:
            raise EncoderFailure("the encoder gave a number that is not finite")
        return 2 * np.array(values, np.float32).reshape(-1, 1, 1)

    @property
    def seen(self) -> list[float]:
        return [value for _, values in self.runs for value in values]


def row(value: float) -> NDArray[np.float32]:
    return np.array([value], np.float32)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.gate.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


class Busy:
    """A batcher whose one thread is held inside the encoder, so that a test decides what waits."""

    def __init__(self, recorder: Recorder, threads: ThreadPoolExecutor, **limits: Any) -> None:
        self.recorder = recorder
        self.batcher = Batcher(recorder, BatchLimits(**limits))
        self._threads = threads
        recorder.gate.clear()
        self.first = self.submit([0.0])
        wait_until(lambda: recorder.num_running == 1)

    def submit(
        self, values: list[float], *, caller: Caller | None = None, priority: str = "query"
    ) -> Future[NDArray[np.float32]]:
        encoder = self.batcher.encoder_of(caller or Caller(), priority=priority)  # type: ignore[arg-type]
        return self._threads.submit(encoder.encode_video, [row(value) for value in values])

    def queue(self, values: list[float], **kinds: Any) -> Future[NDArray[np.float32]]:
        """Submit, and come back when it waits."""
        num_queued = self.num_queued()
        future = self.submit(values, **kinds)
        wait_until(lambda: self.num_queued() == num_queued + len(values))
        return future

    def num_queued(self) -> int:
        return sum(self.batcher.stats().num_queued.values())

    def release(self) -> None:
        self.recorder.gate.set()
        assert self.first.result(SECONDS).ravel() == [0.0]

    def __enter__(self) -> Busy:
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.gate.set()
        self.batcher.close()


def test_callers_are_joined_in_the_order_they_came(recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    with Busy(recorder, threads, max_batch=4) as busy:
        futures = [busy.queue([1.0, 2.0, 3.0]), busy.queue([4.0]), busy.queue([5.0, 6.0])]
        busy.release()
        assert [future.result(SECONDS).ravel().tolist() for future in futures] == [[2, 4, 6], [8], [10, 12]]
        assert recorder.runs[1:] == [("video", [1, 2, 3, 4]), ("video", [5, 6])]
        stats = busy.batcher.stats()
    assert stats.num_batches == {1: 1, 4: 1, 2: 1}
    assert stats.num_encoded == {"query": 7, "bulk": 0}
    assert stats.queued_seconds > 0
    assert stats.encode_seconds > 0


def test_queries_overtake_bulk_work(recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    with Busy(recorder, threads) as busy:
        futures = [busy.queue([10.0, 11.0, 12.0], priority="bulk"), busy.queue([1.0]), busy.queue([2.0])]
        busy.release()
        for future in futures:
            future.result(SECONDS)
        assert recorder.seen == [0, 1, 2, 10, 11, 12]
        assert busy.batcher.stats().num_encoded == {"query": 3, "bulk": 3}


def test_a_batch_waits_for_others_but_not_for_long(recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    with Batcher(recorder, BatchLimits(max_batch=3, max_wait_seconds=SECONDS)) as batcher:
        encoder = batcher.encoder_of(Caller())
        began = time.monotonic()
        encoder.encode_video([row(1)])
        assert time.monotonic() - began < SECONDS / 2  # alone: nobody to wait for
        assert batcher.encoder_of(Caller()).encode_audio([]).shape[0] == 0
    with Busy(recorder, threads, max_batch=3, max_wait_seconds=0.2) as busy:
        pair = [busy.queue([1.0]), busy.queue([2.0])]
        recorder.gate.set()
        began = time.monotonic()
        for future in pair:
            future.result(SECONDS)
        assert recorder.runs[-1] == ("video", [1, 2])
        assert time.monotonic() - began < 60


def test_what_is_late_is_not_encoded(recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    with Busy(recorder, threads) as busy:
        late = busy.submit([1.0], caller=Caller(timeout_seconds=0.2))
        kept = busy.submit([2.0], caller=Caller(timeout_seconds=SECONDS))
        with pytest.raises(DeadlinePassed, match=r"was not ready within 0\.2 s"):
            late.result(SECONDS)  # while the encoder is still busy with another
        wait_until(lambda: busy.num_queued() == 1)
        busy.release()
        kept.result(SECONDS)
        assert recorder.seen == [0, 2]
        assert busy.batcher.stats().num_expired == 1


def test_a_caller_does_not_wait_beyond_its_deadline_for_a_run(
    recorder: Recorder, threads: ThreadPoolExecutor
) -> None:
    with Busy(recorder, threads, num_runs=2) as busy:
        late = busy.submit([1.0], caller=Caller(timeout_seconds=2.0))
        wait_until(lambda: recorder.num_running == 2)
        with pytest.raises(DeadlinePassed):
            late.result(SECONDS)
        assert recorder.num_running == 2


def test_what_nobody_waits_for_is_not_encoded(recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    with Busy(recorder, threads) as busy:
        caller = Caller()
        gone, kept = busy.queue([1.0, 2.0], caller=caller), busy.queue([3.0])
        caller.leave()
        with pytest.raises(CallerGone, match="went away"):
            gone.result(SECONDS)
        assert busy.num_queued() == 1
        busy.release()
        kept.result(SECONDS)
        assert recorder.seen == [0, 3]
        assert busy.batcher.stats().num_abandoned == 1
        with pytest.raises(CallerGone):
            busy.batcher.encoder_of(caller).encode_video([row(4)])


def test_a_full_queue_refuses_queries_and_holds_bulk_work_back(
    recorder: Recorder, threads: ThreadPoolExecutor
) -> None:
    with Busy(recorder, threads, max_queued=2) as busy:
        waiting = [busy.queue([1.0, 2.0]), busy.queue([3.0, 4.0], priority="bulk")]
        with pytest.raises(QueueFull, match="2 segments wait for the encoder already") as caught:
            busy.batcher.encoder_of(Caller()).encode_video([row(5)])
        assert int(caught.value.headers["Retry-After"]) >= 1
        held = busy.submit([6.0], priority="bulk")
        impatient = busy.submit([7.0], priority="bulk", caller=Caller(timeout_seconds=0.1))
        leaving = Caller()
        left = busy.submit([8.0], priority="bulk", caller=leaving)
        with pytest.raises(DeadlinePassed):
            impatient.result(SECONDS)
        leaving.leave()
        with pytest.raises(CallerGone):
            left.result(SECONDS)
        assert not held.done()
        busy.release()
        for future in [*waiting, held]:
            future.result(SECONDS)
        assert sorted(recorder.seen) == [0, 1, 2, 3, 4, 6]
        assert busy.batcher.stats().num_refused == 1


def test_a_segment_the_encoder_cannot_take_fails_its_own_caller_only(
    recorder: Recorder, threads: ThreadPoolExecutor
) -> None:
    with Busy(recorder, threads, max_batch=8) as busy:
        good, bad, other = busy.queue([1.0, 2.0]), busy.queue([3.0, POISON, 4.0]), busy.queue([5.0])
        busy.release()
        assert good.result(SECONDS).ravel().tolist() == [2, 4]
        assert other.result(SECONDS).ravel().tolist() == [10]
        with pytest.raises(EncoderFailure, match="not finite"):
            bad.result(SECONDS)
        # Together, then one by one; what follows the poison in its own order is not worth a run.
        assert [values for _, values in recorder.runs[1:]] == [
            [1, 2, 3, POISON, 4, 5],
            [1],
            [2],
            [3],
            [POISON],
            [5],
        ]
        stats = busy.batcher.stats()
    assert (stats.num_retried, stats.num_failed) == (1, 1)


@pytest.mark.parametrize("error", [MemoryError("no memory"), ValueError("shapes differ")])
def test_whatever_an_encoder_raises_belongs_to_the_caller(
    recorder: Recorder, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NDArray[np.float32]:
        raise error

    monkeypatch.setattr(recorder, "encode_audio", fail)
    with Batcher(recorder, BatchLimits()) as batcher:
        with pytest.raises(type(error), match=str(error)):
            batcher.encoder_of(Caller()).encode_audio([row(1)])
        assert batcher.encoder_of(Caller()).encode_video([row(1)]).ravel() == [2]


def test_an_encoder_that_miscounts_is_an_error(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "encode_audio", lambda *_: np.zeros((0, 1, 1), np.float32))
    with (
        Batcher(recorder, BatchLimits()) as batcher,
        pytest.raises(EncoderFailure, match="gave 0 tracks for 1 segments"),
    ):
        batcher.encoder_of(Caller()).encode_audio([row(1)])


def test_closing_lets_the_run_end_and_fails_the_rest(recorder: Recorder, threads: ThreadPoolExecutor) -> None:
    earlier = set(threading.enumerate())  # of other tests, whose batchers outlive this one
    busy = Busy(recorder, threads, max_queued=1)
    waiting = [busy.queue([1.0]), busy.queue([2.0], priority="bulk")]
    held = busy.submit([3.0], priority="bulk")
    closing = threads.submit(busy.batcher.close)
    for future in [*waiting, held]:
        with pytest.raises(BatcherClosed, match="the encoder"):
            future.result(SECONDS)
    assert not closing.done()
    busy.release()
    closing.result(SECONDS)
    busy.batcher.close()  # twice is once
    with pytest.raises(BatcherClosed, match="is closed"):
        busy.batcher.encoder_of(Caller()).encode_video([row(1)])
    assert recorder.seen == [0]
    assert not any(thread.name.startswith("encode-") for thread in set(threading.enumerate()) - earlier)


def test_an_encoder_that_hangs_does_not_hang_its_caller(
    recorder: Recorder, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    busy = Busy(recorder, threads)
    with caplog.at_level("WARNING"):
        busy.batcher.close(timeout_seconds=0.1)
    assert "still runs 0.1 s after" in caplog.text
    with pytest.raises(BatcherClosed, match="did not end in time"):
        busy.first.result(SECONDS)


def test_a_thread_that_dies_takes_nobody_with_it(
    recorder: Recorder, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy(recorder, threads)
    waiting = busy.queue([1.0])

    def fail(now: float) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(busy.batcher._queue, "take", fail)
    recorder.gate.set()
    with pytest.raises(BatcherClosed, match="an encode thread died"):
        waiting.result(SECONDS)
    busy.batcher.close()


def test_two_encoders_are_not_mixed(threads: ThreadPoolExecutor) -> None:
    recorders = [Recorder(), Recorder()]
    limits = BatchLimits(max_batch=4, num_runs=2)
    with Batcher(recorders[0], limits) as first, Batcher(recorders[1], limits) as second:
        pairs = [
            (value, threads.submit(batcher.encoder_of(Caller()).encode_video, [row(value)]))
            for value, batcher in zip(range(100), [first, second] * 50, strict=True)
        ]
        for value, future in pairs:
            assert future.result(SECONDS).ravel() == [2 * value]
    assert sorted(recorders[0].seen) == list(range(0, 100, 2))
    assert sorted(recorders[1].seen) == list(range(1, 100, 2))


def test_a_crowd_that_comes_and_goes(recorder: Recorder) -> None:
    """Random sizes, priorities, deadlines, departures and poison: every call ends, and right."""
    rng = np.random.default_rng(0)
    batcher = Batcher(recorder, BatchLimits(max_batch=3, max_wait_seconds=0.001, max_queued=12, num_runs=2))
    outcomes: list[str] = []

    def call(number: int, size: int, kind: int) -> str:
        values = [float(1000 * number + i) for i in range(1, size + 1)]
        values[size // 2] = POISON if kind == 0 else values[size // 2]
        caller = Caller(timeout_seconds=1e-4 if kind == 1 else SECONDS)
        leaver = threading.Timer(0.0005, caller.leave)
        if kind == 2:
            leaver.start()
        encoder = batcher.encoder_of(caller, priority="bulk" if kind % 2 else "query")
        try:
            tracks = (encoder.encode_video if number % 2 else encoder.encode_audio)([row(v) for v in values])
        except (EncoderFailure, DeadlinePassed, CallerGone, QueueFull) as exc:
            return type(exc).__name__
        finally:
            leaver.cancel()
        assert tracks.ravel().tolist() == [2 * value for value in values]
        return "right"

    with ThreadPoolExecutor(16) as crowd:
        calls = zip(range(400), rng.integers(1, 6, 400), rng.integers(0, 12, 400), strict=True)
        futures = [crowd.submit(call, *map(int, arguments)) for arguments in calls]
        outcomes = [future.result(SECONDS) for future in futures]
    stats = batcher.stats()
    batcher.close()
    assert {"right", "EncoderFailure", "DeadlinePassed"} <= set(outcomes)
    assert outcomes.count("right") > 200
    assert stats.num_queued == {"query": 0, "bulk": 0}
    assert stats.num_expired == outcomes.count("DeadlinePassed")
    assert stats.num_abandoned == outcomes.count("CallerGone")
    assert stats.num_refused == outcomes.count("QueueFull")
    assert recorder.peak <= 2
    assert max(stats.num_batches) <= 3
    assert not batcher._orders
