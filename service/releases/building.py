"""Builds a release beside the active one: try the bundle, embed the library, measure, calibrate.

    release = build_release(settings, store, live, bundle)      # takes as long as the library is large; may be killed
    release.outcome                                             # ready, or refused with its reasons

A build that was killed is found as `building` and is resumed: what is embedded stays embedded.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

from models.bundle.bundle import Bundle
from service.index.contract import Asset, Index
from service.index.failure import IndexFailure, IndexFull
from service.index.iteration import iter_assets
from service.index.opening import index_place
from service.releases.builder import write_asset
from service.releases.cost import Cost, check_room, estimate_build, explain_cost
from service.releases.deriving import send_segments
from service.releases.documents import Estimate, Gates, LibraryCounts, Outcome, Side, Trial
from service.releases.gates import NUM_RANKS, Generation, Query, describe_gates, judge, measure_overlap
from service.releases.opening import write_settings
from service.releases.store import Release, ReleaseError, ReleaseRefused, ReleaseStore
from service.releases.switch import OpenRelease
from service.releases.trial import try_bundle
from service.search.calibration import (
    Calibration,
    Pairs,
    TextDirection,
    TooFewPairs,
    choose_queries,
    fit_direction,
    sample_pairs,
)
from service.search.separation import measure_separation
from service.system.caller import Caller, CallerGone
from service.system.child import start_child
from service.system.modality import OPPOSITE, Modality
from service.system.settings import Settings

logger = logging.getLogger(__name__)

MAX_ROUNDS = 5
"""How often the library is read again because others wrote to it; the switch does the rest."""
STOP_SECONDS = 30.0


class BuildFailed(ReleaseError):
    """The process that embeds the library ended early; asking for the same build again resumes it."""

    code = "build_failed"


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What a release is derived from: the folder of its bundle and its open index."""

    bundle: Path
    index: Index


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far a build is: `detail` has counts, segments a second and seconds left, or the outcome."""

    step: str
    """`trial`, `embedding`, `measuring` or `done`."""
    detail: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The progress as JSON values."""
        return {"step": self.step, **self.detail}


OnBuild = Callable[[BuildProgress], None]


def build_release(
    settings: Settings,
    store: ReleaseStore,
    active: OpenRelease,
    bundle: Bundle,
    *,
    token: str = "",
    cost: Cost = "limited",
    on_progress: OnBuild | None = None,
    stop: Caller | None = None,
) -> Release:
    """Make a release of a verified bundle: ready to be activated, or refused with reasons.

    The caller keeps `active` open: its library is embedded again. A `token` that was used before finds its release
    again. `IndexFull` is raised if the disk is full, `CallerGone` if `stop` leaves; then the build can be resumed.
    """
    tell, stop = on_progress or (lambda _: None), stop or Caller()
    check_room(settings.disk_space(settings.release_folder), _bundle_bytes(bundle), "copying the bundle")
    release = store.create(bundle, outcome="building", token=token)
    if release.outcome != "building":
        return release
    folder = store.path(release.release_id) / "bundle"
    tell(BuildProgress(step="trial", detail={}))
    try:
        trial = try_bundle(settings, folder, active=active.bundle.path)
        estimate = estimate_build(settings, active, bundle, trial)
        if cost == "limited" and (why := explain_cost(settings, trial, estimate)):
            raise ReleaseRefused(why)
        stop.check()
        library, missing = _embed(settings, store, release, active, bundle, estimate, tell, stop)
    except ReleaseRefused as exc:
        gates: Gates = {"passed": False, "reasons": [str(exc)]}
        return _save(store, replace(release, outcome="refused", gates=gates))
    tell(BuildProgress(step="measuring", detail={}))
    release = replace(release, library=library, missing=missing)
    index = index_place(settings).open(store.load_bundle(release.release_id), release_id=release.release_id)
    new = Generation(bundle=bundle, index=index)
    try:
        release = _measure(settings, store, release, trial, cost, new=new, active=Generation.of(active))
    finally:
        index.close()
    tell(BuildProgress(step="done", detail={"outcome": release.outcome}))
    return _save(store, release)


def _bundle_bytes(bundle: Bundle) -> int:
    return sum(int(file["bytes"]) for file in bundle.manifest.files.values())


def _embed(
    settings: Settings,
    store: ReleaseStore,
    release: Release,
    active: OpenRelease,
    bundle: Bundle,
    estimate: Estimate,
    tell: OnBuild,
    stop: Caller,
) -> tuple[LibraryCounts, tuple[str, ...]]:
    """Embed the library in a child process until no write came meanwhile; returns counts, and assets that failed."""
    began = time.monotonic()
    report: dict[str, Any] = {}
    num_embedded = num_derived = 0
    with find_parent(settings, store, active, bundle) as source:
        for _ in range(MAX_ROUNDS):
            wanted = list(iter_assets(active.index))

            def forward(progress: Mapping[str, Any]) -> None:
                tell(BuildProgress(step="embedding", detail={**progress, "estimate": dict(estimate)}))

            report = _run_builder(settings, release.release_id, wanted, forward, stop, source)
            num_embedded += report["num_embedded"]
            num_derived += report["num_derived"]
            if list(iter_assets(active.index)) == wanted:
                break
    missing, num_beyond = tuple(report.pop("missing")), len(report.pop("beyond"))
    seconds = round(time.monotonic() - began, 3)
    report |= {"num_embedded": num_embedded, "num_derived": num_derived, "num_beyond": num_beyond}
    counts = {**report, "seconds": seconds, "estimate": estimate}
    return cast(LibraryCounts, counts), missing


@contextlib.contextmanager
def find_parent(
    settings: Settings, store: ReleaseStore, active: OpenRelease, bundle: Bundle
) -> Iterator[Parent | None]:
    """What a bundle with heads can be derived from: a release of its parent; None if there is none that can be read."""
    derivation = bundle.manifest.derived_from
    if derivation is None:
        yield None
        return
    if active.bundle.bundle_id == derivation.bundle_id:
        yield Parent(bundle=active.bundle.path, index=active.index)
        return
    with contextlib.ExitStack() as stack:
        found: Parent | None = None
        for release in reversed(store.list()):
            if release.bundle_id == derivation.bundle_id and release.outcome == "ready":
                parent = store.load_bundle(release.release_id)
                try:
                    index = index_place(settings).find(parent, release_id=release.release_id)
                except IndexFailure as exc:
                    logger.warning("release %s cannot be derived from: %s", release.release_id, exc)
                    continue
                if index is not None:
                    found = Parent(bundle=parent.path, index=stack.enter_context(contextlib.closing(index)))
                    break
        if found is None:
            logger.warning(
                "no release of %s is there: %s is embedded", derivation.bundle_id, bundle.bundle_id
            )
        yield found


def _run_builder(
    settings: Settings,
    release_id: str,
    wanted: Sequence[Asset],
    tell: Callable[[Mapping[str, Any]], None],
    stop: Caller,
    source: Parent | None = None,
) -> dict[str, Any]:
    workers = max(1, min(settings.decode_workers, settings.release_threads))
    limited = settings.replace(
        num_threads=settings.release_threads,
        decode_workers=workers,
        # At the lowest priority of a busy machine a write may wait for longer than anybody who asks would.
        index_call_seconds=max(settings.index_call_seconds, settings.release_stall_seconds),
    )
    parent = [str(source.bundle), source.index.storage] if source is not None else []
    child = start_child(
        "service.releases.builder", release_id, *parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    report: dict[str, Any] | None = None
    stalled_seconds: float | None = None
    full: str | None = None
    failed: str | None = None
    with child, stop.telling(lambda: child.send_signal(signal.SIGTERM)):
        asked: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        feeder = threading.Thread(target=_feed, args=(child, limited, wanted, source, asked), daemon=True)
        feeder.start()
        for line in child.stdout:
            fields = json.loads(line)
            if "progress" in fields:
                tell(fields["progress"])
            stalled_seconds = fields.get("stalled_seconds", stalled_seconds)
            report, full = fields.get("report", report), fields.get("full", full)
            failed = fields.get("failed", failed)
            if "derive" in fields:
                asked.put(fields["derive"])
            if "underived" in fields:
                asked.put(None)
                logger.warning("release %s is embedded, not derived: %s", release_id, fields["underived"])
        asked.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
        child.kill()
        feeder.join()
    if stop.is_gone:
        raise CallerGone("the build was stopped; ask for it again to resume it")
    if stalled_seconds is not None:
        raise ReleaseRefused(
            f"its encoder took longer than {stalled_seconds:g} s for one batch of the library, and was stopped"
        )
    if full is not None:
        raise IndexFull(full)
    if report is None or child.returncode != 0:
        raise BuildFailed(
            f"the process that embeds the library for {release_id} ended with {child.returncode}"
            + (f": {failed}" if failed else "")
        )
    return report


def _feed(
    child: subprocess.Popen[str],
    settings: Settings,
    wanted: Sequence[Asset],
    source: Parent | None,
    asked: queue.SimpleQueue[list[str] | None],
) -> None:
    """Write what the builder reads: settings, assets, and of the parent's tracks what it asks for."""
    assert child.stdin is not None
    with contextlib.suppress(OSError), child.stdin:  # a child that died says so otherwise
        child.stdin.write(write_settings(settings))
        for asset in wanted:
            child.stdin.write(write_asset(asset))
        child.stdin.write("\n")
        child.stdin.flush()
        if source is not None and (ids := asked.get()) is not None:
            by_id = {asset.asset_id: asset for asset in wanted}
            binary = cast(IO[bytes], cast(io.TextIOWrapper, child.stdin).buffer)
            send_segments(binary, source.index, (by_id[asset_id] for asset_id in ids))


def _measure(
    settings: Settings,
    store: ReleaseStore,
    release: Release,
    trial: Trial,
    cost: Cost,
    *,
    new: Generation,
    active: Generation,
) -> Release:
    """Search both releases with the same segments, for the gates and the calibration."""
    samples: dict[Side, dict[Modality, Pairs]] = {"new": {}, "active": {}}
    overlap: float | None = None
    sides: dict[Side, Generation] = {"new": new, "active": active}
    undecided = [f"recall could not be compared: {why}" for side in sides.values() if (why := side.why_not())]
    try:
        comparing = [side for side, generation in sides.items() if generation.why_not() is None]
        queries = _choose_queries(settings, release, new=new, active=active) if "new" in comparing else []
        for side in comparing if queries else ():
            samples[side] = {
                target: sample_pairs(
                    sides[side].index, sides[side].number(queries), target=target, num_ranks=NUM_RANKS
                )
                for target in OPPOSITE
            }
        if len(comparing) == len(sides):
            shares = [measure_overlap(new, active, queries, target=target) for target in OPPOSITE]
            found = [share for share in shares if share is not None]
            overlap = sum(found) / len(found) if found else None
        if "new" in comparing:
            learn_calibration(store, release.release_id, new.index, new.number(queries), samples["new"])
    except TooFewPairs as exc:
        undecided.append(f"recall could not be compared: {exc}")
    for reason in undecided:
        logger.warning("release %s is not compared by retrieval: %s", release.release_id, reason)
    num_assets = release.library["num_assets"]
    gates = judge(
        settings,
        trial=trial,
        num_assets=num_assets - release.library.get("num_beyond", 0),
        num_embedded=num_assets - len(release.missing),
        new=samples["new"],
        active=samples["active"],
        overlap=overlap,
        is_of_one_family=new.bundle.manifest.family == active.bundle.manifest.family,
        cost=cost,
    )
    outcome: Outcome = "ready" if all(gate["passed"] for gate in gates) else "refused"
    return replace(release, outcome=outcome, gates=describe_gates(gates, trial, samples, undecided))


def _choose_queries(
    settings: Settings, release: Release, *, new: Generation, active: Generation
) -> list[Query]:
    """Draw segments of the active release, or of the new one if the active one does not hold sound and picture."""
    drawn = active if len(active.bundle.manifest.tracks) > 1 else new
    queries = choose_queries(drawn.index, num_queries=settings.release_sample, seed=0)
    return [
        (asset, number * drawn.segment_seconds)
        for asset, number in queries
        if asset.asset_id not in release.missing
    ]


def learn_calibration(
    store: ReleaseStore,
    release_id: str,
    index: Index,
    queries: Sequence[tuple[Asset, int]],
    pairs: Mapping[Modality, Pairs],
    *,
    texts: Mapping[Modality, TextDirection] = MappingProxyType({}),
) -> Calibration:
    """Fit both directions to pairs of a release's own index, if it has some, and keep the calibration with it."""
    calibration = Calibration(
        directions={target: fit_direction(found) for target, found in pairs.items()},
        num_assets=index.info().num_assets,
        separation=measure_separation(index, queries),
        texts=dict(texts),
    )
    store.save_calibration(release_id, calibration)
    return calibration


def _save(store: ReleaseStore, release: Release) -> Release:
    store.save(release)
    return release
