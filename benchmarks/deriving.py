"""Derived releases: segments a second, and the p99 of searches while they are derived, in turns with calm spans.

    python -m benchmarks.deriving [--segments 10000] [--turns 3] [--folder FOLDER]

The starter's index is filled with random tracks of files that are not there, so nothing is embedded: the golden tracks
alone prove the heads. A `foley serve` makes a release of an adapted bundle, with heads of full width, in each turn;
one client searches by vector without a pause. A turn is trial, deriving, the index's graphs and the gates.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.release_speed import Asker, Server, fill
from models.bundle.bundle import Bundle, load_bundle, starter_path
from service.releases.store import ReleaseStore
from service.system.settings import Settings
from training.adapting.bundles import write_adapted
from training.adapting.heads import TrackHead

CALM_SECONDS = 20.0


def main() -> None:
    """Fill, serve, derive and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for all files; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        run(Path(folder), given.segments, given.turns)


def run(folder: Path, num_segments: int, num_turns: int) -> None:
    """Measure everything in one folder."""
    settings = Settings(data=folder / "data", device="cpu", precision="fp32", min_free_bytes=0)
    store, starter = ReleaseStore(settings.release_folder), load_bundle(starter_path())
    release = store.create(starter, outcome="ready").release_id
    fill(settings, starter, release, num_segments)
    store.activate(release, previous=None)
    torch.manual_seed(0)
    width = starter.manifest.embedding_width
    heads = {name: TrackHead(width, width) for name in ("audio", "video")}
    for head in heads.values():
        torch.nn.init.normal_(head.up.weight, std=0.01)
    adapted = write_adapted(starter, heads, folder / "adapted", name="adapted", training={})
    spans: dict[str, list[tuple[float, float]]] = {"calm": [], "deriving": []}
    with Server(settings) as server, Asker(server.address) as asker:
        time.sleep(5)
        for turn in range(num_turns):
            spans["calm"].append(rest())
            began = time.monotonic()
            library = derive(server, rename(adapted, folder / f"turn-{turn}"))
            spans["deriving"].append((began, time.monotonic()))
            rate = library["num_segments"] / library["seconds"]
            print(
                f"{library['num_derived']} assets of {library['num_segments']} segments in {library['seconds']:.1f} s: "
                f"{rate:.0f} segments/s of {width} numbers, without trial and gates",
                flush=True,
            )
        spans["calm"].append(rest())
        calm, pressed = (asker.p99_ms(spans[name]) for name in ("calm", "deriving"))
        print(
            f"search by vector: p99 {calm:.1f} ms, {pressed:.1f} ms while deriving ({pressed / calm:.2f} x)"
        )


def rest() -> tuple[float, float]:
    """A calm span."""
    began = time.monotonic()
    time.sleep(CALM_SECONDS)
    return began, time.monotonic()


def rename(bundle: Bundle, folder: Path) -> Bundle:
    """A copy by another name is another bundle."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"name": folder.name}))
    return load_bundle(folder)


def derive(server: Server, bundle: Bundle) -> dict[str, float]:
    """Create the release, and return the counts of its library."""
    job = server.post("/v1/releases", {"bundle": str(bundle.path)})
    while job["state"] in ("queued", "running"):
        time.sleep(0.2)
        job = server.client.get(f"/v1/jobs/{job['job_id']}").json()
    if job["state"] != "done":
        raise SystemExit(f"the release was not made: {job['error']}")
    library: dict[str, float] = job["report"]["release"]["library"]
    return library


if __name__ == "__main__":
    main()
