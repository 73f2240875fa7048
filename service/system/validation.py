"""What pydantic finds wrong, in plain words: one sentence for each field, without its names for types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

MAX_FAULTS = 20  # are named: more help nobody, and a body of 1 MB may have 100,000

KINDS = {  # by the first word of pydantic's name for an error
    "bool": "must be true or false",
    "dict": "must be an object",
    "float": "must be a number",
    "int": "must be a whole number",
    "list": "must be a list",
    "model": "must be an object",
    "string": "must be text",
}
SENTENCES = {
    "extra_forbidden": "is not known here",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "json_invalid": "must be JSON: {error}",
    "json_type": "must be JSON text",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "value_error": "{error}",
}
FORMS = {
    "^/": "must be an absolute path",
    "^(/|": "must be an absolute path or an address like s3://bucket/prefix",
    "^[0-9a-f]{64}": "must be 64 digits of 0-9 and a-f",
}
SHOWN = ("_parsing", "_from_float", "literal_error")  # types of errors whose input is short and no secret


def name_faults(errors: Iterable[Mapping[str, Any]], *, with_input: bool = False) -> dict[str, str]:
    """The first MAX_FAULTS sentences by field, `metadata.take`; the name is empty if it is about all of them."""
    found: dict[str, str] = {}
    for error in islice(errors, MAX_FAULTS):
        place = ".".join(str(part) for part in error["loc"] if part != "[key]")
        got = f", got {error['input']!r}" if with_input and error["type"].endswith(SHOWN) else ""
        found.setdefault(place, _describe(error) + got)
    return found


def _describe(error: Mapping[str, Any]) -> str:
    context = {**error.get("ctx", {})}
    pattern = context.get("pattern", "")
    for start, form in FORMS.items():
        if pattern.startswith(start):
            return form
    if pattern:
        return f"must match the pattern {pattern}"
    limits = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in context.items()}
    kind = str(error["type"])
    sentence = SENTENCES.get(kind) or KINDS.get(kind.partition("_")[0])
    return str(error["msg"]) if sentence is None else sentence.format_map(limits)
