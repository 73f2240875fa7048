"""The API description: whole, usable by generators, and true of what the server answers (schemathesis)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks as all_checks
from schemathesis.specs.openapi import checks

from models.bundle.bundle import Bundle
from service.http.app import create_app
from service.library.tags import keep_classifier
from service.system.settings import Settings
from tests.support.serving import serve_in_thread
from tests.support.tags import write_classifier
from tests.support.waiting import GENEROUS_SECONDS, wait_until

CHECKED = [
    all_checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


@pytest.fixture(scope="module")
def document(indexed_settings: Settings) -> dict[str, Any]:
    return create_app(indexed_settings).openapi()


OPERATIONS = {
    "search": ("/v1/search", "POST"),
    "create_embeddings": ("/v1/embeddings", "POST"),
    "list_assets": ("/v1/assets", "GET"),
    "search_batch": ("/v1/search/batch", "POST"),
    "patch_asset": ("/v1/assets/{asset_id}", "PATCH"),
    "get_asset": ("/v1/assets/{asset_id}", "GET"),
    "delete_asset": ("/v1/assets/{asset_id}", "DELETE"),
    "list_suggested_tags": ("/v1/suggested-tags", "GET"),
    "get_suggested_tags": ("/v1/assets/{asset_id}/suggested-tags", "GET"),
    "decide_suggested_tags": ("/v1/assets/{asset_id}/suggested-tags", "POST"),
    "get_asset_media": ("/v1/assets/{asset_id}/media", "GET"),
    "get_thumbnail": ("/v1/assets/{asset_id}/thumbnail", "GET"),
    "get_filmstrip": ("/v1/assets/{asset_id}/filmstrip", "GET"),
    "get_waveform": ("/v1/assets/{asset_id}/waveform", "GET"),
    "get_segment": ("/v1/assets/{asset_id}/segment", "GET"),
    "list_export_formats": ("/v1/exports/formats", "GET"),
    "create_export": ("/v1/exports", "POST"),
    "get_collections": ("/v1/collections", "GET"),
    "post_collection": ("/v1/collections", "POST"),
    "show_collection": ("/v1/collections/{collection_id}", "GET"),
    "patch_collection": ("/v1/collections/{collection_id}", "PATCH"),
    "remove_collection": ("/v1/collections/{collection_id}", "DELETE"),
    "post_item": ("/v1/collections/{collection_id}/items", "POST"),
    "create_job": ("/v1/jobs", "POST"),
    "list_jobs": ("/v1/jobs", "GET"),
    "get_job": ("/v1/jobs/{job_id}", "GET"),
    "list_job_files": ("/v1/jobs/{job_id}/files", "GET"),
    "follow_job": ("/v1/jobs/{job_id}/events", "GET"),
    "cancel_job": ("/v1/jobs/{job_id}:cancel", "POST"),
    "retry_job": ("/v1/jobs/{job_id}:retry", "POST"),
    "get_metrics": ("/metrics", "GET"),
    "get_tracks": ("/v1/tracks", "GET"),
    "create_backup": ("/v1/backup", "POST"),
    "audit": ("/v1/audit", "GET"),
    "mark_finding": ("/v1/audit/marks/{asset_id}", "PUT"),
    "show_map": ("/v1/map", "GET"),
    "show_library": ("/v1/library", "GET"),
    "compare_segments": ("/v1/similarity", "POST"),
    "list_releases": ("/v1/releases", "GET"),
    "create_release": ("/v1/releases", "POST"),
    "get_release": ("/v1/releases/{release_id}", "GET"),
    "compare": ("/v1/releases/{release_id}/comparison/{other}", "GET"),
    "activate_release": ("/v1/releases/{release_id}:activate", "POST"),
    "rollback_release": ("/v1/releases:rollback", "POST"),
    "calibrate_release": ("/v1/releases:calibrate", "POST"),
    "delete_release": ("/v1/releases/{release_id}", "DELETE"),
    "get_liveness": ("/livez", "GET"),
    "get_readiness": ("/readyz", "GET"),
}


@cache
def load_description(server: str) -> Any:
    return schemathesis.openapi.from_url(f"{server}/openapi.json", timeout=GENEROUS_SECONDS)


INVALID_JOBS = ("create_job", "list_jobs", "list_job_files")
VALID, INVALID = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("name", "mode"),
    # The others take nothing that could be invalid: any text may be an asset id.
    [
        *((name, VALID) for name in OPERATIONS),
        *(
            (name, INVALID)
            for name in (
                "search",
                "search_batch",
                "create_embeddings",
                "list_assets",
                "audit",
                "create_release",
                "get_waveform",
                "get_segment",
                "create_export",
                "post_collection",
                "patch_collection",
                "post_item",
                *INVALID_JOBS,
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.value,
)
def test_no_request_breaks_the_server(server: str, name: str, mode: schemathesis.GenerationMode) -> None:
    path, method = OPERATIONS[name]
    operation = load_description(server)[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        answer = case.call(timeout=GENEROUS_SECONDS)  # 10 s otherwise
        # Too many bytes are refused before anybody looks whether they are valid.
        case.validate_response(
            answer,
            checks=[
                each
                for each in CHECKED
                if answer.status_code != 413 or each != checks.negative_data_rejection
            ],
        )
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == ["application/problem+json"]
            assert answer.status_code < 500

    check()


def test_description_is_openapi_3_1(document: dict[str, Any], client: httpx.Client) -> None:
    assert document["openapi"].startswith("3.1")
    assert client.get("/openapi.json").json() == document


def test_operations_have_names_a_generator_likes(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert sorted(names) == sorted(OPERATIONS)


def test_errors_are_problems(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["tags"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    (schema,) = [content["schema"] for content in answer["content"].values()]
                    assert list(answer["content"]) == ["application/problem+json"]
                    assert schema == {"$ref": "#/components/schemas/ProblemBody"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def follow(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                found: Any = document
                for name in node["$ref"].removeprefix("#/").split("/"):
                    found = found[name]
            for value in node.values():
                follow(value)
        elif isinstance(node, list):
            for value in node:
                follow(value)

    follow(document)


def close(node: Any) -> Any:
    """The same schema, without room for fields that it does not name."""
    if isinstance(node, list):
        return [close(value) for value in node]
    if not isinstance(node, dict):
        return node
    closed = {name: close(value) for name, value in node.items()}
    return {"additionalProperties": False, **closed} if isinstance(node.get("properties"), dict) else closed


class Checker:
    """Holds answers to the description, field by field, and remembers which operations it has seen."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = close({name: document[name] for name in ("paths", "components")})
        self._validators: dict[tuple[str, int], Any] = {}
        self.seen: set[str] = set()

    def schema_of(self, operation: str, status: int) -> dict[str, Any]:
        path, method = OPERATIONS[operation]
        answer = self._document["paths"][path][method.lower()]["responses"][str(status)]
        return {**answer["content"]["application/json"]["schema"], "components": self._document["components"]}

    def check(self, operation: str, answer: httpx.Response) -> Any:
        assert answer.status_code < 300, answer.text
        kind = operation, answer.status_code
        if kind not in self._validators:  # to read the whole description takes longer than to answer
            self._validators[kind] = jsonschema_rs.validator_for(self.schema_of(*kind))
        self._validators[kind].validate(answer.json())
        self.seen.add(operation)
        return answer.json()


@pytest.fixture(scope="module")
def own_server(
    indexed_settings: Settings, library_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serve_in_thread]:
    """A server with a library of its own, which a job has indexed."""
    data = tmp_path_factory.mktemp("described")
    changes = {"release_max_latency_ratio": 50.0, "release_max_memory_ratio": 50.0}  # other things run too
    with serve_in_thread(indexed_settings.replace(data=data, **changes)) as running:
        running.client.post("/v1/jobs", json={"kind": "index", "paths": [str(library_files)]})
        yield running


@pytest.fixture
def checker(document: dict[str, Any]) -> Checker:
    return Checker(document)


def follow_job(checker: Checker, client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Check a job until it has ended."""

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = checker.check("get_job", client.get(f"/v1/jobs/{job['job_id']}"))
        return None if found["state"] in ("queued", "running") else found

    return wait_until(ended)


@pytest.mark.long
def test_every_json_answer_is_as_described(
    own_server: serve_in_thread,
    checker: Checker,
    library_files: Path,
    second_bundle: Bundle,
    tmp_path: Path,
    document: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real answers of every route that answers with JSON: no field is missing, none is unknown."""
    for module in ("calibration", "audit"):
        monkeypatch.setattr(f"service.search.{module}.MIN_ASSETS", 3)  # of 30, for a library of seconds
    client, check = own_server.client, checker.check
    (first,) = check("list_jobs", client.get("/v1/jobs"))["jobs"]
    assert follow_job(checker, client, first)["report"]["files"]["indexed"] > 5
    (tmp_path / "broken.mp4").write_bytes(b"not media")
    (tmp_path / "good.mp4").write_bytes((library_files / "long.mp4").read_bytes())
    job = check("create_job", client.post("/v1/jobs", json={"kind": "index", "paths": [str(tmp_path)]}))
    assert follow_job(checker, client, job)["report"]["quarantined"]
    assert check("list_job_files", client.get(f"/v1/jobs/{job['job_id']}/files"))["files"]
    check("retry_job", client.post(f"/v1/jobs/{job['job_id']}:retry"))
    follow_job(checker, client, check("get_job", client.get(f"/v1/jobs/{job['job_id']}")))
    (tmp_path / "good.mp4").rename(tmp_path / "moved.mp4")
    rehearsal = {"kind": "sync", "paths": [str(tmp_path)], "dry_run": True}
    job = check("create_job", client.post("/v1/jobs", json=rehearsal))
    assert follow_job(checker, client, job)["report"]["plan"]
    assert client.post(f"/v1/jobs/{job['job_id']}:retry").json()["code"] == "job_ended"

    check("get_liveness", client.get("/livez"))
    check("get_readiness", client.get("/readyz"))
    assert check("show_library", client.get("/v1/library"))["num_assets"]
    listed = check("list_assets", client.get("/v1/assets?with_count=true"))
    assets = listed["assets"]
    assert listed["num_assets"] == len(assets)
    asset = next(asset for asset in assets if asset["modalities"] == ["audio", "video"])
    path = f"/v1/assets/{asset['asset_id']}"
    check("get_asset", client.get(path))
    check("patch_asset", client.patch(path, json={"metadata": {"take": 3, "mood": ["calm"], "draft": True}}))

    shown = client.get("/v1/map")
    assert check("show_map", shown)
    tag = {"If-None-Match": shown.headers["etag"]}
    assert client.get("/v1/map", headers=tag).status_code == 304
    assert client.get("/v1/map?limit=1", headers=tag).status_code == 200
    segment = {"asset_id": asset["asset_id"]}
    pair = {"query": segment, "result": {**segment, "start_seconds": 0}, "target": "audio"}
    assert check("compare_segments", client.post("/v1/similarity", json=pair))["matrix"]

    names, bundle_id = ("rain", "sea"), own_server.app.state.shared.foley.bundle.bundle_id
    file = write_classifier(tmp_path / "mine.npz", names=names, bundle_id=bundle_id, width=128)
    keep_classifier(own_server.app.state.shared.foley.settings.data, file)
    check("list_suggested_tags", client.get("/v1/suggested-tags"))
    check("get_suggested_tags", client.get(f"{path}/suggested-tags"))
    check("decide_suggested_tags", client.post(f"{path}/suggested-tags", json={"accept": [], "decline": []}))

    check("get_waveform", client.get(f"{path}/waveform?pixels=9"))
    basket = check("post_collection", client.post("/v1/collections", json={"name": "rain"}))
    place = f"/v1/collections/{basket['collection_id']}"
    check("post_item", client.post(f"{place}/items", json={"asset_id": asset["asset_id"]}))
    check("patch_collection", client.patch(place, json={"name": "wind"}))
    assert check("show_collection", client.get(place))["items"]
    check("list_export_formats", client.get("/v1/exports/formats"))
    assert check("get_collections", client.get("/v1/collections"))["collections"]

    files = {"file": (library_files / "long.mp4").read_bytes()}
    check("create_embeddings", client.post("/v1/embeddings", files=files))
    check("create_embeddings", client.post("/v1/embeddings", files=files, data={"encoding": "base64"}))
    query = {"asset_id": asset["asset_id"], "target": "audio"}
    assert check("search", client.post("/v1/search", json=query))["results"]
    check("search", client.post("/v1/search", json={**query, "folder": "/nowhere"}))
    check("search", client.post("/v1/search", files=files, data={"target": "audio", "offset": "0"}))
    check("search_batch", client.post("/v1/search/batch", json=[query]))
    said = {"target": "video", "text": "long"}
    assert check("search", client.post("/v1/search", json=said))["results"][0]["score"] is None
    check("search", client.post("/v1/search", json={**said, "text": "unheard-of"}))
    several = {"target": "audio", "queries": [{"asset_id": asset["asset_id"], "start_seconds": 0}]}
    assert check("search", client.post("/v1/search", json=several))["results"]
    assert check("audit", client.get("/v1/audit"))["findings"]

    build = {"bundle": str(second_bundle.path), "activate": True, "force": "a test"}
    job = check("create_release", client.post("/v1/releases", json=build))
    job = follow_job(checker, client, job)
    assert job["report"]["switched"], job
    second = job["report"]["release"]["release_id"]
    check("list_releases", client.get("/v1/releases"))
    assert check("get_release", client.get(f"/v1/releases/{second}"))["gates"]["gates"]
    check("rollback_release", client.post("/v1/releases:rollback"))
    check("activate_release", client.post(f"/v1/releases/{second}:activate", json={"force": "a test"}))
    check("calibrate_release", client.post("/v1/releases:calibrate"))

    job = check("create_job", client.post("/v1/jobs", json={"kind": "index", "paths": [str(library_files)]}))
    answer = client.post(f"/v1/jobs/{job['job_id']}:cancel")
    if answer.status_code != 409:  # it has ended already
        check("cancel_job", answer)
    told = {
        name
        for name, (path, method) in OPERATIONS.items()
        for answer in document["paths"][path][method.lower()]["responses"].values()
        if "application/json" in answer.get("content", ())
    }
    assert told - checker.seen <= {"cancel_job"}


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (("media",), lambda media: media.pop("duration_seconds")),
        (("media",), lambda media: media.update(new=1)),
        ((), lambda asset: asset.pop("paths")),
        ((), lambda asset: asset.update(num_segments="three")),
    ],
    ids=["lacks_a_fact", "has_an_unknown_fact", "lacks_a_field", "has_another_type"],
)
def test_the_check_sees_what_is_wrong(
    client: httpx.Client, checker: Checker, place: tuple[str, ...], change: Any
) -> None:
    asset = client.get("/v1/assets").json()["assets"][0]
    schema = checker.schema_of("get_asset", 200)
    jsonschema_rs.validate(schema, asset)
    wrong = copy.deepcopy(asset)
    change(wrong[place[0]] if place else wrong)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, wrong)


def find_free(node: Any, place: str) -> Iterator[str]:
    """Where a schema has objects with fields of any name."""
    if isinstance(node, dict):
        if node.get("type") == "object" and not {"properties", "propertyNames"} & set(node):
            yield place
        for name, value in node.items():
            yield from find_free(value, f"{place}.{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from find_free(value, f"{place}.{number}")


def test_no_known_field_is_a_free_object(document: dict[str, Any]) -> None:
    """A generated client can name a duration: what a user says of an asset alone has fields of any name."""
    assert set(find_free(document["components"]["schemas"], "")) == {
        ".AssetBody.properties.metadata",
        ".SearchResultBody.properties.metadata",
        ".ProblemBody.properties.errors.anyOf.0.items",
    }


@pytest.mark.parametrize(
    "name",
    [
        "AssetBody",
        "AssetPageBody",
        "Audit",
        "BatchAnswerBody",
        "CollectionBody",
        "CollectionsBody",
        "EmbeddingsBody",
        "EncodedEmbeddingsBody",
        "FormatsBody",
        "JobBody",
        "JobFilePageBody",
        "JobPageBody",
        "LiveBody",
        "MapBody",
        "ReadyBody",
        "SearchAnswerBody",
        "WaveformBody",
        "SimilarityBody",
    ],
)
def test_every_answer_has_an_example_that_is_one(document: dict[str, Any], name: str) -> None:
    schemas = close({"components": document["components"]})
    (example,) = document["components"]["schemas"][name]["examples"]
    jsonschema_rs.validate({"$ref": f"#/components/schemas/{name}", **schemas}, example)


def test_search_takes_a_form_with_a_file(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/search"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    filters = {"folder", "modality", "min_duration_seconds", "max_duration_seconds", "modified_after"}
    common = {
        "target",
        "from",
        "limit",
        "offset",
        "min_score",
        "min_probability",
        *filters,
        "modified_before",
        "is_silent",
        "is_static",
        "metadata",
    }
    assert set(form["properties"]) == {
        "file",
        "text",
        "text_weight",
        "match",
        "start_seconds",
        "end_seconds",
        *common,
    }
    assert form["required"] == ["target"]
    by_asset, by_several, by_track, by_text = operation["requestBody"]["content"]["application/json"][
        "schema"
    ]["oneOf"]
    assert set(by_asset["properties"]) == {"asset_id", "start_seconds", *common}
    assert by_asset["required"] == ["target", "asset_id"]
    assert set(by_track["properties"]) == {"track", *common}
    assert by_track["required"] == ["target", "track"]
    assert set(by_text["properties"]) == {"text", "match", *common}
    assert by_text["required"] == ["target", "text"]
    assert set(by_several["properties"]) == {"queries", *common}
    parts = [set(part["properties"]) for part in by_several["properties"]["queries"]["items"]["oneOf"]]
    assert sorted(map(sorted, parts)) == [
        ["asset_id", "from", "start_seconds", "weight"],
        ["from", "track", "weight"],
        ["text", "weight"],
    ]
