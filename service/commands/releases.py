"""`foley releases`: replace the encoders of a library, also while `foley serve` runs."""

# The commands import what they need themselves: `foley --help` must not wait for it.
# ruff: noqa: PLC0415

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.options import Json
from service.commands.terminal import (
    INTERRUPTED,
    WRONG_USAGE,
    fail,
    log_to_stderr,
    print_json,
    read_settings,
    report_errors,
    say,
    stderr,
    stdout,
)
from service.system.storage import Storage
from service.system.text import count

releases_app = typer.Typer(help="Replace the encoders, and switch back.", invoke_without_command=True)

ReleaseName = Annotated[str, typer.Argument(help="Name of a release.", metavar="RELEASE")]
Force = Annotated[
    str,
    typer.Option(help="Activate it even if it fails its gates; the reason is recorded.", metavar="REASON"),
]


@releases_app.callback()
def releases(context: typer.Context, as_json: Json = False) -> None:
    """List the releases, if no subcommand is given."""
    if context.invoked_subcommand is None:
        list_all(as_json=as_json)


@releases_app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the releases, the oldest first."""
    from service.commands.here_or_there import list_releases
    from service.commands.printing import format_when
    from service.commands.tables import print_columns
    from service.system.modality import OPPOSITE, name_direction

    settings = read_settings()
    with report_errors():
        found = list_releases(settings)
    if as_json:
        print_json(found)
        return
    if not found["releases"]:
        hint = "create one with `foley releases create BUNDLE`"
        say(f"there are no releases yet, and bundle {found['active']} is active: {hint}")
        return
    rows, refusals = [], []
    for release in found["releases"]:
        made = format_when(release["created_at"])
        state = release["state"] + (" (previous)" if release["is_previous"] else "")
        recall = release["gates"].get("recall", {}).get("new", {})
        shown = " / ".join(f"{recall[name]['at_1']:.1%}" for name in OPPOSITE if name in recall)
        rows.append((release["release_id"], state, made, shown))
        if reasons := release["gates"].get("reasons"):
            refusals.append(f"{release['release_id']} was refused: {'; '.join(reasons)}")
    print_columns(
        stdout(),
        ("release", "state", "created", f"R@1 {' / '.join(map(name_direction, OPPOSITE))}"),
        rows,
        folding=(),
    )
    for refusal in refusals:  # a line each: a column of them would be a few letters wide
        stdout().print(refusal, markup=False, highlight=False, soft_wrap=True)


@releases_app.command()
def show(
    release: Annotated[
        str | None, typer.Argument(help="Name of a release. Default: the active one.", metavar="RELEASE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a release embeds and compares, and how it did in its gates."""
    from service.commands.here_or_there import list_releases
    from service.commands.tables import print_columns
    from service.system.modality import NAMES

    with report_errors():
        found = list_releases(read_settings())
    name = release or found["active"]
    document = next((one for one in found["releases"] if one["release_id"] == name), None)
    if document is None:
        fail(f"there is no release {name}: `foley releases` lists them")
    if as_json:
        print_json(document)
        return
    rows = [("release", name), ("state", document["state"]), *_describe_bundle(document["bundle"])]
    rows += [
        ("scores of words", f"{NAMES[target]}: learned from {count(num_captions, 'caption')}")
        for target, num_captions in document["num_captions"].items()
    ]
    print_columns(stdout(), ("fact", "value"), rows)
    _print_gates(document)


def _describe_bundle(facts: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What a bundle embeds and compares, in rows of a table."""
    if facts is None:
        return [("bundle", "cannot be read")]
    shapes = [
        f"{name}: {count(moments, 'moment')} of {width}" for name, (moments, width) in facts["tracks"].items()
    ]
    rows = [("embeds", ", ".join(shapes))]
    rows.append(("sound with picture", "compared" if facts["compares"] else "not compared"))
    rows.append(("scores", "cosines" if facts["similarity"] == "cosine" else "dot products, without bounds"))
    if facts.get("weighs_moments"):
        rows.append(("moments of sound", "count by how much they belong to the picture"))
    rows.append(
        ("words", f"compared with {' and '.join(facts['text_targets'])}" if facts["text_targets"] else "none")
    )
    return [*rows, *(("weights", line) for line in facts["attribution"])]


@releases_app.command()
def create(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.", exists=True, file_okay=False)],
    activate: Annotated[bool, typer.Option("--activate", help="Activate it if it passes its gates.")] = False,
    force: Force = "",
    any_cost: Annotated[
        bool,
        typer.Option(
            "--any-cost", help="Let its encoder be slower and larger than the active one by any factor."
        ),
    ] = False,
    storage: Annotated[
        Storage | None,
        typer.Option("--storage", help="How its index stores tracks. Default: the setting of the service."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a release from a bundle: test it, embed the library with it, compare it with the active one."""
    from service.commands.here_or_there import create_release
    from service.commands.printing import show_steps

    if force and not activate:
        fail("--force needs --activate", code=WRONG_USAGE)
    settings = read_settings()
    log_to_stderr()
    with report_errors(), show_steps(stderr()) as on_step:
        job = create_release(
            settings,
            bundle,
            activate=activate,
            force=force,
            any_cost=any_cost,
            storage=storage or "",
            on_step=on_step,
        )
    show_build(job, as_json=as_json)


def show_build(job: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what came of a job that builds a release; the command fails if there is no release to activate."""
    from service.releases.documents import explain_refusal

    if as_json:
        print_json(job)
    if job["state"] != "done":
        fail("stopped; run the same command to continue", code=INTERRUPTED)
    release, switched = job["report"]["release"], job["report"]["switched"]
    if not as_json:
        _print_gates(release)
    if switched is not None:
        _print_switch(switched, as_json=False)
    elif release["outcome"] != "ready":
        fail(explain_refusal(release))
    else:
        name, undecided = release["release_id"], release["gates"].get("undecided")
        but = ", but recall could not be compared for sure" if undecided else ""
        say(f"release {name} is ready{but}: activate it with `foley releases activate {name}`")


@releases_app.command()
def path(
    release: Annotated[
        str | None, typer.Argument(help="Name of a release. Default: the active one.", metavar="RELEASE")
    ] = None,
) -> None:
    """Print the folder of a release's bundle."""
    from service.commands.here_or_there import find_bundle

    with report_errors():
        found = find_bundle(read_settings(), release)
    print(found)  # noqa: T201 - a path of any bytes, alone on its line


@releases_app.command("activate")
def activate_one(release: ReleaseName, force: Force = "", as_json: Json = False) -> None:
    """Activate a release. Running requests finish on the old one."""
    from service.commands.here_or_there import activate_release

    settings = read_settings()
    log_to_stderr()
    with report_errors():
        switched = activate_release(settings, release, force=force)
    _print_switch(switched, as_json=as_json)


@releases_app.command()
def rollback(as_json: Json = False) -> None:
    """Switch back to the previous release immediately."""
    from service.commands.here_or_there import rollback_release

    settings = read_settings()
    log_to_stderr()
    with report_errors():
        switched = rollback_release(settings)
    _print_switch(switched, as_json=as_json)


@releases_app.command()
def delete(
    release: ReleaseName,
    force: Annotated[
        bool, typer.Option("--force", help="Delete it even if a rollback would return to it.")
    ] = False,
) -> None:
    """Delete a release and its index."""
    from service.commands.here_or_there import delete_release

    settings = read_settings()
    with report_errors():
        delete_release(settings, release, force=force)
    say(f"release {release} is deleted")


@releases_app.command()
def compare(
    first: ReleaseName,
    second: Annotated[str, typer.Argument(help="Another release.", metavar="RELEASE")],
    output: Annotated[Path, typer.Option(help="File to write the page to.")] = Path("releases.html"),
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Compare two releases on an HTML page: recall, overlap, latency, memory, gates."""
    from service.releases.comparison import compare_releases
    from service.releases.store import ReleaseStore

    store = ReleaseStore(read_settings().release_folder)
    with report_errors():
        output.write_text(compare_releases(store.get(first), store.get(second)), encoding="utf-8")
    say(f"the page is in {output}")
    if open_it:
        webbrowser.open(output.absolute().as_uri())


@releases_app.command()
def calibrate(as_json: Json = False) -> None:
    """Recalibrate scores on the current library."""
    from service.commands.here_or_there import calibrate_release
    from service.search.separation import Separation
    from service.system.modality import NAMES, name_direction

    settings = read_settings()
    log_to_stderr()
    with report_errors():
        calibration = calibrate_release(settings)
    if as_json:
        print_json(calibration)
        return
    for target, direction in calibration["directions"].items():
        say(
            f"{name_direction(target)}: {direction['num_queries']} queries; expected calibration error "
            f"{direction['error']:.3f} on held-out pairs, {direction['best']['error']:.3f} on the best results alone"
        )
    for target, learned in calibration.get("texts", {}).items():
        direction = learned["direction"]
        say(
            f"words → {NAMES[target]}: {count(direction['num_queries'], 'caption')}; expected calibration error "
            f"{direction['error']:.3f} on held-out pairs; {Separation(**learned['separation'])}"
        )
    if calibration["separation"]:
        separation = Separation(**calibration["separation"])
        so = (
            ""
            if separation.can_tell
            else "; results have no probability, because that is no better than chance"
        )
        say(f"own sound against that of other files: {separation}{so}")


def _print_gates(release: Mapping[str, Any]) -> None:
    from service.commands.tables import print_columns
    from service.releases.documents import explain_derived, name_gate, show_verdict

    if derived := explain_derived(release["library"]):
        say(derived)
    gates = release["gates"].get("gates", ())
    rows = [(name_gate(gate), show_verdict(gate), gate["reason"]) for gate in gates]
    if rows:
        print_columns(stdout(), ("gate", "", "measured"), rows)
    for words in {*release["gates"].get("undecided", ())} - {gate["reason"] for gate in gates}:
        say(words)


def _print_switch(switched: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(switched)
        return
    behind = f"; a job adds {count(switched['num_behind'], 'file')}" if switched["num_behind"] else ""
    say(
        f"release {switched['release_id']} is active: switched in {1000 * switched['switch_seconds']:.0f} ms "
        f"after {switched['seconds']:.1f} s of preparation{behind}"
    )
