"""What `/metrics` reads when it is asked: queues, index, disk, child processes, and the active release."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.encode.batching import BatchStats
from service.foley import Foley
from service.http.admission import Admission
from service.index.contract import IndexInfo
from service.index.failure import IndexFailure
from service.jobs.database import LedgerFailure
from service.jobs.ledger import Ledger

logger = logging.getLogger(__name__)

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
INDEX_CACHE_SECONDS = 10.0  # to measure a large folder takes the index some milliseconds


class JobsCollector(Collector):
    """Reads how many jobs there are."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Jobs by state, past jobs included as long as the ledger keeps them."""
        try:
            counts = self._ledger.count_jobs()
        except LedgerFailure as exc:
            logger.warning("metrics: the ledger does not answer: %s", exc)
            return
        found = GaugeMetricFamily("foley_jobs", "Jobs that the ledger remembers, by state.", labels=["state"])
        for state, count in counts.items():
            found.add_metric([state], count)
        yield found


class FoleyCollector(Collector):
    """Reads the queues, the index, the disk and the child processes of an application."""

    def __init__(self, foley: Foley, admission: Admission) -> None:
        self._foley = foley
        self._admission = admission
        self._index: tuple[float, IndexInfo | None] = (float("-inf"), None)

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        yield self._release()
        release = self._foley.releases.current
        texts = None if release.texts is None else release.texts.batcher.stats()
        yield from _queues(self._admission, release.batcher.stats(), texts)
        yield self._deaths()
        yield from self._index_size()
        yield from self._disk()
        yield from child_processes()

    def _release(self) -> Metric:
        facts = {
            "version": version("foley-av"),
            "bundle_id": self._foley.bundle.bundle_id,
            "provider": self._foley.encoder.provider,
        }
        found = GaugeMetricFamily("foley_release_info", "What is being served; always 1.", labels=list(facts))
        found.add_metric(list(facts.values()), 1)
        return found

    def _deaths(self) -> Metric:
        found = CounterMetricFamily(
            "foley_decode_worker_deaths",
            "Decode workers that a file killed, by how: timed_out, crashed, failed.",
            labels=["reason"],
        )
        for reason, count in self._foley.decoder.deaths().items():
            found.add_metric([reason], count)
        return found

    def _index_size(self) -> Iterator[Metric]:
        info = self._read_index()
        yield GaugeMetricFamily("foley_index_up", "Whether the index answers.", 0 if info is None else 1)
        if info is None:
            return
        yield GaugeMetricFamily("foley_index_segments", "Segments in the index.", info.num_segments)
        yield GaugeMetricFamily("foley_index_assets", "Complete assets in the index.", info.num_assets)
        if info.num_bytes is not None:  # a Qdrant server does not tell
            yield GaugeMetricFamily("foley_index_bytes", "Bytes the index takes on its disk.", info.num_bytes)

    def _read_index(self) -> IndexInfo | None:
        read_at, info = self._index
        if time.monotonic() - read_at > INDEX_CACHE_SECONDS:
            try:
                info = self._foley.index.info()
            except IndexFailure as exc:
                logger.warning("metrics: the index does not answer: %s", exc)
                info = None
            self._index = (time.monotonic(), info)
        return info

    def _disk(self) -> Iterator[Metric]:
        disk = self._foley.settings.disk_space()
        yield GaugeMetricFamily("foley_disk_free_bytes", "Free space where the data lies.", disk.free_bytes)
        yield GaugeMetricFamily("foley_disk_total_bytes", "Size of that disk.", disk.total_bytes)
        yield GaugeMetricFamily(
            "foley_disk_floor_bytes", "Free space below which nothing is written.", disk.floor_bytes
        )


def _queues(admission: Admission, stats: BatchStats, texts: BatchStats | None) -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "foley_queue_depth",
        "What waits: requests for a search worker, segments and texts for their encoders, of queries and of bulk work.",
        labels=["queue"],
    )
    depth.add_metric(["requests"], admission.num_waiting)
    for priority, count in stats.num_queued.items():
        depth.add_metric([f"encode_{priority}"], count)
    for priority, count in texts.num_queued.items() if texts else ():
        depth.add_metric([f"texts_{priority}"], count)
    yield depth
    yield CounterMetricFamily(
        "foley_refused_requests",
        "Requests answered with 429 because all workers were busy.",
        admission.num_refused,
    )
    yield _batch_sizes(stats)


def _batch_sizes(stats: BatchStats) -> Metric:
    buckets = [
        (str(float(limit)), float(sum(n for size, n in stats.num_batches.items() if size <= limit)))
        for limit in BATCH_BUCKETS
    ]
    buckets.append(("+Inf", float(sum(stats.num_batches.values()))))
    return HistogramMetricFamily(
        "foley_encode_batch_segments",
        "Segments in one run of the encoder.",
        buckets=buckets,
        sum_value=sum(size * count for size, count in stats.num_batches.items()),
    )


def child_processes() -> Iterator[Metric]:
    """Memory and number of the processes below this one: shard processes of the index, decode workers, others."""
    num_bytes = {"index": 0, "decode": 0, "other": 0}
    counts = dict.fromkeys(num_bytes, 0)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended just now
            kind = _kind(process.cmdline())
            num_bytes[kind] += process.memory_info().rss
            counts[kind] += 1
    memory = GaugeMetricFamily(
        "foley_child_resident_memory_bytes", "Resident memory of child processes.", labels=["kind"]
    )
    number = GaugeMetricFamily("foley_child_processes", "Child processes that run.", labels=["kind"])
    for kind in num_bytes:
        memory.add_metric([kind], num_bytes[kind])
        number.add_metric([kind], counts[kind])
    yield memory
    yield number


def _kind(command: Sequence[str]) -> str:
    if "service.index.embedded.shard_process" in command:
        return "index"
    return "decode" if any("spawn_main" in argument for argument in command) else "other"
