"""How a shard of Qdrant Edge is laid out: vectors, graphs, payload indexes, thresholds."""

from __future__ import annotations

from pathlib import Path

import qdrant_edge as edge

from service.index.messages import ShardConfig
from service.index.points import MODALITIES, TRACK_SUFFIX

SEGMENT_POINTS = 100_000  # the engine's own segments are not merged beyond: a merge rebuilds the whole graph
WORDS = ("asset_id", "path")  # every payload index adds 10 fsyncs to the 29 of a flush


def create_shard(path: Path, config: ShardConfig) -> None:
    """Create an empty shard, flushed and closed.

    Pooled vectors get HNSW graphs. Tracks are float16 on disk without a graph (m=0): they are only read by
    id. The payload indexes stay out of the graphs (payload_m=0): those would double the build for filters we
    do not search by.

    Args:
        path: A folder without a shard.
        config: Width, moments and thresholds.
    """
    full_scan_kb = config.exact_below * config.width * 4 // 1024
    track_kb = 2 * config.num_moments * config.width / 1024
    graph = edge.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=full_scan_kb, payload_m=0)
    no_graph = edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=full_scan_kb)
    vectors: dict[str, edge.EdgeVectorParams] = {}
    for modality in MODALITIES:
        vectors[modality] = edge.EdgeVectorParams(
            size=config.width, distance=edge.Distance.Dot, hnsw_config=graph
        )
        vectors[modality + TRACK_SUFFIX] = edge.EdgeVectorParams(
            size=config.num_moments * config.width,
            distance=edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Float16,
            memory=edge.Memory.Cold,
            hnsw_config=no_graph,
        )
    optimizers = edge.EdgeOptimizersConfig(
        default_segment_number=1,
        # the engine compares both with the largest vector storage of a segment, which is that of a track
        max_segment_size=int(SEGMENT_POINTS * track_kb),
        indexing_threshold=int(config.exact_below * track_kb),
    )
    shard = edge.EdgeShard.create(str(path), edge.EdgeConfig(vectors=vectors, optimizers=optimizers))
    word = edge.KeywordIndexParams(enable_hnsw=False)
    number = edge.IntegerIndexParams(lookup=True, range=False, enable_hnsw=False)
    for key in WORDS:
        shard.update(edge.UpdateOperation.create_field_index(key, word))
    shard.update(edge.UpdateOperation.create_field_index("index", number))
    shard.flush()
    shard.close()
