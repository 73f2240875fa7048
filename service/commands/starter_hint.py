"""One line, once a data folder: the starter knows synthetic clips only, and a command brings another encoder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from models.bundle.bundle import read_bundle_id, starter_path
from service.releases.store import ReleaseStore
from service.system.settings import Settings

HINT = (
    "the starter bundle knows synthetic clips only: `foley models get pe-av-small` brings an encoder for real media "
    "(`foley models list` shows all)"
)
MARK = ".starter-hint"


def is_starter_active(settings: Settings) -> bool:
    """Whether the starter answers, as far as this machine's files tell."""
    active = ReleaseStore(settings.release_folder).active()
    if active is None:
        return settings.bundle == starter_path()
    return active.release_id.startswith(read_bundle_id(starter_path()))


def hint_once(settings: Settings, say: Callable[[str], None]) -> None:
    """Say it if the starter is active and it was not said of this data folder before."""
    mark = settings.data / MARK
    if not is_starter_active(settings) or mark.exists():
        return
    with contextlib.suppress(OSError):  # a disk that is full or read only: it is said again
        settings.data.mkdir(parents=True, exist_ok=True)
        mark.touch()
    say(HINT)
