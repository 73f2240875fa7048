"""The web page on a large library, in Chromium: first page, scrolling, memory; and the routes that may grow with it.

    python -m benchmarks.page_speed --assets 500 100000 --rounds 3 --folder /dev/shm/foley-page

Made assets of one segment each (half of them with a picture), with a thumbnail and peaks in the cache of previews. The
first number of `--assets` is the baseline: rounds take turns, so that a loaded machine slows both down. Goals for
100,000 assets: first page at most 300 ms, 60 frames a second while scrolling, memory flat over 10,000 cards.

first page   from the start of the navigation to the frame after the first card; a new, empty browser profile each time;
             with the processor time of the page's thread and of the service, and the requests until then
scrolling    one step of 30 pixels a frame; intervals of frames, and the processor time of the page's thread for each
memory       JavaScript heap after a collection, and nodes, at the first page and after 10,000 cards
routes       median of `--rounds` answers, and the slowest
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.search_http import cpu_seconds
from models.bundle.bundle import load_bundle, starter_path
from models.media.preview import Preview
from service.index.contract import Segment
from service.index.embedded.index import EmbeddedIndex
from service.index.layout import VectorLayout
from service.library.previews import Previews

NUM_CENTRES = 300
NUM_WRITERS = 64
CHROMIUM = "/usr/bin/chromium"
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FRAMES = 300
FRAME_SECONDS = 1 / 60
START_SECONDS = 300.0
FIRST_CARD = """
new MutationObserver((_, watch) => {
  if (!document.querySelector(".card")) return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.firstCard = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
SCROLL = """
([frames, pixels]) => new Promise((done) => {
  const intervals = [];
  let before = performance.now();
  const step = (now) => {
    intervals.push(now - before);
    before = now;
    if (intervals.length > frames) return done(intervals.slice(1));
    scrollBy(0, pixels);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--assets", type=int, nargs="+", default=[500, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True, help="the libraries are kept here")
    parser.add_argument("--routes-only", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        places = {}
        for number in options.assets:
            data = options.folder / str(number)
            build_library(data, number)
            places[number] = stack.enter_context(serve(data))
        for number, (address, process) in places.items():
            time_routes(number, address, process, rounds=options.rounds)
        if not options.routes_only:
            time_page(places, rounds=options.rounds)


def build_library(data: Path, num_assets: int) -> None:
    """Make a library through the index contract, once."""
    done = data / "made"
    if done.exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    bundle = load_bundle(starter_path())
    layout = VectorLayout.of(bundle.manifest)
    rng = np.random.default_rng(0)
    width = bundle.manifest.tracks["audio"][1]
    centres = rng.standard_normal((NUM_CENTRES, width), dtype=np.float32)
    previews = Previews(data / "previews", max_bytes=1 << 40)
    started = time.perf_counter()
    kinds = [make_preview(rng, hue) for hue in range(0, 250, 25)]

    def write(number: int) -> None:
        row = np.random.default_rng(number)
        rows = centres[number % NUM_CENTRES] + row.standard_normal((16, width), dtype=np.float32)
        track = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        segment = make_segment(number, track)
        index.write_asset([segment], is_last=True)
        previews.put(segment.asset_id, kinds[number % len(kinds)])

    place = data / "index" / bundle.bundle_id
    with (
        EmbeddedIndex.open(place, layout=layout, min_free_bytes=0) as index,
        ThreadPoolExecutor(NUM_WRITERS) as writers,
    ):
        for _ in writers.map(write, range(num_assets)):
            pass
        index.optimize()
    done.touch()
    print(f"{num_assets} assets made in {time.perf_counter() - started:.0f} s")


def make_segment(number: int, track: np.ndarray[Any, np.dtype[np.float32]]) -> Segment:
    """The one segment of an asset, with facts and tags as files have them."""
    has_video = number % 2 == 0
    media = {
        "container": "mp4" if has_video else "wav", "duration_seconds": 2.0 + number % 900 / 100,
        "size_bytes": 1000 + number, "modified_ns": (1_700_000_000 + number) * 10**9, "has_audio": True,
        "has_video": has_video, "audio_codec": "pcm_s16le", "sample_rate_hz": 48000, "num_channels": 2,
        "width": 1280 if has_video else None, "height": 720 if has_video else None,
        "frame_rate": 25.0 if has_video else None, "video_codec": "h264" if has_video else None,
        "is_silent": False, "is_static": False,
        "said": {"title": f"take {number}", "bpm": str(60 + number % 120), "artist": f"artist {number % 50}"},
    }  # fmt: skip
    return Segment(
        asset_id=hashlib.sha256(str(number).encode()).hexdigest(),
        path=f"/library/{number % 200:03}/rain on a window {number:06}.{media['container']}",
        index=0,
        start_seconds=0.0,
        end_seconds=float(media["duration_seconds"]),
        media=media,
        metadata={"mood": ["calm", "cold", "wild"][number % 3], "take": number % 10},
        audio_track=track,
        video_track=track if has_video else None,
    )


def make_preview(rng: np.random.Generator, hue: int) -> Preview:
    """A thumbnail and peaks such as indexing makes of a short file."""
    picture = io.BytesIO()
    Image.new("HSV", (320, 180), (hue, 120, 160)).convert("RGB").save(picture, "JPEG")
    peaks = np.sort(rng.integers(-127, 128, (800, 2), np.int8), axis=1)
    return Preview(thumbnail=picture.getvalue(), peaks=peaks, bucket_seconds=11 / 800)


@contextmanager
def serve(data: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `foley serve` on a library until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {
        "DATA": data,
        "PORT": port,
        "MIN_FREE_BYTES": 0,
        "DEVICE": "cpu",
        "PREVIEW_CACHE_BYTES": 1 << 40,
    }
    environment = {**os.environ, **{f"FOLEY_{name}": str(value) for name, value in settings.items()}}
    log = (data / "log").open("wb")
    command = [sys.executable, "-m", "service.cli", "serve"]
    address = f"http://127.0.0.1:{port}"
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            wait_for(f"{address}/readyz", process)
            yield address, process
        finally:
            process.terminate()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service is ready."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(address, timeout=30).is_success:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the service did not start")
        time.sleep(0.2)


def time_routes(number: int, address: str, process: subprocess.Popen[bytes], *, rounds: int) -> None:
    """Print the time of every route that looks at the whole library."""
    with httpx.Client(base_url=address, timeout=600) as client:
        first = client.get("/v1/assets", params={"limit": 100}).json()
        one = first["assets"][0]["asset_id"]
        deep = walk(client, number)
        fact = {"said bpm": {"bpm": 100}, "said bpm from 170": {"bpm": {"at_least": 170}}, "mood": {"mood": "calm"},
                "take from 9": {"take": {"at_least": 9}}, "nothing": {"mood": "none"}}  # fmt: skip
        asked: dict[str, tuple[str, str, dict[str, Any]]] = {
            "assets, 100": ("GET", "/v1/assets", {"params": {"limit": 100}}),
            "assets, 1000": ("GET", "/v1/assets", {"params": {"limit": 1000}}),
            "assets, deep cursor": ("GET", "/v1/assets", {"params": {"limit": 100, "cursor": deep}}),
            **{
                f"assets, {name}": ("GET", "/v1/assets", {"params": {"limit": 100, "metadata": json.dumps(wanted)}})
                for name, wanted in fact.items()
            },
            "assets, folder": ("GET", "/v1/assets", {"params": {"limit": 100, "folder": "/library/007"}}),
            "readyz": ("GET", "/readyz", {}),
            "map": ("GET", "/v1/map", {}),
            "words": ("POST", "/v1/search", {"json": {"text": "rain window", "match": "words", "target": "audio"}}),
            "more like this": ("POST", "/v1/search", {"json": {"asset_id": one, "target": "audio"}}),
            "similarity": ("POST", "/v1/similarity",
                           {"json": {"query": {"asset_id": one}, "result": {"asset_id": one}, "target": "audio"}}),
            "asset": ("GET", f"/v1/assets/{one}", {}),
            "waveform": ("GET", f"/v1/assets/{one}/waveform", {"params": {"pixels": 400}}),
            "collections": ("GET", "/v1/collections", {}),
            "jobs": ("GET", "/v1/jobs", {}),
            "metrics": ("GET", "/metrics", {}),
        }  # fmt: skip
        for name, (method, path, given) in asked.items():
            seconds, began = [], cpu_seconds(process.pid)
            for _ in range(rounds):
                started = time.perf_counter()
                answer = client.request(method, path, **given)
                seconds.append(time.perf_counter() - started)
            spent = (cpu_seconds(process.pid) - began) / rounds
            print(
                f"{number:>7} {name:<26} {answer.status_code} median {statistics.median(seconds) * 1e3:8.1f} ms, "
                f"first {seconds[0] * 1e3:8.1f}, slowest {max(seconds) * 1e3:8.1f}, {spent * 1e3:7.0f} core-ms, "
                f"{len(answer.content)} bytes",
                flush=True,
            )


def walk(client: httpx.Client, number: int) -> str | None:
    """Cursor near the end of the list."""
    cursor = None
    for _ in range(max(0, number // 1000 - 1)):
        given = {"limit": 1000} if cursor is None else {"limit": 1000, "cursor": cursor}
        cursor = client.get("/v1/assets", params=given).json()["next_cursor"]
    return cursor


def time_page(places: dict[int, tuple[str, subprocess.Popen[bytes]]], *, rounds: int) -> None:
    """Drive the page of each library in turns, and print medians."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - an extra of development

    firsts: dict[int, list[float]] = {number: [] for number in places}
    frames: dict[int, list[float]] = {number: [] for number in places}
    thread: dict[int, list[float]] = {number: [] for number in places}
    costs: dict[int, list[tuple[float, float, int]]] = {number: [] for number in places}
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for _ in range(rounds):
            for number, (address, process) in places.items():
                with browser.new_context(viewport={"width": 1280, "height": 850}) as context:
                    page = context.new_page()
                    page.add_init_script(FIRST_CARD)
                    session = context.new_cdp_session(page)
                    session.send("Performance.enable")
                    before = cpu_seconds(process.pid)
                    page.goto(f"{address}/#/library")
                    page.wait_for_function("() => window.firstCard")
                    firsts[number].append(page.evaluate("window.firstCard"))
                    spent = metrics(session)["ThreadTime"], cpu_seconds(process.pid) - before
                    costs[number].append((*spent, page.evaluate(NUM_REQUESTS)))
                    page.wait_for_load_state("networkidle")
                    began = metrics(session)["ThreadTime"]
                    frames[number] += page.evaluate(SCROLL, [FRAMES, 30])
                    thread[number].append((metrics(session)["ThreadTime"] - began) / FRAMES)
        for number in places:
            print(
                f"{number:>7} first page: median {statistics.median(firsts[number]):.0f} ms, slowest "
                f"{max(firsts[number]):.0f} ms, page thread {middle(costs[number], 0) * 1e3:.0f} core-ms, service "
                f"{middle(costs[number], 1) * 1e3:.0f} core-ms, {middle(costs[number], 2):.0f} requests; load "
                f"{os.getloadavg()[0]:.0f}; frames: median {statistics.median(frames[number]):.1f} ms, "
                f"{share_late(frames[number]):.1f} % late (above 25 ms), longest {max(frames[number]):.0f} ms; "
                f"thread of the page {statistics.median(thread[number]) * 1e3:.1f} ms a frame"
            )
        for number, (address, _) in places.items():
            measure_memory(browser, number, address)
        browser.close()


def middle(rows: list[tuple[float, float, int]], column: int) -> float:
    """Median of a column."""
    return statistics.median(row[column] for row in rows)


def share_late(intervals: list[float]) -> float:
    """Percent of frames that came half a frame or more too late."""
    return 100 * sum(interval > 1.5 * FRAME_SECONDS * 1e3 for interval in intervals) / len(intervals)


def metrics(session: Any) -> dict[str, float]:
    """The counters of Chromium."""
    return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}


def measure_memory(browser: Any, number: int, address: str) -> None:
    """Scroll through everything, and print memory on the way."""
    with browser.new_context(viewport={"width": 1280, "height": 850}) as context:
        page = context.new_page()
        page.goto(f"{address}/#/library")
        page.wait_for_selector(".card")
        session = context.new_cdp_session(page)
        session.send("Performance.enable")
        for goal in (100, 1000, 10_000, 50_000, 100_000):
            if goal > number:
                break
            while page.evaluate(CARDS_SEEN) < goal - 200:
                page.evaluate("scrollBy(0, 20_000)")
                page.wait_for_timeout(20)  # no handle of an element: it would keep its card in memory
            page.wait_for_load_state("networkidle")
            session.send("HeapProfiler.collectGarbage")
            told = metrics(session)
            print(
                f"{number:>7} after {goal:>6} cards: heap {told['JSHeapUsedSize'] / 1e6:.1f} MB, "
                f"{told['Nodes']:.0f} nodes, {told['JSEventListeners']:.0f} listeners"
            )


NUM_REQUESTS = (
    "performance.getEntriesByType('resource').filter((one) => one.startTime < window.firstCard).length + 1"
)
CARDS_SEEN = "() => Math.max(0, ...[...document.querySelectorAll('.grid > li')].map((one) => Number(one.ariaPosInSet)))"

if __name__ == "__main__":
    main()
