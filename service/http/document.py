"""What every JSON object of an answer is described by: nothing of it is built before somebody asks for OpenAPI."""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema


class Document(BaseModel):
    """A JSON object of an answer. The text below a field describes it."""

    # With `use_attribute_docstrings` pydantic would read the texts while each class is defined, which costs every start
    # 0.25 s of a core; here it is set when the schema is built, for the dataclasses within it.
    model_config = ConfigDict(defer_build=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        cls.model_config["use_attribute_docstrings"] = True
        for kind in cls.__mro__:
            for name, text in _read_texts(kind.__module__).get(kind.__name__, {}).items():
                described = cls.model_fields[name]
                described.description = described.description or text
        return handler(source)


@cache
def _read_texts(module: str) -> dict[str, dict[str, str]]:
    """The texts below the fields of the documents of a module, by class and field."""
    if not module.startswith("service.http."):
        return {}
    nodes = ast.parse(inspect.getsource(sys.modules[module])).body
    return {
        node.name: {
            field.target.id: inspect.cleandoc(text.value.value)
            for field, text in pairwise(node.body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        }
        for node in nodes
        if isinstance(node, ast.ClassDef)
    }
