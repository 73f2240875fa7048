"""What pydantic finds wrong, in plain words: one sentence for each field, without its names for types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SENTENCES: Mapping[str, str] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "is not known here",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 4300 digits",
    "int_type": "must be a whole number",
    "json_invalid": "must be JSON: {error}",
    "json_type": "must be JSON text",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "value_error": "{error}",
}
FORMS = {"^/": "must be an absolute path", "^[0-9a-f]{64}": "must be 64 digits of 0-9 and a-f"}
SHOWN = ("_parsing", "_from_float", "literal_error")  # types of errors whose input is short and no secret


def name_faults(errors: Iterable[Mapping[str, Any]], *, with_input: bool = False) -> dict[str, str]:
    """The sentence for each field by its name, `metadata.take`; the name is empty if it is about all of them."""
    found: dict[str, str] = {}
    for error in errors:
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
    sentence = SENTENCES.get(error["type"])
    return str(error["msg"]) if sentence is None else sentence.format_map(limits)
