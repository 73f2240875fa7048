"""A small real library, the engine that serves it, and a real server process in front of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from models.bundle import starter_path
from service.engine import open_engine
from service.library import index_paths
from service.server import configure_server
from service.settings import Settings

EXPORT_TINY = """
import sys
from pathlib import Path
import torch
from models.clip import ClipSpec, decode_clip
from models.export import export_bundle
from models.tgdp import Tgdp, TgdpConfig
torch.manual_seed(0)
config = TgdpConfig(width=32, num_heads=2, depth=1, decoder_width=32, decoder_heads=2, decoder_depth=1, video_patch=32)
clip = decode_clip(Path(sys.argv[1]), ClipSpec())
export_bundle(Tgdp(config), Path(sys.argv[2]), name="tiny", clips=[clip], training={})
"""


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
def bundle_path(tmp_path_factory: pytest.TempPathFactory, library_files: Path) -> Path:
    """The starter bundle; where it has not been made yet, a tiny one with random weights."""
    if (starter_path() / "manifest.json").exists():
        return starter_path()
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    subprocess.run(
        [sys.executable, "-c", EXPORT_TINY, library_files / "long.mp4", path], check=True, timeout=120
    )
    return path


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
def server(indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server process over the indexed library."""
    settings = {
        "DATA": indexed_settings.data,
        "BUNDLE": indexed_settings.bundle,
        "DEVICE": "cpu",
        "MIN_FREE_BYTES": 0,
        "MAX_UPLOAD_BYTES": 4 * 1024 * 1024,
        "MAX_QUERY_SECONDS": 60,
    }
    with run_server(settings, tmp_path_factory.mktemp("log") / "server.log") as address:
        yield address


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    """An HTTP client of the server."""
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


class run_server:  # noqa: N801 - a context manager that reads as a call
    """Run a server process with settings from the environment until the block ends."""

    def __init__(self, settings: dict[str, object], log: Path) -> None:
        self.log = log
        self.port = find_free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")},
            **{f"FOLEY_{name}": str(value) for name, value in settings.items()},
            "FOLEY_PORT": str(self.port),
        }

    def __enter__(self) -> str:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"], env=self.environment, stdout=log, stderr=log
            )
        address = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{address}/livez").raise_for_status()
                return address
            except httpx.HTTPError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise AssertionError(f"the server did not start:\n{self.log.read_text()}") from None
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=40) == 0, self.log.read_text()


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class serve_in_thread:  # noqa: N801 - a context manager that reads as a call
    """Run a server in this process, so that a test can reach into its application, until the block ends."""

    def __init__(self, settings: Settings) -> None:
        config = configure_server(settings.replace(port=find_free_port()))
        self.app: FastAPI = config.app  # type: ignore[assignment]
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.address = f"http://127.0.0.1:{config.port}"

    def __enter__(self) -> Self:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        self.client = httpx.Client(base_url=self.address, timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join()
