"""A search that a running `foley serve` answers for a command: the file is sent over HTTP, piece by piece.

    document = search_served(settings, server, Path("clip.mp4"), parameters={"target": "audio"}, filter=None)

Only one process can have an embedded index open; where that is the server, it is asked.
"""

from __future__ import annotations

import http.client
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

from models.media.clip import open_regular
from service.client.following import ServerRefused
from service.client.refusal import explain_refusal
from service.client.served_inventory import to_query
from service.index.contract import Filter
from service.system.settings import Settings

PATH = "/v1/search"
PIECE_BYTES = 1024 * 1024
MARGIN_SECONDS = 60.0  # to send the file and to wait for a turn, beside what the search itself may take


def search_served(
    settings: Settings,
    server: tuple[str, int],
    file: Path,
    *,
    parameters: Mapping[str, Any],
    filter: Filter | None,
) -> dict[str, Any]:
    """Search with a file on a server.

    Args:
        settings: With the API key, and how long a search may take.
        server: Host and port.
        file: What to search with.
        parameters: Fields of `POST /v1/search`; those that are None are left out.
        filter: Which assets count; None for all.

    Returns:
        The server's answer: what `foley search --json` prints.

    Raises:
        ServerRefused: If it does not answer or refuses, or a folder cannot be sent.
    """
    fields = {name: value for name, value in parameters.items() if value is not None} | to_query(filter)
    try:
        query = urlencode(fields)
    except UnicodeEncodeError as exc:
        raise ServerRefused("a folder that is not UTF-8 cannot be sent to the server") from exc
    address = f"{server[0]}:{server[1]}"
    connection = http.client.HTTPConnection(*server, timeout=settings.query_timeout_seconds + MARGIN_SECONDS)
    try:
        status, content = _send(connection, f"{PATH}?{query}", file, headers=settings.client_headers())
        document: dict[str, Any] = json.loads(content)
    except (ConnectionError, TimeoutError, http.client.HTTPException) as exc:
        raise ServerRefused(f"the server on {address} does not answer: {exc}") from exc
    except ValueError as exc:
        raise ServerRefused(f"the server on {address} answers with something else than JSON") from exc
    finally:
        connection.close()
    if status >= http.client.BAD_REQUEST:
        raise ServerRefused(f"the server on {address} refused: {explain_refusal(status, document)}")
    return document


def _send(
    connection: http.client.HTTPConnection, target: str, file: Path, *, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    """Send a file as a form of one part.

    Args:
        connection: To the server.
        target: Path and query string.
        file: The file.
        headers: What the request carries beside.

    Returns:
        Status and body of the answer.

    Raises:
        ConnectionError: If the connection broke and no answer had come.
    """  # noqa: DOC502, DOC503 - the system's own
    boundary = uuid.uuid4().hex
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="query"\r\n'  # it is told no name
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    with open_regular(file) as (descriptor, facts), open(descriptor, "rb", closefd=False) as opened:
        sent = {
            **headers,
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + facts.st_size + len(tail)),
        }
        body = itertools.chain((head,), _read(opened, facts.st_size), (tail,))
        try:
            connection.request("POST", target, body=body, headers=sent)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # It refused before it had all of it, and says why in the answer that waits to be read.
        response = connection.getresponse()
        return response.status, response.read()


def _read(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """So much of a file as was promised, whatever is written to it meanwhile."""
    left = num_bytes
    while left:
        piece = file.read(min(PIECE_BYTES, left))
        if not piece:
            raise ServerRefused("the file became shorter while it was sent")
        left -= len(piece)
        yield piece
