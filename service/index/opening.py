"""Which index a service uses: a folder of its own, or a Qdrant server that many replicas share.

    with open_index(settings, bundle, release_id=release_id) as index: ...

Without `FOLEY_QDRANT_URL` the index lies in the data folder, and one process at a time has it open. With it, any number
of replicas read and write one collection. Each release has an index of its own, so vectors of two models never meet.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.bundle.bundle import Bundle
from service.index.contract import Index
from service.index.embedded.index import EmbeddedIndex
from service.index.qdrant.collection import activate, active_collection, collection_name
from service.index.qdrant.index import ServerIndex
from service.index.qdrant.link import Link, ServerConfig, open_client
from service.system.settings import Settings

logger = logging.getLogger(__name__)


def open_index(settings: Settings, bundle: Bundle, *, release_id: str) -> Index:
    """Open the index of a release of a bundle, or create it; the caller closes it."""
    width, num_moments = bundle.manifest.embedding_width, bundle.manifest.clip_spec.num_moments
    if settings.qdrant_url is None:
        return EmbeddedIndex.open(
            index_folder(settings, release_id),
            width=width,
            num_moments=num_moments,
            min_free_bytes=settings.min_free_bytes,
            optimize_share=settings.optimize_share if settings.optimize_share < 1 else None,
        )
    config = server_config(settings, url=settings.qdrant_url)
    name = collection_name(settings.qdrant_prefix, release_id)
    index = ServerIndex.open(config, name=name, width=width, num_moments=num_moments)
    try:
        _name_first(index, settings.qdrant_prefix)
    except BaseException:
        index.close()
        raise
    return index


def find_index(settings: Settings, bundle: Bundle, *, release_id: str) -> Index | None:
    """Open the index of a release if it exists, else return None; nothing is created."""
    if settings.qdrant_url is None:
        exists = (index_folder(settings, release_id) / "index.json").exists()
    else:
        name = collection_name(settings.qdrant_prefix, release_id)
        with _connect(settings, settings.qdrant_url) as link:
            exists = link.run(lambda client: client.collection_exists(name))
    return open_index(settings, bundle, release_id=release_id) if exists else None


def index_folder(settings: Settings, release_id: str) -> Path:
    """The folder of the embedded index of a release."""
    return settings.data / "index" / release_id


def index_place(settings: Settings, release_id: str) -> str:
    """Where the index of a release is, for people: a folder or a collection on a server."""
    if settings.qdrant_url is None:
        return str(index_folder(settings, release_id))
    return f"{settings.qdrant_url} {collection_name(settings.qdrant_prefix, release_id)}"


def active_index(settings: Settings, index: Index | None = None) -> str | None:
    """The release whose index the library's alias names on a Qdrant server; None without a server or an alias.

    An open index of the library may be given, to use its connection.
    """
    if settings.qdrant_url is None:
        return None
    if isinstance(index, ServerIndex):
        name = active_collection(index.link, settings.qdrant_prefix)
    else:
        with _connect(settings, settings.qdrant_url) as link:
            name = active_collection(link, settings.qdrant_prefix)
    return None if name is None else name.removeprefix(f"{settings.qdrant_prefix}-")


def activate_index(settings: Settings, release_id: str) -> None:
    """Point the library's alias on a Qdrant server to the index of a release; an embedded index has no alias."""
    if settings.qdrant_url is not None:
        with _connect(settings, settings.qdrant_url) as link:
            activate(link, settings.qdrant_prefix, collection_name(settings.qdrant_prefix, release_id))


def drop_index(settings: Settings, release_id: str) -> None:
    """Remove the index of a release, if there is one."""
    if settings.qdrant_url is None:
        shutil.rmtree(index_folder(settings, release_id), ignore_errors=True)
        return
    name = collection_name(settings.qdrant_prefix, release_id)
    with _connect(settings, settings.qdrant_url) as link:
        link.run(lambda client: client.delete_collection(name))


@contextmanager
def _connect(settings: Settings, url: str) -> Iterator[Link]:
    config = server_config(settings, url=url)
    link = Link(config, open_client(config))
    try:
        yield link
    finally:
        link.close()


def server_config(settings: Settings, *, url: str) -> ServerConfig:
    """What the settings say about the Qdrant server at a URL."""
    key = settings.qdrant_api_key
    return ServerConfig(
        url=url,
        api_key=None if key is None else key.get_secret_value(),
        timeout_seconds=settings.qdrant_timeout_seconds,
        prefers_grpc=settings.qdrant_prefer_grpc,
        grpc_port=settings.qdrant_grpc_port,
        num_shards=settings.qdrant_shards,
        num_replicas=settings.qdrant_replicas,
        num_write_acknowledgements=settings.qdrant_write_acknowledgements,
    )


def _name_first(index: ServerIndex, prefix: str) -> None:
    """Point the library's alias to its first collection; later ones are named when a release is activated."""
    active = active_collection(index.link, prefix)
    if active is None:
        activate(index.link, prefix, index.collection)
    elif active != index.collection:
        logger.info(  # a release that is being built or prepared
            "the library's alias %s names %s; this bundle uses %s", prefix, active, index.collection
        )
