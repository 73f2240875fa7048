"""A library indexed by machines of a Ray cluster, of which any part is killed: nothing is lost, nothing is there twice.

FOLEY_TEST_QDRANT=/path/to/qdrant pytest tests/promises/test_cluster.py -s

The machines are on loopback, or (`FOLEY_KILLS`, as `make soak` sets it) in network namespaces of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.bundle.bundle import load_bundle
from service.index.contract import Index
from service.index.iteration import iter_assets
from service.index.opening import index_place
from service.system.settings import Settings
from tests.support.libraries import write_bad, write_tones
from tests.support.namespaces import small_network
from tests.support.qdrant_server import QdrantServer, needs_qdrant, run_qdrant
from tests.support.ray_cluster import RayNode, needs_ray
from tests.support.waiting import wait_until

pytestmark = [needs_qdrant, needs_ray]

NUM_KILLS = int(os.environ.get("FOLEY_KILLS", "0"))
NUM_GOOD, NUM_BAD = 60, 4
TARGETS = ("worker", "node", "driver")


@dataclass
class Rig:
    """Two machines and a Qdrant server; the driver runs on the first machine, which lends a core too."""

    nodes: list[RayNode]
    folder: Path
    index: Index
    killed: Counter[str] = field(default_factory=Counter)

    def drive(self, media: Path, *, program: str = "service.cli") -> subprocess.Popen[str]:
        """Start a driver."""
        first = self.nodes[0]
        environment = first.environment | {"FOLEY_DATA": str(self.folder / "driver")}
        command = [*first.before, sys.executable, "-m", program, "index", str(media), "--ray", first.address]
        with (self.folder / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--json"], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def stored(self, media: Path) -> dict[str, int]:
        """Segments by path, of all assets in a folder; no path is there twice."""
        assets = list(iter_assets(self.index))
        found = [(path, asset.num_segments) for asset in assets for path in asset.paths]
        assert set(Counter(path for path, _ in found).values()) <= {1}, "a path belongs to two assets"
        return {path: count for path, count in found if path.startswith(f"{media}/")}

    def wait_for(self, count: int, driver: subprocess.Popen[str]) -> None:
        """Wait until so many more assets are stored, or the driver has ended."""
        wanted = self.index.count_assets() + count
        wait_until(lambda: self.index.count_assets() >= wanted or driver.poll() is not None, every=0.05)

    def kill(self, target: str, driver: subprocess.Popen[str]) -> bool:
        """Kill -9; False if nothing of the kind runs. A machine comes back."""
        if target == "driver":
            driver.kill()
        elif target == "node":
            self.nodes[1].kill()
            self.nodes[1].start()
        else:
            workers = [worker for node in self.nodes for worker in node.workers()]
            if not workers:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(workers).pid, signal.SIGKILL)
        self.killed[target] += 1
        return True

    def log(self) -> str:
        """What the drivers and the machines said."""
        return (self.folder / "driver.log").read_text()[-2000:] + "".join(n.log()[-1500:] for n in self.nodes)


@pytest.fixture
def rig(tmp_path: Path, bundle_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        machines = stack.enter_context(small_network(2)) if NUM_KILLS else ()
        hosts = [machine.address for machine in machines] or ["127.0.0.2", "127.0.0.3"]
        befores = [machine.run for machine in machines] or [(), ()]
        here = hosts[0].rpartition(".")[0] + ".254" if machines else "127.0.0.1"
        server = stack.enter_context(run_qdrant(tmp_path / "qdrant", host=here))
        settings = _settings(server)
        nodes: list[RayNode] = []
        for number, (host, before) in enumerate(zip(hosts, befores, strict=True)):
            own = settings | {"data": tmp_path / f"node-{number}", "bundle": bundle_path, "precision": "fp32"}
            environment = {name.upper(): value for name, value in own.items()}
            head = nodes[0] if nodes else None
            nodes.append(RayNode(environment, head=head, host=host, before=before))
            stack.enter_context(nodes[-1])
            if not number:
                wait_until(nodes[0].is_ready, every=0.1)
        bundle, own = load_bundle(bundle_path), Settings(**settings, data=tmp_path / "reader")  # type: ignore[arg-type]
        index = stack.enter_context(index_place(own).open(bundle, release_id=bundle.bundle_id))  # type: ignore[arg-type]
        yield Rig(nodes, tmp_path, index)


def _settings(server: QdrantServer) -> dict[str, object]:
    return {
        "qdrant_url": server.url,
        "qdrant_grpc_port": server.grpc_port,
        "device": "cpu",
        "min_free_bytes": 0,
    }


def _end(driver: subprocess.Popen[str], rig: Rig) -> dict[str, dict[str, int]]:
    out, _ = driver.communicate()
    assert driver.returncode == 0, rig.log()
    report: dict[str, dict[str, int]] = json.loads(out)
    return report


def test_a_library_is_indexed_by_two_machines_of_which_one_dies(rig: Rig) -> None:
    media = rig.folder / "media"
    good, codes = write_tones(media, NUM_GOOD), write_bad(media, NUM_BAD)
    driver = rig.drive(media)
    wait_until(lambda: all(node.workers() for node in rig.nodes), every=0.1)
    rig.wait_for(4, driver)
    assert rig.kill("worker", driver)
    report = _end(driver, rig)
    assert rig.stored(media) == dict.fromkeys(map(str, good), 1)
    assert report["files"] == {"indexed": NUM_GOOD, "unchanged": 0, "failed": NUM_BAD}
    assert report["segments"] == {"indexed": NUM_GOOD, "unchanged": 0, "failed": 0}
    assert {file["path"]: file["code"] for file in report["failed"]} == codes  # type: ignore[attr-defined, index]
    again = _end(rig.drive(media), rig)
    assert again["files"] == {"indexed": 0, "unchanged": NUM_GOOD, "failed": NUM_BAD}


@pytest.mark.skipif(not NUM_KILLS, reason="long: `make soak` sets FOLEY_KILLS")
def test_kill_anything_at_any_time(rig: Rig) -> None:
    chance, num_runs, num_again = random.Random(NUM_KILLS), 0, 0
    while rig.killed.total() < NUM_KILLS:
        media = rig.folder / f"media-{num_runs}"
        good = write_tones(media, NUM_GOOD, first=1000 * num_runs)
        codes = write_bad(media, NUM_BAD)
        num_runs += 1
        driver = rig.drive(media)
        for target in chance.sample(TARGETS, 3):
            rig.wait_for(chance.randint(0, 12), driver)
            if driver.poll() is None and rig.kill(target, driver) and target == "driver":
                driver.communicate()
                driver, num_again = rig.drive(media), num_again + 1
        report = _end(driver, rig)
        assert rig.stored(media) == dict.fromkeys(map(str, good), 1)
        assert rig.index.count_segments() == num_runs * NUM_GOOD, "segments without an asset"
        done = report["files"]["indexed"] + report["files"]["unchanged"]
        assert (done, report["files"]["failed"]) == (NUM_GOOD, NUM_BAD)
        assert {file["path"]: file["code"] for file in report["failed"]} == codes  # type: ignore[attr-defined, index]
    print(  # noqa: T201 - the figure of `make soak`
        f"\n{num_runs} libraries of {NUM_GOOD + NUM_BAD} files, killed {dict(rig.killed)}, {num_again} drivers "
        "resumed: 0 files lost, 0 twice"
    )


@pytest.mark.skipif(not NUM_KILLS, reason="long: `make soak` sets FOLEY_KILLS")
def test_control_a_driver_that_counts_what_it_handed_out_loses_files(rig: Rig) -> None:
    media = rig.folder / "media"
    good = write_tones(media, NUM_GOOD)
    driver = rig.drive(media, program="tests.support.hasty_driver")
    rig.wait_for(1, driver)  # of a batch of at least eight, and one more is under way
    for worker in [worker for node in rig.nodes for worker in node.workers()]:
        worker.kill()
    report = _end(driver, rig)
    assert report["files"]["indexed"] == NUM_GOOD
    assert set(map(str, good)) - set(rig.stored(media))
