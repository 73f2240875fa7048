"""Embeds the library for a new release, in a process of its own at the lowest priority.

It has its own encoder, decode workers and index, and few threads: the server keeps answering, and keeps its processor
time. Standard input has the settings, one JSON line per asset, an empty line, and for a derived release the segments
that it asks for; standard output has one JSON line per step of progress, then the report.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol, cast

from models.bundle.bundle import Bundle
from service.decode.decoder import Decoder
from service.decode.sandbox import WorkerLimits
from service.encode.batching import Batcher
from service.index.contract import Asset, Index
from service.index.failure import IndexFull, IndexInUse, IndexUnavailable
from service.index.iteration import find_missing
from service.library.report import Progress
from service.releases import deriving
from service.releases.documents import DerivedAgreement
from service.releases.mirroring import MirrorReport, building_options, mirror
from service.releases.opening import open_release, read_settings
from service.releases.store import ReleaseStore
from service.releases.switch import OpenRelease
from service.system.child import die_with_parent
from service.system.settings import Settings
from service.system.storage import Storage

NICE = 19
logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
GRAPH_SECONDS = 3600.0
HELD_SECONDS = 60.0


class Hold(Protocol):
    """Lets the release hold some assets, embedding what it lacks."""

    def __call__(self, assets: Sequence[Asset], *, deletes: bool) -> MirrorReport:
        """Hold them, and with `deletes` no others."""


def main() -> None:
    """Embed what the lines of standard input name for the release of the first argument."""
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _interrupt)
    os.nice(NICE)
    stdin = sys.stdin.buffer
    settings = read_settings(stdin.readline().decode("ascii"))
    release_id = sys.argv[1]
    parent = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    wanted = read_assets(iter(stdin.readline, b"\n"))
    bundle = ReleaseStore(settings.release_folder).load_bundle(release_id)
    release = open_patiently(settings, release_id, bundle)
    limits = WorkerLimits(memory_bytes=settings.worker_memory_bytes, max_tasks=settings.worker_recycle_after)
    watch_encoder(release.batcher, settings.release_stall_seconds)
    try:
        with Decoder(num_workers=settings.decode_workers, limits=limits) as decoder:

            def hold(assets: Sequence[Asset], *, deletes: bool) -> MirrorReport:
                return mirror(
                    assets,
                    snapshot=release.snapshot(priority="bulk"),
                    decoder=decoder,
                    options=building_options(settings, _Printer()),
                    deletes=deletes,
                )

            num_derived = num_sampled = 0
            folder = ReleaseStore(settings.release_folder).path(release_id)
            if parent is not None:
                parent_storage = cast("Storage", sys.argv[3])
                num_derived, num_sampled = derive_missing(
                    release, parent, parent_storage, folder, wanted, stdin, hold, settings
                )
            report = hold(wanted, deletes=True)
        # Graphs of the index are built here, where no request waits for them.
        if not report.is_interrupted and (num_derived or not report.did_nothing):
            build_graphs(release.index)
        num_segments = release.index.count_segments()
    finally:
        release.close()
    counts = {
        "num_segments": num_segments,
        "num_derived": num_derived,
        "num_embedded": report.num_embedded + num_sampled,
        **({"derived_agreement": found} if (found := deriving.read_agreement(folder)) else {}),
    }
    write_line({"report": {**report.to_json(), **counts}})


def derive_missing(
    release: OpenRelease,
    parent: Path,
    parent_storage: Storage,
    folder: Path,
    wanted: Sequence[Asset],
    stdin: IO[bytes],
    hold: Hold,
    settings: Settings,
) -> tuple[int, int]:
    """Derive what the release lacks from tracks that the parent process sends.

    Returns how many assets were derived, and how many were embedded to check the claim.

    If the bundle's claim does not hold, what was derived is deleted again, and the reason is printed.
    """
    index = release.index
    missing = find_missing(index, wanted)
    sample = [] if deriving.is_verified(folder) else deriving.choose_sample(missing)
    written: list[str] = []
    num_sampled = 0
    try:
        heads = deriving.open_heads(release.bundle, parent, num_threads=settings.release_threads)
        if sample:
            num_sampled = hold(sample, deletes=False).num_embedded
        asked = [*sample, *(asset for asset in missing if asset not in sample)]
        write_line({"derive": [asset.asset_id for asset in asked]})
        num_done = 0
        began = time.monotonic()
        printer = _Printer()
        # Those whose files are gone cannot be compared: they are derived like the others.
        sampled = frozenset(index.get_assets([asset.asset_id for asset in sample]))
        cosines: list[float] = []
        num_segments = 0
        min_cosine = min(deriving.MIN_COSINES[storage] for storage in (parent_storage, index.storage))
        for assets in deriving.receive_segments(stdin):
            cosines += deriving.derive(assets, heads, index, sampled=sampled, min_cosine=min_cosine)
            written += [segments[0].asset_id for segments in assets if segments[0].asset_id not in sampled]
            num_done += len(assets)
            num_segments += sum(map(len, assets))
            rate = num_segments / max(time.monotonic() - began, 1e-9)
            if sample and cosines and num_done >= len(sample) and not deriving.is_verified(folder):
                found: DerivedAgreement = {
                    "num_compared": len(cosines),
                    "lowest_cosine": round(min(cosines), 6),
                    "parent_storage": parent_storage,
                    "storage": index.storage,
                }
                deriving.mark_verified(folder, found)
            printer(
                Progress(
                    num_files=len(asked),
                    num_done=num_done,
                    num_failed=0,
                    num_segments=num_segments,
                    segments_per_second=rate,
                    left_seconds=None,
                )
            )
    except deriving.ClaimFails as exc:
        index.delete_assets(written)
        write_line({"underived": str(exc)})
        return 0, num_sampled
    return len(written), num_sampled


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


def read_assets(lines: Iterable[str | bytes]) -> list[Asset]:
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
    except Exception as exc:
        write_line({"failed": f"{type(exc).__name__}: {exc}"})  # the traceback goes to the server's log
        raise
