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


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    """A tab for all tests of a file: opening another costs four times as much as loading the page anew."""
    with browser.new_context() as context:
        tab = context.new_page()
        tab.set_default_timeout(120_000)
        yield tab


@pytest.fixture
def refusals() -> list[str]:
    """Parts of addresses whose requests a test makes fail: Chromium writes each into the console."""
    return []


@pytest.fixture
def page(tab: Any, hostile_server: str, refusals: list[str]) -> Iterator[Any]:
    """The page, opened by somebody new; it must stay on its own host, raise nothing and ask for nothing in vain."""
    requested: list[str] = []
    failures: list[str] = []
    listeners = {
        "request": lambda request: requested.append(request.url),
        "pageerror": lambda error: failures.append(str(error)),
        "console": lambda message: (
            failures.append(f"{message.text} {message.location['url']}") if message.type == "error" else None
        ),
    }
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.emulate_media(color_scheme="null")
    for event, listener in listeners.items():
        tab.on(event, listener)
    tab.goto(hostile_server)
    tab.wait_for_selector("#library:has-text('Library: ')")
    yield tab
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    title, num_hostile = tab.title(), tab.locator("img[src=x]").count()
    tab.unroute_all(behavior="ignoreErrors")
    tab.evaluate("sessionStorage.clear()")
    tab.goto("about:blank")
    session = tab.context.new_cdp_session(tab)
    session.send("Storage.clearDataForOrigin", {"origin": hostile_server, "storageTypes": "all"})
    session.detach()
    assert title.endswith("Foley")
    assert num_hostile == 0
    assert not [text for text in failures if not any(part in text for part in refusals)]
    assert not [url for url in requested if not url.startswith((hostile_server, f"blob:{hostile_server}"))]
