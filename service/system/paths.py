"""Paths: absolute, and written so that they can be shown."""

from __future__ import annotations

import os
from pathlib import Path


def show_path(path: Path | str) -> str:
    r"""Write a path so that it can be printed and sent as JSON: bytes that are not UTF-8 become \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def make_absolute(path: Path) -> Path:
    """Like Path.absolute, with `..` and `.` gone: the path that files are stored under. Links stay."""
    return Path(os.path.normpath(path.absolute()))
