"""Which index the settings name, and what is asked of a server for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from models.bundle.bundle import Bundle, load_bundle, starter_path
from service.index.embedded.index import EmbeddedIndex
from service.index.layout import VectorLayout
from service.index.opening import index_place
from service.index.qdrant import index as server
from service.index.qdrant import place
from service.index.qdrant.collection import activate
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import Link, ServerConfig
from service.index.qdrant.place import ServerPlace
from service.system.settings import Settings
from tests.support.qdrant_local import open_local

URL = "http://qdrant.invalid:6333"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(starter_path())


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantClient]:
    client = open_local()

    class Shared:
        def __getattr__(self, name: str) -> Any:
            return (lambda: None) if name == "close" else getattr(client, name)

    for module in (place, server):
        monkeypatch.setattr(module, "open_client", lambda _: Shared())
    yield client
    client.close()


def test_without_a_url_the_index_is_a_folder(tmp_path: Path, bundle: Bundle) -> None:
    settings = Settings(data=tmp_path, min_free_bytes=0)
    assert index_place(settings).find(bundle, release_id=bundle.bundle_id) is None
    assert list(tmp_path.iterdir()) == [], "asking makes nothing"
    index = index_place(settings).open(bundle, release_id=bundle.bundle_id)
    assert isinstance(index, EmbeddedIndex)
    index.close()
    assert index_place(settings).describe(bundle.bundle_id) == str(tmp_path / "index" / bundle.bundle_id)
    again = index_place(settings).find(bundle, release_id=bundle.bundle_id)
    assert again is not None
    again.close()


def test_with_a_url_it_is_a_collection(
    client: QdrantClient, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(qdrant_url=URL, qdrant_prefix="films")
    name = f"films-{bundle.bundle_id}"
    assert index_place(settings).describe(bundle.bundle_id) == f"{URL} {name}"
    assert index_place(settings).find(bundle, release_id=bundle.bundle_id) is None
    assert client.get_collections().collections == []
    index = index_place(settings).open(bundle, release_id=bundle.bundle_id)
    assert isinstance(index, ServerIndex)
    assert index.collection == name
    assert [(a.alias_name, a.collection_name) for a in client.get_aliases().aliases] == [("films", name)]
    assert index_place(settings).find(bundle, release_id=bundle.bundle_id) is not None
    assert caplog.text == ""


def test_an_alias_of_another_release_is_left_alone(
    client: QdrantClient, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(qdrant_url=URL)
    index_place(settings).open(bundle, release_id=bundle.bundle_id)
    config = ServerConfig(url=URL)
    ServerIndex.open(config, name="foley-other-1", layout=VectorLayout.of_both(16, 8), client=client)
    activate(Link(config, client), "foley", "foley-other-1")
    with caplog.at_level(logging.INFO):
        index_place(settings).open(bundle, release_id=bundle.bundle_id)
    assert client.get_aliases().aliases[0].collection_name == "foley-other-1"
    assert "alias foley names foley-other-1" in caplog.text


def test_what_the_settings_say_reaches_the_server() -> None:
    settings = Settings(
        qdrant_url="https://q",
        qdrant_api_key="k",  # type: ignore[arg-type]
        qdrant_timeout_seconds=3.0,
        qdrant_prefer_grpc=False,
        qdrant_grpc_port=7,
        qdrant_shards=4,
        qdrant_replicas=3,
        qdrant_write_acknowledgements=1,
    )
    assert ServerPlace(settings, "https://q").config == ServerConfig(
        url="https://q",
        api_key="k",
        timeout_seconds=3.0,
        prefers_grpc=False,
        grpc_port=7,
        num_shards=4,
        num_replicas=3,
        num_write_acknowledgements=1,
    )
