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

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from models.media.names import show_text

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
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_facts(), processors=_json() if is_json else _text(stream)
        )
    )
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


def _facts() -> list[Processor]:
    """Add time, level, logger, fields and the id of the request to every line."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _json() -> list[Processor]:
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _tidy,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=True),
    ]


def _text(stream: TextIO) -> list[Processor]:
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,  # the renderer's own tracebacks would show local variables
        _tidy,
        structlog.dev.ConsoleRenderer(colors=stream.isatty()),
    ]


def _tidy(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write durations to the microsecond (0.034211, not 0.03421087200000001), names in UTF-8, nothing twice."""
    event.pop("color_message", None)  # uvicorn's line again, with escape codes
    return {name: _tidy_value(value) for name, value in event.items()}


def _tidy_value(value: object) -> object:
    if isinstance(value, str):
        return show_text(value)
    return round(value, 6) if isinstance(value, float) else value
