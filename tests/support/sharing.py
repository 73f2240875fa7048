"""What is dear to make, made by the first process of a run that asks for it: all workers of pytest-xdist share it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills; tests of several processes read it, none changes it."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if root.name.startswith("popen") else root  # all workers have that
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "whole").touch()
    return folder
