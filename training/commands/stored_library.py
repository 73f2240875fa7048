"""What commands that learn from a library read of it: stored tracks of a release, and its bundle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from models.bundle.bundle import Bundle, load_bundle
from training.adapting.fitting import apply_head
from training.data.library import LibraryUnavailable
from training.data.stored_tracks import StoredTracks, load_tracks

PATH_COMMAND = (sys.executable, "-m", "service.cli", "releases", "path")
"""What prints the folder of a release's bundle."""


class StoredLibrary(NamedTuple):
    """Stored tracks, the bundle that embedded them, and that of the active release."""

    tracks: StoredTracks
    parent: Bundle
    active: Bundle


def read_library(folder: Path, console: Console, *, keeps_pair_heads: bool = False) -> StoredLibrary:
    """Read the tracks of the active release; of its parent, if its bundle is derived from one already.

    Heads of the method `pair` have seen no label; with `keeps_pair_heads` their tracks are read as they are.
    """
    tracks, bundle = read_active(folder, console)
    keeps = keeps_pair_heads and bundle.manifest.training.get("method") == "pair"
    if tracks.derived_from is None or keeps:
        return StoredLibrary(tracks, bundle, bundle)
    console.print(
        f"{tracks.bundle_id} was adapted already: learning from the tracks of its parent {tracks.derived_from}"
    )
    shutil.rmtree(folder)
    return StoredLibrary(*read_active(folder, console, release=tracks.derived_from), bundle)


def read_active(folder: Path, console: Console, *, release: str | None = None) -> tuple[StoredTracks, Bundle]:
    """Read the tracks of a release (None: the active one), and its bundle."""
    with console.status("reading the stored tracks"):
        tracks = load_tracks(folder, release=release)
        parent = load_bundle(_bundle_path(tracks.release_id))
    if parent.bundle_id != tracks.bundle_id:
        raise LibraryUnavailable(
            f"the tracks are those of {tracks.bundle_id}, the bundle is {parent.bundle_id}"
        )
    return tracks, parent


def _bundle_path(release_id: str) -> Path:
    answer = subprocess.run([*PATH_COMMAND, release_id], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise LibraryUnavailable(f"`foley releases path` failed: {said[-1].removeprefix('foley: ')}")
    return Path(answer.stdout.removesuffix("\n"))


def pooled(
    tracks: StoredTracks, modality: str, segments: NDArray[np.int64], head: nn.Module | None = None
) -> NDArray[np.float32]:
    """Unit means of tracks, or of what a head makes of them, (N, D), read some at a time."""
    parts = []
    for first in range(0, len(segments), 1024):
        rows = tracks.read(modality, segments[first : first + 1024])
        mean = (rows if head is None else apply_head(head, rows)).mean(axis=1)
        parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(parts)
