"""Fixtures every test may use: the reference material, a small real library, and a server process in front of it."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from models.bundle.bundle import Bundle, load_bundle, starter_path
from service.foley import open_foley
from service.library.indexing import index_paths
from service.system.settings import Settings
from tests.support.bundles import make_second, make_worded
from tests.support.engines import keep_engines
from tests.support.libraries import write_tones
from tests.support.ordering import put_long_ones_first
from tests.support.paths import REPOSITORY
from tests.support.quick import mark_processes, refuse_processes
from tests.support.serving import run_server
from tests.support.sharing import made_once
from tests.support.swapping import TwoReleases, prepare_releases

# `auto` would take what the machine is fastest at, after measuring it for every fresh data folder; tests compare
# numbers, and do so with float32.
os.environ.setdefault("FOLEY_PRECISION", "fp32")

# One for each core otherwise, which all start with the first file: .25 s of a core each, for a file or two.
os.environ.setdefault("FOLEY_DECODE_WORKERS", "1")

# Every client of httpx reads all certificates of its package otherwise, or of this file, for 30 to 70 ms, and so does
# each `httpx.get`; few of ours speak TLS.
os.environ.setdefault("SSL_CERT_DIR", "/etc/ssl/certs")
os.environ.pop("SSL_CERT_FILE", None)

# Some containers forbid Python to keep what it compiled. Then each of the thousand processes of this suite compiles our
# modules again, and pytest rewrites every test file in each worker.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Ledgers and indexes wait for the disk at each write, for half of the suite's time on a slow one. Tests kill processes
# and never cut the power: what lies in memory survives as well. pytest clears it away when all have passed.
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 8 << 30
if (
    sys.platform == "linux"
    and "PYTEST_XDIST_WORKER" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available / 2) >= MEMORY_BYTES
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Until all tests are collected: what they import stays, and looking through it takes 2 s of a core in each worker.
gc.disable()

# A shell that starts the suite in the background has it ignore Ctrl-C, and with it all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Beside other workers of pytest-xdist two threads of torch wait for each other most of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
else:  # beside other work they would spin
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_processes(items)
    put_long_ones_first(config, items)
    if config.option.markexpr == "not process":
        refuse_processes()


def pytest_collection_finish() -> None:
    gc.freeze()  # torch and 4,500 tests: each full collection would look through 400,000 objects, for 0.2 s
    gc.enable()


@pytest.fixture(autouse=True)
def kept_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles are compiled once in this process, but for tests of engines."""
    if "encode" not in request.path.parts:
        keep_engines(monkeypatch)


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


@pytest.fixture(scope="session")
def library_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic clips: with both streams, one alone, and one of 24 s."""
    from training.corpus.recording import FRAME_RATE, SAMPLE_RATE_HZ, write_media
    from training.corpus.synthesis import write_corpus

    def make(folder: Path) -> None:
        write_corpus(folder / "media", num_scenes=5, seed=3, split="heldout", separate_fraction=0.4)
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 255, (24 * FRAME_RATE, 64, 64, 3), dtype=np.uint8)
        samples = (0.1 * rng.standard_normal(24 * SAMPLE_RATE_HZ)).astype(np.float32)
        write_media(folder / "media" / "long.mp4", frames=frames, samples=samples)

    return made_once(tmp_path_factory, "library", make) / "media"


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

    def make(folder: Path) -> None:
        with open_foley(settings.replace(data=folder / "data")) as foley:
            report = index_paths([library_files], snapshot=foley.snapshot(), decoder=foley.decoder)
        assert not report.failed

    made = made_once(tmp_path_factory, "indexed", make) / "data"
    shutil.copytree(made, settings.data, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock"))
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


@pytest.fixture(scope="session")
def second_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An encoder pair like the starter whose scores are others."""
    made = made_once(tmp_path_factory, "second", lambda folder: make_second(folder / "bundle"))
    return load_bundle(made / "bundle")


@pytest.fixture(scope="session")
def worded_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The starter with words."""
    made = made_once(tmp_path_factory, "worded", lambda folder: make_worded(folder / "bundle"))
    return load_bundle(made / "bundle")


@pytest.fixture(scope="session")
def pristine_releases(
    tmp_path_factory: pytest.TempPathFactory, library_files: Path, bundle_path: Path, second_bundle: Bundle
) -> TwoReleases:
    """Both releases over one library; tests copy it."""

    def make(folder: Path) -> None:
        releases = prepare_releases(
            folder / "data",
            library=library_files,
            queries=write_tones(folder / "queries", 4),
            first=bundle_path,
            second=second_bundle.path,
        )
        (folder / "releases").write_bytes(pickle.dumps(releases))

    releases: TwoReleases = pickle.loads(
        (made_once(tmp_path_factory, "releases", make) / "releases").read_bytes()
    )
    return releases


@pytest.fixture
def two_releases(pristine_releases: TwoReleases, tmp_path: Path) -> TwoReleases:
    """A data folder of the test's own with both releases; the first one answers."""
    data = tmp_path / "data"
    shutil.copytree(pristine_releases.settings.data, data)
    return pristine_releases.moved(data)


@pytest.fixture(scope="session")
def pe_av(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Bundle]:
    """A tiny PE-AV of every frame: the published class, and the bundle that `foley-train import` made of its folder."""
    from tests.support import families  # not at the top: it loads torch

    return families.published_and_imported(tmp_path_factory, "pe-av", families.write_pe_av)


@pytest.fixture(scope="session")
def clap(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Bundle]:
    """A tiny CLAP, likewise."""
    from tests.support import families

    return families.published_and_imported(tmp_path_factory, "clap", families.write_clap)
