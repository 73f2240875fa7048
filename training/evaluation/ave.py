"""AVE (Tian et al. 2018) as manifests: clips of 10 s, each with one event of 28 classes between two seconds.

    write_manifests(Path("AVE_Dataset"), Path("manifests"))     # train.csv, test.csv

The folder is as its authors give it: `AVE/ID.mp4`, and `trainSet.txt`, `valSet.txt`, `testSet.txt` with lines
`class&id&quality&start&end`. Files that are not there any more are left out and counted.
"""

from __future__ import annotations

import csv
from pathlib import Path

SPLITS = {"train": ("trainSet.txt",), "test": ("testSet.txt",)}


class BadAve(ValueError):
    """A folder is not AVE's."""


def write_manifests(folder: Path, output: Path) -> dict[str, tuple[Path, int]]:
    """Write a manifest of each split.

    Args:
        folder: Of the data set.
        output: Folder for the manifests; created.

    Returns:
        By split its manifest, and how many clips it names that are not there.

    Raises:
        BadAve: If a list is missing or has other lines, or no clip is there.
    """
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, tuple[Path, int]] = {}
    for split, files in SPLITS.items():
        rows, num_missing = [], 0
        for name in files:
            try:
                lines = (folder / name).read_text("utf-8").splitlines()
            except OSError as exc:
                raise BadAve(f"{folder} is no AVE_Dataset: {exc}") from exc
            for line in filter(str.strip, lines):
                parts = line.strip().split("&")
                if len(parts) != 5 or not (parts[3].isdecimal() and parts[4].isdecimal()):
                    raise BadAve(
                        f"{folder / name} must have lines class&id&quality&start&end, got {line[:80]!r}"
                    )
                media = (folder / "AVE" / f"{parts[1]}.mp4").absolute()
                if media.exists():
                    rows.append((str(media), f"{parts[0]}@{parts[3]}-{parts[4]}"))
                else:
                    num_missing += 1
        if not rows:
            raise BadAve(f"none of the {num_missing} clips of {', '.join(files)} is in {folder / 'AVE'}")
        path = output / f"{split}.csv"
        with path.open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([("path", "labels"), *rows])
        found[split] = path, num_missing
    return found
