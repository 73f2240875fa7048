"""What every command of `foley` does alike: read the settings, report errors in one line, print.

Like the commands, these import what they need themselves: `foley --help` must not wait for it.
"""

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
    """Settings from the environment, some of them replaced; a wrong one ends the command."""
    from pydantic import ValidationError

    from service.system.settings import Settings

    _warn_of_unknown(Settings.model_fields)
    try:
        return Settings(**changes)
    except ValidationError as exc:
        problems = [
            f"{'FOLEY_' + str(error['loc'][0]).upper() + ': ' if error['loc'] else ''}"
            f"{error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors(include_url=False, include_context=False)
        ]
        fail("; ".join(problems), code=WRONG_USAGE)


def _warn_of_unknown(fields: Collection[str]) -> None:
    """Name variables that look like a setting and are none: the setting would silently have its default."""
    for name in sorted(os.environ):
        field = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX) or field in fields or field.startswith("test_"):
            continue
        if near := difflib.get_close_matches(field, fields, n=1):
            say(f"WARNING: {name} is no setting and changes nothing: is {PREFIX}{near[0].upper()} meant?")


def print_version(wanted: bool) -> None:
    """Print the version and end, where that is wanted."""
    from importlib.metadata import version

    if wanted:
        typer.echo(f"foley {version('foley-av')}")
        raise typer.Exit


@contextmanager
def open_foley_of(settings: Settings) -> Iterator[Foley]:
    """Open what a command works with, for as long as the block lasts."""
    from service.foley import open_foley

    log_to_stderr()
    settings.data.mkdir(parents=True, exist_ok=True)
    with open_foley(settings) as foley:
        yield foley


def log_to_stderr() -> None:
    """Show warnings of the parts, beside a progress bar where there is one."""
    from rich.logging import RichHandler

    handler = RichHandler(console=stderr(), show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn our own errors into one line and exit code 1."""
    from models.bundle.bundle import BrokenBundle
    from models.media.clip import UnreadableClip
    from service.client.following import ServerRefused
    from service.commands.demo import BadCorpus
    from service.decode.lane import DecodeFailure
    from service.encode.engines.contract import EncoderFailure
    from service.index.failure import IndexFailure, IndexInUse
    from service.library.metadata import InvalidMetadata
    from service.operations.backup import BackupFailed
    from service.operations.keys import KeysFailure
    from service.releases.store import ReleaseError

    try:
        yield
    except IndexInUse as exc:
        hint = "stop the `foley` that has it open; a `foley serve` is asked where FOLEY_HOST and FOLEY_PORT are its own"
        fail(f"{exc}: {hint}")
    except (UnreadableClip, DecodeFailure) as exc:
        fail(f"{exc} ({exc.code})")
    except (
        BackupFailed,
        BadCorpus,
        BrokenBundle,
        EncoderFailure,
        IndexFailure,
        InvalidMetadata,
        KeysFailure,
        OSError,
        ReleaseError,
        ServerRefused,
    ) as exc:
        fail(str(exc))
    except KeyboardInterrupt:
        fail("stopped", code=INTERRUPTED)


def interrupt(_signal: int, _frame: object) -> NoReturn:
    """Let a signal end a command like Ctrl-C."""
    raise KeyboardInterrupt


def stdout() -> Console:
    """What answers are shown on."""
    from rich.console import Console

    return Console()


def stderr() -> Console:
    """What progress is shown on."""
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
