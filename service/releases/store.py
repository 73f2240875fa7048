"""Where releases are kept, and which one is active.

    RELEASES/active.json            which release is active; replaced in one fsynced rename
    RELEASES/RELEASE/release.json   what it is made of and what is known of it
    RELEASES/RELEASE/bundle/        the bundle, copied, so that no change outside reaches it
    RELEASES/RELEASE/calibration.json
    DATA/index/RELEASE/             its generation of the embedded index

A release is made aside and renamed into place; release.json is replaced whole. So a crash leaves no file half written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from models.bundle.bundle import MANIFEST, BrokenBundle, Bundle, Manifest, load_bundle
from service.index.failure import IndexFailure
from service.releases.adoption import adopt_bundle
from service.releases.documents import (
    BundleFacts,
    Forced,
    Gates,
    LibraryCounts,
    Outcome,
    ReleaseDocument,
    ReleaseRecord,
    describe_bundle,
)
from service.search.calibration import Calibration
from service.system.failure import Failure
from service.system.files import FileLocked, locked_file, make_private, replace_file, sync_folder

logger = logging.getLogger(__name__)

_NEW, _OLD = ".new-", ".old-"
RELEASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class ReleaseError(Failure):
    """What was asked of a release cannot be done. Subclasses say why."""

    code = "release_error"


class ReleaseNotFound(ReleaseError):
    """There is no such release."""

    code = "release_not_found"


class ReleaseInUse(ReleaseError):
    """The release is active, the one to roll back to, or being built."""

    code = "release_in_use"


class ReleaseRefused(ReleaseError):
    """The release did not pass its gates, or is not complete."""

    code = "release_refused"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One encoder pair, one generation of the index, one calibration; the fields are those of `ReleaseRecord`.

    `release_id` is that of the bundle, and after the first generation its number too. Asking again with the same
    `token` finds the same release.
    """

    release_id: str
    bundle_id: str
    outcome: Outcome
    created_at: float
    library: LibraryCounts = field(default_factory=LibraryCounts)
    missing: Sequence[str] = ()
    gates: Gates = field(default_factory=Gates)
    token: str = ""
    forced: Forced | None = None

    @property
    def is_complete(self) -> bool:
        """Whether its library was embedded and its gates were measured: only then it may be forced."""
        return bool(self.gates.get("gates"))

    def to_json(self) -> ReleaseRecord:
        """The release as JSON values."""
        return cast(ReleaseRecord, asdict(self))


@dataclass(frozen=True, kw_only=True)
class Active:
    """Which release is active since `switched_at` (seconds since 1970), and which one a rollback activates."""

    release_id: str
    previous: str | None
    switched_at: float


class ReleaseStore:
    """The releases of one library. Any process may read; a writer has a lock (`changing`, `building`).

    Replicas of one Qdrant server share the folder. With an embedded index only the process that has it open writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Wait until no other process changes releases, and keep others waiting until the block ends."""
        with self._locked("change.lock", "another process changes releases", waits=True):
            yield

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Keep other processes from building until the block ends; raises `ReleaseInUse` if one builds."""
        with self._locked("build.lock", "another process builds a release", waits=False):
            yield

    @contextlib.contextmanager
    def _locked(self, name: str, refusal: str, *, waits: bool) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_file(self.folder / name, wait_seconds=None if waits else 0))
            except FileLocked as exc:
                raise ReleaseInUse(refusal) from exc
            yield

    def path(self, release_id: str) -> Path:
        """The folder of a release, existing or not; raises `ReleaseNotFound` if no release can have this name."""
        if not RELEASE_ID.fullmatch(release_id):
            raise ReleaseNotFound(f"no release is called {release_id[:100]!r}")
        return self.folder / release_id

    def list(self) -> list[Release]:
        """Every release, the oldest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for folder in self.folder.iterdir():
            if RELEASE_ID.fullmatch(folder.name) and (folder / "release.json").is_file():
                found.append(self.get(folder.name))
        return sorted(found, key=lambda release: (release.created_at, release.release_id))

    def get(self, release_id: str) -> Release:
        """Read a release; raises `ReleaseNotFound` if there is none, `ReleaseError` if its file cannot be read."""
        path = self.path(release_id) / "release.json"
        try:
            fields = json.loads(path.read_text("utf-8"))
            return Release(**{**fields, "missing": tuple(fields["missing"])})
        except FileNotFoundError as exc:
            raise ReleaseNotFound(f"there is no release {release_id}") from exc
        except (OSError, KeyError, ValueError, TypeError) as exc:
            raise ReleaseError(f"{path} cannot be read: {exc}") from exc

    def describe(self, release: Release, *, current: str) -> ReleaseDocument:
        """A release for people and programs; `current` is the active one."""
        active, calibration = self.active(), self.load_calibration(release.release_id)
        return {
            **release.to_json(),
            "state": "active" if release.release_id == current else release.outcome,
            "is_previous": active is not None and active.previous == release.release_id,
            "has_calibration": calibration is not None and calibration.can_tell,
            "num_captions": {} if calibration is None else calibration.num_captions,
            "bundle": self._describe_bundle(release.release_id),
        }

    def _describe_bundle(self, release_id: str) -> BundleFacts | None:
        try:
            text = (self.path(release_id) / "bundle" / MANIFEST).read_text("utf-8")
            return describe_bundle(Manifest.from_json(text))
        except (OSError, ValueError):
            return None

    def load_bundle(self, release_id: str) -> Bundle:
        """Open the bundle of a release and verify every file; raises `BrokenBundle` if it is damaged or another."""
        release = self.get(release_id)
        bundle = load_bundle(self.path(release_id) / "bundle")
        if bundle.bundle_id != release.bundle_id:
            raise BrokenBundle(f"release {release_id} holds {bundle.bundle_id}, not {release.bundle_id}")
        return bundle

    def load_calibration(self, release_id: str) -> Calibration | None:
        """Read the calibration of a release, None if none was learned; raises `ReleaseError` if its file is damaged."""
        path = self.path(release_id) / "calibration.json"
        try:
            return Calibration.from_json(json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise ReleaseError(f"{path} cannot be read: {exc}") from exc

    def create(
        self, source: Bundle, *, outcome: Outcome, is_new_generation: bool = True, token: str = ""
    ) -> Release:
        """Copy a verified bundle into the store as a new release, or find the unfinished one that it began before.

        A finished release of the same bundle is returned if `is_new_generation` is false, or if it has this `token`;
        else the new one is its next generation.
        """
        same = [release for release in self.list() if release.bundle_id == source.bundle_id]
        for release in same:
            if release.outcome == "building" or not is_new_generation or (token and release.token == token):
                return release
        taken = {release.release_id for release in same}
        release_id, number = source.bundle_id, 1
        while release_id in taken:
            number += 1
            release_id = f"{source.bundle_id}.{number}"
        release = Release(
            release_id=release_id,
            bundle_id=source.bundle_id,
            outcome=outcome,
            created_at=time.time(),
            token=token,
        )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = self.folder / f"{_NEW}{release_id}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        adopt_bundle(source, aside / "bundle")
        replace_file(aside / "release.json", _text(release.to_json()))
        target = self.path(release_id)
        if target.exists():  # calibrated before it was kept: see `save_calibration`
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(target / "calibration.json", aside / "calibration.json")
            shutil.rmtree(target)
        make_private(aside)
        sync_folder(aside)
        aside.rename(target)
        sync_folder(self.folder)
        return release

    def save(self, release: Release) -> None:
        """Replace what is known of a release, durably."""
        replace_file(self.path(release.release_id) / "release.json", _text(release.to_json()))

    def save_calibration(self, release_id: str, calibration: Calibration) -> None:
        """Replace the calibration of a release, durably; the release itself may not be in the store yet."""
        self.path(release_id).mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self.path(release_id) / "calibration.json", _text(calibration.to_json()))

    def active(self) -> Active | None:
        """The active release, None if none was ever activated; raises `ReleaseError` if the file is damaged."""
        path = self.folder / "active.json"
        try:
            return Active(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as exc:
            raise ReleaseError(f"{path} cannot be read: {exc}") from exc

    def activate(self, release_id: str, *, previous: str | None) -> Active:
        """Make a release the active one, in one fsynced rename; a rollback activates `previous` again."""
        self.get(release_id)
        return self._name_active(release_id, previous=previous)

    def adopt(self, release_id: str, bundle: Bundle) -> None:
        """Keep the release that is active although none was ever activated.

        Its name comes first: releases without `active.json` are refused, as that is lost.
        """
        if self.active() is None:
            self._name_active(release_id, previous=None)
        if not (self.path(release_id) / "release.json").exists():
            self.create(bundle, outcome="ready", is_new_generation=False)

    def _name_active(self, release_id: str, *, previous: str | None) -> Active:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        active = Active(release_id=release_id, previous=previous, switched_at=time.time())
        replace_file(self.folder / "active.json", _text(asdict(active)))
        return active

    def force(self, release_id: str, *, who: str, why: str) -> Release:
        """Record who activates a refused release, and why."""
        release = replace(self.get(release_id), forced={"who": who, "why": why, "at": f"{time.time():.0f}"})
        self.save(release)
        return release

    def delete(
        self,
        release_id: str,
        drop: Callable[[str], None] = lambda _: None,
        *,
        gives_up_rollback: bool = False,
    ) -> None:
        """Remove a release; `drop` removes what it has outside the store, and `sweep` does so again after a crash.

        With `gives_up_rollback` it may be the one that a rollback activates; there is none afterwards. Raises
        `ReleaseInUse` if it is active or needed for a rollback.
        """
        folder = self.path(release_id)
        self.get(release_id)
        active = self.active()
        if active is not None and release_id == active.release_id:
            raise ReleaseInUse(f"release {release_id} is active")
        if active is not None and release_id == active.previous:
            if not gives_up_rollback:
                raise ReleaseInUse(
                    f"release {release_id} is the one a rollback returns to; give that up to delete it: --force, over "
                    "HTTP force=true"
                )
            replace_file(self.folder / "active.json", _text(asdict(replace(active, previous=None))))
        gone = self.folder / f"{_OLD}{release_id}"
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)  # gone at once, whatever happens while its files are removed
        sync_folder(self.folder)
        drop(release_id)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self, drop: Callable[[str], None] = lambda _: None) -> None:
        """Remove what a crash left of releases that were being made or deleted, unless another process is at work."""
        if not self.folder.is_dir():
            return
        with ExitStack() as stack:
            try:
                for name in ("build.lock", "change.lock"):
                    stack.enter_context(self._locked(name, "another process is at work", waits=False))
            except (ReleaseInUse, OSError) as exc:
                logger.info("%s is not swept: %s", self.folder, exc)
                return
            for folder in self.folder.iterdir():
                if folder.name.startswith((_NEW, _OLD)):
                    release_id = folder.name.removeprefix(_OLD)
                    with contextlib.suppress(OSError, IndexFailure):  # the next sweep tries again
                        if folder.name.startswith(_OLD) and not self.path(release_id).exists():
                            drop(release_id)
                        shutil.rmtree(folder)


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + os.linesep
