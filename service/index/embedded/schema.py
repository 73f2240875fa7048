"""How a shard of Qdrant Edge is laid out: vectors, graphs, payload indexes, thresholds."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from service.index.embedded.folder import Folder
from service.index.embedded.forms import fitting, read_storage, write_storage
from service.index.embedded.messages import ShardConfig
from service.index.failure import REPAIR, IndexDamaged
from service.index.layout import TRACK_SUFFIX
from service.index.payload import (
    MAX_OPEN_INDEXES,
    NUMBERS,
    OPEN_KEYS,
    WORDS,
    describe_files,
    describe_metadata,
    load_path,
)
from service.index.words import WORDS_KEY
from service.system.storage import Storage

MAX_INDEXED_LATER = 250_000  # points: 100,000 take 2 to 3 core-s a key
MIGRATED_AT_ONCE = 1000  # assets read at a time
POOLED_BYTES: Mapping[Storage, float] = {"float16": 4, "fine": 1, "compact": 0.5}  # of a number
POOLED_TYPES: Mapping[Storage, edge.VectorStorageDatatype] = {
    "fine": edge.VectorStorageDatatype.Turbo8,
    "compact": edge.VectorStorageDatatype.Turbo4,  # type: ignore[attr-defined]  # their stub lacks it
}
SEGMENT_POINTS = 100_000  # Edge merges no segments beyond this size: a merge rebuilds the whole graph


def load_or_create(folder: Folder, config: ShardConfig) -> edge.EdgeShard:
    """Load the shard; a new one is made aside and renamed, so that a crash never leaves half of one."""
    if not folder.shard.exists():
        folder.check_space()
        aside = folder.path / "shard.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        storage = fitting(config.storage, config.layout)
        create_shard(aside, config, storage)
        folder.adopt_shard(aside)
    try:
        return edge.EdgeShard.load(str(folder.shard), edge_config(config, read_storage(folder.shard)))
    except IndexDamaged:
        raise
    except Exception as exc:  # Edge raises nothing narrower
        raise IndexDamaged(f"the index in {folder.path} cannot be read: {exc}; {REPAIR}") from exc


def create_shard(path: Path, config: ShardConfig, storage: Storage) -> None:
    """Create an empty shard in a folder, flushed and closed."""
    shard = edge.EdgeShard.create(str(path), edge_config(config, storage))
    write_storage(path, storage)
    create_field_indexes(shard)
    shard.flush()
    shard.close()


def edge_config(config: ShardConfig, storage: Storage) -> edge.EdgeConfig:
    """The layout of a shard. A shard with an older layout of the same vectors adopts it when it is optimized.

    Pooled vectors get HNSW graphs over int8 copies, and candidates are compared again in float32: that
    takes half the time and a fifth of the build, for the same neighbours (`docs/search.md`). Tracks are float16 on
    disk without a graph (m=0): they are only read by id. The payload indexes stay out of the graphs (payload_m=0):
    those would double the build. Where tracks are rows of our own file, Edge has pooled vectors alone, of 8 or 4 bits.
    """
    # Mapped, not read: to read a second copy into memory takes 3 s of opening 100,000 segments, without any gain.
    int8 = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Cold)
    vectors: dict[str, edge.EdgeVectorParams] = {}
    largest_kb = 0.0
    for modality, (num_moments, width) in config.layout.tracks.items():
        pooled_kb = POOLED_BYTES[storage] * width / 1024
        full_scan_kb = int(config.exact_below * pooled_kb)
        graph = edge.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=full_scan_kb, payload_m=0)
        largest_kb = max(largest_kb, pooled_kb)
        if storage != "float16":
            vectors[modality] = edge.EdgeVectorParams(
                size=width,
                distance=edge.Distance.Dot,
                datatype=POOLED_TYPES[storage],
                memory=edge.Memory.Cold,
                hnsw_config=graph,
            )
            continue
        no_graph = edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=full_scan_kb)
        largest_kb = max(largest_kb, 2 * num_moments * width / 1024)
        vectors[modality] = edge.EdgeVectorParams(
            size=width, distance=edge.Distance.Dot, hnsw_config=graph, quantization_config=int8
        )
        vectors[modality + TRACK_SUFFIX] = edge.EdgeVectorParams(
            size=num_moments * width,
            distance=edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Float16,
            memory=edge.Memory.Cold,
            hnsw_config=no_graph,
        )
    optimizers = edge.EdgeOptimizersConfig(
        default_segment_number=1,
        # Edge compares both with the largest vector storage of a segment, mostly that of a track
        max_segment_size=math.ceil(SEGMENT_POINTS * largest_kb),
        indexing_threshold=math.ceil(config.exact_below * largest_kb),
    )
    return edge.EdgeConfig(vectors=vectors, optimizers=optimizers)


def create_field_indexes(shard: edge.EdgeShard) -> None:
    """Create the payload indexes for lookups and filters; existing ones stay.

    Every index adds 10 fsyncs to a flush. But a filter on a key without one reads the payload of every point on its
    way: 70 to 270 ms among 40,000 points, while an index takes 1 ms. Once a segment is optimized, they are mapped.
    """
    cold = edge.Memory.Cold
    word = edge.KeywordIndexParams(enable_hnsw=False, memory=cold)
    number = edge.FloatIndexParams(enable_hnsw=False, memory=cold)
    position = edge.IntegerIndexParams(lookup=True, range=False, enable_hnsw=False, memory=cold)
    for key in WORDS:
        shard.update(edge.UpdateOperation.create_field_index(key, word))
    for key in NUMBERS:
        shard.update(edge.UpdateOperation.create_field_index(key, number))
    shard.update(edge.UpdateOperation.create_field_index("index", position))
    begun = edge.KeywordIndexParams(prefix=True, memory=cold, enable_hnsw=False)
    shard.update(edge.UpdateOperation.create_field_index(WORDS_KEY, begun))


def index_number(shard: edge.EdgeShard, key: str) -> None:
    """Give a key of metadata an index of its numbers, unless it has one or there are `MAX_OPEN_INDEXES`.

    Bounds that few files fit read the payload of every point without one. Making it reads them, too, and others wait:
    where there are more than `MAX_INDEXED_LATER`, it would take longer than a call may.
    """
    if shard.info().points_count > MAX_INDEXED_LATER:
        return
    known = {key.replace('"', "") for key in shard.info().payload_schema if key.startswith(OPEN_KEYS)}
    if key.replace('"', "") not in known and len(known) < MAX_OPEN_INDEXES:
        shard.update(edge.UpdateOperation.create_field_index(key, edge.FloatIndexParams(enable_hnsw=False)))


def migrate_shard(shard: edge.EdgeShard) -> None:
    """Bring the payload of an open shard from version 1 to version 2, in place, and flush it.

    A path becomes a list of paths, with the folders above it; each segment gets the modalities of its asset. Vectors
    stay as they are. A run that was cut off is continued by the next.
    """
    create_field_indexes(shard)
    offset: edge.PointId | None = None
    heads = edge.Filter(must=[edge.FieldCondition("index", match=edge.MatchValue(0))])
    while True:
        request = edge.ScrollRequest(
            offset=offset, limit=MIGRATED_AT_ONCE, filter=heads, with_payload=True, with_vector=False
        )
        records, offset = shard.scroll(request)
        for head in (record.payload or {} for record in records):
            if "path" in head:
                _migrate_asset(shard, head)
        if offset is None:
            break
    shard.update(edge.UpdateOperation.delete_field_index("path"))
    shard.flush()


def _migrate_asset(shard: edge.EdgeShard, head: Mapping[str, Any]) -> None:
    facts = {
        **describe_files([load_path(head["path"])], head["media"]),
        **describe_metadata({}),
        "written_at_seconds": head["written_at_seconds"],
        "modalities": head["modalities"],
    }
    match = edge.MatchValue(head["asset_id"])
    asset = edge.Filter(must=[edge.FieldCondition("asset_id", match=match)])
    shard.update(edge.UpdateOperation.set_payload_by_filter(asset, facts))
    # One entry of the log takes the old path from the head and the others: until then all of this is done again.
    shard.update(edge.UpdateOperation.delete_payload_by_filter(asset, ["path"]))
