"""The layout of a collection on a Qdrant server, and the alias that names the active collection.

    {prefix}-{release_id}    a collection for each release: vectors of two models never meet
    {prefix}                 an alias for the library: the collection of its active release

The server changes the alias in one atomic step (`activate`), so all replicas of the service see either the old
collection or the new one, and so does a server that was killed meanwhile.
"""

from __future__ import annotations

import logging
import re

from qdrant_client import models

from service.index.failure import IndexFailure
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.payload import NUMBERS, SERVER_WORDS
from service.index.qdrant.link import Link, ServerConfig, status_of
from service.index.qdrant.points import UNFINISHED
from service.index.qdrant.wording import TEXT_INDEX
from service.index.words import WORDS_KEY

logger = logging.getLogger(__name__)

ALREADY_EXISTS = 409
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def collection_name(prefix: str, release_id: str) -> str:
    """The name of a release's collection. Raises ValueError if a server would not take the prefix."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"a prefix is 1 to 64 letters, digits, '_', '.', '-', the first a letter or digit: {prefix!r}"
        )
    return f"{prefix}-{release_id}"


def open_collection(link: Link, config: ServerConfig, name: str, *, layout: VectorLayout) -> None:
    """Create a collection or take the existing one, of any replica; `IndexFailure` if its vectors differ."""
    if not link.run(lambda client: client.collection_exists(name)):
        _create(link, config, name, layout=layout)
    sizes = _vector_sizes(link, name)
    if sizes != layout.sizes:
        raise IndexFailure(f"collection {name} on {link.url} holds vectors {sizes}, asked for {layout.sizes}")
    _create_payload_indexes(link, name)


def _create(link: Link, config: ServerConfig, name: str, *, layout: VectorLayout) -> None:
    try:
        link.run(
            lambda client: client.create_collection(
                name,
                vectors_config=vector_params(layout),
                shard_number=config.num_shards,
                replication_factor=config.num_replicas,
                write_consistency_factor=config.write_consistency,
                on_disk_payload=True,
            )
        )
    except IndexFailure as exc:
        cause = exc.__cause__
        if status_of(cause) != ALREADY_EXISTS and "already exists" not in str(cause):
            raise
        logger.info("collection %s was created by another replica meanwhile", name)


def vector_params(layout: VectorLayout) -> dict[str, models.VectorParams]:
    """The vectors of a point.

    Pooled vectors get HNSW graphs over int8 copies in memory; the candidates are compared again in float32. Tracks
    are float16 on disk without a graph (m=0): they are read by id only.
    """
    int8 = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    )
    params: dict[str, models.VectorParams] = {}
    for modality, (num_moments, width) in layout.tracks.items():
        params[modality] = models.VectorParams(
            size=width,
            distance=models.Distance.DOT,
            on_disk=True,
            hnsw_config=models.HnswConfigDiff(m=16, ef_construct=128),
            quantization_config=int8,
        )
        params[modality + TRACK_SUFFIX] = models.VectorParams(
            size=num_moments * width,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,
            on_disk=True,
            hnsw_config=models.HnswConfigDiff(m=0),
        )
    return params


def _vector_sizes(link: Link, name: str) -> dict[str, int]:
    vectors = link.run(lambda client: client.get_collection(name)).config.params.vectors
    if not isinstance(vectors, dict):
        return {}
    return {key: params.size for key, params in vectors.items()}


def _create_payload_indexes(link: Link, name: str) -> None:
    """Index the payload for filters, outside the graphs: inside, it would double the time to build them."""
    word = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, enable_hnsw=False)
    number = models.FloatIndexParams(type=models.FloatIndexType.FLOAT, enable_hnsw=False)
    position = models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=True, range=True, enable_hnsw=False
    )
    truth = models.BoolIndexParams(type=models.BoolIndexType.BOOL, enable_hnsw=False)
    wanted: dict[str, models.PayloadSchemaParams] = dict.fromkeys(SERVER_WORDS, word)
    wanted |= dict.fromkeys(NUMBERS, number)
    wanted |= {"index": position, UNFINISHED: truth, WORDS_KEY: TEXT_INDEX}
    present = link.run(lambda client: client.get_collection(name)).payload_schema
    for key, schema in wanted.items():
        if key not in present:
            link.run(lambda client, key=key, schema=schema: client.create_payload_index(name, key, schema))  # type: ignore[misc]


def active_collection(link: Link, prefix: str) -> str | None:
    """The collection that the library's alias names, or None if there is no alias yet."""
    aliases = link.run(lambda client: client.get_aliases()).aliases
    return next((alias.collection_name for alias in aliases if alias.alias_name == prefix), None)


def activate(link: Link, prefix: str, name: str) -> None:
    """Point the library's alias to an existing collection, atomically for all replicas.

    Creating an alias that exists replaces it, saved in one step. Deleting and creating it in one request are saved one
    after the other: a server killed in between has no alias.
    """
    alias = models.CreateAlias(alias_name=prefix, collection_name=name)
    create = models.CreateAliasOperation(create_alias=alias)
    link.run(lambda client: client.update_collection_aliases(change_aliases_operations=[create]))
