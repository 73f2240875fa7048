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
NUM_LISTS, PQ_NUMBERS, TRAINED = (
    1024,
    8,
    100_000,
)  # IVF-PQ: lists, numbers a byte, vectors that it learns from
PROBES = (4, 16, 64)
EFS = (16, 24, 32, 48, 64, 96, 128, 192)
OVERSAMPLING = 1.5
GOAL = 0.99
LOCAL_QUERIES = 20
MAX_LOCAL = 100_000  # segments: local mode keeps them as Python objects

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
        mine = [contender for contender in contenders if contender.library == library]
        able = [contender for contender in mine if contender.recall >= GOAL]
        if not able:
            print(f"pooled, no setting reaches {GOAL}: {max(mine, key=lambda one: one.recall).describe()}")
            continue
        best = max(able, key=lambda contender: contender.rate)
        rates[library] = best.rate
        print(f"pooled, {best.describe()}")
    for library in ("hnswlib", "faiss HNSW"):
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

    def build(path: Path) -> None:
        built = hnswlib.Index(space="ip", dim=corpus.width)
        built.init_index(max_elements=corpus.num_segments, M=M, ef_construction=EF_CONSTRUCTION)
        built.add_items(corpus.pooled, num_threads=-1)
        built.save_index(str(path))

    index = hnswlib.Index(space="ip", dim=corpus.width)
    index.load_index(str(_built(folder / f"hnswlib-{corpus.name}", build)))

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

    def build_graph(path: Path) -> None:
        built = faiss.IndexHNSWFlat(corpus.width, M, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efConstruction = EF_CONSTRUCTION
        built.add(corpus.pooled)
        faiss.write_index(built, str(path))

    def build_lists(path: Path) -> None:
        wanted = f"IVF{NUM_LISTS},PQ{corpus.width // PQ_NUMBERS}"
        built = faiss.index_factory(corpus.width, wanted, faiss.METRIC_INNER_PRODUCT)
        built.train(corpus.pooled[:: max(1, corpus.num_segments // TRAINED)])
        built.add(corpus.pooled)
        faiss.write_index(built, str(path))

    graph = faiss.read_index(str(_built(folder / f"faiss-hnsw-{corpus.name}", build_graph)))
    lists = faiss.read_index(str(_built(folder / f"faiss-ivfpq-{corpus.name}", build_lists)))
    faiss.omp_set_num_threads(1)
    settings = [
        *(("faiss HNSW", f"ef {ef}", graph, faiss.SearchParametersHNSW(efSearch=ef)) for ef in EFS),
        *(("faiss IVF-PQ", f"{n} lists", lists, faiss.SearchParametersIVF(nprobe=n)) for n in PROBES),
    ]

    def contender(library: str, setting: str, index: Any, params: Any) -> Contender:
        return Contender(
            library=library,
            setting=setting,
            queries=list(corpus.pooled_queries[:, None]),
            search=lambda query: index.search(query, LIMIT, params=params),
            numbers=lambda answer: answer[1][0].tolist(),
        )

    return [contender(*setting) for setting in settings]


def _built(path: Path, build: Callable[[Path], None]) -> Path:
    """The file of a library's index, which is built if it is missing."""
    if not path.exists():
        started, used = time.perf_counter(), time.process_time()
        build(path)
        seconds, used = time.perf_counter() - started, time.process_time() - used
        print(f"{path.name}: built in {seconds:.0f} s, {used:.0f} core-s; {path.stat().st_size / 1e9:.2f} GB")
    return path


def _local_mode(corpus: Corpus) -> list[Contender]:
    if corpus.num_segments > MAX_LOCAL:
        return []
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
