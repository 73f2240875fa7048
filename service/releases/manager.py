"""Changes releases while a service answers: create, activate, roll back, delete, calibrate.

    manager = ReleaseManager(settings, releases, decoder, writers=lane.paused)
    release = manager.create(Path("runs/mine/bundle"))
    manager.activate(release.release_id)
    manager.rollback()

A switch is prepared while the old release is active: the new one is opened, and brought up to date with what was
written since it was built. Then writers pause, the rest is copied, and one step makes it active: an fsynced rename of
`active.json`, or on a Qdrant server moving the alias, which decides for every replica (`service.releases.replicas`).
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle.bundle import load_bundle
from service.decode.decoder import Decoder
from service.index.contract import Asset, Index
from service.index.failure import IndexFailure
from service.index.iteration import iter_assets
from service.index.opening import index_place
from service.releases.building import OnBuild, build_release, learn_calibration
from service.releases.cost import Cost
from service.releases.documents import ReleaseDocument, SwitchDocument, explain_refusal
from service.releases.mirroring import building_options, mirror
from service.releases.opening import open_release
from service.releases.replicas import Follower, submit_behind
from service.releases.store import Active, Release, ReleaseError, ReleaseInUse, ReleaseRefused, ReleaseStore
from service.releases.switch import OpenRelease, ReleaseSwitch
from service.search.calibration import (
    MIN_ASSETS,
    Calibration,
    Pairs,
    TooFewPairs,
    choose_queries,
    sample_pairs,
)
from service.search.captions import learn_captions
from service.search.sources import check_comparable
from service.system.caller import Caller
from service.system.modality import OPPOSITE, Modality, NotComparable, NotEmbedded
from service.system.settings import Settings
from service.system.storage import Storage

logger = logging.getLogger(__name__)

MAX_ROUNDS = 5
STALE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Switched:
    """What a switch did; a job embeds the `num_behind` assets that the release lacks."""

    active: Active
    switch_seconds: float
    """From the step that makes it durable to the first request that gets the new release."""
    seconds: float
    """All of it: opening, catching up, switching."""
    num_behind: int

    def to_json(self) -> SwitchDocument:
        """The switch as JSON values."""
        return {
            "release_id": self.active.release_id,
            "previous": self.active.previous,
            "switched_at": self.active.switched_at,
            "switch_seconds": round(self.switch_seconds, 6),
            "seconds": round(self.seconds, 3),
            "num_behind": self.num_behind,
        }


class ReleaseManager:
    """Changes which release is active. Any thread may call it; one change at a time, the others wait.

    `writers` opens a block inside which no job writes to the index; `submit` queues files for a job to embed.
    """

    def __init__(
        self,
        settings: Settings,
        releases: ReleaseSwitch,
        decoder: Decoder,
        *,
        writers: Callable[[], AbstractContextManager[Any]] = nullcontext,
        submit: Callable[[Sequence[Path]], object] = lambda _: None,
    ) -> None:
        self.store = ReleaseStore(settings.release_folder)
        self._settings = settings
        self._place = index_place(settings)
        self._releases = releases
        self._decoder = decoder
        self._writers = writers
        self._submit = submit
        self._change = threading.RLock()
        self._building: str | None = None
        self._num_assets_tried = 0  # when captions were looked for
        self.follower = Follower(
            settings, self._place, self.store, releases, change=self._change, writers=writers, submit=submit
        )
        self.store.sweep(self._drop)

    def describe(self, release: Release) -> ReleaseDocument:
        """A release as the HTTP API shows it."""
        return self.store.describe(release, current=self._releases.current.release_id)

    @contextmanager
    def lease_to_write(self) -> Iterator[Index]:
        """The index of the active release for a short write; a switch waits until the block ends."""
        self.follower.follow_once()  # another replica may have switched just now
        with self._releases.gate.passing(), self._releases.lease() as release:
            yield release.index

    def create(
        self,
        bundle_path: Path,
        *,
        token: str = "",
        cost: Cost = "limited",
        storage: Storage | None = None,
        on_progress: OnBuild | None = None,
        stop: Caller | None = None,
    ) -> Release:
        """Build a release of a copy of the bundle; raises `ReleaseInUse` if another build runs. See `build_release`."""
        bundle = load_bundle(bundle_path)
        settings = self._settings if storage is None else self._settings.replace(storage=storage)
        with self._changing():
            if self._building is not None:
                raise ReleaseInUse(f"a release of {self._building} is being built")
            self._building = bundle.bundle_id
            self._adopt_current()
        try:
            with self.store.building(), self._releases.lease() as active:
                return build_release(
                    settings,
                    self.store,
                    active,
                    bundle,
                    token=token,
                    cost=cost,
                    on_progress=on_progress,
                    stop=stop,
                )
        finally:
            self._building = None

    def activate(self, release_id: str, *, who: str = "", why: str = "") -> Switched:
        """Activate a release; a reason `why` activates one that failed its gates, and is recorded with `who`.

        Raises `ReleaseRefused` if the gates failed and there is no reason, or the release is not complete.
        """
        began = time.monotonic()
        with self._changing():
            release = self.store.get(release_id)
            current = self._releases.current
            if release_id == current.release_id:
                raise ReleaseError(f"release {release_id} is active already")
            if release.outcome != "ready":
                if not (why and release.is_complete):
                    raise ReleaseRefused(_explain(release))
                release = self.store.force(release_id, who=who, why=why)
            self._adopt_current()
            with self._opened(release_id) as opened:
                self._catch_up(opened, given_up=release.missing)
                return self._switch(opened, given_up=release.missing, began=began)

    def rollback(self) -> Switched:
        """Switch back to the previous release (`ReleaseError` if none); a job embeds what was indexed meanwhile."""
        began = time.monotonic()
        with self._changing():
            active = self.store.active()
            if active is None or active.previous is None:
                raise ReleaseError("there is no release before the active one")
            release = self.store.get(active.previous)
            with self._opened(release.release_id) as opened:
                return self._switch(opened, given_up=release.missing, began=began)

    def delete(self, release_id: str, *, gives_up_rollback: bool = False) -> None:
        """Remove a release with its generation of the index; for `gives_up_rollback` see `ReleaseStore.delete`.

        Raises `ReleaseInUse` if it is active, is needed for a rollback or is being built.
        """
        with self._changing():
            release = self.store.get(release_id)
            if release_id == self._releases.current.release_id:
                raise ReleaseInUse(f"release {release_id} is active")
            with self.store.building() if release.outcome == "building" else nullcontext():
                self.store.delete(release_id, self._drop, gives_up_rollback=gives_up_rollback)

    def calibrate(self) -> Calibration:
        """Recalibrate the scores of the active release on its current library, for further requests too.

        Scores of texts are learned from captions, if there are enough. Raises `NotEmbedded` or `NotComparable` if its
        bundle does not compare sound with picture, `TooFewPairs` for a small library, if nothing was learned.
        """
        with self._releases.lease() as active:
            self._num_assets_tried = active.index.info().num_assets
            texts = learn_captions(
                active.snapshot(priority="bulk"), num_queries=self._settings.release_sample
            )
            queries: list[tuple[Asset, int]] = []
            pairs: dict[Modality, Pairs] = {}
            try:
                check_comparable(active.bundle, "audio", "video")
                queries = choose_queries(active.index, num_queries=self._settings.release_sample, seed=0)
                pairs = {target: sample_pairs(active.index, queries, target=target) for target in OPPOSITE}
            except (NotEmbedded, NotComparable, TooFewPairs):
                if not texts:
                    raise
            calibration = learn_calibration(
                self.store, active.release_id, active.index, queries, pairs, texts=texts
            )
            self._releases.recalibrate(active.release_id, calibration)
        return calibration

    def calibrate_if_stale(self) -> bool:
        """Recalibrate if that was never done, or the library has grown or shrunk by a quarter; returns whether."""
        active = self._releases.current
        learned = active.calibration
        known = learned.num_assets if learned and (learned.separation or learned.texts) else 0
        num_assets = active.index.info().num_assets
        embeds_text = active.bundle.manifest.text is not None
        if num_assets < MIN_ASSETS or not (active.bundle.manifest.compares or embeds_text):
            return False
        if embeds_text and not (learned and learned.texts):
            known = min(known, self._num_assets_tried)  # learned when it was built, without its captions
        if abs(num_assets - known) < STALE_SHARE * max(known, 1):
            return False
        try:
            self.calibrate()
        except (TooFewPairs, NotEmbedded, NotComparable):
            return False
        except (IndexFailure, OSError) as exc:
            logger.warning("the scores were not calibrated: %s", exc)
            return False
        return True

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A block in which no other process changes releases, begun with the release that is active everywhere."""
        with self._change, self.store.changing():
            self.follower.catch_up()
            yield

    @contextmanager
    def _opened(self, release_id: str) -> Iterator[OpenRelease]:
        """A release to switch to, open already if somebody still uses it; closed again if the switch fails."""
        with self._releases.lease_old(release_id) as used:
            opened = used or open_release(self._settings, release_id, self.store.load_bundle(release_id))
            try:
                yield opened
            except BaseException:
                if used is None:
                    opened.close()
                raise

    def _drop(self, release_id: str) -> None:
        """Remove what a release has outside the store: its generation of the index, and its spool."""
        self._place.drop(release_id)
        shutil.rmtree(self._settings.data / "spool" / release_id, ignore_errors=True)

    def _adopt_current(self) -> None:
        """Keep the active release in the store too, so that a rollback can return to it."""
        current = self._releases.current
        self.store.adopt(current.release_id, current.bundle)

    def _catch_up(self, opened: OpenRelease, *, given_up: Sequence[str]) -> None:
        """Embed what was indexed since the release was built, until nothing is left."""
        for _ in range(MAX_ROUNDS):
            report = mirror(
                list(iter_assets(self._releases.current.index)),
                snapshot=opened.snapshot(priority="bulk"),
                decoder=self._decoder,
                options=building_options(self._settings),
                given_up=given_up,
                source=self._releases.current.bundle,
            )
            if report.num_embedded == 0:
                return

    def _switch(self, opened: OpenRelease, *, given_up: Sequence[str], began: float) -> Switched:
        """Bring paths, metadata and deletions up to date while writers wait, and activate the release."""
        current = self._releases.current
        with self._releases.gate.closed(), self._writers():
            wanted = list(iter_assets(current.index))
            report = mirror(
                wanted,
                snapshot=opened.snapshot(priority="bulk"),
                decoder=self._decoder,
                embeds=False,
                source=current.bundle,
            )
            switched_at = time.monotonic()
            self._place.activate(opened.release_id)
            active = self.store.activate(opened.release_id, previous=current.release_id)
            self._releases.switch(opened)
            switch_seconds = time.monotonic() - switched_at
        missing = set(report.missing) - set(report.beyond) - set(given_up)
        behind = [Path(asset.path) for asset in wanted if asset.asset_id in missing]
        submit_behind(self._submit, behind)
        seconds = time.monotonic() - began
        logger.info("release %s is active after %.3f s", opened.release_id, seconds)
        return Switched(active=active, switch_seconds=switch_seconds, seconds=seconds, num_behind=len(behind))


def name_of_user() -> str:
    """The user who activates a release on the command line."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"user {os.getuid()}"


def _explain(release: Release) -> str:
    if release.outcome == "building":
        return f"release {release.release_id} is not complete: create it again to continue"
    return explain_refusal(release.to_json())
