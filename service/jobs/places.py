"""Where on a cluster there is room for workers, and where they failed: nothing here knows of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

MAX_STRIKES = 5  # failures in a row: then a place gets no worker any more
MAX_WAIT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of a cluster and what it lends."""

    node_id: str
    name: str
    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """Room for one worker: the `number` of its node, from 0 on, and its share of the node."""

    node: Node
    number: int
    num_cpus: int
    num_gpus: int

    @property
    def key(self) -> str:
        """Names the place as long as the cluster lives."""
        return f"{self.node.node_id}/{self.number}"


def plan_places(nodes: Iterable[Node], *, uses_gpus: bool = True) -> Mapping[str, Place]:
    """One worker a GPU, else one a machine, with their share of its cores; machines that lend no core get none."""
    places: dict[str, Place] = {}
    for node in nodes:
        num_gpus = int(node.num_gpus) if uses_gpus else 0
        count = max(1, min(num_gpus, int(node.num_cpus)))
        for number in range(count if node.num_cpus >= 1 else 0):
            place = Place(
                node=node,
                number=number,
                num_cpus=int(node.num_cpus) // count,
                num_gpus=1 if num_gpus else 0,
            )
            places[place.key] = place
    return places


class Patience:
    """Places whose workers failed, one after another: each waits longer, and in the end it is given up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._strikes: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self.reason = ""  # of the last failure

    def strike(self, key: str, reason: str, *, is_final: bool = False) -> None:
        """Note that the worker of a place failed; a final reason gives the place up at once."""
        count = MAX_STRIKES if is_final else self._strikes.get(key, 0) + 1
        self._strikes[key] = count
        self._not_before[key] = self._clock() + min(MAX_WAIT_SECONDS, 2.0 ** (count - 1) - 1.0)
        self.reason = reason

    def clear(self, key: str) -> None:
        """Note that the worker of a place got something done."""
        self._strikes.pop(key, None)
        self._not_before.pop(key, None)

    def is_out(self, key: str) -> bool:
        """Whether a place is given up."""
        return self._strikes.get(key, 0) >= MAX_STRIKES

    def is_ready(self, key: str) -> bool:
        """Whether a place may have a worker, and its worker a batch, now."""
        return not self.is_out(key) and self._clock() >= self._not_before.get(key, 0.0)
