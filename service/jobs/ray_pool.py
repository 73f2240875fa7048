"""A pool of workers on a Ray cluster, each an actor; the extra `cluster`.

    with open_pool("10.0.0.1:6379", plan) as pool: ...

A dead actor is replaced; a machine that comes back or joins gets one too. Ray never gets a key: an actor's arguments
stay in Ray's memory and may be logged. Ray's own reports to its makers are off before it is imported.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any

from service.jobs.cluster_worker import LANES, Plan, Refusal, Worker
from service.jobs.places import Node, Patience, Place, plan_places
from service.library.batches import Batch
from service.library.cluster import BatchEnded, BatchLost, Event, FileEnded
from service.system.failure import Failure
from service.system.settings import Settings

logger = logging.getLogger(__name__)

ADDRESS = re.compile(r"(auto|(ray://)?[A-Za-z0-9._\[\]:-]+:[0-9]{1,5})")
POLL_SECONDS = 1.0
LOOK_SECONDS = 2.0  # between looks at the machines of the cluster
START_SECONDS = 60.0  # without a worker: then the log says so
CLOSE_SECONDS = 10.0


class ClusterUnavailable(Failure):
    """There is no cluster, none of its machines can work, or the index is not one that several may write to."""

    code = "cluster_unavailable"


def check_cluster(settings: Settings, address: str) -> Any:
    """Ray itself; raises `ClusterUnavailable` if the index, the address or the installation cannot be used."""
    if settings.qdrant_url is None:
        raise ClusterUnavailable(
            "a cluster needs an index that all machines write to, and the embedded one has a single writer: set "
            "FOLEY_QDRANT_URL (`foley migrate --to URL` copies what is indexed), or index parts with --part K/N"
        )
    if not ADDRESS.fullmatch(address):
        raise ClusterUnavailable(
            f"the address of a Ray cluster is HOST:PORT, ray://HOST:PORT or auto, not {address[:80]!r}"
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # noqa: PLC0415 - it takes a second, and few have it
    except ImportError:
        raise ClusterUnavailable("--ray needs a package: pip install 'foley-av[cluster]'") from None
    return ray


@contextmanager
def open_pool(ray: Any, address: str, plan: Plan, *, uses_gpus: bool) -> Iterator[RayPool]:
    """Join a cluster, and start a worker on each of its machines; they end with the block."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if is_main else None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as exc:
        raise ClusterUnavailable(f"no Ray cluster answers on {address}: {exc}") from exc
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
    pool = RayPool(ray, plan, uses_gpus=uses_gpus)
    with redirect_stdout(_Log()):  # where Ray prints what its machines say, and the report is to stand alone
        try:
            yield pool
        finally:
            pool.close()
            ray.shutdown()


class _Log(io.TextIOBase):
    """Takes text into the log."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.debug("Ray: %s", text.strip())
        return len(text)


@dataclass(eq=False, kw_only=True)
class _Actor:
    place: Place
    handle: Any
    answer: Any  # of the call that is under way: `open`, then `wait` again and again
    is_open: bool = False
    batches: set[int] = field(default_factory=set)


class RayPool:
    """See `service.library.cluster.Pool`."""

    def __init__(self, ray: Any, plan: Plan, *, uses_gpus: bool) -> None:
        self._ray = ray
        self._plan = plan
        self._uses_gpus = uses_gpus
        self._actors: dict[str, _Actor] = {}
        self._patience = Patience(time.monotonic)
        self._places: dict[str, Place] = {}
        self._untold: list[Event] = []
        self._looked_at = 0.0
        self._idle_since: float | None = time.monotonic()  # None while a worker is open, or after it was told

    @property
    def num_workers(self) -> int:
        """How many workers there are, or are about to be."""
        return len(self._actors)

    def free(self) -> Sequence[str]:
        """Workers that can take a batch now, each as often as it can, the idle ones first."""
        free = [
            (load, key)
            for key, actor in self._actors.items()
            if actor.is_open and self._patience.is_ready(key)
            for load in range(len(actor.batches), LANES)
        ]
        return [key for _, key in sorted(free)]

    def hand(self, worker: str, batch: Batch) -> None:
        """Give a batch to a worker."""
        actor = self._actors[worker]
        actor.batches.add(batch.number)
        actor.handle.add.remote(batch)  # if it fails, so does the call that is under way

    def wait(self) -> Sequence[Event]:
        """What happened, at the latest after a second."""
        self._look_after_places()
        by_answer = {actor.answer: key for key, actor in self._actors.items()}
        if by_answer:
            answers = list(by_answer)
            self._ray.wait(answers, timeout=POLL_SECONDS)
            ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0)
            for answer in ready:
                self._take(by_answer[answer], answer)
        else:
            time.sleep(POLL_SECONDS)
        events, self._untold = self._untold, []
        return events

    def close(self) -> None:
        """End all workers."""
        closing = [actor.handle.close.remote() for actor in self._actors.values()]
        if closing:
            with suppress(Exception):
                self._ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor.handle)
        self._actors.clear()

    def _take(self, key: str, answer: Any) -> None:
        """Take the answer of an actor, and call it again."""
        actor = self._actors[key]
        try:
            said = self._ray.get(answer)
        except Exception as exc:  # the actor, its machine, or the way there
            self._lose(key, f"a worker on {actor.place.node.name} died ({_first_line(exc)})")
            return
        if isinstance(said, Refusal):
            self._lose(key, said.reason, is_final=said.is_final)
            return
        actor.is_open, self._idle_since = True, None
        for event in said or ():
            self._note(key, actor, event)
        if key in self._actors:
            actor.answer = actor.handle.wait.remote()

    def _note(self, key: str, actor: _Actor, event: Event) -> None:
        if isinstance(event, FileEnded):
            self._patience.clear(key)
        else:
            actor.batches.discard(event.batch)
        if isinstance(event, BatchEnded):
            self._patience.clear(key)
        if isinstance(event, BatchLost):
            self._patience.strike(key, f"{actor.place.node.name}: {event.reason}")
            logger.warning("%s", self._patience.reason)
        self._untold.append(event)
        if self._patience.is_out(key):
            self._lose(key, self._patience.reason)

    def _lose(self, key: str, reason: str, *, is_final: bool = False) -> None:
        """Forget an actor; its batches are lost."""
        actor = self._actors.pop(key)
        self._patience.strike(key, reason, is_final=is_final)
        logger.warning("%s", reason)
        self._untold += [BatchLost(batch=number, reason=reason) for number in sorted(actor.batches)]
        with suppress(Exception):
            self._ray.kill(actor.handle)

    def _look_after_places(self) -> None:
        """Start a worker wherever there is room for one and none is."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        nodes = [
            Node(
                node_id=node["NodeID"],
                name=node["NodeManagerAddress"],
                num_cpus=node["Resources"].get("CPU", 0.0),
                num_gpus=node["Resources"].get("GPU", 0.0),
            )
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        places = plan_places(nodes, uses_gpus=self._uses_gpus)
        for key, place in places.items():
            if key not in self._actors and self._patience.is_ready(key):
                self._actors[key] = self._start(place)
        if not self._actors and places and all(map(self._patience.is_out, places)):
            raise ClusterUnavailable(f"no machine of the cluster can work: {self._patience.reason}")
        if self._idle_since is not None and now - self._idle_since > START_SECONDS:
            self._idle_since = None
            logger.warning("no worker has started yet: other work may have the cores of the cluster")

    def _start(self, place: Place) -> _Actor:
        ray = self._ray
        handle = (
            ray.remote(Worker)
            .options(
                num_cpus=place.num_cpus,
                num_gpus=place.num_gpus,
                max_concurrency=LANES + 2,
                max_restarts=0,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    place.node.node_id, soft=False
                ),
            )
            .remote()
        )
        return _Actor(place=place, handle=handle, answer=handle.open.remote(self._plan, place))


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [repr(exc)])[0][:200]
