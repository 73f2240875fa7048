"""What a line of the log looks like: one JSON object, or text for a person. Imported with the first line."""

from __future__ import annotations

import logging

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from models.media.names import show_text


def make_formatter(*, is_json: bool, is_coloured: bool) -> logging.Formatter:
    """A formatter of JSON lines, or of text with or without colours."""
    lines = _json() if is_json else _text(is_coloured=is_coloured)
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_facts(), processors=lines)


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


def _text(*, is_coloured: bool) -> list[Processor]:
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,  # the renderer's own tracebacks would show local variables
        _tidy,
        structlog.dev.ConsoleRenderer(colors=is_coloured),
    ]


def _tidy(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write durations to the microsecond (0.034211, not 0.03421087200000001), names in UTF-8, nothing twice."""
    event.pop("color_message", None)  # uvicorn's line again, with escape codes
    return {name: _tidy_value(value) for name, value in event.items()}


def _tidy_value(value: object) -> object:
    if isinstance(value, str):
        return show_text(value)
    return round(value, 6) if isinstance(value, float) else value
