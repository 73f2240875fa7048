"""The files of the web page: what is sent, that nothing comes from elsewhere, and that they belong to the sources."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
from pathlib import Path
from typing import get_args

import httpx
import pytest

from service.http.routes.pages import EXPLORER, FOLDER, TYPES, file_names
from service.search.matching import EmptyReason
from tests.support.paths import REPOSITORY

WEB = FOLDER.parent
EXPLORER_PATHS = ("/docs", "/redoc")
MAX_PAGE_BYTES = 250_000  # compressed, all of its rooms
PATHS = {
    "/": "index.html",
    **dict.fromkeys(EXPLORER_PATHS, EXPLORER),
    **{f"/web/{name}": name for name in sorted(file_names())},
}


def test_files_of_the_page(client: httpx.Client) -> None:
    for path, name in PATHS.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["content-type"] == TYPES[Path(name).suffix]
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert not re.search("http|unsafe-eval|script-src[^;]*(unsafe|data:)", policy)
        if name == EXPLORER:
            assert "default-src 'self'" in policy
        else:
            assert "default-src 'none'" in policy
            assert not re.search("unsafe|data:", policy)
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for header in ("content-type", "content-length", "content-security-policy"):
            assert head.headers[header] == answer.headers[header]
        again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content


def test_built_files_belong_to_the_sources() -> None:
    """As `vite.config.ts` notes it; `make web` builds them again."""

    def digest(paths: list[Path]) -> str:
        whole = hashlib.sha256()
        for path in sorted(paths, key=lambda path: str(path)):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            whole.update(f"{os.path.relpath(path, WEB)}\0{content}\n".encode())
        return whole.hexdigest()

    noted = json.loads((FOLDER / "hashes.json").read_text())
    sources = [path for path in (WEB / "source").rglob("*") if path.is_file()]
    sources += [REPOSITORY / "clients/typescript/client.ts"]
    sources += [
        WEB / name for name in ("package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")
    ]
    assert noted["sources"] == digest(sources), "the sources have changed: run `make web`"
    built = [path for path in FOLDER.iterdir() if path.name != "hashes.json"]
    assert noted["built"] == digest(built), "built files have changed: run `make web`"


@pytest.mark.parametrize("folder", [WEB, REPOSITORY / "clients/typescript"], ids=["page", "client"])
def test_locks_hold_everything_they_name(folder: Path) -> None:
    """`npm ci` refuses a lock that lacks an optional package, too; no lock names the host of a registry."""
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    held = {place.rpartition("node_modules/")[2] for place in packages}
    kinds = ("dependencies", "devDependencies", "optionalDependencies")
    named = {name for package in packages.values() for kind in kinds for name in package.get(kind, {})}
    assert named <= held
    assert not [place for place, package in packages.items() if "resolved" in package]


def test_nothing_comes_from_elsewhere() -> None:
    for path in (WEB / "source").rglob("*.*"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?:/|@import|[\"'`]//", text), path
        # What the policy forbids would fail in silence: code and style inside the markup, markup out of text.
        assert not re.search(
            r"<style|\son\w+=\"|<script(?! type=\"module\" src=)|innerHTML|outerHTML|insertAdjacentHTML|InnerHTML",
            text,
        ), path
        assert len(text.splitlines()) <= 400, path
    for path in FOLDER.glob("*.html"):
        assert not re.search(
            r"https?:|<style|<script(?!>| type=\"module\" crossorigin src=\"/web/)", path.read_text()
        )


def test_a_script_inside_of_the_page_runs_as_it_was_built(client: httpx.Client) -> None:
    answer = client.get("/")
    (script,) = re.findall("<script>(.*?)</script>", answer.text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.search(r"script-src ([^;]*)", answer.headers["content-security-policy"])[1].split() == [
        "'self'",
        f"'sha256-{digest}'",
    ]
    assert answer.text.index(script) < answer.text.index("stylesheet"), "a script waits for styles before it"


def test_the_page_is_light() -> None:
    own = [path for path in FOLDER.iterdir() if not re.match("swagger|explorer|hashes", path.name)]
    assert sum(len(gzip.compress(path.read_bytes())) for path in own) < MAX_PAGE_BYTES


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/nothing.js",
        "/web/../app.py",
        "/web/..%2fapp.py",
        "/web/%2e%2e/app.py",
        "/web//etc/passwd",
    ],
)
def test_no_other_file_is_served(server: str, path: str) -> None:
    address = httpx.URL(server).copy_with(raw_path=path.encode())
    answer = httpx.get(address)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_is_not_part_of_the_api(client: httpx.Client) -> None:
    assert not {"/", "/web/{name}", *EXPLORER_PATHS} & set(client.get("/openapi.json").json()["paths"])


def test_every_reason_has_words() -> None:
    text = (WEB / "source/search/answer.tsx").read_text()
    assert not [reason for reason in get_args(EmptyReason) if f"  {reason}: " not in text]
