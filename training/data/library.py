"""The media that the service has indexed, as training data: a library teaches the encoders that search it.

    paths = indexed_paths()      # files of the library of FOLEY_DATA

Training may not import the service, and the service not training: each works without the other's dependencies. So this
asks the command, `foley assets --json`, in a process of its own, with the Python and the environment of this one:
library, bundle, host and port come from the same `FOLEY_*` variables as for other `foley` commands.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from models.media.names import find_path

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "service.cli", "assets", "--json")
"""What prints {"assets": [{"path", …}, …]}."""


class LibraryUnavailable(RuntimeError):
    """The list of indexed files cannot be read, or it is empty."""


def indexed_paths(*, command: Sequence[str] = COMMAND) -> list[Path]:
    """Return the indexed files with sound and picture; files that no longer exist are logged.

    Args:
        command: What to run instead of `foley assets --json`.

    Returns:
        Files that are there, in the order of the index.

    Raises:
        LibraryUnavailable: If the command fails, says something else, or no such file is indexed and still there.
    """
    assets = _list_assets(command)
    if not assets:
        raise LibraryUnavailable(
            "nothing is indexed with the bundle in use: start with `foley index PATH...`"
        )
    paths = [path for path, modalities in assets if {"audio", "video"} <= modalities]
    there = [path for path in paths if path.is_file()]
    for path in paths:
        if not path.is_file():
            why = "training reads no objects of a storage" if _is_object(path) else "it no longer exists"
            logger.warning("skipped %s, which is indexed: %s", path, why)
    counts = f"of {len(assets)} indexed files {len(paths)} have sound and picture, and {len(there)} of these are there"
    if not there:
        raise LibraryUnavailable(counts)
    logger.info("%s", counts)
    return there


def _is_object(path: Path) -> bool:
    return path.parts[0].endswith(":")  # of "s3://archive/rain.wav"


def _list_assets(command: Sequence[str]) -> list[tuple[Path, set[str]]]:
    """Return paths and modalities of the indexed files."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    except OSError as exc:
        raise LibraryUnavailable(f"`{' '.join(command)}` cannot be run: {exc}") from exc
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise LibraryUnavailable(f"`foley assets` failed: {said[-1].removeprefix('foley: ')}")
    try:
        assets = json.loads(answer.stdout)["assets"]
        return [(Path(find_path(asset["path"])), set(asset["modalities"])) for asset in assets]
    except (ValueError, KeyError, TypeError) as exc:
        raise LibraryUnavailable(f"`foley assets --json` did not print a list of assets: {exc!r}") from exc
