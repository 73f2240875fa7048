"""A library that two releases hold, ready to be switched between, with the answers that each of them alone gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundles import make_second
from libraries import write_tones
from swapping import TwoReleases, prepare_releases

from models.bundle import Bundle


@pytest.fixture(scope="session")
def second_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An encoder pair like the starter whose scores are others."""
    return make_second(tmp_path_factory.mktemp("bundles") / "second")


@pytest.fixture(scope="session")
def pristine_releases(
    tmp_path_factory: pytest.TempPathFactory, library_files: Path, bundle_path: Path, second_bundle: Bundle
) -> TwoReleases:
    """Both releases over one library; tests copy it."""
    queries = write_tones(tmp_path_factory.mktemp("queries"), 4)
    return prepare_releases(
        tmp_path_factory.mktemp("releases") / "data",
        library=library_files,
        queries=queries,
        first=bundle_path,
        second=second_bundle.path,
    )


@pytest.fixture
def two_releases(pristine_releases: TwoReleases, tmp_path: Path) -> TwoReleases:
    """A data folder of the test's own with both releases; the first one answers."""
    data = tmp_path / "data"
    shutil.copytree(pristine_releases.settings.data, data)
    return pristine_releases.moved(data)
