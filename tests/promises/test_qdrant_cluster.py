"""Three Qdrant nodes on a network of their own, every shard on two of them: one is killed, one is cut off, both return.

FOLEY_TEST_QDRANT=/path/to/qdrant pytest tests/promises/test_qdrant_cluster.py -s      prints its figures
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.index.failure import IndexUnavailable
from service.index.layout import VectorLayout
from service.index.qdrant.collection import activate, active_collection
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import Link, ServerConfig, open_client
from tests.support.index_contract import NUM_MOMENTS, WIDTH
from tests.support.namespaces import Machine, small_network
from tests.support.pressure import percentile
from tests.support.qdrant_server import PREFERS_GRPC, QdrantServer, needs_qdrant
from tests.support.qdrant_writes import Searching, Writing
from tests.support.waiting import wait_until

pytestmark = needs_qdrant

NAME = "foley-one"
TIMEOUT_SECONDS = 5.0
FAULT_SECONDS = {
    "kill": 12.0,
    "cut off": 40.0,
}  # longer than a search may take; nobody says that a node is cut off


@dataclass(frozen=True)
class Cluster:
    """Three nodes and the machines they are on."""

    machines: tuple[Machine, ...]
    nodes: tuple[QdrantServer, ...]

    def config(self, first: int = 0) -> ServerConfig:
        """All nodes, beginning with one of them."""
        urls = [node.url for node in self.nodes]
        return ServerConfig(
            url=",".join(urls[first:] + urls[:first]),
            timeout_seconds=TIMEOUT_SECONDS,
            prefers_grpc=PREFERS_GRPC,
            num_shards=6,
            num_replicas=2,
        )

    def open(self, first: int = 0) -> ServerIndex:
        return ServerIndex.open(
            self.config(first), name=NAME, layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH)
        )

    def is_whole(self, at: int = 0) -> bool:
        """Whether a node sees every copy of every shard active."""
        info = self.nodes[at].ask("GET", f"/collections/{NAME}/cluster")["result"]
        shards = [*info["local_shards"], *info["remote_shards"]]
        return (
            not info["shard_transfers"] and len(shards) == 12 and {s["state"] for s in shards} == {"Active"}
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with small_network(3) as machines, ExitStack() as stack:
        nodes = []
        for number, machine in enumerate(machines):
            uri = f"http://{machine.address}:6335"
            seed = () if not number else ("--bootstrap", f"http://{machines[0].address}:6335")
            node = QdrantServer(
                tmp_path / machine.name,
                {"CLUSTER__ENABLED": "true"},
                arguments=("--uri", uri, *seed),
                before=machine.run,
                host=machine.address,
                ports=(6333, 6334),
            )
            node.start()
            stack.callback(node.kill)
            nodes.append(node)
        wait_until(lambda: len(nodes[2].ask("GET", "/cluster")["result"]["peers"]) == 3)
        yield Cluster(machines, tuple(nodes))


@contextmanager
def fault_of(cluster: Cluster, kind: str, at: int) -> Iterator[None]:
    """A node that is killed or cut off until the block ends; then it returns, and is waited for."""
    node, machine = cluster.nodes[at], cluster.machines[at]
    if kind == "kill":
        node.kill()
        yield
        node.start()
    else:
        machine.cut_off()
        yield
        machine.heal()


@pytest.mark.parametrize("kind", ["kill", "cut off"])
@pytest.mark.parametrize("at", [0, 1], ids=["the node that is asked", "another node"])
def test_no_search_fails_and_no_acknowledged_write_is_lost(cluster: Cluster, kind: str, at: int) -> None:
    with ExitStack() as stack:
        index = stack.enter_context(cluster.open())
        others = [stack.enter_context(cluster.open()) for _ in range(2)]
        with Writing([index], name="before") as known:
            known.wait_for(40)
        assert cluster.is_whole()
        with (
            Writing([index, others[0]]) as writing,
            Searching([index, others[1]], known.done[:40]) as searching,
        ):
            writing.wait_for(10)
            before = list(searching.seconds)
            with fault_of(cluster, kind, at):
                began = time.monotonic()
                count = len(writing.done)
                time.sleep(FAULT_SECONDS[kind])
                num_during = len(writing.done) - count
                writing.wait_for(1)
            writing.wait_for(10)
            wait_until(lambda: cluster.is_whole(2))
            healed = time.monotonic() - began - FAULT_SECONDS[kind]
            writing.wait_for(10)
        assert searching.failures == []
        for first in range(3):
            with cluster.open(first) as one:
                assert not writing.find_lost(one)
                assert not known.find_lost(one)
    print(  # noqa: T201 - the figures of docs/operations.md
        f"\n{kind} {at}: {len(searching.seconds)} searches, 0 failed, p50 {1e3 * percentile(before, 50):.0f} ms "
        f"before, slowest {max(searching.seconds):.1f} s; {len(writing.done)} writes acknowledged, {num_during} of "
        f"them in {FAULT_SECONDS[kind]:.0f} s of the fault, {len(writing.failures)} refused, slowest "
        f"{writing.slowest_seconds:.1f} s, 0 lost; whole again after {healed:.0f} s {writing.failures[:2]}"
    )


def test_all_nodes_name_the_release_that_was_activated(cluster: Cluster) -> None:
    """Also while the node that is asked is cut off: once the others have voted, and it learns of it when it is back."""
    for name in ("foley-one", "foley-two"):
        ServerIndex.open(cluster.config(), name=name, layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH)).close()
    with ExitStack() as stack:

        def open_links() -> list[Link]:
            links = [Link(cluster.config(n), open_client(cluster.config(n))) for n in range(3)]
            for link in links:
                stack.callback(link.close)
            return links

        links = open_links()
        for turn in range(6):
            name = ("foley-one", "foley-two")[turn % 2]
            activate(links[turn % 3], "foley", name)
            assert active_collection(links[turn % 3], "foley") == name
            wait_until(lambda name=name: {active_collection(link, "foley") for link in links} == {name})

        def is_activated() -> bool:
            with suppress(IndexUnavailable):
                activate(links[0], "foley", "foley-one")
                return True
            return False

        began = time.monotonic()
        with fault_of(cluster, "cut off", 0):
            wait_until(is_activated)
            took = time.monotonic() - began
            assert active_collection(links[0], "foley") == "foley-one"
        links = open_links()
        wait_until(lambda: {active_collection(link, "foley") for link in links} == {"foley-one"})
    print(f"\na release was activated {took:.0f} s after a node was cut off")  # noqa: T201
