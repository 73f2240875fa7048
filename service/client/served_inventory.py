"""The assets of a library whose index a running `foley serve` has open, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from service.client.refusal import explain_refusal
from service.index.contract import Filter
from service.index.failure import IndexFailure, IndexInUse
from service.system.settings import MAX_LIMIT

TIMEOUT_SECONDS = 30.0
"""How long a server may take for one answer."""


class ServedInventory:
    """The assets behind a server; see `service.commands.inventory.Inventory`.

    Args:
        host: Where it listens.
        port: Its port.
        headers: What it wants to see of us.
        holder: Says who has the index open, for errors.
    """

    def __init__(self, host: str, port: int, *, headers: Mapping[str, str], holder: str) -> None:
        self._silence = f"{holder}, which does not answer on {host}:{port}"
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        self._headers = headers

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def list_assets(self, filter: Filter | None = None) -> Iterator[dict[str, Any]]:
        """Every asset that the filter holds for, in the order of the index."""
        query: dict[str, Any] = {"limit": MAX_LIMIT, **to_query(filter)}
        while True:
            page = self._ask("GET", f"/v1/assets?{urlencode(query)}")
            if page is None:
                raise IndexInUse(f"{self._silence}: it knows no assets")
            yield from page["assets"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]

    def get_asset(self, asset_id: str) -> dict[str, Any] | None:
        """The asset of this id, if there is one."""
        return self._ask("GET", _place(asset_id))

    def merge_metadata(self, asset_id: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
        """Change what is said about an asset; None where there is none."""
        return self._ask("PATCH", _place(asset_id), {"metadata": dict(changes)})

    def delete_asset(self, asset_id: str) -> bool:
        """Take an asset out of the index; False where there is none."""
        return self._ask("DELETE", _place(asset_id)) is not None

    def _ask(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Ask once.

        Args:
            method: HTTP method.
            target: Path and query string.
            body: What to send as JSON.

        Returns:
            The document, empty where the answer has none; None where there is no such thing.

        Raises:
            IndexInUse: If it does not answer, or what answers is no Foley.
            IndexFailure: If it refuses, and why.
        """
        document = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, target, body=document, headers={**self._headers, **kind})
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise IndexInUse(f"{self._silence}: {exc}") from exc
        if response.status == http.client.NOT_FOUND:
            return None
        try:
            found: dict[str, Any] = json.loads(data) if data else {}
            if response.status < http.client.BAD_REQUEST:
                return found
            _ = found["detail"], found["code"]  # else it is no Foley
        except (ValueError, KeyError, TypeError) as exc:
            raise IndexInUse(f"{self._silence}: status {response.status}") from exc
        raise IndexFailure(f"the server refuses: {explain_refusal(response.status, found)}")


def _place(asset_id: str) -> str:
    # Not every text is a path of a URL; what is no id names no asset.
    return f"/v1/assets/{asset_id if asset_id.isalnum() and asset_id.isascii() else '-'}"


def to_query(filter: Filter | None) -> dict[str, Any]:
    """A filter as the fields of a query string."""
    if filter is None:
        return {}
    fields = {name: value for name, value in asdict(filter).items() if value is not None}
    metadata = fields.pop("metadata")
    return {**fields, **({"metadata": json.dumps(metadata)} if metadata else {})}


def listens(pid: str, port: int) -> bool:
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
