"""What every command of `foley` does alike: read the settings, report errors in one line, print."""

# The commands import what they need themselves: `foley --help` must not wait for NumPy, FFmpeg and the rest.
# ruff: noqa: PLC0415

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from service.foley import Foley
    from service.system.settings import Settings

PREFIX = "FOLEY_"
FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def read_settings(**changes: Any) -> Settings:
    """Read the settings from the environment, some of them replaced; a wrong one ends the command."""
    from pydantic import ValidationError

    from service.system.settings import Settings
    from service.system.validation import name_faults

    _warn_of_unknown(Settings.model_fields)
    try:
        return Settings(**changes)
    except ValidationError as exc:
        faults = name_faults(exc.errors(include_url=False), with_input=True)
        problems = [f"{PREFIX}{name.upper()} {fault}" if name else fault for name, fault in faults.items()]
        fail("; ".join(problems), code=WRONG_USAGE)


def _warn_of_unknown(fields: Collection[str]) -> None:
    """Warn of variables that look like a misspelled setting: the setting would silently have its default."""
    for name in sorted(os.environ):
        field = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX) or field in fields or field.startswith("test_"):
            continue
        if near := difflib.get_close_matches(field, fields, n=1):
            meant = f"{PREFIX}{near[0].upper()}"
            say(f"WARNING: {name} is not a setting and is ignored; did you mean {meant}?")


def print_version(wanted: bool) -> None:
    """Print the version and end, if it is wanted."""
    from importlib.metadata import version

    if wanted:
        typer.echo(f"foley {version('foley-av')}")
        raise typer.Exit


@contextmanager
def open_foley_of(settings: Settings) -> Iterator[Foley]:
    """Open everything a command works with, until the end of the block."""
    from service.foley import open_foley

    log_to_stderr()
    settings.data.mkdir(parents=True, exist_ok=True)
    with open_foley(settings) as foley:
        yield foley


def log_to_stderr() -> None:
    """Print logged warnings on stderr, above a progress bar if there is one."""
    from rich.logging import RichHandler

    handler = RichHandler(console=stderr(), show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


@contextmanager
def report_errors() -> Iterator[None]:
    """End the command with one line and exit code 1 if one of our own errors is raised."""
    from models.bundle.bundle import BrokenBundle
    from models.media.clip import UnreadableClip
    from service.decode.lane import DecodeFailure
    from service.index.failure import IndexInUse
    from service.system.failure import Failure

    try:
        yield
    except IndexInUse as exc:
        hint = "to use a running `foley serve`, set the same FOLEY_HOST and FOLEY_PORT"
        fail(f"{exc}: stop the `foley` that has it open; {hint}")
    except (UnreadableClip, DecodeFailure) as exc:
        fail(f"{exc} ({exc.code})")
    except (Failure, BrokenBundle, OSError) as exc:
        fail(str(exc))
    except KeyboardInterrupt:
        fail("stopped", code=INTERRUPTED)


def interrupt(_signal: int, _frame: object) -> NoReturn:
    """A signal handler: end the command as Ctrl-C does."""
    raise KeyboardInterrupt


def stdout() -> Console:
    """The console for answers."""
    from rich.console import Console

    return Console()


def stderr() -> Console:
    """The console for progress."""
    from rich.console import Console

    return Console(stderr=True)


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def say(message: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(f"foley: {message}\n")


def fail(message: str, *, code: int = FAILED) -> NoReturn:
    """End the command with one line on stderr."""
    say(message)
    raise typer.Exit(code)
