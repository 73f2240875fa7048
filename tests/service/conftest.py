"""A small real library, the engine that serves it, and a real server process in front of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import run_server

from models.bundle import starter_path
from service.engine import open_engine
from service.library import index_paths
from service.settings import Settings

# `auto` would take what the machine is fastest at, after measuring it for every fresh data folder; tests compare
# numbers, and do so with float32.
os.environ.setdefault("FOLEY_PRECISION", "fp32")


@pytest.fixture(scope="session")
def library_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic clips: with both streams, one alone, and one of 24 s."""
    from training.recording import FRAME_RATE, SAMPLE_RATE_HZ, write_media
    from training.synthesis import write_corpus

    folder = tmp_path_factory.mktemp("library")
    write_corpus(folder, num_scenes=5, seed=3, split="heldout", separate_fraction=0.4)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (24 * FRAME_RATE, 64, 64, 3), dtype=np.uint8)
    samples = (0.1 * rng.standard_normal(24 * SAMPLE_RATE_HZ)).astype(np.float32)
    write_media(folder / "long.mp4", frames=frames, samples=samples)
    return folder


@pytest.fixture(scope="session")
def bundle_path() -> Path:
    """The starter bundle."""
    return starter_path()


@pytest.fixture(scope="session")
def indexed_settings(
    tmp_path_factory: pytest.TempPathFactory, library_files: Path, bundle_path: Path
) -> Settings:
    """Settings of a data folder in which the library is indexed."""
    settings = Settings(
        data=tmp_path_factory.mktemp("data"), bundle=bundle_path, device="cpu", min_free_bytes=0
    )
    with open_engine(settings) as engine:
        report = index_paths([library_files], snapshot=engine.snapshot(), decoder=engine.decoder)
    assert not report.failed
    return settings


@pytest.fixture(scope="session")
def server(
    indexed_settings: Settings, library_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of a server process over the indexed library."""
    settings = {
        "DATA": indexed_settings.data,
        "BUNDLE": indexed_settings.bundle,
        "DEVICE": "cpu",
        "MIN_FREE_BYTES": 0,
        "MAX_UPLOAD_BYTES": 4 * 1024 * 1024,
        "MAX_QUERY_SECONDS": 60,
        "LIBRARY_ROOTS": library_files,  # a fuzzer asks for jobs over any folder of this machine
    }
    with run_server(settings, tmp_path_factory.mktemp("log") / "server.log") as address:
        yield address


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    """An HTTP client of the server."""
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client
