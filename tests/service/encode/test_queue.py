"""Which segments go next, checked against what was promised, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.encode.queue import QUERY_TURNS, BatchLimits, BatchQueue, Item, Order
from service.system.caller import Caller


class Patience(Caller):
    """A caller whose deadline is on the test's clock."""

    def __init__(self, deadline: float = float("inf")) -> None:
        super().__init__()
        self.deadline = deadline

    def is_waiting(self, now: float) -> bool:
        return not self.is_gone and now < self.deadline


def order(size: int = 1, *, caller: Caller | None = None, at: float = 0.0, **kinds: str) -> Order:
    return Order(
        caller=caller or Patience(),
        priority=kinds.get("priority", "query"),  # type: ignore[arg-type]
        modality=kinds.get("modality", "video"),  # type: ignore[arg-type]
        rows=[np.zeros(1)] * size,
        arrived_at=at,
    )


def queue_of(*orders: Order, **limits: float) -> BatchQueue:
    queue = BatchQueue(BatchLimits(**limits))  # type: ignore[arg-type]
    for one in orders:
        queue.add(one)
    return queue


def take_all(queue: BatchQueue, now: float = 0.0) -> list[list[Item]]:
    batches = []
    while batch := queue.take(now)[0]:
        batches.append(batch)
    return batches


def test_oldest_first_and_one_modality_a_batch() -> None:
    first, sound, second = order(3), order(2, modality="audio"), order(2)
    batches = take_all(queue_of(first, sound, second, max_batch=4))
    assert [[(item.order, item.position) for item in batch] for batch in batches] == [
        [(first, 0), (first, 1), (first, 2), (second, 0)],
        [(sound, 0), (sound, 1)],
        [(second, 1)],
    ]


def test_queries_go_first_and_bulk_work_has_its_turn() -> None:
    queries, bulk = order(12), order(3, priority="bulk")
    taken = [batch[0].order.priority for batch in take_all(queue_of(bulk, queries, max_batch=1))]
    assert taken == [*["query"] * 4, "bulk"] * 3


def test_bulk_work_that_comes_late_finds_no_debt() -> None:
    queue = queue_of(order(20), max_batch=1)
    for _ in range(10):
        queue.take(0)
    queue.add(order(priority="bulk"))
    taken = [queue.take(0)[0][0].order.priority for _ in range(5)]
    assert taken == ["query"] * 4 + ["bulk"]


def test_a_batch_that_is_not_full_is_held_back_while_others_may_join() -> None:
    limits = {"max_batch": 4, "max_wait_seconds": 1.0}
    alone = order(2, at=5.0)
    assert len(queue_of(alone, **limits).take(5.0)[0]) == 2
    two = queue_of(order(at=5.0), order(at=5.5), **limits)
    assert two.take(5.25) == ([], 0.75)
    assert len(two.take(6.0)[0]) == 2
    full = queue_of(order(3, at=5.0), order(at=5.0), **limits)
    assert len(full.take(5.0)[0]) == 4


def test_what_nobody_wants_is_dropped() -> None:
    gone, late, there = order(2), order(caller=Patience(deadline=1.0)), order()
    queue = queue_of(gone, late, there, max_batch=8)
    gone.caller.leave()
    assert [item.order for item in queue.take(1.0)[0]] == [there]
    assert queue.take(1.0) == ([], None)


def test_room() -> None:
    queue = queue_of(max_queued=4)
    assert queue.has_room(order(100))  # or it could never be done
    queue.add(order(3))
    assert queue.has_room(order(1))
    assert not queue.has_room(order(2))
    assert queue.has_room(order(2, priority="bulk"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1, got 0"),
        ({"max_queued": 0}, "max_queued must be at least 1, got 0"),
        ({"num_runs": -1}, "num_runs must be at least 1, got -1"),
        ({"max_wait_seconds": -0.1}, "max_wait_seconds must be finite and not negative, got -0.1"),
        ({"max_wait_seconds": float("nan")}, "max_wait_seconds must be finite and not negative, got nan"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchLimits(**limits)  # type: ignore[arg-type]


@dataclass
class Model:
    """What the queue should hold, kept in the plainest way."""

    waiting: list[Item] = field(default_factory=list)
    num_passed_over: int = 0  # batches of queries since bulk work began to wait

    def alive(self, now: float) -> list[Item]:
        return [item for item in self.waiting if item.order.is_wanted(now)]


KINDS = st.tuples(st.sampled_from(["query", "bulk"]), st.sampled_from(["audio", "video"]))
STEP = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 6), KINDS, st.integers(0, 3), st.floats(0.1, 5)),
    st.tuples(st.just("take")),
    st.tuples(st.just("sleep"), st.floats(0, 2)),
    st.tuples(st.just("leave"), st.integers(0, 30)),
)


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(STEP, max_size=60),
    max_batch=st.integers(1, 5),
    max_wait=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_order_of_events(steps: list[tuple[object, ...]], max_batch: int, max_wait: float) -> None:
    queue = BatchQueue(BatchLimits(max_batch=max_batch, max_wait_seconds=max_wait))
    model, now, orders = Model(), 0.0, []
    callers: list[Caller] = [Patience() for _ in range(3)]
    for step in steps:
        match step:
            case ("add", int(size), (priority, modality), int(who), float(patience)):
                caller = callers[who] if who < 3 and not callers[who].is_gone else Patience(now + patience)
                made = order(size, caller=caller, at=now, priority=priority, modality=modality)
                orders.append(made)
                queue.add(made)
                model.waiting += [Item(made, position) for position in range(size)]
            case ("sleep", float(seconds)):
                now += seconds
            case ("leave", int(which)) if orders:
                orders[which % len(orders)].caller.leave()
            case ("take",):
                check_take(queue, model, now, max_batch=max_batch, max_wait=max_wait)
    now += 10 * max_wait
    while model.alive(now):
        check_take(queue, model, now, max_batch=max_batch, max_wait=max_wait)
    assert queue.take(now) == ([], None)
    assert queue.count("query") == queue.count("bulk") == 0


def check_take(queue: BatchQueue, model: Model, now: float, *, max_batch: int, max_wait: float) -> None:
    batch, held_seconds = queue.take(now)
    alive = model.alive(now)
    model.waiting = alive
    if not batch:
        if held_seconds is None:
            assert not alive
            return
        assert 0 < held_seconds <= max_wait
        kept = [item for item in alive if item.order.priority == "query"] or alive
        if model.num_passed_over >= QUERY_TURNS:
            kept = [item for item in alive if item.order.priority == "bulk"] or kept
        assert len({id(item.order.caller) for item in kept}) > 1
        return
    priority, modality = batch[0].order.priority, batch[0].order.modality
    same = [item for item in alive if item.order.priority == priority]
    assert modality == same[0].order.modality
    expected = [item for item in same if item.order.modality == modality][:max_batch]
    assert [(item.order, item.position) for item in batch] == [
        (item.order, item.position) for item in expected
    ]
    has_bulk = any(item.order.priority == "bulk" for item in alive)
    has_query = any(item.order.priority == "query" for item in alive)
    if priority == "bulk":
        assert not has_query or model.num_passed_over >= QUERY_TURNS
        model.num_passed_over = 0
    else:
        model.num_passed_over = model.num_passed_over + 1 if has_bulk else 0
        assert model.num_passed_over <= QUERY_TURNS
    model.waiting = [item for item in alive if item not in expected]
