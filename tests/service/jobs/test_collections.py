"""Collections in the ledger: kept in order, bounded, upgraded to, and carried by a backup."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs import collections as module
from service.jobs.collections import (
    CollectionNotFound,
    CollectionsFull,
    Item,
    append_items,
    change_collection,
    create_collection,
    delete_collection,
    find_collection,
    get_collection,
    list_collections,
)
from service.jobs.ledger import Ledger
from service.operations.backup import _copy_files
from service.system.settings import Settings

RAIN = Item(
    asset_id="a" * 64, start_seconds=1.5, end_seconds=2.0, modality="audio", note="Böe\n", query="rain"
)
WIND = Item(asset_id="b" * 64)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


def test_items_keep_their_order_and_values(ledger: Ledger) -> None:
    made = create_collection(ledger, "rain")
    append_items(ledger, made.collection_id, [RAIN])
    append_items(ledger, made.collection_id, [WIND])
    assert get_collection(ledger, made.collection_id).items == (RAIN, WIND)
    changed = change_collection(ledger, made.collection_id, name="wind", items=[WIND, RAIN, WIND])
    assert (changed.name, changed.items) == ("wind", (WIND, RAIN, WIND))
    assert changed.created_at == made.created_at < changed.updated_at
    (row,) = list_collections(ledger)
    assert (row["name"], row["num_items"]) == ("wind", 3)
    assert find_collection(ledger, "wind") == find_collection(ledger, made.collection_id) == changed
    delete_collection(ledger, made.collection_id)
    assert list_collections(ledger) == []
    for work in (get_collection, delete_collection, change_collection, find_collection):
        with pytest.raises(CollectionNotFound):
            work(ledger, made.collection_id)
    with pytest.raises(CollectionNotFound):
        append_items(ledger, made.collection_id, [RAIN])


def test_there_is_a_limit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", 2)
    monkeypatch.setattr(module, "MAX_COLLECTIONS", 1)
    made = append_items(ledger, create_collection(ledger, "rain").collection_id, [RAIN, WIND])
    with pytest.raises(CollectionsFull, match="2 items, this would be 3"):
        append_items(ledger, made.collection_id, [RAIN])
    assert get_collection(ledger, made.collection_id).items == (RAIN, WIND)
    with pytest.raises(CollectionsFull, match="there may be 1"):
        create_collection(ledger, "wind")


def test_a_ledger_of_before_gets_them_and_a_backup_carries_them(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE collections; DROP TABLE audit_marks")
        connection.execute("PRAGMA user_version=3")
    connection.close()
    with Ledger.open(path) as ledger:
        made = append_items(ledger, create_collection(ledger, "rain").collection_id, [RAIN])
        (tmp_path / "scratch").mkdir()
        members = _copy_files(settings, "release", tmp_path / "scratch")
        content = next(b"".join(one.pieces()) for one in members if one.name == "ledger.sqlite")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "ledger.sqlite").write_bytes(content)
    with Ledger.open(tmp_path / "again" / "ledger.sqlite") as ledger:
        assert get_collection(ledger, made.collection_id) == made
