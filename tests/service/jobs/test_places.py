"""Where workers go, and when a place that fails is left alone."""

from __future__ import annotations

from service.jobs.places import MAX_STRIKES, MAX_WAIT_SECONDS, Node, Patience, plan_places


def node(name: str, cpus: float, gpus: float = 0.0) -> Node:
    return Node(node_id=name, name=name, num_cpus=cpus, num_gpus=gpus)


def test_a_worker_for_each_gpu_or_machine_with_its_share_of_the_cores() -> None:
    nodes = [node("head", 0.0), node("plain", 8.0), node("gpus", 33.0, 4.0), node("odd", 2.0, 4.0)]
    places = plan_places(nodes)
    assert {key: (place.num_cpus, place.num_gpus) for key, place in places.items()} == {
        "plain/0": (8, 0),
        **{f"gpus/{n}": (8, 1) for n in range(4)},
        "odd/0": (1, 1),
        "odd/1": (1, 1),
    }
    assert {key: p.num_gpus for key, p in plan_places(nodes, uses_gpus=False).items()} == {
        "plain/0": 0,
        "gpus/0": 0,
        "odd/0": 0,
    }


def test_a_place_that_fails_waits_longer_and_is_given_up() -> None:
    now = 100.0
    patience = Patience(lambda: now)
    waits = []
    for count in range(1, MAX_STRIKES):
        patience.strike("a", f"failure {count}")
        started = now
        while not patience.is_ready("a"):
            now += 0.5
        waits.append(now - started)
    assert waits == [0.0, 1.0, 3.0, 7.0]
    assert max(waits) <= MAX_WAIT_SECONDS
    patience.clear("a")
    patience.strike("a", "again")
    assert patience.is_ready("a"), "one failure after something was done is the first"
    for _ in range(MAX_STRIKES):
        patience.strike("a", "again")
    patience.strike("b", "another bundle", is_final=True)
    now += 1e6
    assert (patience.is_out("a"), patience.is_out("b"), patience.is_ready("c")) == (True, True, True)
    assert not patience.is_ready("a")
    assert patience.reason == "another bundle"
