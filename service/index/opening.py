"""Which index a service uses: a folder of its own, or a Qdrant server that many replicas share.

    with open_index(settings, bundle, release_id=release_id) as index: ...

Without `FOLEY_QDRANT_URL` the index lies in the data folder, and one process at a time has it open. With it, any
number of replicas read and write one collection. Each bundle has an index of its own, so vectors of two models never
meet.
"""

from __future__ import annotations

import logging
import shutil
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
    """Open the index of a release, or create it.

    Args:
        settings: Where it is.
        bundle: Whose vectors it holds.
        release_id: Names the generation of the index; the first of a bundle has the bundle's name.

    Returns:
        The open index, which wants to be closed.
    """  # noqa: DOC501, DOC503 - whatever is raised on the way goes on
    if settings.qdrant_url is None:
        return _open_folder(settings, bundle, release_id)
    config = server_config(settings, url=settings.qdrant_url)
    index = ServerIndex.open(
        config,
        name=collection_name(settings.qdrant_prefix, release_id),
        width=bundle.manifest.embedding_width,
        num_moments=bundle.manifest.clip_spec.num_moments,
    )
    try:
        _name_first(index, settings.qdrant_prefix)
    except BaseException:
        index.close()
        raise
    return index


def find_index(settings: Settings, bundle: Bundle, *, release_id: str) -> Index | None:
    """Open the index of a release where there is one: nothing is created.

    Args:
        settings: Where it is.
        bundle: Whose vectors it holds.
        release_id: Names the generation of the index.

    Returns:
        The open index, which wants to be closed, or None.
    """
    if settings.qdrant_url is None:
        exists = (index_folder(settings, release_id) / "index.json").exists()
    else:
        config = server_config(settings, url=settings.qdrant_url)
        exists = _has_collection(config, settings, release_id)
    return open_index(settings, bundle, release_id=release_id) if exists else None


def index_folder(settings: Settings, release_id: str) -> Path:
    """Where the embedded index of a release lives."""
    return settings.data / "index" / release_id


def index_place(settings: Settings, release_id: str) -> str:
    """Where the index of a release is, for people: a folder or a collection on a server."""
    if settings.qdrant_url is None:
        return str(index_folder(settings, release_id))
    return f"{settings.qdrant_url} {collection_name(settings.qdrant_prefix, release_id)}"


def active_index(settings: Settings, index: Index | None = None) -> str | None:
    """The release whose index the library's alias names on a Qdrant server.

    Args:
        settings: Where the server is.
        index: An open index of the library, whose connection is used; default: one for this look alone.

    Returns:
        The release, None where there is no server or no alias yet.
    """
    if settings.qdrant_url is None:
        return None
    if isinstance(index, ServerIndex):
        name = active_collection(index.link, settings.qdrant_prefix)
    else:
        config = server_config(settings, url=settings.qdrant_url)
        link = Link(config, open_client(config))
        try:
            name = active_collection(link, settings.qdrant_prefix)
        finally:
            link.close()
    return None if name is None else name.removeprefix(f"{settings.qdrant_prefix}-")


def activate_index(settings: Settings, release_id: str) -> None:
    """Let the alias of a Qdrant server name the index of a release; an embedded index has none.

    Args:
        settings: Where the server is.
        release_id: The release.
    """
    if settings.qdrant_url is not None:
        config = server_config(settings, url=settings.qdrant_url)
        link = Link(config, open_client(config))
        try:
            activate(link, settings.qdrant_prefix, collection_name(settings.qdrant_prefix, release_id))
        finally:
            link.close()


def drop_index(settings: Settings, release_id: str) -> None:
    """Remove the index of a release, if there is one.

    Args:
        settings: Where it is.
        release_id: The release.
    """
    if settings.qdrant_url is None:
        shutil.rmtree(index_folder(settings, release_id), ignore_errors=True)
        return
    config = server_config(settings, url=settings.qdrant_url)
    link = Link(config, open_client(config))
    try:
        name = collection_name(settings.qdrant_prefix, release_id)
        link.run(lambda client: client.delete_collection(name))
    finally:
        link.close()


def server_config(settings: Settings, *, url: str) -> ServerConfig:
    """What the settings say about a Qdrant server.

    Args:
        settings: Key, replicas and the rest.
        url: Where it is.

    Returns:
        The configuration.
    """
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


def _open_folder(settings: Settings, bundle: Bundle, release_id: str) -> EmbeddedIndex:
    return EmbeddedIndex.open(
        index_folder(settings, release_id),
        width=bundle.manifest.embedding_width,
        num_moments=bundle.manifest.clip_spec.num_moments,
        min_free_bytes=settings.min_free_bytes,
        optimize_share=settings.optimize_share if settings.optimize_share < 1 else None,
    )


def _name_first(index: ServerIndex, prefix: str) -> None:
    """Let the library's alias name its first collection; which one it names later is for a release to say."""
    active = active_collection(index.link, prefix)
    if active is None:
        activate(index.link, prefix, index.collection)
    elif active != index.collection:
        logger.info(  # a release that is being built or made ready
            "the library's alias %s names %s; this bundle uses %s", prefix, active, index.collection
        )


def _has_collection(config: ServerConfig, settings: Settings, release_id: str) -> bool:
    link = Link(config, open_client(config))
    try:
        name = collection_name(settings.qdrant_prefix, release_id)
        return link.run(lambda client: client.collection_exists(name))
    finally:
        link.close()
