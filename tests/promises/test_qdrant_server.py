"""The index on a real Qdrant server that is killed, restarted, filled, locked and restored.

FOLEY_TEST_QDRANT=/path/to/qdrant [FOLEY_KILLS=100] pytest tests/promises/test_qdrant_server.py -s
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from service.index.contract import Bounds, Filter, VectorQuery, WordQuery
from service.index.failure import IndexFailure, IndexFull, IndexUnavailable
from service.index.layout import VectorLayout
from service.index.qdrant.collection import activate, active_collection
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import Link
from tests.support.certificates import make_certificates
from tests.support.index_contract import NUM_MOMENTS, WIDTH, all_assets, make_asset, make_id, make_tracks
from tests.support.qdrant_server import QdrantServer, needs_qdrant, run_qdrant
from tests.support.qdrant_writes import Loop, Writing, tracks_of
from tests.support.small_disk import MIB, fill, small_disk
from tests.support.waiting import wait_until

pytestmark = needs_qdrant

NUM_KILLS = int(os.environ.get("FOLEY_KILLS", "3"))
LAYOUT = VectorLayout.of_both(NUM_MOMENTS, WIDTH)
NAME = "foley-one"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    with run_qdrant(tmp_path / "qdrant") as server:
        yield server


def open_index(server: QdrantServer, name: str = NAME, **changes: Any) -> ServerIndex:
    return ServerIndex.open(server.config(**changes), name=name, layout=LAYOUT)


def kill_while_writing(server: QdrantServer, num_kills: int) -> tuple[Writing, set[str]]:
    """What was written while the server was killed so often, and which of it is not there whole afterwards."""
    chance = random.Random(3)
    with open_index(server) as index, Writing([index]) as writing:
        for _ in range(num_kills):
            writing.wait_for(5)
            time.sleep(chance.uniform(0.0, 0.05))  # at any moment of a write
            server.kill()
            server.start()
        writing.wait_for(5)
        writing.stop()
    with open_index(server) as index:
        return writing, writing.find_lost(index)


def test_no_acknowledged_write_is_lost_when_the_server_is_killed(server: QdrantServer) -> None:
    began = time.monotonic()
    writing, lost = kill_while_writing(server, NUM_KILLS)
    assert not lost
    with open_index(server) as index:
        index.sweep(older_than_seconds=0.0)
        assert set(all_assets(index)) <= writing.asked
        assert index.count_segments() == index.info().num_segments
    print(  # noqa: T201 - the figure of `make soak`
        f"\n{NUM_KILLS} kills, {len(writing.done)} writes acknowledged, {len(writing.failures)} failed, 0 lost "
        f"in {time.monotonic() - began:.0f} s"
    )


def test_a_write_that_is_acknowledged_early_would_be_seen(
    server: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: an adapter that answers before the server did."""
    write = ServerIndex.write_asset
    room = threading.Semaphore(4)  # writes that were acknowledged and are not sent
    with ThreadPoolExecutor(1) as later:

        def write_later(*arguments: Any, **options: Any) -> None:
            with suppress(IndexFailure):
                write(*arguments, **options)
            room.release()

        def answer_first(*arguments: Any, **options: Any) -> None:
            room.acquire()
            later.submit(write_later, *arguments, **options)

        monkeypatch.setattr(ServerIndex, "write_asset", answer_first)
        _, lost = kill_while_writing(server, 2)
    assert lost


def kill_while_switching(server: QdrantServer, num_kills: int) -> Counter[str]:
    """Kill the server so often while its alias is moved without end; what the alias was afterwards."""
    names = ["foley-one", "foley-two"]
    for name in names:
        open_index(server, name).close()
    chance, found = random.Random(5), Counter[str]()
    for _ in range(num_kills):
        link = Link(server.config(num_attempts=1), server.open_client())
        if active_collection(link, "foley") is None:
            activate(link, "foley", names[0])
        allowed = {active_collection(link, "foley")}

        def switch(turn: int, link: Link = link, allowed: set[str | None] = allowed) -> None:
            name = names[turn % 2]
            allowed.add(name)
            with suppress(IndexFailure):  # it was killed
                activate(link, "foley", name)
                allowed.intersection_update({name})

        with Loop([switch]) as switching:
            time.sleep(chance.uniform(0.02, 0.06))
            server.kill()
            switching.stop()
        link.close()
        server.start()
        link = Link(server.config(), server.open_client())
        active = active_collection(link, "foley")
        found["missing" if active is None else "right" if active in allowed else "wrong"] += 1
        link.close()
    return found


def test_the_alias_is_never_missing_after_a_kill(server: QdrantServer) -> None:
    found = kill_while_switching(server, NUM_KILLS)
    print(f"\n{NUM_KILLS} kills during switches of the alias: {dict(found)}")  # noqa: T201
    assert found == {"right": NUM_KILLS}


@pytest.mark.skipif(NUM_KILLS < 50, reason="rare: needs FOLEY_KILLS=50 or more")
def test_an_alias_that_is_deleted_and_created_would_be_missing(
    server: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: both actions in one request, as before."""

    def activate_in_two(link: Link, prefix: str, name: str) -> None:
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=prefix))
        alias = models.CreateAlias(alias_name=prefix, collection_name=name)
        create = models.CreateAliasOperation(create_alias=alias)
        link.run(lambda client: client.update_collection_aliases([delete, create]))

    monkeypatch.setitem(globals(), "activate", activate_in_two)
    found = kill_while_switching(server, NUM_KILLS)
    print(f"\n{NUM_KILLS} kills, alias deleted and created: {dict(found)}")  # noqa: T201
    assert found["missing"] > 0


def test_a_restart_is_waited_for_and_the_connection_found_again(server: QdrantServer) -> None:
    """Also after a pause that is longer than all attempts: gRPC pauses longer and longer by itself."""
    with open_index(server) as index:
        index.write_asset(make_asset("a", make_tracks(2, seed=1)), is_last=True)
        server.end()
        ended = time.monotonic()
        while time.monotonic() - ended < 8.0:
            with pytest.raises(IndexUnavailable):
                index.count_segments()
        server.start()
        began = time.monotonic()
        assert index.count_segments() == 2
        assert time.monotonic() - began < 5.0, "one call, its attempts included"


def test_a_full_disk_refuses_writes_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", num_bytes=400 * MIB) as disk, run_qdrant(disk / "qdrant") as server:
        index = open_index(server)
        with Writing([index]) as writing:
            writing.wait_for(20)
            ballast = fill(disk, leaving_bytes=0)
            wait_until(lambda: writing.failures)
            writing.stop()
        assert "the disk of the Qdrant server on" in writing.failures[0]
        with pytest.raises(IndexFull):
            index.write_asset(make_asset("full", make_tracks(200, seed=1)), is_last=True)
        assert not writing.find_lost(index), "it still answers"
        ballast.unlink()
        index.write_asset(make_asset("again", make_tracks(2, seed=1)), is_last=True)
        server.kill()
        server.start()
        assert not writing.find_lost(index)
        assert index.get_asset(make_id("again")) is not None
        index.close()


STRICT = {
    "ENABLED": "true",
    "UNINDEXED_FILTERING_RETRIEVE": "false",
    "UNINDEXED_FILTERING_UPDATE": "false",
    "MAX_PAYLOAD_INDEX_COUNT": "100",
}


def test_strict_mode(tmp_path: Path) -> None:
    """Whatever a server forbids, the library works; what it cannot do is refused with the server's reason."""
    settings = {f"STORAGE__COLLECTION__STRICT_MODE__{name}": value for name, value in STRICT.items()}
    with run_qdrant(tmp_path / "qdrant", settings) as server, open_index(server) as index:
        tracks = make_tracks(5, seed=1)
        index.write_asset(make_asset("door", tracks, metadata={"lufs": -20.5}), is_last=True)
        query = VectorQuery(track=tracks[0], target="audio", limit=3, filter=Filter(folder="/library"))
        assert len(index.search(query)) == 3
        assert len(index.search_words(WordQuery(words=("door",), target="audio", limit=3))) == 1
        assert index.set_metadata(make_id("door"), {"lufs": -19.5})
        index.sweep(older_than_seconds=0.0)
        bounds = Filter(metadata={"lufs": Bounds(at_least=-20)})
        with pytest.raises(IndexFailure, match="Index required but not found"):
            index.list_assets(limit=9, filter=bounds)
        assert index.delete_asset(make_id("door")) == 5


@pytest.mark.parametrize("prefers_grpc", [True, False], ids=["grpc", "http"])
def test_a_key_over_tls(tmp_path: Path, prefers_grpc: bool) -> None:
    certificates = make_certificates(tmp_path / "tls")
    settings = {
        "SERVICE__API_KEY": "a-key",
        "SERVICE__ENABLE_TLS": "true",
        "TLS__CERT": certificates.certificate,
        "TLS__KEY": certificates.key,
    }
    with run_qdrant(tmp_path / "qdrant", settings, authority=certificates.authority) as server:
        safe = {"ca_file": certificates.authority, "prefers_grpc": prefers_grpc}
        with open_index(server, api_key="a-key", **safe) as index:
            index.write_asset(make_asset("a", make_tracks(1, seed=1)), is_last=True)
            assert index.count_segments() == 1
        for wrong in ("another", None):
            with pytest.raises(IndexFailure, match="set FOLEY_QDRANT_API_KEY") as caught:
                open_index(server, api_key=wrong, **safe)
            assert "another" not in str(caught.value)
        with pytest.raises(IndexUnavailable):
            open_index(server, api_key="a-key", prefers_grpc=prefers_grpc, num_attempts=1)


def test_a_snapshot_of_the_server_brings_a_collection_back(server: QdrantServer, tmp_path: Path) -> None:
    with open_index(server) as index, Writing([index]) as writing:
        writing.wait_for(20)
        writing.stop()
        made = server.ask("POST", f"/collections/{NAME}/snapshots")["result"]["name"]
        (snapshot,) = server.folder.rglob(made)
        index.delete_asset(make_id(writing.done[0]))
    with run_qdrant(tmp_path / "other") as other:
        (copy := other.folder / "snapshots" / made).parent.mkdir(exist_ok=True)
        shutil.copy(snapshot, copy)  # a server reads those in its own folder alone
        where = {"location": f"file://{copy}", "priority": "snapshot"}
        other.ask("PUT", f"/collections/{NAME}/snapshots/recover", where)
        with open_index(other) as index:
            assert not writing.find_lost(index)
            assert set(all_assets(index)) == {make_id(name) for name in writing.done}
            found = index.search(VectorQuery(track=tracks_of(writing.done[0])[0], target="audio", limit=1))
            assert found[0].asset_id == make_id(writing.done[0])
            index.write_asset(make_asset("more", make_tracks(1, seed=1)), is_last=True)
