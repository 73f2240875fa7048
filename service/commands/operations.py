"""The commands of those who run a service: `foley keys`, `foley backup`, `foley restore`."""

# Like the other commands these import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.commands.terminal import log_to_stderr, print_json, read_settings, report_errors, say, stdout
from service.system.text import count

keys_app = typer.Typer(help="API keys, for a service that other machines reach.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.", metavar="NAME")],
    scope: Annotated[
        Literal["read", "write", "admin"],
        typer.Option(
            help="`read` searches and lists; `write` changes the library too; `admin` may do everything."
        ),
    ] = "read",
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown once: the service keeps a digest of it only."""
    from service.operations import keys

    settings = read_settings()
    with report_errors():
        created = keys.create_key(settings.keys_path, name=name, scope=scope)
    if as_json:
        print_json({"key": created.key, **created.stored.describe()})
        return
    say(f"key {created.stored.key_id} with scope {scope} is in {settings.keys_path}; it is shown this once:")
    sys.stdout.write(f"{created.key}\n")


@keys_app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the API keys: ids, names and scopes."""
    from service.commands.printing import print_keys
    from service.operations import keys

    settings = read_settings()
    with report_errors():
        found = keys.read_keys(settings.keys_path) if settings.keys_path.exists() else []
    if as_json:
        print_json({"keys": [key.describe() for key in found]})
    elif found:
        print_keys(stdout(), [key.describe() for key in found])
    else:
        say(f"there are no API keys in {settings.keys_path}: start with `foley keys create NAME`")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="As `foley keys list` shows it.", metavar="ID")],
) -> None:
    """Take an API key away; a running service refuses it from its next request on."""
    from service.operations import keys

    settings = read_settings()
    with report_errors():
        revoked = keys.revoke_key(settings.keys_path, key_id)
    say(f"key {revoked.key_id} ({revoked.name}, scope {revoked.scope}) is revoked")


def backup(
    folder: Annotated[Path, typer.Argument(help="Where it goes; must not exist.", metavar="FOLDER")],
    as_json: Json = False,
) -> None:
    """Copy the index, the ledger of jobs, the API keys and the active release; also while `foley serve` runs."""
    from service.commands.here_or_there import make_backup

    settings = read_settings()
    with report_errors():
        log_to_stderr()
        manifest = make_backup(settings, folder.absolute())
    _tell(manifest, f"backed up to {folder}", as_json=as_json)


def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.", exists=True, file_okay=False, metavar="FOLDER")],
    is_forced: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup back, after every file of it was checked. No `foley serve` may run on the data meanwhile."""
    from service.operations.restore import restore_backup

    settings = read_settings()
    with report_errors():
        log_to_stderr()
        manifest = restore_backup(settings, folder.absolute(), is_forced=is_forced)
    _tell(manifest, f"restored to {settings.data}", as_json=as_json)


def _tell(manifest: Any, done: str, *, as_json: bool) -> None:
    facts = {
        name: getattr(manifest, name) for name in ("release_id", "bundle_id", "num_assets", "num_segments")
    }
    facts["num_bytes"] = sum(file["num_bytes"] for file in manifest.files.values())
    if as_json:
        print_json(facts)
    else:
        say(
            f"{count(facts['num_assets'], 'asset')}, {count(facts['num_segments'], 'segment')}, "
            f"{facts['num_bytes']} bytes {done}"
        )


COMMANDS: tuple[Callable[..., None], ...] = (backup, restore)
