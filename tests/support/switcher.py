"""Switches between two releases without end, to be killed; run as a program.

python switcher.py SETTINGS FIRST SECOND            says `ask NAME` before and `done NAME` after each switch
python switcher.py SETTINGS FIRST SECOND broken     the control: says it is done before it is

Nothing is embedded, so no encoder is loaded; store, index and the order of a switch are those of the service.
"""

from __future__ import annotations

import sys
import threading
from contextlib import nullcontext
from typing import Any, cast

from service.releases import manager, opening
from service.releases.store import ReleaseStore
from service.releases.switch import OpenRelease, ReleaseSwitch
from service.system.caller import Caller


class NoEncoder:
    """An encoder and a queue that nobody asks."""

    def close(self) -> None:
        """Nothing to close."""


def open_release(settings: Any, release_id: str, bundle: Any) -> OpenRelease:
    """Open a release with everything but its encoder."""
    return OpenRelease(
        release_id=release_id,
        bundle=bundle,
        encoder=cast(Any, NoEncoder()),
        batcher=cast(Any, NoEncoder()),
        index=opening.index_place(settings).open(bundle, release_id=release_id),
    )


def main() -> None:
    settings = opening.read_settings(sys.argv[1])
    names, is_broken = sys.argv[2:4], "broken" in sys.argv
    manager.open_release = open_release  # type: ignore[assignment]
    OpenRelease.snapshot = lambda self, *_, **__: cast(Any, Snapshot(self))  # type: ignore[assignment]
    active, bundle = opening.active_release(settings)
    releases = ReleaseSwitch(open_release(settings, active, bundle))
    own = manager.ReleaseManager(settings, releases, cast(Any, None), writers=nullcontext)
    assert ReleaseStore(settings.release_folder).active() is not None
    say("ready")
    threading.Thread(target=leave_with_parent, daemon=True).start()
    for turn in range(1_000_000):
        other = names[1 - names.index(releases.current.release_id)]
        say(f"ask {other}")
        if is_broken:
            say(f"done {other}")
        if turn % 3 == 2:
            assert own.rollback().active.release_id == other
        else:
            own.activate(other)
        if not is_broken:
            say(f"done {other}")


class Snapshot:
    """As much of a snapshot as `mirror` looks at where nothing is embedded."""

    def __init__(self, found: OpenRelease) -> None:
        self.index, self.bundle = found.index, found.bundle
        self.caller = Caller()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def leave_with_parent() -> None:
    """End with the test: its end of the pipe closes."""
    sys.stdin.read()
    import os

    os._exit(1)


if __name__ == "__main__":
    main()
