"""`foley models`: published encoders by name, fetched and made into bundles."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.options import Json
from service.commands.terminal import (
    interrupt,
    print_json,
    read_settings,
    report_errors,
    say,
    stderr,
    stdout,
)

models_app = typer.Typer(help="Published encoders by name: list, get, remove.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="As `foley models list` shows it.", metavar="NAME")]


@models_app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the encoders that are known: what they embed, their licence, and whether they are here."""
    from service.commands.tables import print_columns
    from service.operations.model_store import list_models

    settings = read_settings()
    with report_errors():
        found = list_models(settings)
    if as_json:
        print_json({"models": found})
        return
    rows = [
        (model["name"], ", ".join(model["embeds"]), model["state"], _format_size(model), model["licence"])
        for model in found
    ]
    print_columns(stdout(), ("model", "embeds", "state", "size", "licence"), rows)
    lines = ["", "How often the right result comes first, who says so, and whose work it is:"]
    for model in found:
        figures = (f"{one['measure']} {one['percent']:g} % ({one['source']})" for one in model["figures"])
        lines.append(f"{model['name']}: {'; '.join(figures)}. {'. '.join(model['attribution'])}.")
    stdout().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _format_size(model: dict[str, Any]) -> str:
    sizes = [file["bytes"] for file in model["files"] or [{"bytes": None}]]
    return "?" if None in sizes else f"{sum(sizes) / 1e6:.0f} MB"


@models_app.command()
def get(
    name: Name,
    given: Annotated[
        Path | None,
        typer.Option("--from", help="File or folder that was fetched by hand.", metavar="FILE|FOLDER"),
    ] = None,
    download_only: Annotated[
        bool, typer.Option("--download-only", help="Fetch and check the files, but make no bundle.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch an encoder, check it, and make a bundle of it. Run the same command again to resume."""
    from service.commands.printing import format_path, show_bytes
    from service.commands.starter_hint import is_starter_active
    from service.operations.model_store import Wanted, get_model, model_folder

    signal.signal(signal.SIGTERM, interrupt)
    settings = read_settings()
    with report_errors(), show_bytes(stderr()) as on_bytes:
        wanted = Wanted(given=given, imports=not download_only)
        bundle = get_model(settings, name, wanted, on_bytes=on_bytes, say=say)
    if as_json:
        print_json({"name": name, "bundle": None if bundle is None else str(bundle)})
    elif bundle is None:
        say(f"the files of {name} are in {model_folder(settings, name) / 'files'}")
    else:
        cost = " --any-cost" if is_starter_active(settings) else ""  # all are larger
        command = f"foley releases create {shlex.quote(format_path(bundle))} --activate{cost}"
        say(f"{name} is in {bundle}; make it a release: {command}")


@models_app.command()
def path(name: Name) -> None:
    """Print the folder of an encoder's bundle."""
    from service.operations.model_store import bundle_folder

    settings = read_settings()
    with report_errors():
        typer.echo(bundle_folder(settings, name))


@models_app.command()
def remove(name: Name) -> None:
    """Remove an encoder's files and its bundle. Releases that were made of it stay."""
    from service.operations.model_store import remove_model

    settings = read_settings()
    with report_errors():
        was_there = remove_model(settings, name)
    say(f"{name} is removed" if was_there else f"{name} was not here")
