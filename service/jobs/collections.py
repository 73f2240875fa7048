"""Collections: what people gather from answers, in an order of theirs, kept in the ledger.

    kept = create_collection(ledger, "rain")
    append_item(ledger, kept.collection_id, Item(asset_id=…, start_seconds=2.0, end_seconds=6.5))

An item names an asset and may outlive it: a file that is indexed again is found again.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.jobs.database import LedgerDamaged, LedgerFailure
from service.jobs.ledger import Ledger
from service.system.modality import Modality

MAX_COLLECTIONS = 1000
MAX_ITEMS = 1000  # of one collection

COLUMNS = "collection_id, name, created_at, updated_at"


def _is_any(_: str) -> bool:
    return True


class CollectionNotFound(LedgerFailure):
    """No collection has this id or name."""

    code = "collection_not_found"
    is_public = True


class CollectionsFull(LedgerFailure):
    """There are as many collections, or items of one, as there may be."""

    code = "collections_full"
    is_public = True


class CollectionChanged(LedgerFailure):
    """A collection is no longer as it was when a change to it was made."""

    code = "collection_changed"
    is_public = True


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file, or the part [start, end) of it; `modality` says what of it was wanted, `query` what it was found with."""

    asset_id: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    modality: Modality | None = None
    note: str = ""
    query: str | None = None


@dataclass(frozen=True, kw_only=True)
class Collection:
    """One collection; times are seconds since 1970."""

    collection_id: str
    name: str
    created_at: float
    updated_at: float
    items: tuple[Item, ...]

    @property
    def etag(self) -> str:
        """Another after each change: an entity tag of HTTP."""
        return _name_state(self.updated_at)


def list_collections(ledger: Ledger) -> list[dict[str, Any]]:
    """Every collection as JSON values without its items, the one changed last first."""
    rows = ledger.read(
        f"SELECT {COLUMNS}, json_array_length(items) AS num_items FROM collections "  # noqa: S608 - our own
        "ORDER BY updated_at DESC, collection_id"
    )
    return [{**row, "etag": _name_state(row["updated_at"])} for row in rows]


def get_collection(ledger: Ledger, collection_id: str) -> Collection:
    """One collection; raises `CollectionNotFound`."""
    query = f"SELECT {COLUMNS}, items FROM collections WHERE collection_id = ?"  # noqa: S608 - our own
    return _find(ledger.read(query, collection_id))


def find_collection(ledger: Ledger, name: str) -> Collection:
    """The collection of this id, else that of this name which changed last; raises `CollectionNotFound`."""
    query = f"SELECT {COLUMNS}, items FROM collections WHERE collection_id = ? OR name = ? "  # noqa: S608 - our own
    return _find(ledger.read(query + "ORDER BY collection_id = ? DESC, updated_at DESC", name, name, name))


def describe_collection(collection: Collection, assets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A collection as JSON values; `assets` describes those of its assets that are indexed."""
    values = asdict(collection)
    items = [
        {**item, **{key: assets.get(item["asset_id"], {}).get(key) for key in ("path", "modalities")}}
        for item in values.pop("items")
    ]
    return {**values, "num_items": len(items), "etag": collection.etag, "items": items}


def create_collection(ledger: Ledger, name: str) -> Collection:
    """Make an empty collection; raises `CollectionsFull`. Names need not differ."""
    now = time.time()
    collection_id = uuid.uuid4().hex
    with ledger.write() as connection:
        (number,) = connection.execute("SELECT count(*) FROM collections").fetchone()
        if number >= MAX_COLLECTIONS:
            raise CollectionsFull(f"there are {number} collections, and there may be {MAX_COLLECTIONS}")
        connection.execute(
            "INSERT INTO collections VALUES (?, ?, ?, ?, '[]')", (collection_id, name, now, now)
        )
    return Collection(collection_id=collection_id, name=name, created_at=now, updated_at=now, items=())


def change_collection(
    ledger: Ledger,
    collection_id: str,
    *,
    name: str | None = None,
    items: Sequence[Item] | None = None,
    is_seen: Callable[[str], bool] = _is_any,
) -> Collection:
    """Give a collection a name, or other items in place of all it has; raises `CollectionNotFound`.

    Raises `CollectionChanged` if `is_seen` does not hold for the etag of its state: the change was made to another.
    """
    with ledger.write() as connection:
        _check_state(ledger, collection_id, is_seen)
        _change(connection, collection_id, name, items)
    return get_collection(ledger, collection_id)


def append_items(ledger: Ledger, collection_id: str, items: Sequence[Item]) -> Collection:
    """Put items behind those of a collection; raises `CollectionNotFound`, `CollectionsFull`."""
    with ledger.write() as connection:  # one transaction reads and writes
        kept = get_collection(ledger, collection_id)
        _change(connection, collection_id, None, (*kept.items, *items))
    return get_collection(ledger, collection_id)


def delete_collection(
    ledger: Ledger, collection_id: str, *, is_seen: Callable[[str], bool] = _is_any
) -> None:
    """Delete a collection; raises `CollectionNotFound`, `CollectionChanged` as `change_collection`."""
    with ledger.write() as connection:
        _check_state(ledger, collection_id, is_seen)
        connection.execute("DELETE FROM collections WHERE collection_id = ?", (collection_id,))


def _check_state(ledger: Ledger, collection_id: str, is_seen: Callable[[str], bool]) -> None:
    """Within the transaction that changes it."""
    etag = get_collection(ledger, collection_id).etag
    if not is_seen(etag):
        raise CollectionChanged(f"the collection is now {etag}: read it again and repeat your change")


def _name_state(updated_at: float) -> str:
    return f'"{updated_at!r}"'


def _change(
    connection: sqlite3.Connection, collection_id: str, name: str | None, items: Sequence[Item] | None
) -> None:
    if items is not None and len(items) > MAX_ITEMS:
        raise CollectionsFull(f"a collection may have {MAX_ITEMS} items, this would be {len(items)}")
    connection.execute(
        "UPDATE collections SET name = coalesce(?, name), items = coalesce(?, items), "
        "updated_at = max(?, updated_at + 1e-6) WHERE collection_id = ?",  # never the same again
        (name, None if items is None else json.dumps(list(map(asdict, items))), time.time(), collection_id),
    )


def _find(rows: Sequence[sqlite3.Row]) -> Collection:
    if not rows:
        raise CollectionNotFound("there is no such collection")
    values = dict(rows[0])
    try:
        items = tuple(Item(**item) for item in json.loads(values.pop("items")))
    except (ValueError, TypeError) as exc:
        raise LedgerDamaged(exc) from exc
    return Collection(**values, items=items)
