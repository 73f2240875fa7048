"""The command `foley`: index a library, search it, serve it.

    foley index ~/Videos
    foley search clip.mp4 --target audio
    foley serve

Exit codes: 0 done, 1 it could not be done (one line on stderr says why), 2 the command line or a setting is
wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from models.media.names import find_argument, show_bytes_in_streams
from service.commands.assets import assets_app
from service.commands.audit import audit
from service.commands.collections import collections_app
from service.commands.cut import cut
from service.commands.export import export
from service.commands.library import index, jobs_app, repair, sync
from service.commands.mcp import mcp
from service.commands.models import models_app
from service.commands.operations import backup, doctor, keys_app, migrate, restore, serve
from service.commands.releases import releases_app
from service.commands.search import demo, search
from service.commands.tags import suggest_tags
from service.commands.terminal import print_version


class _Commands(TyperGroup):
    """Takes names of files as every command prints them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [find_argument(argument) for argument in args])


app = typer.Typer(
    cls=_Commands,
    help="Finds the sound for a picture and the picture for a sound.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Finds the sound for a picture and the picture for a sound."""
    show_bytes_in_streams()


for command in (
    index,
    sync,
    search,
    audit,
    export,
    cut,
    suggest_tags,
    demo,
    serve,
    mcp,
    doctor,
    repair,
    backup,
    restore,
    migrate,
):
    app.command()(command)
app.add_typer(assets_app, name="assets")
app.add_typer(collections_app, name="collections")
app.add_typer(jobs_app, name="jobs")
app.add_typer(releases_app, name="releases")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")


if __name__ == "__main__":
    app()
