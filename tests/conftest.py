"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the checkout; tests that need it skip where it is not there."""
    folder = Path(os.environ.get("FOLEY_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the reference material in ../shared, which a plain clone does not have")
    return folder


@pytest.fixture(scope="session")
def shared_media(shared: Path) -> Path:
    """The 16 real media files with their manifest.csv."""
    return shared / "media"
