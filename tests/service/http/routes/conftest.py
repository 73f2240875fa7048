"""One browser and one server for all tests of the web page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.foley import open_foley
from service.library.indexing import index_paths
from tests.support.serving import run_server
from tests.support.swapping import TwoReleases

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",  # a test tone and a test picture
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]
HOSTILE_NAME = "<img src=x onerror=document.title=1>.mp4"


@pytest.fixture(scope="module")  # while it is open, its event loop runs in the thread of the tests
def browser() -> Iterator[Any]:
    reason = "needs the package playwright: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def hostile_file(tmp_path_factory: pytest.TempPathFactory, library_files: Path) -> Path:
    """A good clip of both streams with a bad name; its content is no other file's of the library."""
    path = tmp_path_factory.mktemp("hostile") / HOSTILE_NAME
    path.write_bytes((library_files / "long.mp4").read_bytes() + b"\0\0\0\x08free")
    return path


@pytest.fixture(scope="session")
def hostile_server(
    tmp_path_factory: pytest.TempPathFactory, hostile_file: Path, pristine_releases: TwoReleases
) -> Iterator[str]:
    """A server with two releases whose library holds the clip with the bad name, too."""
    data = tmp_path_factory.mktemp("page") / "data"
    shutil.copytree(pristine_releases.settings.data, data)
    settings = pristine_releases.settings.replace(data=data)
    with open_foley(settings) as foley:
        report = index_paths([hostile_file.parent], snapshot=foley.snapshot(), decoder=foley.decoder)
    assert not report.failed
    given = {"DATA": data, "BUNDLE": settings.bundle, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}
    with run_server(given, data.parent / "log") as address:
        yield address


@pytest.fixture
def page(browser: Any, hostile_server: str) -> Iterator[Any]:
    """The page, opened; it must stay on its own host and raise nothing."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.set_default_timeout(120_000)
    requested: list[str] = []
    failures: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
    page.goto(hostile_server)
    page.wait_for_selector("#library:has-text('Library: ')")
    yield page
    assert page.title().endswith("Foley")
    assert page.locator("img[src=x]").count() == 0
    # Chromium writes a line for each answer that is an error, also where the page shows it.
    assert not [text for text in failures if not text.startswith("Failed to load resource")]
    assert not [url for url in requested if not url.startswith((hostile_server, f"blob:{hostile_server}"))]
    context.close()
