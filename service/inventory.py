"""What a library holds, asset by asset: read from its index, or asked of the `foley serve` that has the index open.

for asset in list_inventory(Settings()):
    print(asset["path"])
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from models.bundle import load_bundle
from service.index.contract import Asset, Index, IndexInUse
from service.index.opening import find_index, index_folder
from service.scanning import show_path
from service.settings import MAX_LIMIT, Settings

TIMEOUT_SECONDS = 30.0
"""How long a server may take for one page."""


def list_inventory(settings: Settings) -> list[dict[str, Any]]:
    """List every asset of the library.

    Args:
        settings: Whose library; host and port are where its server is asked, if one has the index open.

    Returns:
        Assets as the HTTP API describes them, in the order of the index.

    Raises:
        IndexInUse: If another process has the index open and cannot be asked.
    """
    bundle = load_bundle(settings.bundle)
    try:
        index = find_index(settings, bundle)
        if index is None:
            return []
        with contextlib.closing(index):
            return list(_read_index(index))
    except IndexInUse as exc:
        host, port = _reachable(settings.host), settings.port
        if not _listens(_holder(index_folder(settings, bundle)), port):
            raise IndexInUse(f"{exc}, which does not listen on port {port}") from exc
        try:
            return list(_ask_server(host, port, settings))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as reason:
            raise IndexInUse(f"{exc}, which does not answer on {host}:{port}: {reason}") from reason


def describe_asset(asset: Asset) -> dict[str, Any]:
    """An asset as JSON values."""
    return {
        "asset_id": asset.asset_id,
        "path": show_path(asset.path),
        "paths": [show_path(path) for path in asset.paths],
        "num_segments": asset.num_segments,
        "modalities": list(asset.modalities),
        "media": dict(asset.media),
        "metadata": dict(asset.metadata),
    }


def _read_index(index: Index) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        page = index.list_assets(limit=MAX_LIMIT, cursor=cursor)
        yield from map(describe_asset, page.assets)
        cursor = page.next_cursor
        if cursor is None:
            return


def _ask_server(host: str, port: int, settings: Settings) -> Iterator[dict[str, Any]]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    headers = settings.client_headers()
    try:
        query: dict[str, Any] = {"limit": MAX_LIMIT}
        while True:
            connection.request("GET", f"/v1/assets?{urlencode(query)}", headers=headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != http.client.OK:
                raise ValueError(f"status {response.status}")
            page = json.loads(body)
            yield from page["assets"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]
    finally:
        connection.close()


def _reachable(host: str) -> str:
    """Where a server that listens on all addresses is asked."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound to it here


def _holder(folder: Path) -> str:
    """Number of the process that has the index open, as it wrote into the lock."""
    return (folder / "lock").read_text("ascii", "replace").strip()


def _listens(pid: str, port: int) -> bool:
    """Whether a process accepts connections on a port: what answers there could be the server of another library."""
    process = Path("/proc", pid)
    # proc(5): local address as ADDRESS:PORT in hex, state 0A is LISTEN, the tenth column is the socket's inode
    listening = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # the process ended just now, or there is no IPv6
            for row in map(str.split, (process / "net" / table).read_text().splitlines()[1:]):
                if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port:
                    listening.add(f"socket:[{row[9]}]")
    return not listening.isdisjoint(_open_files(process))


def _open_files(process: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):  # it ended just now, or belongs to somebody else
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed just now
                yield str(link.readlink())
