"""Absolute paths, and the text that stands for a path (`models.media.names`)."""

from __future__ import annotations

import os
from pathlib import Path

from models.media.names import show_path as show_path


def make_absolute(path: Path) -> Path:
    """Like Path.absolute, with `..` and `.` gone: the path that files are stored under. Links stay."""
    return Path(os.path.normpath(path.absolute()))
