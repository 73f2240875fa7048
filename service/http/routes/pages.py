"""The web page at `/` and the API explorer at `/docs`: built files, sent compressed, that load nothing from elsewhere.

`make web` builds `service/http/web/source` into `service/http/web/built`, which is committed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).resolve().parents[1] / "web" / "built"
PAGE = "index.html"
EXPLORER = "explorer.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
# File names and paths are hostile: even if one became markup, no script or style inside the page would run.
# `blob:` is the clip a user chose or recorded, and pictures that need the key to be fetched.
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
# The explorer writes styles into its markup and draws images of its own as data.
EXPLORER_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True)
class _File:
    content: bytes
    compressed: bytes
    etag: str
    policy: str


@cache
def file_names() -> frozenset[str]:
    """The whole of what is served: a name that is not among these has no file, whatever it spells."""
    return frozenset(path.name for path in FOLDER.iterdir())


@cache
def _read(name: str) -> _File:
    content = (FOLDER / name).read_bytes()
    compressed = gzip.compress(content, mtime=0)
    etag = hashlib.sha256(content).hexdigest()[:32]
    return _File(content=content, compressed=compressed, etag=etag, policy=_write_policy(name, content))


def _write_policy(name: str, content: bytes) -> str:
    """What a page may load and run: files of its own, and the script that stands in it as it is."""
    if name == EXPLORER:
        return EXPLORER_POLICY
    own = [
        hashlib.sha256(script).digest() for script in re.findall(rb"<script>(.*?)</script>", content, re.S)
    ]
    scripts = "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in own if name == PAGE)
    return POLICY.format(scripts=scripts)


@router.api_route("/", methods=["GET", "HEAD"])
async def get_page(request: Request) -> Response:
    """Answer with the page."""
    return await _send(request, PAGE)


@router.api_route("/docs", methods=["GET", "HEAD"])
@router.api_route("/redoc", methods=["GET", "HEAD"])
async def get_explorer(request: Request) -> Response:
    """Answer with the page of the API explorer."""
    return await _send(request, EXPLORER)


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def get_page_file(request: Request, name: str) -> Response:
    """Answer with a file that the page loads, or 404 for any other name."""
    if name not in file_names():
        raise HTTPException(404, "the page has no such file")
    return await _send(request, name)


async def _send(request: Request, name: str) -> Response:
    file = await anyio.to_thread.run_sync(_read, name)
    headers = {**HEADERS, "ETag": f'W/"{file.etag}"', "Content-Security-Policy": file.policy}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = file.compressed, "gzip"
    return Response(content, media_type=TYPES[Path(name).suffix], headers=headers)
