"""One of several services on a Qdrant server: it activates the release that the library's alias names.

A replica that switches moves the alias; every other replica looks every few seconds, and before it changes anything.
A running request ends with the release it began with; a running job is paused and continues with the new one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from service.index.iteration import iter_assets
from service.index.opening import IndexPlace
from service.releases.opening import open_release
from service.releases.store import ReleaseNotFound, ReleaseStore
from service.releases.switch import OpenRelease, ReleaseSwitch
from service.system.failure import Failure
from service.system.settings import Settings

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0
Submit = Callable[[Sequence[Path]], object]


class Follower:
    """Follows the alias of a shared place; a data folder has none, and nothing is done.

    `change` is held while releases change in this process. For `writers` and `submit` see `ReleaseManager`.
    """

    def __init__(
        self,
        settings: Settings,
        place: IndexPlace,
        store: ReleaseStore,
        releases: ReleaseSwitch,
        *,
        change: threading.RLock,
        writers: Callable[[], AbstractContextManager[Any]],
        submit: Submit,
    ) -> None:
        self._settings = settings
        self._place = place
        self._store = store
        self._releases = releases
        self._change = change
        self._writers = writers
        self._submit = submit
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look every few seconds, in a thread."""
        if self._place.is_shared:
            self._thread = threading.Thread(target=self._run, name="release-follower", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, or leave it behind if it waits for another replica's switch."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        failure = ""
        while not self._is_stopping.wait(self._settings.release_poll_seconds):
            try:
                self.follow_once()
                self._refresh_calibration()
            except Exception as exc:  # the server may be away, or the bundle not here yet
                if failure != str(exc):  # not every two seconds
                    logger.warning("the active release could not be followed", exc_info=exc)
                failure = str(exc)
            else:
                failure = ""

    def catch_up(self) -> None:
        """Follow, and mend `active.json` if a crash left it behind the alias."""
        self.follow_once()
        if not self._place.is_shared:
            return
        active, current = self._store.active(), self._releases.current.release_id
        is_kept = (self._store.path(current) / "release.json").exists()
        if is_kept and active is not None and active.release_id != current:
            self._store.activate(current, previous=active.release_id)

    def follow_once(self) -> bool:
        """Activate the release that the alias names; returns whether it was another one before."""
        if self._find_other() is None:
            return False
        with self._change:
            release_id = self._find_other()  # again: a switch of our own may have come between
            if release_id is None:
                return False
            behind = self._follow(self._releases.current, release_id)
        logger.info("following the alias to release %s", release_id)
        submit_behind(self._submit, behind)
        return True

    def _find_other(self) -> str | None:
        """The release that the alias names, if it is another than the active one of this process."""
        if not self._place.is_shared:
            return None
        with self._releases.lease() as release:
            release_id = self._place.active(release.index)
            return None if release_id == release.release_id else release_id

    def _follow(self, current: OpenRelease, release_id: str) -> list[Path]:
        """Switch, and return the files that were written here to the old release and are not in the new one."""
        release = open_release(self._settings, release_id, self._store.load_bundle(release_id))
        try:
            with self._releases.gate.closed(), self._writers():
                wanted = list(iter_assets(current.index))
                self._releases.switch(release)
        except BaseException:
            release.close()
            raise
        if self._made_at(release_id) < self._made_at(current.release_id):
            return []  # a rollback: the replica that was asked for it embeds what is missing
        known = {asset.asset_id for asset in iter_assets(release.index)}
        known |= set(self._store.get(release_id).missing)
        return [Path(asset.path) for asset in wanted if asset.asset_id not in known]

    def _made_at(self, release_id: str) -> float:
        try:
            return self._store.get(release_id).created_at
        except ReleaseNotFound:  # the first of all is in no store
            return 0.0

    def _refresh_calibration(self) -> None:
        """Take over a calibration that another replica has learned."""
        current = self._releases.current
        calibration = self._store.load_calibration(current.release_id)
        if calibration is not None and calibration != current.calibration:
            self._releases.recalibrate(current.release_id, calibration)


def submit_behind(submit: Submit, behind: Sequence[Path]) -> None:
    """Queue the embedding of files that the active release lacks; a failure is logged and must not undo the switch."""
    if not behind:
        return
    try:
        submit(behind)
    except (Failure, OSError) as exc:
        logger.error("%d files that the release lacks were not queued: %s", len(behind), exc)
