"""Workers as actors, on a Ray that does what the test says: who is started, lost and replaced, and what Ray is told."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.bundle.bundle import load_bundle
from service.jobs import cluster_worker, ray_pool
from service.jobs.cluster_worker import LANES, Plan, Refusal, Worker
from service.jobs.places import MAX_STRIKES, Node, Place
from service.jobs.ray_pool import ClusterUnavailable, RayPool, check_cluster
from service.library.batches import Batch, Task
from service.library.cluster import BatchEnded, BatchLost, FileEnded
from service.library.journal import FileRow
from service.library.report import IndexReport
from service.library.scanning import FoundFile
from service.system.settings import Settings

PLAN = Plan(settings={}, release_id="one", bundle_id="one", version="0")


class Call:
    """An answer that is there once `said` is set; an exception is raised by whoever gets it."""

    said: Any = ...


class Actor:
    """A handle: each method is called with `.remote(…)`."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.added: list[Batch] = []
        self.calls: list[Call] = []
        self.is_killed = False
        self.add = SimpleNamespace(remote=self.added.append)
        self.open = self.wait = self.close = SimpleNamespace(remote=self._call)

    def _call(self, *_: object) -> Call:
        self.calls.append(Call())
        return self.calls[-1]

    def say(self, said: Any) -> None:
        self.calls[-1].said = said


class FakeRay:
    """The part of Ray's module that the pool uses."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.actors: list[Actor] = []
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: node_id)
        self.util = SimpleNamespace(scheduling_strategies=strategies)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "NodeManagerAddress": name, "Resources": {"CPU": 1.0}, "Alive": True}
            for name in self.names
        ]

    def remote(self, cls: type) -> Any:
        assert cls is Worker

        def options(*, scheduling_strategy: str, max_restarts: int, **_: object) -> Any:
            assert max_restarts == 0, "Ray would start it anew, and nobody would open it"
            return SimpleNamespace(remote=lambda: self._start(scheduling_strategy))

        return SimpleNamespace(options=options)

    def _start(self, node_id: str) -> Actor:
        self.actors.append(Actor(node_id))
        return self.actors[-1]

    def wait(self, calls: list[Call], **_: object) -> tuple[list[Call], list[Call]]:
        return [call for call in calls if call.said is not ...], []

    def get(self, call: Call) -> Any:
        if isinstance(call.said, Exception):
            raise call.said
        return call.said

    def kill(self, actor: Actor) -> None:
        actor.is_killed = True


@pytest.fixture(autouse=True)
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(ray_pool, "POLL_SECONDS", 0.0)


def batch(number: int) -> Batch:
    found = FoundFile(path=Path(f"/{number}"), size_bytes=1, modified_ns=0)
    return Batch(number=number, tasks=(Task(found=found),))


def test_a_worker_on_each_machine_takes_as_many_batches_as_it_has_lanes() -> None:
    ray = FakeRay("a", "b")
    pool = RayPool(ray, PLAN, uses_gpus=True)
    assert list(pool.wait()) == []
    assert (pool.num_workers, pool.free()) == (2, []), "none has opened its release yet"
    ray.actors[0].say(None)
    pool.wait()
    assert pool.free() == ["a/0"] * LANES
    ray.actors[1].say(None)
    pool.wait()
    pool.hand("a/0", batch(1))
    assert pool.free() == ["b/0", "a/0", "b/0"], "the idle one first"
    told = [
        FileEnded(batch=1, row=FileRow(path="/1", outcome="indexed")),
        BatchEnded(batch=1, report=IndexReport()),
    ]
    ray.actors[0].say(told)
    assert list(pool.wait()) == told
    assert len(pool.free()) == 2 * LANES
    assert ray.actors[0].added == [batch(1)]
    pool.close()
    assert [actor.is_killed for actor in ray.actors] == [True, True]


def test_what_dies_is_replaced_and_what_joins_gets_a_worker() -> None:
    ray = FakeRay("a")
    pool = RayPool(ray, PLAN, uses_gpus=True)
    pool.wait()
    ray.actors[0].say(None)
    pool.wait()
    pool.hand("a/0", batch(1))
    pool.hand("a/0", batch(2))
    ray.actors[0].say(RuntimeError("The actor died.\nmany lines"))
    assert [(e.batch, e.is_their_fault, e.reason) for e in pool.wait() if isinstance(e, BatchLost)] == [
        (number, True, "a worker on a died (The actor died.)") for number in (1, 2)
    ]
    ray.names.append("b")
    pool.wait()
    assert [actor.node_id for actor in ray.actors] == ["a", "a", "b"]
    assert ray.actors[0].is_killed


def test_a_batch_that_breaks_leaves_its_worker_and_costs_no_file_anything() -> None:
    ray = FakeRay("a")
    pool = RayPool(ray, PLAN, uses_gpus=True)
    pool.wait()
    ray.actors[0].say(None)
    pool.wait()
    for number in range(MAX_STRIKES):
        pool.hand("a/0", batch(number))
        ray.actors[0].say([BatchLost(batch=number, reason="the index is away", is_their_fault=False)])
        (lost, *_) = pool.wait()
        assert lost == BatchLost(batch=number, reason="the index is away", is_their_fault=False)
        assert len(ray.actors) == 1
    with pytest.raises(ClusterUnavailable, match="no machine of the cluster can work: a: the index is away"):
        pool.wait()


def test_a_machine_with_another_bundle_is_left_alone() -> None:
    ray = FakeRay("a", "b")
    pool = RayPool(ray, PLAN, uses_gpus=True)
    pool.wait()
    ray.actors[0].say(Refusal(reason="a: another bundle", is_final=True))
    ray.actors[1].say(None)
    pool.wait()
    pool.wait()
    assert (pool.num_workers, len(ray.actors)) == (1, 2)
    ray.actors[1].say(Refusal(reason="b: another bundle", is_final=True))
    pool.wait()
    with pytest.raises(ClusterUnavailable, match="b: another bundle"):
        pool.wait()


def test_no_key_is_told(tmp_path: Path) -> None:
    settings = Settings(
        data=tmp_path,
        bundle=tmp_path / "mine",
        qdrant_url="https://qdrant.example",
        qdrant_api_key="a-secret-of-the-server",  # type: ignore[arg-type]
        api_key="a-secret-of-ours",  # type: ignore[arg-type]
    )
    snapshot: Any = SimpleNamespace(release_id="one", bundle_id="one")
    plan = Plan.of(settings, snapshot)
    assert b"secret" not in pickle.dumps(plan)
    assert plan.settings["bundle"] == str(tmp_path / "mine")
    assert "bundle" not in Plan.of(Settings(data=tmp_path), snapshot).settings
    there = Settings(data=tmp_path / "there").replace(**plan.settings)
    assert (there.qdrant_url, there.releases) == (settings.qdrant_url, tmp_path / "releases")


def test_a_worker_refuses_what_the_driver_does_not_work_with(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLEY_DATA", str(tmp_path / "node"))
    settings = Settings(data=tmp_path, bundle=bundle_path, qdrant_url="http://127.0.0.1:9")
    bundle_id = load_bundle(bundle_path).bundle_id
    snapshot: Any = SimpleNamespace(release_id=bundle_id, bundle_id="another")
    plan = Plan.of(settings, snapshot)
    node = Node(node_id="n", name="10.0.0.7", num_cpus=1, num_gpus=0)
    place = Place(node=node, number=0, num_cpus=1, num_gpus=0)
    refused = Worker().open(plan, place)
    assert refused is not None
    assert refused.is_final
    assert refused.reason.startswith(
        "10.0.0.7: the driver works with bundle another, and here is " + bundle_id
    )
    older = Worker().open(replace(plan, version="0.0.1"), place)
    assert older is not None
    assert (older.is_final, "the driver is 0.0.1" in older.reason) == (True, True)


def test_what_a_cluster_needs_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterUnavailable, match="single writer: set FOLEY_QDRANT_URL"):
        check_cluster(Settings(data=tmp_path), "10.0.0.1:6379")
    settings = Settings(data=tmp_path, qdrant_url="http://10.0.0.9:6333")
    for address in ("local", "", "10.0.0.1", "http://10.0.0.1:6379", "ray://", "a b:1"):
        with pytest.raises(ClusterUnavailable, match="HOST:PORT"):
            check_cluster(settings, address)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with pytest.raises(ClusterUnavailable, match="pip install"):
        check_cluster(settings, "ray://10.0.0.1:10001")
    assert ray_pool.os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_worker_answers_at_once_when_a_batch_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gathers word of files until then: a hundred workers ask the driver without a pause."""
    monkeypatch.setattr(cluster_worker, "WAIT_SECONDS", 600.0)
    worker, row = Worker(), FileRow(path="/1", outcome="indexed")
    events = [
        FileEnded(batch=1, row=row),
        BatchEnded(batch=1, report=IndexReport()),
        FileEnded(batch=2, row=row),
    ]
    monkeypatch.setattr(cluster_worker, "GATHER_SECONDS", 600.0)
    for event in events:
        worker._events.put(event)
    assert worker.wait() == events[:2]
    monkeypatch.setattr(cluster_worker, "GATHER_SECONDS", 0.0)
    assert worker.wait() == events[2:]
