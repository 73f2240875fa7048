"""What a library holds, asset by asset: in its index, or asked of the `foley serve` that has the index open.

with open_inventory(Settings()) as inventory:
    for asset in inventory.list_assets():
        print(asset["path"])
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import httpx

from service.client.client import Client, Query, ServerRefused, find_server
from service.index.contract import Filter, Index
from service.index.failure import IndexInUse
from service.index.iteration import iter_assets
from service.index.opening import index_place
from service.jobs.documents import LEDGER_NAME
from service.jobs.files import forget_asset
from service.jobs.ledger import Ledger
from service.library.assets import AssetDocument, describe_asset
from service.library.locations import is_url
from service.library.metadata import merge_metadata
from service.library.object_cache import OBJECTS, ObjectCache
from service.library.previews import PREVIEWS, Previews
from service.library.tags import TagClassifier, decide, iter_suggestions, load_classifier, suggest
from service.releases.opening import active_release, warn_of_other_indexes
from service.system.paths import show_path
from service.system.settings import Settings


class Inventory(Protocol):
    """The assets of a library, as the HTTP API describes them, from the index or from the server that has it open."""

    def list_assets(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """Every asset that passes the filter, in the order of the index."""
        ...

    def get_asset(self, asset_id: str) -> AssetDocument | None:
        """The asset of this id, if there is one."""
        ...

    def get_assets(self, asset_ids: Sequence[str]) -> dict[str, AssetDocument]:
        """Those of some assets that there are, by id."""
        ...

    def merge_metadata(self, asset_id: str, changes: Mapping[str, Any]) -> AssetDocument | None:
        """Change the metadata of an asset and return it; None if there is no such asset."""
        ...

    def delete_asset(self, asset_id: str) -> bool:
        """Delete an asset from the index; False if there is no such asset."""
        ...

    def list_suggestions(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """Suggested tags of every asset that has some and passes the filter; see `service.library.tags`."""
        ...

    def get_suggestions(self, asset_id: str) -> AssetDocument | None:
        """Suggested tags of an asset; None if there is no such asset."""
        ...

    def decide_tags(self, asset_id: str, decisions: Mapping[str, Sequence[str]]) -> AssetDocument | None:
        """Suggested tags to `accept` and to `decline`; None if there is no such asset."""
        ...


class OpenInventory:
    """The assets of an index that this process has open; None is the index of a library in which nothing is indexed.

    Deleted assets are noted in the ledger of `data`, if a folder is given, which also holds what suggests tags.
    """

    def __init__(self, index: Index | None, *, data: Path | None = None, bundle_id: str = "") -> None:
        self._index = index
        self._data = data
        self._bundle_id = bundle_id

    def list_assets(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """See `Inventory.list_assets`."""
        return map(describe_asset, iter_assets(self._index, filter=filter)) if self._index else iter(())

    def get_asset(self, asset_id: str) -> AssetDocument | None:
        """See `Inventory.get_asset`."""
        return self.get_assets([asset_id]).get(asset_id)

    def get_assets(self, asset_ids: Sequence[str]) -> dict[str, AssetDocument]:
        """See `Inventory.get_assets`."""
        found = self._index.get_assets(asset_ids) if self._index else {}
        return {asset_id: describe_asset(asset) for asset_id, asset in found.items()}

    def merge_metadata(self, asset_id: str, changes: Mapping[str, Any]) -> AssetDocument | None:
        """See `Inventory.merge_metadata`."""
        asset = merge_metadata(self._index, asset_id, changes) if self._index else None
        return describe_asset(asset) if asset else None

    def delete_asset(self, asset_id: str) -> bool:
        """See `Inventory.delete_asset`."""
        is_there = self._index is not None and self._index.delete_asset(asset_id) > 0
        if is_there and self._data is not None:
            with Ledger.open(self._data / LEDGER_NAME, is_worker=False) as ledger:
                forget_asset(ledger, asset_id)
            Previews(self._data / PREVIEWS, max_bytes=0).remove(asset_id)
            ObjectCache(self._data / OBJECTS, max_bytes=0).remove(asset_id)
        return is_there

    def list_suggestions(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """See `Inventory.list_suggestions`."""
        classifier = self._classifier()
        for one in iter_suggestions(self._index, classifier, filter) if self._index else ():
            yield one.to_json()

    def get_suggestions(self, asset_id: str) -> AssetDocument | None:
        """See `Inventory.get_suggestions`."""
        asset = self._index.get_asset(asset_id) if self._index else None
        if self._index is None or asset is None:
            return None
        return suggest(self._index, asset, self._classifier()).to_json()

    def decide_tags(self, asset_id: str, decisions: Mapping[str, Sequence[str]]) -> AssetDocument | None:
        """See `Inventory.decide_tags`."""
        found = decide(self._index, asset_id, self._classifier(), **decisions) if self._index else None
        return found.to_json() if found else None

    def _classifier(self) -> TagClassifier:
        assert self._data is not None
        return load_classifier(self._data, self._bundle_id)


class ServedInventory:
    """The assets behind a running server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list_assets(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """See `Inventory.list_assets`."""
        return self._client.list_pages("/v1/assets", "assets", query=to_query(filter))

    def get_asset(self, asset_id: str) -> AssetDocument | None:
        """See `Inventory.get_asset`."""
        return self._ask("GET", asset_id)

    def get_assets(self, asset_ids: Sequence[str]) -> dict[str, AssetDocument]:
        """See `Inventory.get_assets`; one request each."""
        found = map(self.get_asset, asset_ids)
        return {asset["asset_id"]: asset for asset in found if asset is not None}

    def merge_metadata(self, asset_id: str, changes: Mapping[str, Any]) -> AssetDocument | None:
        """See `Inventory.merge_metadata`."""
        return self._ask("PATCH", asset_id, {"metadata": dict(changes)})

    def delete_asset(self, asset_id: str) -> bool:
        """See `Inventory.delete_asset`."""
        return self._ask("DELETE", asset_id) is not None

    def list_suggestions(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """See `Inventory.list_suggestions`."""
        return self._client.list_pages("/v1/suggested-tags", "assets", query=to_query(filter))

    def get_suggestions(self, asset_id: str) -> AssetDocument | None:
        """See `Inventory.get_suggestions`."""
        return self._ask("GET", asset_id, of="/suggested-tags")

    def decide_tags(self, asset_id: str, decisions: Mapping[str, Sequence[str]]) -> AssetDocument | None:
        """See `Inventory.decide_tags`."""
        return self._ask("POST", asset_id, dict(decisions), of="/suggested-tags")

    def _ask(
        self, method: str, asset_id: str, body: Mapping[str, Any] | None = None, *, of: str = ""
    ) -> AssetDocument | None:
        if not (asset_id.isalnum() and asset_id.isascii()):
            return None  # a path: not every text can be part of a URL
        try:
            return self._client.ask(method, f"/v1/assets/{asset_id}{of}", body=body)
        except ServerRefused as exc:
            if exc.status == httpx.codes.NOT_FOUND:
                return None
            raise


@contextmanager
def open_inventory(settings: Settings) -> Iterator[Inventory]:
    """Open a library's index, or find the server that has it open; raises `IndexInUse` if that is not our server."""
    release_id, bundle = active_release(settings)
    warn_of_other_indexes(settings, release_id)
    with ExitStack() as stack:
        inventory: Inventory
        try:
            index = index_place(settings).find(bundle, release_id=release_id)
        except IndexInUse as exc:
            inventory = ServedInventory(stack.enter_context(find_server(settings, exc)))
        else:
            opened = index and stack.enter_context(closing(index))
            inventory = OpenInventory(opened, data=settings.data, bundle_id=bundle.bundle_id)
        yield inventory


def list_inventory(settings: Settings, filter: Filter | None = None) -> list[AssetDocument]:
    """Every asset of the library that passes a filter, in the order of the index."""
    with open_inventory(settings) as inventory:
        return list(inventory.list_assets(filter))


def find_asset(inventory: Inventory, name: str) -> AssetDocument | None:
    """Find an asset by its id or by a path of one of its files."""
    asset = inventory.get_asset(name) if name.isascii() else None
    if asset is not None:
        return asset
    shown = name if is_url(name) else show_path(Path(name).expanduser().absolute())
    beside = inventory.list_assets(Filter(folder=shown.rpartition("/")[0] or "/"))
    return next((asset for asset in beside if shown in asset["paths"]), None)


def to_query(filter: Filter | None) -> Query:
    """A filter as the fields of a query string."""
    if filter is None:
        return {}
    fields = asdict(filter)
    metadata = fields.pop("metadata")
    folder = None if filter.folder is None else show_path(filter.folder)
    return {**fields, "folder": folder, "metadata": json.dumps(metadata) if metadata else None}
