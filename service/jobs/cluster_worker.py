"""One worker of a cluster: a release open on one machine, and batches of a driver, two at a time.

Nothing here knows of Ray: `service.jobs.ray_pool` makes an actor of `Worker`. One call, `wait`, brings word of what was
done. Keys and credentials are never sent: each machine has them in its own environment.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from models.bundle.bundle import BrokenBundle, Bundle, load_bundle, starter_path
from service.decode.decoder import Decoder
from service.decode.sandbox import WorkerLimits
from service.encode.batching import Batcher
from service.index.opening import index_place
from service.jobs.places import Place
from service.library.batch_run import work_on
from service.library.batches import Batch
from service.library.cluster import BatchEnded, BatchLost, Event
from service.library.indexing import library_limits
from service.library.object_cache import OBJECTS, ObjectCache
from service.releases.opening import batch_limits, open_encoder
from service.releases.store import ReleaseStore
from service.releases.switch import OpenRelease
from service.search.snapshot import Snapshot
from service.system.caller import Caller, CallerGone
from service.system.failure import Failure
from service.system.settings import Settings

logger = logging.getLogger(__name__)

LANES = 2  # while the last files of a batch are written, those of the next are decoded
WAIT_SECONDS = 1.0
GATHER_SECONDS = 0.2  # for more files in one answer: a hundred workers ask five hundred times a second
SENT = (
    "releases device precision tensorrt cuda_graphs worker_memory_bytes worker_recycle_after max_library_seconds "
    "max_frame_width max_frame_height max_streams max_channels object_cache_bytes min_free_bytes qdrant_url "
    "qdrant_prefix qdrant_prefer_grpc qdrant_grpc_port qdrant_timeout_seconds qdrant_shards qdrant_replicas "
    "qdrant_write_acknowledgements"
).split()
"""Settings that a worker takes from the driver; it has all others, the keys among them, from its own environment."""


class WrongWorker(Failure):
    """A machine has another Foley or another bundle than the driver."""

    code = "cluster_unavailable"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a worker opens; `settings` are JSON values, and no key is among them."""

    settings: Mapping[str, Any]
    release_id: str
    bundle_id: str
    version: str

    @classmethod
    def of(cls, settings: Settings, snapshot: Snapshot) -> Plan:
        """The plan of a driver with these settings and this release."""
        sent = settings.replace(releases=settings.release_folder.absolute())
        values = sent.model_dump(mode="json", include=set(SENT))
        if settings.bundle != starter_path():  # which each machine has its own copy of
            values["bundle"] = str(settings.bundle)
        return cls(
            settings=values,
            release_id=snapshot.release_id,
            bundle_id=snapshot.bundle_id,
            version=version("foley-av"),
        )


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a worker cannot work; if it `is_final` another one on the same machine cannot either."""

    reason: str
    is_final: bool


class Worker:
    """Works on batches. Calls may come from several threads; `wait` from one at a time."""

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = Caller()
        self._opened = ExitStack()

    def open(self, plan: Plan, place: Place) -> Refusal | None:
        """Open everything; returns why that is not possible."""
        try:
            self._open(plan, place)
        except (Failure, BrokenBundle, OSError, ValueError) as exc:
            self.close()
            return Refusal(reason=f"{place.node.name}: {exc}", is_final=isinstance(exc, WrongWorker))
        return None

    def add(self, batch: Batch) -> None:
        """Take a batch."""
        self._batches.put(batch)

    def wait(self) -> list[Event]:
        """What was done since the last call, at the latest after a second; at once if a batch is done."""
        events: list[Event] = []
        deadline = time.monotonic() + WAIT_SECONDS
        with suppress(queue.Empty):
            while not (events and isinstance(events[-1], BatchEnded | BatchLost)):
                events.append(self._events.get(timeout=max(0.0, deadline - time.monotonic())))
                deadline = min(deadline, time.monotonic() + GATHER_SECONDS)
        return events

    def close(self) -> None:
        """Stop after the present step, and close everything. What is stored stays."""
        self._stop.leave()
        self._opened.close()

    def _open(self, plan: Plan, place: Place) -> None:
        if version("foley-av") != plan.version:
            raise WrongWorker(f"Foley {version('foley-av')} is installed, and the driver is {plan.version}")
        settings = Settings().replace(
            **plan.settings, decode_workers=place.num_cpus, num_threads=place.num_cpus
        )
        if not place.num_gpus:
            settings = settings.replace(device="cpu")
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        bundle = _load_bundle(settings, plan)
        encoder = open_encoder(settings, bundle)
        batcher = Batcher(encoder, batch_limits(settings, encoder.engine.max_batch))
        self._opened.callback(batcher.close)
        limits = WorkerLimits(
            memory_bytes=settings.worker_memory_bytes, max_tasks=settings.worker_recycle_after
        )
        decoder = self._opened.enter_context(Decoder(num_workers=place.num_cpus, limits=limits))
        objects = ObjectCache.of(settings, f"{OBJECTS}-{place.number}")
        for _ in range(LANES):
            # Each lane writes for itself: two lanes may meet the same content.
            index = index_place(settings).open(bundle, release_id=plan.release_id)
            self._opened.callback(index.close)
            release = OpenRelease(
                release_id=plan.release_id, bundle=bundle, encoder=encoder, batcher=batcher, index=index
            )
            lane = threading.Thread(
                target=self._serve, args=(release, decoder, objects, settings), name="lane", daemon=True
            )
            lane.start()
            self._opened.callback(lane.join)
            self._opened.callback(self._batches.put, None)

    def _serve(
        self, release: OpenRelease, decoder: Decoder, objects: ObjectCache, settings: Settings
    ) -> None:
        while True:
            began = time.monotonic()
            if (batch := self._batches.get()) is None:
                return
            try:
                work_on(
                    batch,
                    snapshot=release.snapshot(priority="bulk"),
                    decoder=decoder,
                    limits=library_limits(settings),
                    tell=self._events.put,
                    stop=self._stop,
                    objects=objects,
                    waited_seconds=time.monotonic() - began,
                )
            except CallerGone:
                return
            except Exception as exc:
                logger.warning("a batch broke: %r", exc)
                # What this machine lacks is no fault of the files.
                is_theirs = not isinstance(exc, Failure | OSError)
                self._events.put(
                    BatchLost(batch=batch.number, reason=str(exc) or repr(exc), is_their_fault=is_theirs)
                )


def _load_bundle(settings: Settings, plan: Plan) -> Bundle:
    store = ReleaseStore(settings.release_folder)
    is_stored = (store.path(plan.release_id) / "release.json").exists()
    bundle = store.load_bundle(plan.release_id) if is_stored else load_bundle(settings.bundle)
    if bundle.bundle_id != plan.bundle_id:
        raise WrongWorker(
            f"the driver works with bundle {plan.bundle_id}, and here is {bundle.bundle_id}: FOLEY_RELEASES and "
            "FOLEY_BUNDLE must name folders that all machines see"
        )
    return bundle
