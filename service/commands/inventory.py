"""What a library holds, asset by asset: in its index, or asked of the `foley serve` that has the index open.

with open_inventory(Settings()) as inventory:
    for asset in inventory.list_assets():
        print(asset["path"])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from service.client.served_inventory import ServedInventory, listens
from service.index.contract import Filter, Index
from service.index.failure import IndexInUse
from service.index.opening import find_index, index_folder
from service.library.assets import AssetDocument, describe_asset
from service.library.metadata import merge_metadata
from service.releases.opening import active_release
from service.system.paths import show_path
from service.system.settings import MAX_LIMIT, Settings

"""An asset as the HTTP API describes it."""


class Inventory(Protocol):
    """The assets of a library, whoever has its index open."""

    def list_assets(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """Every asset that the filter holds for, in the order of the index."""
        ...

    def get_asset(self, asset_id: str) -> AssetDocument | None:
        """The asset of this id, if there is one."""
        ...

    def merge_metadata(self, asset_id: str, changes: Mapping[str, Any]) -> AssetDocument | None:
        """Change what is said about an asset; None where there is none."""
        ...

    def delete_asset(self, asset_id: str) -> bool:
        """Take an asset out of the index; False where there is none."""
        ...


class OpenInventory:
    """The assets of an index that this process has open.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def list_assets(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """Every asset that the filter holds for; see `Inventory.list_assets`."""
        cursor: str | None = None
        while True:
            page = self._index.list_assets(limit=MAX_LIMIT, cursor=cursor, filter=filter)
            yield from map(describe_asset, page.assets)
            cursor = page.next_cursor
            if cursor is None:
                return

    def get_asset(self, asset_id: str) -> AssetDocument | None:
        """The asset of this id, if there is one."""
        asset = self._index.get_asset(asset_id)
        return describe_asset(asset) if asset else None

    def merge_metadata(self, asset_id: str, changes: Mapping[str, Any]) -> AssetDocument | None:
        """Change what is said about an asset; None where there is none."""
        asset = merge_metadata(self._index, asset_id, changes)
        return describe_asset(asset) if asset else None

    def delete_asset(self, asset_id: str) -> bool:
        """Take an asset out of the index; False where there is none."""
        return self._index.delete_asset(asset_id) > 0


class EmptyInventory:
    """The inventory of a library in which nothing was ever indexed: to open an index would make one."""

    def list_assets(self, filter: Filter | None = None) -> Iterator[AssetDocument]:
        """No asset."""
        return iter(())

    def get_asset(self, asset_id: str) -> AssetDocument | None:
        """None."""
        return None

    def merge_metadata(self, asset_id: str, changes: Mapping[str, Any]) -> AssetDocument | None:
        """None: there is no asset to change."""
        return None

    def delete_asset(self, asset_id: str) -> bool:
        """False: there is no asset to delete."""
        return False


@contextmanager
def open_inventory(settings: Settings) -> Iterator[Inventory]:
    """Open a library's index, or find the server that has it open.

    Args:
        settings: Whose library; host and port are where its server is asked, if one has the index open.

    Yields:
        The inventory.

    Raises:
        IndexInUse: If another process has the index open and cannot be asked.
    """
    release_id, bundle = active_release(settings)
    try:
        index = find_index(settings, bundle, release_id=release_id)
    except IndexInUse as exc:
        held: IndexInUse | None = exc
    else:
        held = None
    if held is None:
        with contextlib.closing(index) if index else contextlib.nullcontext():
            yield OpenInventory(index) if index else EmptyInventory()
        return
    host, port = _reachable(settings.host), settings.port
    if not listens(_holder(index_folder(settings, release_id)), port):
        raise IndexInUse(f"{held}, which does not listen on port {port}") from held
    served = ServedInventory(host, port, headers=settings.client_headers(), holder=str(held))
    with contextlib.closing(served):
        yield served


def list_inventory(settings: Settings, filter: Filter | None = None) -> list[AssetDocument]:
    """List every asset of the library that a filter holds for.

    Args:
        settings: Whose library.
        filter: Which assets count; None for all.

    Returns:
        Assets as the HTTP API describes them, in the order of the index.
    """
    with open_inventory(settings) as inventory:
        return list(inventory.list_assets(filter))


def find_asset(inventory: Inventory, name: str) -> AssetDocument | None:
    """Find an asset by what people call it.

    Args:
        inventory: Where.
        name: Its id, or a path of one of its files.

    Returns:
        The asset, None where there is none.
    """
    asset = inventory.get_asset(name)
    if asset is not None:
        return asset
    path = Path(name).expanduser().absolute()
    shown = show_path(path)
    beside = inventory.list_assets(Filter(folder=str(path.parent)))
    return next((asset for asset in beside if shown in asset["paths"]), None)


def _reachable(host: str) -> str:
    """Where a server that listens on all addresses is asked."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound to it here


def _holder(folder: Path) -> str:
    """Number of the process that has the index open, as it wrote into the lock."""
    return (folder / "lock").read_text("ascii", "replace").strip()
