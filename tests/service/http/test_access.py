"""Who may call: keys and scopes where others reach us, host and origin where only this machine does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import httpx
import pytest
from starlette.datastructures import Headers
from starlette.routing import compile_path

from service.http.access import ROUTES, read_key, scope_of
from service.http.app import create_app
from service.http.origin import CrossOrigin, HostNotAllowed, check_host, check_origin
from service.jobs.opening import Jobs
from service.jobs.records import JobRequest, ReleaseRequest
from service.jobs.release_jobs import ReleaseJobs
from service.operations.keys import KeysFailure, Scope, create_key, revoke_key
from service.releases.store import ReleaseError
from service.system.settings import Settings
from tests.support.agents import ask_agent
from tests.support.memory_index import memory_indexes
from tests.support.serving import run_server, serve_in_thread

if TYPE_CHECKING:
    import mcp

RANK = {None: 0, "read": 1, "write": 2, "admin": 3}
ASSET = f"/v1/assets/{'0' * 64}"
# One request of each kind, what it needs, and what it answers to those who may.
REQUESTS: list[tuple[str, str, Scope | None, int]] = [
    ("GET", "/livez", None, 200),
    ("GET", "/readyz", None, 200),
    ("GET", "/", None, 200),
    ("GET", "/web/page.js", None, 200),
    ("GET", "/openapi.json", None, 200),
    ("GET", "/metrics", "read", 200),
    ("GET", "/v1/library", "read", 200),
    ("GET", "/v1/assets", "read", 200),
    ("GET", ASSET, "read", 404),
    ("GET", f"{ASSET}/media", "read", 404),
    *(("GET", f"{ASSET}/{name}", "read", 404) for name in ("thumbnail", "filmstrip", "waveform")),
    ("GET", "/v1/exports/formats", "read", 200),
    ("POST", "/v1/exports", "read", 422),
    ("GET", "/v1/collections", "read", 200),
    ("GET", "/v1/collections/x", "read", 404),
    ("POST", "/v1/collections", "write", 422),
    ("POST", "/v1/collections/x/items", "write", 422),
    ("PATCH", "/v1/collections/x", "write", 422),
    ("DELETE", "/v1/collections/x", "write", 404),
    ("POST", "/v1/search", "read", 415),
    ("POST", "/v1/embeddings", "read", 415),
    ("POST", "/mcp", "read", 400),
    ("GET", "/v1/map", "read", 200),
    ("POST", "/v1/similarity", "read", 422),
    ("PUT", f"/v1/audit/marks/{'0' * 64}", "write", 422),
    ("DELETE", ASSET, "write", 404),
    ("PATCH", ASSET, "write", 422),
    ("GET", f"{ASSET}/segment", "read", 422),
    ("GET", f"{ASSET}/suggested-tags", "read", 404),
    ("POST", f"{ASSET}/suggested-tags", "write", 422),
    ("GET", "/v1/suggested-tags", "read", 409),
    ("GET", "/v1/audit", "read", 409),
    ("GET", "/v1/tracks?release=x", "read", 404),
    ("POST", "/v1/search/batch", "read", 422),
    *(("GET", f"/{name}", None, 200) for name in ("docs", "redoc")),
    ("GET", "/v1/jobs", "read", 200),
    *(("GET", f"/v1/jobs/x{name}", "read", 404) for name in ("", "/files", "/events")),
    ("POST", "/v1/jobs", "write", 422),
    *(("POST", f"/v1/jobs/x:{name}", "write", 404) for name in ("cancel", "retry")),
    ("GET", "/nothing", "read", 404),
    ("POST", "/nothing", "write", 404),
    ("GET", "/v1/releases", "admin", 200),
    ("GET", "/v1/releases/x", "admin", 404),
    ("GET", "/v1/releases/x/comparison/y", "admin", 404),
    ("DELETE", "/v1/releases/x", "admin", 404),
    ("POST", "/v1/releases", "admin", 422),
    ("POST", "/v1/releases/x:activate", "admin", 404),
    ("POST", "/v1/releases:rollback", "admin", 409),
    ("POST", "/v1/releases:calibrate", "admin", 409),
    ("POST", "/v1/backup", "admin", 200),
    # A path that ends with a line break reaches the route all the same.
    ("GET", "/v1/releases%0A", "admin", 200),
    ("POST", "/v1/releases%0A", "admin", 422),
    ("DELETE", f"{ASSET}%0A", "write", 404),
    ("PUT", "/v1/releases", "admin", 405),
]


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keys(keys_file: Path) -> dict[str, str]:
    return {scope: create_key(keys_file, name=scope, scope=scope).key for scope in ("read", "write", "admin")}


@pytest.fixture(scope="module")
def guarded(
    indexed_settings: Settings,
    keys: dict[str, str],
    keys_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[serve_in_thread]:
    settings = indexed_settings.replace(
        data=tmp_path_factory.mktemp("data"), api_keys_file=keys_file, library_roots="*", max_event_streams=2
    )
    with memory_indexes(), serve_in_thread(settings) as running:
        yield running


@pytest.mark.parametrize(("method", "path", "needed", "status"), REQUESTS)
def test_every_scope_on_every_route(
    guarded: serve_in_thread, keys: dict[str, str], method: str, path: str, needed: Scope | None, status: int
) -> None:
    for scope in (None, "read", "write", "admin"):
        headers = {"Authorization": f"Bearer {keys[scope]}"} if scope else {}
        answer = guarded.client.request(method, path, headers=headers)
        if RANK[scope] >= RANK[needed]:
            assert answer.status_code == status, answer.text
            continue
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        if scope is None:
            assert (answer.status_code, problem["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == 'Bearer realm="foley"'
        else:
            assert (answer.status_code, problem["code"]) == (403, "insufficient_scope")
            assert f'scope="{needed}"' in answer.headers["www-authenticate"]


def test_an_agent_may_do_what_its_key_allows(
    guarded: serve_in_thread, keys: dict[str, str], tmp_path: Path
) -> None:
    async def start(agent: mcp.Client) -> mcp.types.CallToolResult:
        return await agent.call_tool("start_job", {"paths": [str(tmp_path)]})

    refused, started = (
        ask_agent(guarded.address, start, headers={"X-API-Key": keys[scope]}) for scope in ("read", "write")
    )
    assert str(refused.content[0].text).startswith("insufficient_scope: ")  # type: ignore[union-attr]
    assert not started.is_error


def test_no_route_is_forgotten(indexed_settings: Settings) -> None:
    """A new route is open only where this list says so, and a change needs more than reading."""
    may_be_open = {
        "/",
        "/web/{name}",
        "/livez",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
    }
    may_post_to_read = {"/v1/search", "/v1/search/batch", "/v1/embeddings", "/v1/exports", "/v1/similarity"}
    document = create_app(indexed_settings).openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = scope_of(method.upper(), path)
            assert (scope is None) == (path in may_be_open), path
            if method != "get" and path not in may_post_to_read:
                assert scope in ("write", "admin"), path
            schemes = [name for entry in operation["security"] for name in entry]
            assert schemes == ([] if scope is None else ["bearer", "api_key"])
    assert set(document["components"]["securitySchemes"]) == {"bearer", "api_key"}


def _routes_of(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from _routes_of(route.original_router.routes)
        else:
            yield from ((method, route.path_format) for method in route.methods if method != "HEAD")


def test_every_route_has_a_row_and_every_row_a_route(indexed_settings: Settings) -> None:
    rows = [(method, path) for _, method, paths in ROUTES for path in paths.split()]
    app = create_app(indexed_settings)
    assert sorted(rows) == sorted(set(_routes_of(app.routes)))

    @app.post("/v1/new/{name}")
    def new(name: str) -> None: ...

    assert set(_routes_of(app.routes)) - set(rows) == {("POST", "/v1/new/{name}")}


def test_every_row_is_tried_with_every_key() -> None:
    """A route that is added has a request above, whose scope is written by hand."""
    forgotten = [
        (method, template)
        for _, method, templates in ROUTES
        for template in templates.split()
        if not any(
            tried == method and compile_path(template)[0].match(path.partition("?")[0])
            for tried, path, _, _ in REQUESTS
        )
    ]
    assert forgotten == []


def test_a_prefix_of_a_proxy_changes_no_scope(guarded: serve_in_thread, keys: dict[str, str]) -> None:
    async def ask(path: str) -> int:
        transport = httpx.ASGITransport(guarded.app, root_path="/foley")
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.post(path, headers={"X-API-Key": keys["write"]})).status_code

    assert anyio.run(ask, "/foley/v1/releases:rollback") == 403


def test_a_build_is_seen_and_changed_by_admins_only(guarded: serve_in_thread, keys: dict[str, str]) -> None:
    jobs: Jobs = guarded.app.state.shared.jobs
    ledger, ask = jobs.ledger, guarded.client.request
    wanted = ReleaseRequest(bundle="/models/mine", activate=True, force="I listened to it", who="API key old")

    def listed(scope: str) -> list[str]:
        found = ask("GET", "/v1/jobs", headers={"X-API-Key": keys[scope]}).json()["jobs"]
        return [job["job_id"] for job in found if job["kind"] == "release"]

    with jobs.releases.lane.paused():  # nothing is built
        job_id = ledger.create_job("release", wanted.to_json(), idempotency_key="one").job.job_id
        for scope in ("read", "write"):
            for method, name in (("GET", ""), ("GET", "/files"), ("GET", "/events"), ("POST", ":cancel")):
                answer = ask(method, f"/v1/jobs/{job_id}{name}", headers={"X-API-Key": keys[scope]})
                assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), name
            assert listed(scope) == []
        assert ledger.get_job(job_id).state == "queued"
        assert listed("admin") == [job_id]
        ledger.end_job(job_id, "failed", report=None)
        retry, admin = f"/v1/jobs/{job_id}:retry", {"X-API-Key": keys["admin"]}
        assert ask("POST", retry, headers={"X-API-Key": keys["write"]}).status_code == 403
        assert ask("POST", retry, headers=admin).status_code == 202
        key_id = keys["admin"].split("_")[1]
        asked = ledger.get_job(job_id).request
        assert asked == {**wanted.to_json(), "who": f"API key {key_id}"}, "who asks now"
        assert not ledger.create_job("release", wanted.to_json(), idempotency_key="one").is_new
        assert ask("POST", f"/v1/jobs/{job_id}:cancel", headers=admin).json()["state"] == "cancelled"
        ledger.end_job(job_id, "done", report=None)
        answer = ask("POST", retry, headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (409, "job_ended")
        assert ledger.get_job(job_id).state == "done"


def test_ways_to_carry_a_key(guarded: serve_in_thread, keys: dict[str, str]) -> None:
    key = keys["write"]
    ask = guarded.client.request
    assert ask("GET", "/v1/assets", headers={"X-API-Key": key}).status_code == 200
    assert ask("GET", "/v1/assets", headers={"Authorization": f"bearer {key}"}).status_code == 200
    assert ask("GET", "/v1/assets", headers={"Cookie": f"a=b; foley_key={key}"}).status_code == 200
    # A browser sends cookies without being asked: they let nobody change anything, or read more than players need.
    for path in ("/v1/jobs", "/metrics", "/v1/audit", "/nothing"):
        assert ask("GET", path, headers={"Cookie": f"foley_key={key}"}).status_code == 401, path
    assert ask("DELETE", ASSET, headers={"Cookie": f"foley_key={key}"}).status_code == 401
    assert ask("DELETE", ASSET, headers={"X-API-Key": key}).status_code == 404
    for wrong in ("x", key[:-1]):
        answer = ask("GET", "/v1/assets", headers={"Authorization": f"Bearer {wrong}"})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert ask("GET", "/v1/assets", headers={"Authorization": "Basic eDp5"}).status_code == 401


def test_streams_are_few_and_end_with_their_key(guarded: serve_in_thread, keys_file: Path) -> None:
    created = create_key(keys_file, name="follower", scope="read")
    headers, shared = {"X-API-Key": created.key}, guarded.app.state.shared
    with shared.jobs.library.lane.paused():
        job_id = shared.jobs.ledger.create_job("index", JobRequest(paths=("/x",)).to_json()).job.job_id
        place = f"/v1/jobs/{job_id}/events"
        with guarded.client.stream("GET", place, headers=headers) as first:
            lines = first.iter_lines()
            assert next(lines).startswith("retry:")
            with guarded.client.stream("GET", place, headers=headers) as second:
                others = second.iter_lines()  # which would be closed with its last reference
                assert next(others).startswith("retry:")
                refused = guarded.client.get(place, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
                revoke_key(keys_file, created.stored.key_id)
                assert "event: end" not in list(lines)  # the stream ends, and the job has not
        shared.jobs.cancel(job_id)


def test_a_revoked_key_is_refused_at_once(guarded: serve_in_thread, keys_file: Path) -> None:
    created = create_key(keys_file, name="short-lived", scope="read")
    headers = {"X-API-Key": created.key}
    assert guarded.client.get("/v1/assets", headers=headers).status_code == 200
    revoke_key(keys_file, created.stored.key_id)
    assert guarded.client.get("/v1/assets", headers=headers).status_code == 401


def test_who_forces_a_release_is_the_key(
    guarded: serve_in_thread, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ReleaseRequest] = []

    def refuse(_: ReleaseJobs, request: ReleaseRequest, **__: object) -> NoReturn:
        asked.append(request)
        raise ReleaseError("not now")

    monkeypatch.setattr(ReleaseJobs, "submit", refuse)
    created = create_key(keys_file, name="release engineer", scope="admin")
    body = {"bundle": "/models/mine", "activate": True, "force": "I listened to it"}
    answer = guarded.client.post("/v1/releases", json=body, headers={"X-API-Key": created.key})
    assert (answer.status_code, answer.json()["detail"]) == (409, "not now")
    assert [request.who for request in asked] == [f"API key {created.stored.key_id}"]


def test_a_body_without_a_key_is_not_read(guarded: serve_in_thread) -> None:
    answer = guarded.client.post("/v1/search", files={"file": bytes(3_000_000)}, data={"target": "audio"})
    assert answer.status_code == 401
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "example.org"])
def test_no_door_is_open_without_keys(indexed_settings: Settings, tmp_path: Path, host: str) -> None:
    settings = indexed_settings.replace(data=tmp_path, host=host)
    assert settings.needs_keys
    with pytest.raises(KeysFailure, match="foley keys create"):
        create_app(settings)
    create_key(settings.keys_path, name="x", scope="read")
    with pytest.raises(KeysFailure, match="FOLEY_LIBRARY_ROOTS must name the folders of the library"):
        create_app(settings)
    create_app(settings.replace(library_roots="*"))
    create_app(settings.replace(library_roots=(tmp_path,)))
    assert not settings.replace(allow_remote=True).needs_keys  # said aloud by `foley serve`
    assert settings.replace(allow_remote=True, api_keys_file=tmp_path / "k").needs_keys


def test_refusal_to_start_is_one_line(indexed_settings: Settings, tmp_path: Path) -> None:
    settings = {"DATA": tmp_path, "BUNDLE": indexed_settings.bundle, "DEVICE": "cpu", "HOST": "0.0.0.0"}
    with pytest.raises(AssertionError, match="did not start"), run_server(settings, tmp_path / "log"):
        pass
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("foley: ")
    assert "foley keys create" in line


# On loopback


@pytest.fixture(scope="module")
def local(indexed_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve_in_thread]:
    settings = indexed_settings.replace(data=tmp_path_factory.mktemp("data"), allowed_hosts="media.example")
    with memory_indexes(), serve_in_thread(settings) as running:
        yield running


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "media.example"]
)
def test_own_names(local: serve_in_thread, host: str) -> None:
    host = host.format(port=local.client.base_url.port)
    assert local.client.get("/v1/assets", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["attacker.example", "127.0.0.1.attacker.example:8000", "192.168.1.7", "localhost.x"]
)
def test_dns_rebinding_is_refused(local: serve_in_thread, host: str) -> None:
    for method, path in (("GET", "/v1/assets"), ("POST", "/v1/search"), ("GET", "/"), ("DELETE", ASSET)):
        answer = local.client.request(method, path, headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed")


def test_pages_of_other_sites_change_nothing(local: serve_in_thread) -> None:
    for origin in ("https://attacker.example", "null", "http://localhost:1", "file://", "http://[::1"):
        for method, path in (("DELETE", ASSET), ("POST", "/v1/search"), ("POST", "/v1/embeddings")):
            answer = local.client.request(method, path, headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin"), origin
    assert local.client.delete(ASSET, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    own = str(local.client.base_url).rstrip("/")
    for headers in (
        {"Origin": own},
        {"Origin": "https://media.example"},
        {"Sec-Fetch-Site": "same-origin"},
        {},
    ):
        assert local.client.delete(ASSET, headers=headers).status_code == 404


def test_pages_of_other_sites_read_nothing(local: serve_in_thread, guarded: serve_in_thread) -> None:
    paths = ("/v1/assets", f"{ASSET}/media", "/v1/jobs", "/v1/releases", "/v1/nothing")
    for path in paths:
        for method in ("GET", "HEAD"):
            assert (
                local.client.request(method, path, headers={"Sec-Fetch-Site": "cross-site"}).status_code
                == 403
            )
        for site in ("same-origin", "same-site", "none"):
            assert local.client.get(path, headers={"Sec-Fetch-Site": site}).status_code in (200, 404)
    assert (
        local.client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    )  # a link to the page
    # With keys it is the key that counts.
    assert guarded.client.get("/v1/assets", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 401


def test_every_answer_says_whom_it_is_for(local: serve_in_thread) -> None:
    for method, path, _, _ in REQUESTS:
        headers = local.client.request(method, path).headers
        assert headers["cross-origin-resource-policy"] == "same-origin", path
        assert headers["x-content-type-options"] == "nosniff", path


def test_without_the_checks_those_requests_would_pass(
    indexed_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is the checks that refuse, and nothing else."""
    monkeypatch.setattr("service.http.origin.check_host", lambda *_: None)
    monkeypatch.setattr("service.http.origin.check_origin", lambda *_: None)
    with memory_indexes(), serve_in_thread(indexed_settings.replace(data=tmp_path)) as running:
        headers = {"Host": "attacker.example", "Origin": "https://attacker.example"}
        assert running.client.delete(ASSET, headers=headers).status_code == 404


def test_hosts_and_origins_by_themselves() -> None:
    check_host(None, ())
    check_host("EXAMPLE.org.:80", {"example.org"})
    with pytest.raises(HostNotAllowed, match="FOLEY_ALLOWED_HOSTS"):
        check_host("", ())
    check_origin(Headers({"origin": "https://a.example:8443", "host": "A.example:8443"}), ())
    with pytest.raises(CrossOrigin, match="other sites"):
        check_origin(Headers({"sec-fetch-site": "same-site"}), ())
    with pytest.raises(CrossOrigin, match="may not call"):
        check_origin(Headers({"origin": "https://a.example:8444", "host": "a.example:8443"}), ())


def test_a_key_in_a_bad_cookie() -> None:
    assert read_key(Headers({"cookie": "foley_key=abc"}), takes_cookie=True) == "abc"
    assert read_key(Headers({"cookie": "other=abc"}), takes_cookie=True) is None
    assert read_key(Headers({"cookie": "\x00=;;foley_key"}), takes_cookie=True) is None
