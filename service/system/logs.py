"""The log: one JSON object a line, or text for a person at a terminal.

    configure_logs("auto")
    logging.getLogger(__name__).info("request", extra={"status": 200})

Code logs with the standard library; `extra` becomes fields of the line. Lines of uvicorn, of other libraries and of
Python's warnings are written in the same form. Nothing here logs a header or a body, and a traceback shows no values of
variables.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Literal, TextIO, cast

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

# They log every request and every malformed form, which `service.http.request_log` does better.
QUIET = ("uvicorn.access", "httpx", "httpcore", "asyncio", "python_multipart")

_written: list[str] = []  # form and level that were configured, for child processes


def configure_logs(
    log_format: LogFormat = "auto", *, level: LogLevel = "info", stream: TextIO | None = None
) -> None:
    """Send this process's log to one stream (default: stderr); `auto` writes text to a terminal, else JSON."""
    stream = sys.stderr if stream is None else stream
    is_json = not stream.isatty() if log_format == "auto" else log_format == "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_LineFormatter(is_json=is_json, is_coloured=stream.isatty()))
    _written[:] = ["json" if is_json else "console", level]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for name in ("uvicorn", "uvicorn.error", *QUIET):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


def child_options() -> list[str]:
    """Arguments for a child process, so that its lines look like ours; empty if no log was configured."""
    return list(_written)


def configure_child_logs(options: Sequence[str]) -> None:
    """Write the log of a child process as its parent does, by what `child_options` returned there."""
    if options:
        configure_logs(cast(LogFormat, options[0]), level=cast(LogLevel, options[1]))
    else:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")


class _LineFormatter(logging.Formatter):
    """Writes lines as `service.system.log_lines` says."""

    def __init__(self, *, is_json: bool, is_coloured: bool) -> None:
        super().__init__()
        self._form = {"is_json": is_json, "is_coloured": is_coloured}
        self._inner: logging.Formatter | None = None

    def format(self, record: logging.LogRecord) -> str:
        if self._inner is None:
            # Takes 0.1 s, and most commands and shard processes never log a line.
            from service.system.log_lines import make_formatter  # noqa: PLC0415

            self._inner = make_formatter(**self._form)
        return self._inner.format(record)
