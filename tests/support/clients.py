"""Makes what the clients know of the API: `python -m tests.support.clients`, or `make clients`.

`service/client/schema.py` are the schemas of the OpenAPI description as Python types. `clients/typescript/schema.ts` is
made by openapi-typescript, if it is installed there.
"""

from __future__ import annotations

import json
import keyword
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.http.app import create_app
from service.system.settings import Settings
from tests.support.paths import REPOSITORY

PYTHON = REPOSITORY / "service" / "client" / "schema.py"
TYPESCRIPT = REPOSITORY / "clients" / "typescript"
GENERATOR = TYPESCRIPT / "node_modules" / ".bin" / "openapi-typescript"
HEAD = '''"""Types of the HTTP API, made of its OpenAPI description by `make clients`: change that, and not this."""

# ruff: noqa: D101, E501
from __future__ import annotations

from typing import {names}
'''
PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def describe() -> dict[str, Any]:
    """The OpenAPI description."""
    return create_app(Settings()).openapi()


def write_python(document: Mapping[str, Any]) -> str:
    """The schemas as `TypedDict`s."""
    schemas = document["components"]["schemas"]
    parts = [_define(name, schema) for name, schema in sorted(schemas.items())]
    body = "\n\n".join(parts)
    used = [name for name in ("Any", "Literal", "NotRequired", "TypeAlias", "TypedDict") if name in body]
    source = HEAD.format(names=", ".join(used)) + "\n\n" + body
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(PYTHON), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout


def write_typescript(document: Mapping[str, Any], folder: Path) -> str:
    """What openapi-typescript makes of the description; `folder` is for files of this call."""
    source, made = folder / "openapi.json", folder / "schema.ts"
    source.write_text(json.dumps(document))
    options = ("--default-non-nullable", "false")  # a request may leave out what has a default
    subprocess.run([GENERATOR, source, "--output", made, *options], check=True, capture_output=True)
    return made.read_text()


def _define(name: str, schema: Mapping[str, Any]) -> str:
    fields = schema.get("properties")
    if fields is None:
        return f"{name}: TypeAlias = {_type_of(schema)!r}\n"
    required = schema.get("required", ())

    def of(field: str) -> str:
        kind = _type_of(fields[field])
        return kind if field in required else f"NotRequired[{kind}]"

    if all(field.isidentifier() and not keyword.iskeyword(field) for field in fields):
        lines = [f"    {field}: {of(field)}" for field in fields]
        return f"class {name}(TypedDict):\n" + "\n".join(lines or ["    pass"]) + "\n"
    pairs = ", ".join(f"{field!r}: {of(field)!r}" for field in fields)
    return f"{name} = TypedDict({name!r}, {{{pairs}}})\n"


def _type_of(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " | ".join(dict.fromkeys(_type_of(choice) for choice in choices))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return f"Literal[{', '.join(map(repr, values))}]"
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items")
        return f"list[{_type_of(items)}]" if isinstance(items, Mapping) else "list[Any]"
    if kind == "object":
        more = schema.get("additionalProperties")
        return f"dict[str, {_type_of(more) if isinstance(more, Mapping) else 'Any'}]"
    return PLAIN.get(str(kind), "Any")


if __name__ == "__main__":
    import tempfile

    made = describe()
    PYTHON.write_text(write_python(made))
    if GENERATOR.exists():
        with tempfile.TemporaryDirectory() as scratch:
            (TYPESCRIPT / "schema.ts").write_text(write_typescript(made, Path(scratch)))
    else:
        sys.stderr.write("schema.ts is left as it is: run `npm ci` in clients/typescript\n")
