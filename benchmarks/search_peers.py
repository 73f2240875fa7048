"""Speed of the pooled stage compared with other libraries, in turns, on one thread."""

from __future__ import annotations

import time
import warnings
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from benchmarks.search_corpus import ASSET_SEGMENTS, LIMIT, Corpus, asset_id
from service.index.points import point_id

M, EF_CONSTRUCTION = 16, 128
EFS = (16, 24, 32, 48, 64, 96, 128, 192)
OVERSAMPLING = 1.5
GOAL = 0.99
LOCAL_QUERIES = 20

Search = Callable[[Any], Any]


@dataclass(kw_only=True)
class Contender:
    """One library with one setting.

    Attributes:
        queries: The queries in the library's own form, made before the clock starts.
        search: Answers one query.
        numbers: Returns the numbers of the segments in an answer.
    """

    library: str
    setting: str
    queries: Sequence[Any]
    search: Search
    numbers: Callable[[Any], list[int]]
    seconds: list[list[float]] = field(default_factory=list)
    recall: float = 0.0

    def take_turn(self, expected: NDArray[np.int64]) -> None:
        """Answer all queries one by one, and record times and recall."""
        answers, seconds = [], []
        for query in self.queries:
            started = time.perf_counter()
            answer = self.search(query)
            seconds.append(time.perf_counter() - started)
            answers.append(answer)
        self.seconds.append(seconds)
        pairs = zip(map(self.numbers, answers), expected[: len(answers)].tolist(), strict=True)
        self.recall = float(np.mean([len(set(found) & set(best)) / LIMIT for found, best in pairs]))

    @property
    def rate(self) -> float:
        """Queries a second: the median of the turns without the first."""
        return float(np.median([len(turn) / sum(turn) for turn in self.seconds[1:]]))

    def describe(self) -> str:
        """Return the result as one line."""
        p50, p95 = np.percentile(np.concatenate(self.seconds[1:]), [50, 95]) * 1e3
        return (
            f"{self.library:12} {self.setting:8} recall@10 {self.recall:.4f}, p50 {p50:.3f} ms, p95 {p95:.3f} ms, "
            f"{self.rate:6.0f} queries/s"
        )


def time_pooled(shard: Path, corpus: Corpus, *, peers: Path, rounds: int) -> None:
    """Measure all libraries in turns and print the fastest setting of each that reaches the goal.

    Args:
        shard: The index's own shard; no process may have it open.
        corpus: The content of the shard.
        peers: Folder for the indexes of the other libraries.
        rounds: Turns of each library, after one to warm up.
    """
    peers.mkdir(exist_ok=True)
    expected = corpus.exact_pooled()
    opened = edge.EdgeShard.load(str(shard))
    contenders = [
        *_edge(opened, corpus),
        *_hnswlib(corpus, peers),
        *_faiss(corpus, peers),
        *_local_mode(corpus),
    ]
    for turn in range(rounds + 1):
        for contender in contenders if turn % 2 else reversed(contenders):
            contender.take_turn(expected)
    opened.close()
    rates = {}
    for library in dict.fromkeys(contender.library for contender in contenders):
        able = [c for c in contenders if c.library == library and c.recall >= GOAL]
        if not able:
            print(f"pooled, {library}: no setting reaches {GOAL}")
            continue
        best = max(able, key=lambda contender: contender.rate)
        rates[library] = best.rate
        print(f"pooled, {best.describe()}")
    for library in ("hnswlib", "faiss"):
        if {"Qdrant Edge", library} <= rates.keys():
            print(f"pooled, Qdrant Edge over {library}: {rates['Qdrant Edge'] / rates[library]:.2f}")


def _edge(shard: edge.EdgeShard, corpus: Corpus) -> list[Contender]:
    numbers = {point_id(asset_id(n), 10.0 * (n % ASSET_SEGMENTS)): n for n in range(corpus.num_segments)}
    queries = [array("f", query.tobytes()) for query in corpus.pooled_queries]
    quantization = edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)

    def contender(ef: int) -> Contender:
        params = edge.SearchParams(hnsw_ef=ef, quantization=quantization)

        def search(query: Any) -> Any:
            nearest = edge.Query.Nearest(query, using="audio")
            return shard.query(
                edge.QueryRequest(
                    limit=LIMIT, query=nearest, params=params, with_payload=False, with_vector=False
                )
            )

        return Contender(
            library="Qdrant Edge",
            setting=f"ef {ef}",
            queries=queries,
            search=search,
            numbers=lambda points: [numbers[str(point.id)] for point in points],
        )

    return [contender(ef) for ef in EFS]


def _hnswlib(corpus: Corpus, folder: Path) -> list[Contender]:
    try:
        import hnswlib  # noqa: PLC0415 - the extra `bench` is optional
    except ImportError:
        print("hnswlib is not installed: pip install -e '.[bench]'")
        return []
    count, width = corpus.pooled.shape
    path = folder / f"hnswlib-{count}-{width}-{corpus.own_noise}"
    if not path.exists():
        started = time.perf_counter()
        built = hnswlib.Index(space="ip", dim=width)
        built.init_index(max_elements=count, M=M, ef_construction=EF_CONSTRUCTION)
        built.add_items(corpus.pooled, num_threads=-1)
        built.save_index(str(path))
        print(f"hnswlib built in {time.perf_counter() - started:.0f} s")

    index = hnswlib.Index(space="ip", dim=width)
    index.load_index(str(path))

    def contender(ef: int) -> Contender:
        def search(query: Any) -> Any:
            index.set_ef(ef)
            return index.knn_query(query, k=LIMIT, num_threads=1)

        return Contender(
            library="hnswlib",
            setting=f"ef {ef}",
            queries=list(corpus.pooled_queries),
            search=search,
            numbers=lambda answer: answer[0][0].tolist(),
        )

    return [contender(ef) for ef in EFS]


def _faiss(corpus: Corpus, folder: Path) -> list[Contender]:
    try:
        import faiss  # noqa: PLC0415
    except ImportError:
        print("faiss is not installed: pip install -e '.[bench]'")
        return []
    count, width = corpus.pooled.shape
    path = folder / f"faiss-{count}-{width}-{corpus.own_noise}"
    if not path.exists():
        started = time.perf_counter()
        built = faiss.IndexHNSWFlat(width, M, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efConstruction = EF_CONSTRUCTION
        built.add(corpus.pooled)
        faiss.write_index(built, str(path))
        print(f"faiss built in {time.perf_counter() - started:.0f} s")
    index = faiss.read_index(str(path))
    faiss.omp_set_num_threads(1)

    def contender(ef: int) -> Contender:
        params = faiss.SearchParametersHNSW(efSearch=ef)
        return Contender(
            library="faiss",
            setting=f"ef {ef}",
            queries=list(corpus.pooled_queries[:, None]),
            search=lambda query: index.search(query, LIMIT, params=params),
            numbers=lambda answer: answer[1][0].tolist(),
        )

    return [contender(ef) for ef in EFS]


def _local_mode(corpus: Corpus) -> list[Contender]:
    client = QdrantClient(":memory:")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about this many points
        params = models.VectorParams(size=corpus.pooled.shape[1], distance=models.Distance.DOT)
        client.create_collection("pooled", vectors_config=params)
        client.upload_collection(
            "pooled", vectors=corpus.pooled, ids=range(len(corpus.pooled)), batch_size=1000
        )
    search: Search = lambda query: client.query_points("pooled", query=query, limit=LIMIT)  # noqa: E731
    return [
        Contender(
            library="local mode",
            setting="exact",
            queries=list(corpus.pooled_queries[:LOCAL_QUERIES]),
            search=search,
            numbers=lambda answer: [int(point.id) for point in answer.points],
        )
    ]
