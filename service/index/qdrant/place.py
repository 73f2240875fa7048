"""Where the indexes of a library live on a Qdrant server that many replicas share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from models.bundle.bundle import Bundle
from service.index.contract import Index
from service.index.layout import VectorLayout
from service.index.qdrant.collection import activate, active_collection, collection_name
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import Link, ServerConfig, open_client
from service.system.settings import Settings

logger = logging.getLogger(__name__)


class ServerPlace:
    """A Qdrant server: a collection for each release, and an alias for the active one."""

    engine: ClassVar[str] = "Qdrant"
    package: ClassVar[str] = "qdrant-client"
    is_shared: ClassVar[bool] = True

    def __init__(self, settings: Settings, url: str) -> None:
        key = settings.qdrant_api_key
        self._prefix = settings.qdrant_prefix
        self.config = ServerConfig(
            url=url,
            api_key=None if key is None else key.get_secret_value(),
            ca_file=settings.qdrant_ca_file,
            timeout_seconds=settings.qdrant_timeout_seconds,
            prefers_grpc=settings.qdrant_prefer_grpc,
            grpc_port=settings.qdrant_grpc_port,
            num_shards=settings.qdrant_shards,
            num_replicas=settings.qdrant_replicas,
            num_write_acknowledgements=settings.qdrant_write_acknowledgements,
        )

    def open(self, bundle: Bundle, *, release_id: str) -> ServerIndex:
        """Open the collection of a release, or create it; the first of a library becomes its active one."""
        index = ServerIndex.open(
            self.config,
            name=self._collection(release_id),
            layout=VectorLayout.of(bundle.manifest),
        )
        try:
            self._name_first(index)
        except BaseException:
            index.close()
            raise
        return index

    def find(self, bundle: Bundle, *, release_id: str) -> ServerIndex | None:
        """Open the collection of a release if there is one."""
        name = self._collection(release_id)
        with self._link() as link:
            exists = link.run(lambda client: client.collection_exists(name))
        return self.open(bundle, release_id=release_id) if exists else None

    def describe(self, release_id: str) -> str:
        """Server and collection."""
        return f"{self.config.url} {self._collection(release_id)}"

    def active(self, index: Index | None = None) -> str | None:
        """The release whose collection the alias names; None before there is an alias."""
        if isinstance(index, ServerIndex):
            name = active_collection(index.link, self._prefix)
        else:
            with self._link() as link:
                name = active_collection(link, self._prefix)
        return None if name is None else name.removeprefix(f"{self._prefix}-")

    def activate(self, release_id: str) -> None:
        """Move the alias to the collection of a release."""
        with self._link() as link:
            activate(link, self._prefix, self._collection(release_id))

    def drop(self, release_id: str) -> None:
        """Remove the collection of a release."""
        name = self._collection(release_id)
        with self._link() as link:
            link.run(lambda client: client.delete_collection(name))

    def repair(self, bundle: Bundle, *, release_id: str) -> None:
        """Do nothing: the server looks after its collections."""

    def disk_space(self) -> None:
        """None: the server has the disk."""

    def _collection(self, release_id: str) -> str:
        return collection_name(self._prefix, release_id)

    @contextmanager
    def _link(self) -> Iterator[Link]:
        """A connection for one call."""
        link = Link(self.config, open_client(self.config))
        try:
            yield link
        finally:
            link.close()

    def _name_first(self, index: ServerIndex) -> None:
        """Let the alias name the first collection of the library; later a switch of releases moves it."""
        active = active_collection(index.link, self._prefix)
        if active is None:
            activate(index.link, self._prefix, index.collection)
        elif active != index.collection:
            logger.info(  # a release that is being built or made ready
                "the library's alias %s names %s; this bundle uses %s", self._prefix, active, index.collection
            )
