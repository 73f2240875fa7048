"""The API description: whole, usable by generators, and true of what the server answers (schemathesis)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import BaseModel
from schemathesis import checks as all_checks
from schemathesis.specs.openapi import checks

from service.http.app import create_app
from service.http.embedding_schemas import EmbeddingsBody, EncodedEmbeddingsBody
from service.http.job_schemas import JobBody, JobFilePageBody, JobPageBody
from service.http.schemas import (
    AssetBody,
    AssetPageBody,
    BatchAnswerBody,
    LiveBody,
    ReadyBody,
    SearchAnswerBody,
)
from service.system.settings import Settings

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
    "get_asset_media": ("/v1/assets/{asset_id}/media", "GET"),
    "create_job": ("/v1/jobs", "POST"),
    "list_jobs": ("/v1/jobs", "GET"),
    "get_job": ("/v1/jobs/{job_id}", "GET"),
    "list_job_files": ("/v1/jobs/{job_id}/files", "GET"),
    "follow_job": ("/v1/jobs/{job_id}/events", "GET"),
    "cancel_job": ("/v1/jobs/{job_id}:cancel", "POST"),
    "retry_job": ("/v1/jobs/{job_id}:retry", "POST"),
    "get_metrics": ("/metrics", "GET"),
    "create_backup": ("/v1/backup", "POST"),
    "audit": ("/v1/audit", "GET"),
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
                *INVALID_JOBS,
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.value,
)
def test_no_request_breaks_the_server(server: str, name: str, mode: schemathesis.GenerationMode) -> None:
    path, method = OPERATIONS[name]
    operation = schemathesis.openapi.from_url(f"{server}/openapi.json")[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(checks=CHECKED)
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


@pytest.mark.parametrize(
    "body",
    [
        AssetBody,
        AssetPageBody,
        BatchAnswerBody,
        EmbeddingsBody,
        EncodedEmbeddingsBody,
        JobBody,
        JobFilePageBody,
        JobPageBody,
        LiveBody,
        ReadyBody,
        SearchAnswerBody,
    ],
)
def test_every_answer_has_an_example_that_is_one(document: dict[str, Any], body: type[BaseModel]) -> None:
    (example,) = document["components"]["schemas"][body.__name__]["examples"]
    assert body.model_validate(example).model_dump(by_alias=True, exclude_unset=True) == example


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
        "metadata",
    }
    assert set(form["properties"]) == {"file", *common}
    assert form["required"] == ["file", "target"]
    by_asset, by_track = operation["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert set(by_asset["properties"]) == {"asset_id", "start_seconds", *common}
    assert by_asset["required"] == ["target", "asset_id"]
    assert set(by_track["properties"]) == {"track", *common}
    assert by_track["required"] == ["target", "track"]
