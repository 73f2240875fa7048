"""What Prometheus reads: true counts, few series, and no two applications in one registry."""

from __future__ import annotations

import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.decode.decoder import Decoder
from service.decode.lane import DecoderCrashed, DecodeTimedOut
from service.http import gauges
from service.http.gauges import child_processes
from service.http.metrics import Metrics
from service.system.settings import Settings
from service.system.timing import STAGES, collecting, report, timed
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread
from tests.support.waiting import GENEROUS_SECONDS, wait_until


def read_metrics(client: httpx.Client) -> dict[str, Metric]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(families: dict[str, Metric], family: str, sample: str = "", **labels: str) -> float:
    found = [
        s.value
        for s in families[family].samples
        if s.name == family + sample and labels.items() <= s.labels.items()
    ]
    assert found, f"no {family}{sample} with {labels}"
    return sum(found)


def test_requests_and_stages_are_counted(client: httpx.Client, library_files: Path) -> None:
    before = read_metrics(client)
    content = min(library_files.glob("0*.mp4")).read_bytes()
    for _ in range(3):
        form = {"file": content}
        assert client.post("/v1/search", files=form, data={"target": "video"}).status_code == 200
    assert client.post("/v1/search", files={"file": b"no"}, data={"target": "video"}).status_code == 415
    after = read_metrics(client)

    def grown(family: str, sample: str, **labels: str) -> float:
        try:
            return value(after, family, sample, **labels) - value(before, family, sample, **labels)
        except AssertionError:
            return value(after, family, sample, **labels)

    search = {"method": "POST", "route": "/v1/search"}
    assert grown("foley_http_requests", "_total", status="200", **search) == 3
    assert grown("foley_http_requests", "_total", status="415", **search) == 1
    assert grown("foley_http_request_duration_seconds", "_count", **search) == 4
    assert grown("foley_http_received_bytes", "_total") > 3 * len(content)
    counts = {stage: grown("foley_stage_duration_seconds", "_count", stage=stage) for stage in STAGES}
    assert counts["receive"] == counts["wait"] == 4
    assert counts["encode"] == counts["search"] == counts["rescoring"] == 3
    assert counts["decode"] >= 4
    seconds = {stage: grown("foley_stage_duration_seconds", "_sum", stage=stage) for stage in STAGES}
    assert 0 < seconds["rescoring"] < seconds["search"]  # timed inside the shard process, told here
    assert sum(seconds[stage] for stage in ("receive", "wait", "decode", "encode", "search")) < grown(
        "foley_http_request_duration_seconds", "_sum", **search
    )


def test_state_of_the_service(client: httpx.Client, library_files: Path) -> None:
    families = read_metrics(client)
    ready = client.get("/readyz").json()
    assert value(families, "foley_index_up") == 1
    assert value(families, "foley_index_segments") == ready["num_segments"]
    assert value(families, "foley_index_assets") == len(list(library_files.glob("*.m*")))
    assert value(families, "foley_index_bytes") > 10_000
    assert value(families, "foley_disk_free_bytes") > 0
    assert value(families, "foley_release_info", bundle_id=ready["bundle_id"]) == 1
    assert value(families, "foley_queue_depth", queue="requests") == 0
    assert value(families, "foley_child_processes", kind="index") == 1
    assert value(families, "foley_child_resident_memory_bytes", kind="index") > 2e7
    assert value(families, "process_resident_memory_bytes") > 1e8


def test_no_client_makes_new_series(client: httpx.Client) -> None:
    client.get("/nope")
    client.get("/v1/assets/0")
    num_series = sum(len(family.samples) for family in read_metrics(client).values())
    for number in range(50):
        client.get(f"/nope/{number}")
        client.get(f"/v1/assets/{number}")
        client.get(f"/livez?x={number}")
    families = read_metrics(client)
    # The two reads of /metrics and the first /livez may be new; nothing else is.
    assert sum(len(family.samples) for family in families.values()) <= num_series + 60
    routes = {s.labels["route"] for s in families["foley_http_requests"].samples}
    assert not {route for route in routes if "nope" in route or route.endswith("/0")}
    assert value(families, "foley_http_requests", "_total", route="unknown", status="404") >= 51


def test_names_and_units_are_those_of_prometheus(client: httpx.Client) -> None:
    for name, family in read_metrics(client).items():
        if name.startswith("foley_"):
            assert family.documentation.endswith(".")
            assert not name.endswith(("_ms", "_milliseconds", "_mb", "_percent"))


def test_applications_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.observe_stage("decode", 0.5)
    assert b'foley_stage_duration_seconds_count{stage="decode"} 1.0' in one.render()
    assert b'foley_stage_duration_seconds_count{stage="decode"} 0.0' in other.render()


def test_stages_are_told_to_whoever_collects() -> None:
    times: list[tuple[str, float]] = []
    with collecting(lambda stage, seconds: times.append((stage, seconds))):
        with pytest.raises(subprocess.TimeoutExpired), timed("encode"):
            subprocess.run(["sleep", "5"], timeout=0.01, check=False)
        report("rescoring", 0.25)
    report("search", 1.0)  # nobody collects any more
    assert [stage for stage, _ in times] == ["encode", "rescoring"]
    assert times[0][1] >= 0.01


def test_deaths_of_decode_workers_are_counted() -> None:
    with Decoder(num_workers=1) as decoder:
        assert decoder.deaths() == {"timed_out": 0, "crashed": 0, "failed": 0}
        with pytest.raises(DecoderCrashed, match="SIGKILL"):
            decoder.call(signal.raise_signal, GENEROUS_SECONDS, signal.SIGKILL)
        with pytest.raises(DecodeTimedOut, match="longer"):
            decoder.call(time.sleep, 0.2, 60.0)
        assert decoder.deaths() == {"timed_out": 1, "crashed": 1, "failed": 0}


def test_grandchildren_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> float:
        (_, number) = child_processes()
        return sum(sample.value for sample in number.samples)

    with subprocess.Popen(["sh", "-c", "sh -c 'cat; :'; :"], stdin=subprocess.PIPE) as ours:
        root = SimpleNamespace(Process=partial(psutil.Process, ours.pid), Error=psutil.Error)
        monkeypatch.setattr(gauges, "psutil", root)
        wait_until(lambda: count() == 2)
        assert ours.stdin is not None
        ours.stdin.close()
        ours.wait()
    with pytest.raises(psutil.NoSuchProcess):
        count()


def test_a_dead_index_is_a_metric_and_not_a_failure(indexed_settings: Settings, tmp_path: Path) -> None:
    with memory_indexes(), serve_in_thread(indexed_settings.replace(data=tmp_path)) as running:
        running.app.state.shared.foley.index.close()
        families = read_metrics(running.client)
    assert value(families, "foley_index_up") == 0
    assert "foley_index_segments" not in families


def test_jobs_by_state(client: httpx.Client) -> None:
    families = read_metrics(client)
    states = {s.labels["state"]: s.value for s in families["foley_jobs"].samples}
    assert set(states) == {"queued", "running", "done", "failed", "cancelled"}
