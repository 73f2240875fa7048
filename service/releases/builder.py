"""Embeds the library for a new release, in a process of its own at the lowest priority.

It has its own encoder, decode workers and index, and few threads: the server keeps answering, and keeps its processor
time. Standard input has the settings, then one JSON line per asset; standard output has one JSON line per step of
progress, then the report.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NoReturn

from models.bundle.bundle import Bundle
from service.decode.decoder import Decoder
from service.decode.sandbox import WorkerLimits
from service.encode.batching import Batcher
from service.index.contract import Asset, Index
from service.index.failure import IndexFull, IndexInUse, IndexUnavailable
from service.library.indexing import library_limits
from service.library.report import Progress
from service.library.scanning import LinkRules
from service.releases.mirroring import mirror
from service.releases.opening import open_release, read_settings
from service.releases.store import ReleaseStore
from service.releases.switch import OpenRelease
from service.system.child import die_with_parent
from service.system.settings import Settings

NICE = 19
REPORT_SECONDS = 0.5
GRAPH_SECONDS = 3600.0
HELD_SECONDS = 60.0


def main() -> None:
    """Embed what the lines of standard input name for the release of the first argument."""
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _interrupt)
    os.nice(NICE)
    settings = read_settings(sys.stdin.readline())
    release_id = sys.argv[1]
    wanted = read_assets(sys.stdin)
    bundle = ReleaseStore(settings.release_folder).load_bundle(release_id)
    release = open_patiently(settings, release_id, bundle)
    limits = WorkerLimits(memory_bytes=settings.worker_memory_bytes, max_tasks=settings.worker_recycle_after)
    watch_encoder(release.batcher, settings.release_stall_seconds)
    try:
        with Decoder(num_workers=settings.decode_workers, limits=limits) as decoder:
            report = mirror(
                wanted,
                snapshot=release.snapshot(priority="bulk"),
                decoder=decoder,
                limits=library_limits(settings),
                on_progress=_Printer(),
                links=LinkRules(within=settings.library_roots),
            )
        # Graphs of the index are built here, where no request waits for them.
        if not report.is_interrupted and not report.did_nothing:
            build_graphs(release.index)
        num_segments = release.index.count_segments()
    finally:
        release.close()
    write_line({"report": {**report.to_json(), "num_segments": num_segments}})


def open_patiently(settings: Settings, release_id: str, bundle: Bundle) -> OpenRelease:
    """Open a release; the builder of a service that was killed may hold its index until its batch is done."""
    deadline = time.monotonic() + HELD_SECONDS
    while True:
        try:
            return open_release(settings, release_id, bundle)
        except IndexInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def watch_encoder(batcher: Batcher, stall_seconds: float) -> None:
    """End this process if one run of the encoder takes too long: no thread can end what a graph does."""

    def watch() -> None:
        while (seconds := batcher.stats().running_seconds) <= stall_seconds:
            time.sleep(min(1.0, stall_seconds / 4))
        write_line({"stalled_seconds": round(seconds, 1)})
        os._exit(1)

    threading.Thread(target=watch, name="encoder-watch", daemon=True).start()


def build_graphs(index: Index) -> None:
    """Build the graphs of an index, once it no longer builds some by itself."""
    deadline = time.monotonic() + GRAPH_SECONDS
    while True:
        try:
            return index.optimize()
        except IndexUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def read_assets(lines: Iterable[str]) -> list[Asset]:
    """Read what `write_asset` wrote."""
    assets = []
    for line in lines:
        fields = json.loads(line)
        assets.append(
            Asset(**{**fields, "paths": tuple(fields["paths"]), "modalities": tuple(fields["modalities"])})
        )
    return assets


def write_asset(asset: Asset) -> str:
    """An asset as one line."""
    return json.dumps(asdict(asset)) + "\n"


def write_line(fields: dict[str, Any]) -> None:
    """Print one JSON line at once."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class _Printer:
    """Prints progress, a line each half a second at most."""

    def __init__(self) -> None:
        self._printed_at = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._printed_at >= REPORT_SECONDS or progress.num_done == progress.num_files:
            self._printed_at = time.monotonic()
            write_line({"progress": asdict(progress)})


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main()
    except IndexFull as exc:
        write_line({"full": str(exc)})
