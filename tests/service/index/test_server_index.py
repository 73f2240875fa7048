"""The index on a Qdrant server: the contract on qdrant-client's local mode and, where one is given, on a real server.

FOLEY_TEST_QDRANT_URL=http://127.0.0.1:6333 [FOLEY_TEST_QDRANT_API_KEY=...] pytest tests/service/index -k server
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from index_contract import NUM_MOMENTS, WIDTH, IndexContract
from qdrant_client import QdrantClient
from qdrant_local import open_local

from service.index.contract import Index
from service.index.server import ServerIndex
from service.index.server_link import ServerConfig

URL = os.environ.get("FOLEY_TEST_QDRANT_URL")
CONFIG = ServerConfig(
    url=URL or "http://local.invalid:6333", api_key=os.environ.get("FOLEY_TEST_QDRANT_API_KEY")
)
NAME = "foley-tests-000000000000"


def open_index(client: QdrantClient, name: str = NAME, *, width: int = WIDTH) -> ServerIndex:
    return ServerIndex.open(CONFIG, name=name, width=width, num_moments=NUM_MOMENTS, client=client)


@pytest.fixture
def client() -> QdrantClient:
    return open_local()


class TestServerIndexInLocalMode(IndexContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls) -> Iterator[Index]:
        with open_index(open_local()) as index:
            yield index


@pytest.mark.skipif(URL is None, reason="FOLEY_TEST_QDRANT_URL names no server")
class TestServerIndexOnAServer(IndexContract):
    @pytest.fixture(scope="class", params=[True, False], ids=["grpc", "http"])
    @classmethod
    def opened(cls, request: pytest.FixtureRequest) -> Iterator[Index]:
        config = ServerConfig(url=CONFIG.url, api_key=CONFIG.api_key, prefers_grpc=request.param)
        name = f"foley-tests-{uuid.uuid4().hex[:12]}"
        with ServerIndex.open(config, name=name, width=WIDTH, num_moments=NUM_MOMENTS) as index:
            yield index
            index.link.run(lambda client: client.delete_collection(name))
