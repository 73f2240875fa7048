"""Who may call: host, origin and API key of every request are checked before its body is read.

On loopback no key is needed. Two rules keep other web pages out, which run in a browser on this machine: a `Host`
header must name this machine (DNS rebinding), and a request that changes or computes something must not come from
another site (`Origin`), nor one that reads `/v1` (`Sec-Fetch-Site`). Elsewhere every route but a few needs a key with
its scope.

ROUTES says which scope each route needs. Paths are compared as the router does (one that ends with a line break reaches
its route too), and if two rows fit, the higher scope counts. What has no row is answered with 404 or 405.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from starlette._utils import get_route_path  # the router's own: a proxy may serve us under a prefix
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http import origin
from service.http.problems import answer_own_error
from service.operations import keys
from service.system.settings import Settings, is_loopback

# Scope, method, and the templates of the routes; the higher scopes first. HEAD needs what GET does.
ROUTES: Sequence[tuple[keys.Scope | None, str, str]] = (
    ("admin", "GET", "/v1/releases /v1/releases/{release_id} /v1/releases/{release_id}/comparison/{other}"),
    ("admin", "POST", "/v1/releases /v1/releases/{release_id}:activate /v1/releases:rollback"),
    ("admin", "POST", "/v1/releases:calibrate /v1/backup"),
    ("admin", "DELETE", "/v1/releases/{release_id}"),
    ("write", "PATCH", "/v1/assets/{asset_id}"),
    ("write", "PUT", "/v1/audit/marks/{asset_id}"),
    ("write", "DELETE", "/v1/assets/{asset_id}"),
    ("write", "POST", "/v1/assets/{asset_id}/suggested-tags"),
    ("write", "POST", "/v1/jobs /v1/jobs/{job_id}:cancel /v1/jobs/{job_id}:retry"),
    ("write", "POST", "/v1/collections /v1/collections/{collection_id}/items"),
    ("write", "PATCH", "/v1/collections/{collection_id}"),
    ("write", "DELETE", "/v1/collections/{collection_id}"),
    ("read", "POST", "/v1/search /v1/search/batch /v1/embeddings /v1/exports /v1/similarity /mcp"),
    (
        "read",
        "GET",
        "/metrics /v1/library /v1/assets /v1/assets/{asset_id} /v1/assets/{asset_id}/media /v1/audit /v1/tracks",
    ),
    (
        "read",
        "GET",
        "/v1/assets/{asset_id}/thumbnail /v1/assets/{asset_id}/filmstrip /v1/assets/{asset_id}/waveform",
    ),
    ("read", "GET", "/v1/assets/{asset_id}/segment"),
    ("read", "GET", "/v1/collections /v1/collections/{collection_id} /v1/exports/formats"),
    ("read", "GET", "/v1/map"),
    ("read", "GET", "/v1/suggested-tags /v1/assets/{asset_id}/suggested-tags"),
    ("read", "GET", "/v1/jobs /v1/jobs/{job_id} /v1/jobs/{job_id}/files /v1/jobs/{job_id}/events"),
    (None, "GET", "/ /livez /readyz /openapi.json /docs /redoc /web/{name}"),
)
ADMIN_PATHS = ("/v1/releases", "/v1/backup")
RELEASE_JOBS: keys.Scope = "admin"  # to see, retry or cancel a job of kind `release`, by any route of jobs
METRICS_PATH = "/metrics"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
COOKIE = "foley_key"  # a page's player cannot send a header; it is taken for reading these paths only
PLAYED_PATHS = "/v1/assets/"
API_KEY_HEADER = "x-api-key"


_ROWS = [(method, compile_path(path)[0], scope) for scope, method, paths in ROUTES for path in paths.split()]


def scope_of(method: str, path: str) -> keys.Scope | None:
    """The scope a request needs by its method and path (or a route's template); None if anybody may make it."""
    for of_method, pattern, scope in _ROWS:
        if of_method == ("GET" if method == "HEAD" else method) and pattern.match(path):
            return scope
    if path.startswith(ADMIN_PATHS):
        return "admin"
    return "read" if method in SAFE_METHODS else "write"


def allows(request: Request, needed: keys.Scope) -> bool:
    """Whether the request may do what needs this scope: without a key it may, if keys are not needed at all."""
    key: keys.StoredKey | None = getattr(request.state, "key", None)
    return key is None or key.allows(needed)


def check_scope(request: Request, needed: keys.Scope) -> None:
    """Raise `ScopeMissing` if the request may not do what needs this scope."""
    if not allows(request, needed):
        raise keys.ScopeMissing(has=request.state.key.scope, needs=needed)


def is_still_known(request: Request) -> bool:
    """Whether the key that the request came with, if any, was not revoked since."""
    key: keys.StoredKey | None = getattr(request.state, "key", None)
    return key is None or request.state.keys.has(key)


def name_of(request: Request) -> str:
    """Who asks, for the record: the API key, if one is needed."""
    key: keys.StoredKey | None = getattr(request.state, "key", None)
    return "api" if key is None else f"API key {key.key_id}"


@dataclass(frozen=True, kw_only=True)
class AccessRules:
    """Who may call; without a `store` no key is needed, and `own_origins` are hosts of other pages that may call.

    `hosts` are the values of the `Host` header that are answered, without ports; None for all.
    """

    store: keys.KeyStore | None
    hosts: Collection[str] | None
    own_origins: Collection[str] = ()
    has_open_metrics: bool = False
    refuses_other_sites: bool = False
    """Whether pages of other sites may not even read `/v1`."""


class AccessGuard:
    """ASGI middleware that refuses callers without the right."""

    def __init__(self, app: ASGIApp, *, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except (keys.KeysFailure, keys.Unauthorized, keys.ScopeMissing, origin.Refused) as exc:
                response = await answer_own_error(Request(scope), exc)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        method, path = scope["method"], get_route_path(scope)
        if self._rules.hosts is not None:
            origin.check_host(headers.get("host"), self._rules.hosts)
        if method not in SAFE_METHODS:
            origin.check_origin(headers, self._rules.own_origins)
        elif self._rules.refuses_other_sites and path.startswith("/v1/"):
            origin.check_reader(headers)
        needed = scope_of(method, path)
        if needed is None or self._rules.store is None:
            return
        if path == METRICS_PATH and self._rules.has_open_metrics:
            return
        takes_cookie = method in SAFE_METHODS and f"{path}/".startswith(PLAYED_PATHS)
        key = self._identify(headers, takes_cookie=takes_cookie)
        scope.setdefault("state", {}).update(key=key, keys=self._rules.store, key_id=key.key_id)
        if not key.allows(needed):
            raise keys.ScopeMissing(has=key.scope, needs=needed)

    def _identify(self, headers: Headers, *, takes_cookie: bool) -> keys.StoredKey:
        assert self._rules.store is not None
        given = read_key(headers, takes_cookie=takes_cookie)
        if given is None:
            raise keys.Unauthorized("this needs an API key: Authorization: Bearer KEY", is_wrong=False)
        key = self._rules.store.identify(given)
        if key is None:
            raise keys.Unauthorized("the API key is not valid, or was revoked", is_wrong=True)
        return key


def open_rules(settings: Settings) -> AccessRules:
    """The rules that the settings ask for; raises `KeysFailure` if API keys are needed and there are none.

    With keys, callers are of other machines: which folders of this one they may learn of must be said.
    """
    names = frozenset(settings.allowed_hosts)
    has_metrics = settings.open_metrics
    if settings.needs_keys:
        try:
            store = keys.KeyStore(settings.keys_path)
        except keys.KeysFailure as exc:
            raise keys.KeysFailure(f"{exc}. Requests to {settings.host!r} need API keys") from exc
        if not settings.library_roots:
            raise keys.KeysFailure(
                "with API keys FOLEY_LIBRARY_ROOTS must name the folders of the library, or be * for every folder"
            )
        return AccessRules(store=store, hosts=names or None, own_origins=names, has_open_metrics=has_metrics)
    if is_loopback(settings.host):
        hosts = names | {settings.host}
        return AccessRules(store=None, hosts=hosts, own_origins=names, refuses_other_sites=True)
    return AccessRules(store=None, hosts=names or None, own_origins=names)


def read_key(headers: Headers, *, takes_cookie: bool) -> str | None:
    """The key a request carries, or None; a cookie, sent without being asked, counts if `takes_cookie`."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if API_KEY_HEADER in headers:
        return headers[API_KEY_HEADER].strip()
    if takes_cookie and "cookie" in headers:
        try:
            found = SimpleCookie(headers["cookie"]).get(COOKIE)
        except CookieError:
            return None
        return found.value if found else None
    return None
