"""Derived releases: segments a core-second, and the p99 of searches while they are derived, in turns with calm spans.

    python -m benchmarks.deriving [--segments 10000] [--width 768] [--turns 3] [--folder FOLDER]

An index is filled with random tracks of files that are not there, so nothing is embedded: the golden tracks alone
prove the heads. A `foley serve` makes a release of an adapted bundle, with heads of full width, in each turn. In the
first turn nobody searches: the processor time is that of all its processes while the library is derived, and so without
the trial and the gates. In the others one client searches by vector without a pause.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from benchmarks.release_speed import Asker, Server, fill
from benchmarks.search_http import cpu_seconds, make_bundle
from models.bundle.bundle import Bundle, load_bundle
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
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--turns", type=int, default=3, help="how many turns with searches follow the first")
    parser.add_argument("--folder", type=Path, help="where files go, and go away but for the parent's bundle")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        made = make_bundle((given.folder or Path(folder)) / f"parent-{given.width}", width=given.width)
        run(Path(folder), load_bundle(made), given.segments, given.turns)


def run(folder: Path, parent: Bundle, num_segments: int, num_turns: int) -> None:
    """Measure everything in one folder."""
    settings = Settings(data=folder / "data", device="cpu", precision="fp32", min_free_bytes=0)
    store, width = ReleaseStore(settings.release_folder), parent.manifest.embedding_width
    release = store.create(parent, outcome="ready").release_id
    fill(settings, parent, release, num_segments)
    store.activate(release, previous=None)
    torch.manual_seed(0)
    heads = {name: TrackHead(width, width) for name in ("audio", "video")}
    for head in heads.values():
        torch.nn.init.normal_(head.up.weight, std=0.01)
    adapted = write_adapted(parent, heads, folder / "adapted", name="adapted", training={})
    spans: dict[str, list[tuple[float, float]]] = {"calm": [], "deriving": []}
    with Server(settings) as server:
        derive(server, rename(adapted, folder / "alone"))
        with Asker(server.address, width=width) as asker:
            time.sleep(5)
            for turn in range(num_turns):
                spans["calm"].append(rest())
                began = time.monotonic()
                derive(server, rename(adapted, folder / f"turn-{turn}"))
                spans["deriving"].append((began, time.monotonic()))
            spans["calm"].append(rest())
    calm, pressed = (asker.p99_ms(spans[name]) for name in ("calm", "deriving"))
    print(f"search by vector: p99 {calm:.1f} ms, {pressed:.1f} ms while deriving ({pressed / calm:.2f} x)")


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


def derive(server: Server, bundle: Bundle) -> None:
    """Create the release, and print what deriving took."""
    job = server.post("/v1/releases", {"bundle": str(bundle.path)})
    began = ended = 0.0  # processor time when the builder was first seen, and when it was done
    while job["state"] in ("queued", "running"):
        began = began or (cpu_seconds(server.process.pid) if is_building(server) else 0.0)
        time.sleep(0.05)
        job = server.client.get(f"/v1/jobs/{job['job_id']}").json()
        ended = ended or (
            cpu_seconds(server.process.pid) if job["progress"].get("step") == "measuring" else 0.0
        )
    if job["state"] != "done":
        log = server.log.read_text(errors="replace")
        raise SystemExit(f"the release was not made: {job['error']}\n{log[-8000:]}")
    library, cpu = job["report"]["release"]["library"], ended - began
    print(
        f"{library['num_derived']} assets of {library['num_segments']} segments in {library['seconds']:.1f} s and "
        f"{cpu:.1f} core-s, searches included: {library['num_segments'] / cpu:.0f} segments a core-second",
        flush=True,
    )


def is_building(server: Server) -> bool:
    """Whether the process that derives runs."""
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):  # it may have ended meanwhile
            if "service.releases.builder" in child.cmdline():
                return True
    return False


if __name__ == "__main__":
    main()
