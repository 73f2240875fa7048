"""A derived release beside one whose files were embedded: the same graphs, once from stored tracks, once from media.

    FOLEY_DATA=data python -m benchmarks.derived_release bundles/mine

The library of FOLEY_DATA gets two releases of copies of the bundle: one derived from its parent's tracks, and one that
does not say from what it is derived, so every file is embedded. Every segment with sound and picture asks for ten.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.bundle.bundle import Bundle, load_bundle
from training.data.stored_tracks import StoredTracks, load_tracks
from training.evaluation.evaluate import Scores, similarity

FOLEY = (sys.executable, "-m", "service.cli")
COUNT = 10
TIE = 0.001
"""Scores this near are equal for a user."""


def main() -> None:
    """Make both releases and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = {
            kind: copy(given.bundle, folder / kind, is_derived=kind == "derived")
            for kind in ("derived", "embedded")
        }
        tracks = {kind: read(kind, bundle, folder / f"{kind}.tracks") for kind, bundle in bundles.items()}
        compare(tracks["derived"], tracks["embedded"])


def copy(bundle: Path, folder: Path, *, is_derived: bool) -> Bundle:
    """A copy of a bundle by another name, which may not say from what it is derived."""
    manifest = load_bundle(bundle).manifest
    if not is_derived:
        heads = manifest.derived_from.heads.values() if manifest.derived_from else ()
        files = {name: facts for name, facts in manifest.files.items() if name not in heads}
        manifest = replace(manifest, derived_from=None, files=files)
    folder.mkdir()
    for file in manifest.files:
        shutil.copyfile(bundle / file, folder / file)
    (folder / "manifest.json").write_text(replace(manifest, name=folder.name).to_json())
    return load_bundle(folder)


def read(kind: str, bundle: Bundle, folder: Path) -> StoredTracks:
    """Create the release of a bundle and read its tracks."""
    answer = subprocess.run(
        [*FOLEY, "releases", "create", str(bundle.path), "--json"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    library = json.loads(answer.stdout)["report"]["release"]["library"]
    print(
        f"{kind}: {library['num_derived']} assets derived, {library['num_embedded']} embedded, "
        f"{library['num_segments'] / library['seconds']:.1f} segments/s",
        flush=True,
    )
    return load_tracks(folder, release=bundle.bundle_id)


def compare(one: StoredTracks, other: StoredTracks) -> None:
    """Print how alike tracks are, and how often the ten best are the same."""
    place = {asset.asset_id: asset.first_segment for asset in other.assets}
    pairs = one.pairs()
    files = one.asset_of_segments()[pairs]
    there = np.array(
        [place[one.assets[file].asset_id] - one.assets[file].first_segment for file in files.tolist()]
    )
    rows = [
        {name: tracks.read(name, at) for name in ("audio", "video")}
        for tracks, at in ((one, pairs), (other, pairs + there))
    ]
    print(f"{len(pairs)} segments")
    for name in ("audio", "video"):
        cosines = (rows[0][name] * rows[1][name]).sum(axis=-1)
        print(f"{name}: cosine of every moment at least {cosines.min():.5f}, mean {cosines.mean():.6f}")
    for query, target in (("audio", "video"), ("video", "audio")):
        scores = [similarity(tracks[query], tracks[target]) for tracks in rows]
        tens = [np.argsort(-of, axis=1, kind="stable")[:, :COUNT] for of in scores]
        shared = [len(set(a) & set(b)) for a, b in zip(*(ten.tolist() for ten in tens), strict=True)]
        same = np.array(shared)
        print(
            f"{query} → {target}: the same ten for {100 * (same == COUNT).mean():.1f} % but for ties within "
            f"{TIE} for {100 * agree(scores, tens):.1f} %, {100 * same.mean() / COUNT:.1f} % of results are shared; "
            f"scores differ by {np.abs(scores[0] - scores[1]).max():.4f} at most"
        )


def agree(scores: list[Scores], tens: list[np.ndarray]) -> float:
    """Share of queries whose results are the same, but for those within `TIE` of the tenth."""
    found = []
    for query in range(len(scores[0])):
        ranked = [np.sort(of[query])[::-1][COUNT - 1] for of in scores]
        kept = [
            set(np.flatnonzero(of[query] > ranked[side] + TIE).tolist()) for side, of in enumerate(scores)
        ]
        found.append(kept[0] <= set(tens[1][query].tolist()) and kept[1] <= set(tens[0][query].tolist()))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
