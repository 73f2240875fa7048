"""Bodies of requests and answers about exports, for OpenAPI; see `service.http.schemas`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from service.exports.formats import FormatName, RateName
from service.http.collection_schemas import COLLECTION_ID, ItemFields
from service.http.document import Document
from service.http.schemas import RequestBody, example
from service.jobs.collections import MAX_ITEMS

PathPrefix = Annotated[str, Field(min_length=1, max_length=4096)]


class ExportRequest(RequestBody):
    """What to write, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "collection_id": COLLECTION_ID,
                    "format": "edl",
                    "frame_rate": "25",
                    "path_map": [["/media", "Z:\\media"]],
                }
            ]
        }
    )

    collection_id: str | None = Field(None, max_length=64, description="Write the items of this collection.")
    items: Annotated[list[ItemFields], Field(min_length=1, max_length=MAX_ITEMS)] | None = Field(
        None, description="Or write these."
    )
    format: FormatName
    frame_rate: RateName = Field(
        "25", description="Frames a second of the cut; `df` counts with drop-frame timecode."
    )
    path_map: Annotated[
        list[Annotated[list[PathPrefix], Field(min_length=2, max_length=2)]], Field(max_length=64)
    ] = Field(
        default_factory=list,
        description="Folders here, each with where the editor has it; the longest that fits.",
    )
    title: str | None = Field(None, max_length=200, description="Default: the name of the collection.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.collection_id is None) == (self.items is None):
            raise ValueError("give either collection_id or items")
        return self


class FormatBody(Document):
    """A format."""

    format: FormatName
    name: str = Field(description="What people call it.")
    suffix: str = Field(description="End of its files' names.")
    media_type: str


class FormatsBody(Document):
    """Every format that can be written."""

    model_config = example(
        {
            "formats": [
                {"format": "edl", "name": "CMX 3600 EDL", "suffix": ".edl", "media_type": "text/plain"}
            ],
            "frame_rates": ["24", "25", "29.97df"],
        }
    )

    formats: list[FormatBody]
    frame_rates: list[RateName]
