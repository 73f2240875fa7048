"""Requests to the HTTP API as values, for `Foley` and `AsyncFoley`: each says what its answer holds.

    answer = foley.send(search_words("rain", target="audio"))     # a `SearchAnswerBody`
    asset = await async_foley.send(get_asset(asset_id))            # an `AssetBody`

Further fields of a request, named as in docs/http-api.md, are keyword arguments. Any other route: `Call("GET", path)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from service.client.schema import AssetBody, AssetPageBody, CollectionBody, JobBody, SearchAnswerBody
from service.system.modality import Modality

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, whose answer is a JSON object of type `T`; None as a value leaves it out.

    With `is_keyed` it carries an `Idempotency-Key`, so that it can be sent again.
    """

    method: str
    path: str
    query: Mapping[str, Any] | None = None
    body: Mapping[str, Any] | None = None
    file: Path | None = None
    is_keyed: bool = False
    headers: Mapping[str, str] | None = None


def search_file(file: Path, *, target: Modality, **fields: Any) -> Call[SearchAnswerBody]:
    """The sound for a picture, or the picture for a sound; `from_` chooses the stream of the file."""
    return Call("POST", "/v1/search", query={"target": target, **_named(fields)}, file=file)


def search_asset(asset_id: str, *, target: Modality, **fields: Any) -> Call[SearchAnswerBody]:
    """What belongs to an asset, or is like it; `start_seconds` chooses one of its segments."""
    return Call("POST", "/v1/search", body={"asset_id": asset_id, "target": target, **_named(fields)})


def search_words(text: str, *, target: Modality, **fields: Any) -> Call[SearchAnswerBody]:
    """What words mean, or what is named so."""
    return Call("POST", "/v1/search", body={"text": text, "target": target, **_named(fields)})


def list_assets(**filters: Any) -> Call[AssetPageBody]:
    """One page of assets; `Foley.pages` takes it for all of them."""
    return Call("GET", "/v1/assets", query=filters)


def get_asset(asset_id: str) -> Call[AssetBody]:
    """One asset."""
    return Call("GET", f"/v1/assets/{quote(asset_id, safe='')}")


def change_metadata(asset_id: str, changes: Mapping[str, Any]) -> Call[AssetBody]:
    """New values by key; None removes a key."""
    return Call("PATCH", f"/v1/assets/{quote(asset_id, safe='')}", body={"metadata": changes})


def get_collection(collection_id: str) -> Call[CollectionBody]:
    """A collection with its items."""
    return Call("GET", f"/v1/collections/{quote(collection_id, safe='')}")


def change_collection(known: CollectionBody, **changes: Any) -> Call[CollectionBody]:
    """A new `name`, or all `items` anew, of a collection as it is known; refused if somebody changed it meanwhile."""
    path = f"/v1/collections/{quote(known['collection_id'], safe='')}"
    return Call("PATCH", path, body=changes, headers={"If-Match": known["etag"]})


def start_job(
    paths: Sequence[str | Path], *, kind: Literal["index", "sync"] = "index", **fields: Any
) -> Call[JobBody]:
    """Index or synchronise folders of the machine of the service."""
    body = {"kind": kind, "paths": [str(path) for path in paths], **fields}
    return Call("POST", "/v1/jobs", body=body, is_keyed=True)


def get_job(job_id: str) -> Call[JobBody]:
    """State, progress and report of a job."""
    return Call("GET", f"/v1/jobs/{quote(job_id, safe='')}")


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`from_` is `from`, which Python keeps for itself."""
    return {name.removesuffix("_"): value for name, value in fields.items()}
