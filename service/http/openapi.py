"""The OpenAPI description: what routes say of their forms, files and errors, and what holds for all of them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.http.access import scope_of
from service.http.document import Document
from service.http.schemas import ProblemBody


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` of a route that may answer with these errors."""
    reference = {"$ref": "#/components/schemas/ProblemBody"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": reference}},
        }
        for status in statuses
    }


def describe_media() -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` of a route that sends a file, whole or in part."""
    # Generators of clients know the first; browsers get the others.
    kinds = ("application/octet-stream", "audio/*", "video/*")
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {
        200: {"description": "The whole file.", "content": content},
        206: {"description": "The range of bytes asked for.", "content": content},
        304: {"description": "The client has this file already."},
    }


def describe_form(
    parameters: type[BaseModel], *, json: dict[str, Any] | None = None, needs_file: bool = True
) -> dict[str, Any]:
    """FastAPI's `openapi_extra` of a route that takes a form (`file` and `parameters`) or JSON of the schema `json`."""
    schema = parameters.model_json_schema(by_alias=True)
    file = {
        "type": "string",
        "contentMediaType": "application/octet-stream",
        "format": "binary",
        "description": "A media file.",
    }
    fields = {name: _drop_null(field) for name, field in schema["properties"].items()}
    form = {
        "type": "object",
        "properties": {"file": file, **fields},
        "required": [*(["file"] if needs_file else []), *schema.get("required", [])],
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": form}}
    if json is not None:
        content["application/json"] = {"schema": json}
    return {"requestBody": {"required": True, "content": content}}


def _drop_null(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that may be left out: a form cannot say null."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    merged = {**field, **(kinds[0] if len(kinds) == 1 else {})}
    return {name: value for name, value in merged.items() if name not in ("anyOf", "default")}


def describe_app(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the schema of problems that every route refers to."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            license_info=app.license_info,
        )
        document["components"]["schemas"]["ProblemBody"] = ProblemBody.model_json_schema()
        _drop_default_errors(document)
        _restore_examples(document["components"]["schemas"], Document)
        _describe_access(document)
        app.openapi_schema = document
    return app.openapi_schema


def _restore_examples(schemas: dict[str, Any], kind: type[BaseModel]) -> None:
    """Put the examples of models back as they are: FastAPI drops whatever is null in them."""
    for model in kind.__subclasses__():
        extra = model.model_config.get("json_schema_extra")
        if isinstance(extra, dict) and model.__name__ in schemas:
            schemas[model.__name__].update(extra)
        _restore_examples(schemas, model)


def _drop_default_errors(document: dict[str, Any]) -> None:
    """Take out the 422 in FastAPI's own form that it adds where a route says nothing of one and has none."""
    for path in document["paths"].values():
        for operation in path.values():
            default = operation["responses"].get("422", {}).get("content", {}).get("application/json")
            if default is not None:
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _describe_access(document: dict[str, Any]) -> None:
    """Add to an OpenAPI description which operation needs a key of which scope, and what refuses it."""
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key of `foley keys create`. On loopback none is needed.",
        },
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = {str(status): text for status, text in describe_problems(401, 403, 421, 503).items()}
            needed = scope_of(method.upper(), path)
            if needed is None:
                operation["security"] = []
                answers = {"421": answers["421"]}
            else:
                operation["security"] = [{"bearer": [needed]}, {"api_key": [needed]}, {}]
            for status, answer in answers.items():
                operation["responses"].setdefault(status, answer)
