"""What `foley-train upgrade` does: a bundle of format 1 becomes one whose sound may end before its picture."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from models.bundle.bundle import (
    AUDIO_GRAPH,
    FORMAT,
    GOLDEN,
    MANIFEST,
    VIDEO_GRAPH,
    describe_file,
    load_bundle,
    sound_inputs,
)
from models.bundle.lengths import split_lengths
from models.network.export import MAX_DIFFERENCE, GraphsDisagree, open_graphs


def upgrade(bundle_path: Path, output: Path, *, console: Console) -> None:
    """Write a bundle with the weights of another, whose audio graph reads two lengths.

    Args:
        bundle_path: Folder of a bundle of format 1.
        output: Folder of the new one; must not exist.
        console: Where the result goes.

    Raises:
        typer.Exit: With code 2 if the bundle is broken or new already, or gives other tracks for its golden clip.
    """  # noqa: DOC503 - the other exceptions become this one
    folder = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        bundle = load_bundle(bundle_path)
        if output.exists():
            raise FileExistsError(f"{output} exists; a bundle never changes, choose another folder")
        folder.mkdir(parents=True)
        split_lengths(bundle.audio_graph, folder / AUDIO_GRAPH)
        for name in (VIDEO_GRAPH, GOLDEN):
            shutil.copyfile(bundle.path / name, folder / name)
        golden = bundle.golden()
        length = np.array([len(golden.samples)])
        session, _ = open_graphs(folder)
        names = [given.name for given in session.get_inputs()]
        found = session.run(None, sound_inputs(names, golden.samples[None], length))[0][0]
        if not (difference := float(np.abs(found - golden.audio_track).max())) <= MAX_DIFFERENCE:
            raise GraphsDisagree(
                f"the golden tracks differ by {difference:.2e}, allowed {MAX_DIFFERENCE:.0e}"
            )
        manifest = replace(
            bundle.manifest,
            format=FORMAT,
            training={**bundle.manifest.training, "upgraded_from": bundle.bundle_id},
            files={name: describe_file(folder / name) for name in bundle.manifest.files},
        )
        (folder / MANIFEST).write_text(manifest.to_json())
        folder.rename(output)
        made = load_bundle(output)
    except (OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(
        f"{made.bundle_id} in {output}, golden tracks within {difference:.1e}", markup=False, soft_wrap=True
    )
