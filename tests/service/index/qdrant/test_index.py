"""The index on a Qdrant server: the contract on qdrant-client's local mode and, where one is given, on a real server.

FOLEY_TEST_QDRANT_URL=http://127.0.0.1:6333 [FOLEY_TEST_QDRANT_API_KEY=...] pytest tests/service/index -k server
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from httpx import Headers
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from service.index.contract import Bounds, Filter, Index, Segment, VectorQuery
from service.index.failure import IndexFailure
from service.index.layout import VectorLayout
from service.index.payload import MAX_OPEN_INDEXES
from service.index.qdrant import search as server_search
from service.index.qdrant.collection import activate, active_collection, collection_name, vector_params
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import Link, ServerConfig
from service.index.qdrant.points import UNFINISHED
from tests.support.index_contract import (
    LAYOUTS,
    NUM_MOMENTS,
    TOLERANCE,
    WIDTH,
    IndexContract,
    LayoutContract,
    make_asset,
    make_id,
    make_segment,
    make_tracks,
)
from tests.support.qdrant_local import open_local
from tests.support.qdrant_server import BINARY
from tests.support.waiting import wait_until

URL = os.environ.get("FOLEY_TEST_QDRANT_URL")
CONFIG = ServerConfig(
    url=URL or "http://local.invalid:6333", api_key=os.environ.get("FOLEY_TEST_QDRANT_API_KEY")
)
GRPC_PORT = int(os.environ.get("FOLEY_TEST_QDRANT_GRPC_PORT", "6334"))
NAME = "foley-tests-000000000000"


class TestServerIndexInLocalMode(IndexContract):
    finds_beginnings = BINARY is not None  # it has no full-text index

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls) -> Iterator[Index]:
        with open_index(open_local()) as index:
            yield index


class TestServerIndexOfOtherLayouts(LayoutContract):
    @pytest.fixture(scope="class", params=LAYOUTS)
    @classmethod
    def opened_as(cls, request: pytest.FixtureRequest) -> Iterator[tuple[Index, VectorLayout]]:
        layout = LAYOUTS[request.param]
        with ServerIndex.open(CONFIG, name=NAME, layout=layout, client=open_local()) as index:
            yield index, layout


@pytest.mark.skipif(URL is None, reason="FOLEY_TEST_QDRANT_URL names no server")
class TestServerIndexOnAServer(IndexContract):
    @pytest.fixture(scope="class", params=[True, False], ids=["grpc", "http"])
    @classmethod
    def opened(cls, request: pytest.FixtureRequest) -> Iterator[Index]:
        config = ServerConfig(
            url=CONFIG.url, api_key=CONFIG.api_key, prefers_grpc=request.param, grpc_port=GRPC_PORT
        )
        name = f"foley-tests-{uuid.uuid4().hex[:12]}"
        with ServerIndex.open(config, name=name, layout=VectorLayout.of_both(NUM_MOMENTS, WIDTH)) as index:
            yield index
            index.link.run(lambda client: client.delete_collection(name))

    def test_numbers_get_an_index(self, index: ServerIndex) -> None:
        numbers = [
            make_segment(str(bpm), audio_track=make_tracks(1, seed=1)[0], metadata={"b p.m": bpm})
            for bpm in range(6)
        ]
        for segment in numbers:
            index.write_asset([segment], is_last=True)
        fast = Filter(metadata={"b p.m": Bounds(at_least=4)})
        assert index.count_assets(filter=fast) == 2
        info = lambda: index.link.run(lambda client: client.get_collection(index.collection))  # noqa: E731
        names = {f'{place}."b p.m"' for place in ("metadata", "said_numbers")}
        wait_until(lambda: names <= set(info().payload_schema))
        assert index.count_assets(filter=fast) == 2


class RecordingClient:
    """A client that notes which indexes of payload were asked for."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client
        self.indexed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name == "create_payload_index":
            return lambda _collection, key, _schema, **options: self.indexed.append(f"{key} {options}")
        return getattr(self._client, name)


def test_bounds_of_metadata_get_few_indexes(client: QdrantClient) -> None:
    """Those of a filter are asked for once, and the question does not wait for them."""
    recording = RecordingClient(client)
    index = open_index(recording)  # type: ignore[arg-type]
    recording.indexed.clear()
    for key in ("bpm", "f.p s", "bpm"):
        assert index.count_assets(filter=Filter(metadata={key: Bounds(at_most=3)})) == 0
    names = [f'{place}."{key}"' for key in ("bpm", "f.p s") for place in ("metadata", "said_numbers")]
    assert recording.indexed == [f"{name} {{'wait': False}}" for name in names]
    for number in range(9):
        index.list_assets(limit=3, filter=Filter(metadata={f"key {number}": Bounds(at_most=3)}))
    assert len(recording.indexed) == MAX_OPEN_INDEXES


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = open_local()
    yield client
    client.close()


def open_index(client: QdrantClient, name: str = NAME, *, width: int = WIDTH) -> ServerIndex:
    return ServerIndex.open(CONFIG, name=name, layout=VectorLayout.of_both(NUM_MOMENTS, width), client=client)


class Dies(Exception):
    """What a test's client raises in place of the n-th write."""


class DyingClient:
    """A client that works until its n-th write, and then as little as one whose process was killed."""

    def __init__(self, client: QdrantClient, num_writes: int) -> None:
        self._client = client
        self._writes_left = num_writes

    def __getattr__(self, name: str) -> Any:
        if name in ("upsert", "delete", "set_payload", "delete_payload"):
            if self._writes_left == 0:
                raise Dies(name)
            self._writes_left -= 1
        return getattr(self._client, name)


def long_asset(tracks: NDArray[np.float32], *, version: int = 0) -> list[Segment]:
    """Sound in the first segments and picture in the last, so that the modalities change on the way."""
    kinds = ["audio_track"] * (len(tracks) - 1) + ["video_track"]
    return [
        make_segment("a", n, path=f"/{version}.mp4", **{kind: track})
        for n, (kind, track) in enumerate(zip(kinds, tracks, strict=True))
    ]


def write_in_parts(index: Index, segments: list[Segment]) -> None:
    half = len(segments) // 2
    index.write_asset(segments[:half], is_last=False)
    index.write_asset(segments[half:], is_last=True)


@pytest.mark.parametrize("num_writes", range(7))
@pytest.mark.parametrize("was_there", [False, True], ids=["new", "rewritten shorter"])
def test_a_writer_may_die_at_every_step(client: QdrantClient, num_writes: int, was_there: bool) -> None:
    """Another replica sees the asset whole or not at all, and tidies up after a while."""
    tracks = make_tracks(6, seed=1)
    query = tracks[1]
    other = open_index(client)
    if was_there:
        write_in_parts(other, long_asset(tracks))
    writer = open_index(DyingClient(client, num_writes))  # type: ignore[arg-type]
    with contextlib.suppress(Dies):
        write_in_parts(writer, long_asset(tracks[:4], version=1))
    asset = other.get_asset(make_id("a"))
    found = other.search(VectorQuery(track=query, target="audio", limit=20))
    if asset is None:
        assert not was_there
        assert found == []
        assert other.search_assets(VectorQuery(track=query, target="audio", limit=5)) == []
        assert other.count_segments() == 0
        assert other.find_path("/1.mp4") is None
    else:
        assert other.count_segments() >= asset.num_segments
        assert found[0].score == pytest.approx(1.0, abs=TOLERANCE)
    other.sweep()
    assert other.info().num_segments >= other.count_segments(), (
        "nothing is removed from a writer that may live"
    )
    other.sweep(older_than_seconds=0.0)
    swept = other.get_asset(make_id("a"))
    assert (swept is None) == (asset is None)
    num_segments = 0 if swept is None else swept.num_segments
    assert other.count_segments() == other.info().num_segments == num_segments
    assert not unfinished_points(client)
    if num_writes == 6:  # control: all steps done
        assert swept is not None
        assert (swept.num_segments, swept.path, swept.modalities) == (4, "/1.mp4", ("audio", "video"))
        chosen = Filter(modality="video")
        assert len(other.search(VectorQuery(track=query, target="audio", limit=9, filter=chosen))) == 3, (
            "all segments know both"
        )


def test_without_asking_for_heads_half_an_asset_would_be_found(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: it can fail."""
    index = open_index(client)
    tracks = make_tracks(4, seed=1)
    index.write_asset(make_asset("a", tracks), is_last=False)
    assert index.search(VectorQuery(track=tracks[1], target="audio", limit=9)) == []
    monkeypatch.setattr(server_search, "without_head", lambda *_: set())
    assert len(index.search(VectorQuery(track=tracks[1], target="audio", limit=9))) == 3


def unfinished_points(client: QdrantClient) -> list[models.Record]:
    marked = models.FieldCondition(key=UNFINISHED, match=models.MatchValue(value=True))
    records, _ = client.scroll(NAME, scroll_filter=models.Filter(must=[marked]), limit=100)
    return records


def test_segments_that_vanish_while_an_asset_is_written_are_noticed(client: QdrantClient) -> None:
    writer, other = open_index(client), open_index(client)
    segments = make_asset("a", make_tracks(4, seed=2))
    writer.write_asset(segments[:3], is_last=False)
    other.delete_asset(make_id("a"))
    with pytest.raises(IndexFailure, match=r"2 segments of asset .* are gone: write it from the start"):
        writer.write_asset(segments[3:], is_last=True)
    assert other.get_asset(make_id("a")) is None


def test_many_unfinished_segments_do_not_crowd_out_finished_ones(client: QdrantClient) -> None:
    index = open_index(client)
    query, far = make_tracks(2, seed=3)
    index.write_asset(make_asset("far", far[None]), is_last=True)
    index.write_asset(make_asset("near", np.stack([query] * 30)), is_last=False)
    assert [
        m.asset_id for m in index.search(VectorQuery(track=query, target="audio", limit=1, prefetch=10))
    ] == [make_id("far")]


def test_replicas_see_what_others_write(client: QdrantClient) -> None:
    one, two = open_index(client), open_index(client)
    tracks = make_tracks(3, seed=4)
    one.write_asset(make_asset("a", tracks), is_last=True)
    assert two.set_metadata(make_id("a"), {"take": 3})
    assert [m.metadata for m in one.search(VectorQuery(track=tracks[0], target="audio", limit=9))] == [
        {"take": 3}
    ] * 3
    assert two.delete_asset(make_id("a")) == 3
    assert one.count_segments() == 0


def test_tracks_are_the_float16_of_what_was_written(client: QdrantClient) -> None:
    index = open_index(client)
    tracks = make_tracks(2, seed=5)
    index.write_asset(make_asset("a", tracks), is_last=True)
    for number, segment in enumerate(index.read_segments(make_id("a"), limit=9)):
        assert segment.audio_track is not None
        np.testing.assert_array_equal(
            segment.audio_track, tracks[number].astype(np.float16).astype(np.float32)
        )


def test_a_collection_is_laid_out_for_a_server() -> None:
    """Read from the request: local mode ignores all of it."""
    params = vector_params(layout=VectorLayout.of_both(16, 768))
    assert sorted(params) == ["audio", "audio_track", "video", "video_track"]
    for name, vector in params.items():
        assert vector.distance == models.Distance.DOT
        assert vector.hnsw_config is not None
        if name.endswith("_track"):
            assert (vector.size, vector.datatype, vector.on_disk) == (12_288, models.Datatype.FLOAT16, True)
            assert (vector.hnsw_config.m, vector.quantization_config) == (0, None)
        else:
            assert (vector.size, vector.hnsw_config.m) == (768, 16)
            assert vector.quantization_config.scalar.type == models.ScalarType.INT8  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("replicas", "given", "expected"),
    [(1, None, 1), (2, None, 1), (3, None, 2), (4, None, 2), (5, None, 3), (3, 1, 1), (2, 2, 2)],
)
def test_half_of_the_replicas_have_a_write(replicas: int, given: int | None, expected: int) -> None:
    config = ServerConfig(url="http://q", num_replicas=replicas, num_write_acknowledgements=given)
    assert config.write_consistency == expected


def test_shards_and_replicas_are_asked_for(client: QdrantClient) -> None:
    asked: dict[str, Any] = {}

    class Client:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def create_collection(self, name: str, **options: Any) -> bool:
            asked.update(options)
            return client.create_collection(name, **options)

    config = ServerConfig(url="http://q", num_shards=6, num_replicas=3)
    ServerIndex.open(config, name=NAME, layout=VectorLayout.of_both(16, WIDTH), client=Client()).close()  # type: ignore[arg-type]
    assert (asked["shard_number"], asked["replication_factor"], asked["write_consistency_factor"]) == (
        6,
        3,
        2,
    )


def test_a_collection_that_another_replica_makes_at_the_same_moment_is_used(client: QdrantClient) -> None:
    open_index(client)

    class Late:
        """Sees no collection, and is told so when it makes one."""

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def collection_exists(self, _name: str) -> bool:
            return False

        def create_collection(self, *_: Any, **__: Any) -> bool:
            raise UnexpectedResponse(
                409, "Conflict", b'{"status": {"error": "Wrong input: already exists!"}}', Headers()
            )

    assert open_index(Late()).count_segments() == 0  # type: ignore[arg-type]
    with pytest.raises(IndexFailure, match=r"holds vectors .* asked for"):
        open_index(Late(), width=WIDTH + 1)  # type: ignore[arg-type]


def test_an_alias_names_one_collection_and_is_replaced_by_one_action(client: QdrantClient) -> None:
    """A server saves each action of a request by itself: killed between two, it would have no alias."""
    actions: list[Any] = []

    class Client:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def update_collection_aliases(self, change_aliases_operations: list[Any]) -> bool:
            actions.append(change_aliases_operations)
            return client.update_collection_aliases(change_aliases_operations)

    first, second = collection_name("foley", "starter-1"), collection_name("foley", "mine-2")
    for name in (first, second):
        open_index(client, name)
    link = Link(CONFIG, Client())  # type: ignore[arg-type]
    assert active_collection(link, "foley") is None
    for name in (first, second, second):
        activate(link, "foley", name)
        assert active_collection(link, "foley") == name
        (action,) = actions.pop()
        assert action.create_alias == models.CreateAlias(alias_name="foley", collection_name=name)
    with pytest.raises(Exception, match="not found"):
        activate(link, "foley", "foley-gone")
    assert active_collection(link, "foley") == second, "what fails changes nothing"
    assert first == "foley-starter-1"
    assert client.count("foley").count == 0


def test_a_prefix_is_checked() -> None:
    for bad in ("", "a/b", "-x", "x" * 65, "ä"):
        with pytest.raises(ValueError, match="a prefix is 1 to 64 letters"):
            collection_name(bad, "b")
