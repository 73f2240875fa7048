"""What the service counts and times, for Prometheus: base units, few labels, one registry for each application.

A label takes values from a short list of ours: routes are templates and unknown routes are one value, so no client
can create a time series. Events of requests are counted as they happen; what has a state of its own (queues, index,
disk, processes) is read when `/metrics` is asked, by the `Collector`s given to `Metrics.add_collector`.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from service.system.timing import STAGES, Stage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A search is milliseconds by vector, a tenth of a second with a clip, and minutes in an overloaded service.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, with the time of its first event
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = self._counter(
            "foley_http_requests", "Answered requests.", ("method", "route", "status")
        )
        self._seconds = Histogram(
            "foley_http_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            ("method", "route"),
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._received = self._counter("foley_http_received_bytes", "Bytes of request bodies.", ())
        self._sent = self._counter("foley_http_sent_bytes", "Bytes of answers' bodies.", ())
        self._stages = Histogram(
            "foley_stage_duration_seconds",
            "Time of one stage of a request: receive the body, wait for a turn, decode, encode (waiting for the "
            "encoder included), search the index, and of that score candidates by their tracks (rescoring).",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._lag = Histogram(
            "foley_event_loop_lag_seconds",
            "How much too late the event loop woke up, looked at 20 times a second: what blocks it blocks all.",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        for stage in STAGES:  # a series missing until its first event cannot be told from a broken one
            self._stages.labels(stage)

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def observe_request(
        self,
        *,
        method: str,
        route: str,
        status: int,
        seconds: float,
        num_received_bytes: int,
        num_sent_bytes: int,
    ) -> None:
        """Count an answered request; method and route are of a closed list."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        self._received.inc(num_received_bytes)
        self._sent.inc(num_sent_bytes)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Count the time of one stage of a request."""
        self._stages.labels(stage).observe(seconds)

    def observe_lag(self, seconds: float) -> None:
        """Count how late the event loop was."""
        self._lag.observe(seconds)

    def add_collector(self, collector: Collector) -> None:
        """Have something read whenever metrics are asked for: `collect` may block a moment, and must not fail."""
        self.registry.register(collector)

    def render(self) -> bytes:
        """Everything in Prometheus' text format. Blocks: collectors ask the index and the kernel."""
        return generate_latest(self.registry)
