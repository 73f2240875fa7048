"""Bodies of requests and answers about collections, for OpenAPI; see `service.http.schemas`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from service.http.document import Document
from service.http.filters import MAX_SECONDS
from service.http.schemas import ASSET_ID, RequestBody, example
from service.jobs.collections import MAX_ITEMS, Item
from service.system.modality import Modality

COLLECTION_ID = "3f2b8c5de1a94b0f9b7d6a5c4e3f2a1b"
MAX_NAME_CHARS = 200
MAX_NOTE_CHARS = 4096

Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_NAME_CHARS,
        pattern=r"[^\s\x00-\x1f\x7f-\x9f]",
        description="What people call it; more than white space.",
    ),
]
Seconds = Annotated[float | None, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class ItemFields(RequestBody):
    """A file, or a part of one, in a collection."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "asset_id": ASSET_ID,
                    "start_seconds": 20.0,
                    "end_seconds": 26.5,
                    "modality": "audio",
                    "note": "the second gust",
                    "query": "rain on a window",
                }
            ]
        }
    )

    asset_id: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 of the file's content.")
    start_seconds: Seconds = Field(None, description="Start of the part. Default: that of the file.")
    end_seconds: Seconds = Field(None, description="Its end, exclusive. Default: that of the file.")
    modality: Modality | None = Field(None, description="What of the file is wanted. Default: all.")
    note: str = Field("", max_length=MAX_NOTE_CHARS, description="What somebody says of it.")
    query: str | None = Field(None, max_length=MAX_NOTE_CHARS, description="What it was found with.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.end_seconds is not None and self.end_seconds <= (self.start_seconds or 0):
            raise ValueError("end_seconds must be after start_seconds")
        return self

    def to_item(self) -> Item:
        """The item as the ledger keeps it."""
        return Item(**self.model_dump())


class NewCollection(RequestBody):
    """A collection to make."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [{"name": "rain for scene 4"}]})

    name: Name


class CollectionChanges(RequestBody):
    """What to change about a collection; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "rain for scene 5"}]})

    name: Name | None = None
    items: Annotated[list[ItemFields], Field(max_length=MAX_ITEMS)] | None = Field(
        None, description="All items, in their order; they replace those of before."
    )


class ItemBody(Document):
    """An item of a collection."""

    asset_id: str
    start_seconds: float | None
    end_seconds: float | None
    modality: Modality | None
    note: str
    query: str | None
    path: str | None = Field(description="Path of the file; null if the asset is not indexed now.")
    modalities: list[Modality] | None = Field(description="What the file has; null as `path`.")


class CollectionRowBody(Document):
    """A collection without its items."""

    collection_id: str
    name: str
    num_items: int = Field(ge=0)
    created_at: float = Field(description="Seconds since 1970.")
    updated_at: float = Field(description="Seconds since 1970.")
    etag: str = Field(description="Another after each change; `If-Match` takes it.")


_ROW: dict[str, Any] = {
    "collection_id": COLLECTION_ID,
    "name": "rain for scene 4",
    "num_items": 1,
    "created_at": 1767225600.5,
    "updated_at": 1767225790.1,
    "etag": '"1767225790.1"',
}


class CollectionsBody(Document):
    """Every collection."""

    model_config = example({"collections": [_ROW]})

    collections: list[CollectionRowBody] = Field(description="The one changed last first.")


class CollectionBody(CollectionRowBody):
    """A collection with its items."""

    model_config = example(
        {
            **_ROW,
            "items": [
                {
                    "asset_id": ASSET_ID,
                    "start_seconds": 20.0,
                    "end_seconds": 26.5,
                    "modality": "audio",
                    "note": "the second gust",
                    "query": "rain on a window",
                    "path": "/media/rain/window.wav",
                    "modalities": ["audio"],
                }
            ],
        }
    )

    items: list[ItemBody]
