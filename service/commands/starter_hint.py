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


def hint_once(settings: Settings, say: Callable[[str], None]) -> None:
    """Say it if the starter is active and it was not said of this data folder before."""
    active = ReleaseStore(settings.release_folder).active()
    starter = read_bundle_id(starter_path())
    is_starter = (
        settings.bundle == starter_path() if active is None else active.release_id.startswith(starter)
    )
    mark = settings.data / MARK
    if not is_starter or mark.exists():
        return
    with contextlib.suppress(OSError):  # a disk that is full or read only: it is said again
        settings.data.mkdir(parents=True, exist_ok=True)
        mark.touch()
    say(HINT)
