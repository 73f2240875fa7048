"""The web page at `/`: a few files, sent as they are, that may load nothing from any other host.

The API explorers at `/docs` and `/redoc` are the exception: they are megabytes that come from one other host. Their
page is ours, so that a browser without internet says where the description is instead of showing nothing.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).resolve().parents[1] / "web"
PAGE = "index.html"
EXPLORER = "explorer.html"
EXPLORER_HOST = "https://cdn.jsdelivr.net"
# The whole of what is served: a name that is not here has no file, whatever it spells.
TYPES = {
    **dict.fromkeys((PAGE, EXPLORER), "text/html; charset=utf-8"),
    **dict.fromkeys(
        ("app.js", "answer.js", "elements.js", "explorer.js", "questions.js"),
        "text/javascript; charset=utf-8",
    ),
    **dict.fromkeys(("style.css", "explorer.css"), "text/css; charset=utf-8"),
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    # File names and paths are hostile: even if one became markup, no script or style inside the page would run.
    # `blob:` is the clip a user chose, shown before it is sent.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# The explorers write styles into their markup and draw images of theirs as data; ReDoc searches in a worker.
EXPLORER_POLICY = (
    f"default-src 'self'; script-src 'self' {EXPLORER_HOST}; style-src 'self' 'unsafe-inline' {EXPLORER_HOST}; "
    "img-src 'self' data: blob: https://cdn.redoc.ly; media-src 'self' blob:; worker-src blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.api_route("/", methods=["GET", "HEAD"])
async def get_page() -> FileResponse:
    """Answer with the page."""
    return _send(PAGE)


@router.api_route("/docs", methods=["GET", "HEAD"])
@router.api_route("/redoc", methods=["GET", "HEAD"])
async def get_explorer() -> FileResponse:
    """Answer with the page of the API explorers; its script looks at the path."""
    return _send(EXPLORER)


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def get_page_file(name: str) -> FileResponse:
    """Answer with a file that the page loads, or 404 for any other name."""
    if name not in TYPES:
        raise HTTPException(404, "the page has no such file")
    return _send(name)


def _send(name: str) -> FileResponse:
    policy = {"Content-Security-Policy": EXPLORER_POLICY} if name == EXPLORER else {}
    return FileResponse(FOLDER / name, media_type=TYPES[name], headers=HEADERS | policy)
