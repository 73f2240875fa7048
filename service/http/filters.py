"""The fields of a request that say which assets count, in a form, a query string or JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, Json, PlainValidator, WithJsonSchema

from service.http.schemas import RequestBody, at_most
from service.index.contract import VALUES, Bounds, Filter, is_value
from service.system.modality import Modality

MAX_SECONDS = 1e11  # of a duration or since 1970: past every file there is
MAX_TEXT_CHARS = 1024
MAX_VALUES = 64
MAX_WANTED = 16  # keys of metadata in one filter
NUMBER: dict[str, Any] = {"type": "number", "minimum": -(2**63), "exclusiveMaximum": 2**63}
VALUE_SCHEMAS = ({"type": "string", "maxLength": MAX_TEXT_CHARS}, NUMBER, {"type": "boolean"})
LIST_SCHEMA: dict[str, Any] = {"type": "array", "items": {"anyOf": [*VALUE_SCHEMAS]}, "maxItems": MAX_VALUES}
ENDS = {end: {"anyOf": [NUMBER, {"type": "null"}]} for end in ("at_least", "at_most")}
BOUNDS_SCHEMA = {"type": "object", "properties": ENDS, "additionalProperties": False}


def read_values(given: Any) -> Any:
    """A value of metadata or a list of them as they are; raises ValueError in one sentence for anything else.

    No union of types: pydantic would say of each type why it is not that one.
    """
    values = given if isinstance(given, list) else [given]
    if len(values) > MAX_VALUES:
        raise ValueError(f"must have at most {MAX_VALUES} values")
    if not all(map(is_value, values)):
        raise ValueError(f"must be {VALUES}, or a list of them")
    if any(isinstance(value, str) and len(value) > MAX_TEXT_CHARS for value in values):
        raise ValueError(f"must have at most {MAX_TEXT_CHARS} characters")
    return given


def _read_wanted(given: Any) -> Any:
    if given == []:
        raise ValueError("must have at least 1 value")
    if not isinstance(given, dict):
        return read_values(given)
    numbers = [number for number in given.values() if number is not None]
    if given.keys() <= ENDS.keys() and all(type(n) in (int, float) and is_value(n) for n in numbers):
        return Bounds(**given)
    raise ValueError("bounds must be numbers under `at_least` and `at_most`")


WANTED_SCHEMA = {"anyOf": [*VALUE_SCHEMAS, {**LIST_SCHEMA, "minItems": 1}, BOUNDS_SCHEMA]}
WantedValue = Annotated[Any, PlainValidator(_read_wanted), WithJsonSchema(WANTED_SCHEMA)]
Wanted = dict[Annotated[str, Field(max_length=128)], WantedValue]
METADATA = (
    "For each key the value an asset must have, a list of values of which it must have one, or bounds of a number, "
    'both included: `{"at_least": -24, "at_most": -22.5}`. `3` is not `"3"`, but it is `3.0`.'
)
MetadataText = Annotated[
    Json[Annotated[Wanted, Field(max_length=MAX_WANTED), at_most(MAX_WANTED)]] | None,
    Field(
        description=f"A JSON object. {METADATA}",
        max_length=4096,
        examples=['{"take": 3, "mood": ["calm", "cold"]}'],
    ),
]


class FilterFields(RequestBody):
    """Which assets count: every field that is given must hold."""

    folder: str | None = Field(
        None,
        max_length=4096,
        pattern="^(/|(s3|gs|https?)://)[^\\x00]*$",
        description="Only assets with a file in this folder or below it; `s3://bucket/prefix` for objects.",
        examples=["/media/rain"],
    )
    modality: Modality | None = Field(
        None, description="Only assets that have this modality in at least one segment."
    )
    min_duration_seconds: float | None = Field(
        None, ge=0, le=MAX_SECONDS, description="Minimum duration of the file."
    )
    max_duration_seconds: float | None = Field(
        None, ge=0, le=MAX_SECONDS, description="Maximum duration of the file."
    )
    modified_after: float | None = Field(
        None,
        ge=0,
        le=MAX_SECONDS,
        description="Only files changed at this time or later, seconds since 1970.",
    )
    modified_before: float | None = Field(
        None, ge=0, le=MAX_SECONDS, description="Only files changed before this time, seconds since 1970."
    )
    is_silent: bool | None = Field(
        None,
        description="Only assets whose sound is silence from start to end; false: only those with other sound.",
    )
    is_static: bool | None = Field(
        None,
        description="Only assets in whose picture nothing changes (one colour, a still, test bars); false: only those "
        "with a moving picture.",
    )
    metadata: Annotated[Wanted, Field(max_length=MAX_WANTED), at_most(MAX_WANTED)] | None = Field(
        None, description=METADATA, examples=[{"take": 3, "mood": ["calm", "cold"]}]
    )

    def to_filter(self) -> Filter | None:
        """The filter, None if no field is given."""
        chosen = Filter(
            folder=self.folder,
            modality=self.modality,
            min_duration_seconds=self.min_duration_seconds,
            max_duration_seconds=self.max_duration_seconds,
            modified_after=self.modified_after,
            modified_before=self.modified_before,
            is_silent=self.is_silent,
            is_static=self.is_static,
            metadata=self.metadata or {},
        )
        return None if chosen.is_empty else chosen
