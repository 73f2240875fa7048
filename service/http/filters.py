"""The fields of a request that say which assets count, in a form, a query string or JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Json, StrictBool, StrictInt, StrictStr

from service.index.contract import Filter
from service.system.modality import Modality

MAX_SECONDS = 1e11  # of a duration or since 1970: past every file there is
Text = Annotated[StrictStr, Field(max_length=1024)]
Number = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Value = StrictBool | Number | Text
Wanted = dict[
    Annotated[str, Field(max_length=128)], Value | Annotated[list[Value], Field(min_length=1, max_length=64)]
]
METADATA = (
    "For each key the value an asset must have, or a list of values of which it must have one. Text, whole numbers, "
    'true and false are compared as they are: `3` is not `"3"`.'
)
MetadataText = Annotated[
    Json[Annotated[Wanted, Field(max_length=16)]] | None,
    Field(
        description=f"A JSON object. {METADATA}",
        max_length=4096,
        examples=['{"take": 3, "mood": ["calm", "cold"]}'],
    ),
]


class FilterFields(BaseModel):
    """Which assets count: every field that is given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str | None = Field(
        None,
        max_length=4096,
        pattern="^/[^\\x00]*$",
        description="Only assets with a file in this folder or below it.",
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
    metadata: Annotated[Wanted, Field(max_length=16)] | None = Field(
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
            metadata=self.metadata or {},
        )
        return None if chosen.is_empty else chosen
