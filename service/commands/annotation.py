"""Metadata of assets, read from files and written to files; `service.library.metadata` describes their format.

report = annotate(Path("takes.csv"), inventory)
export(Path("takes.json"), inventory.list_assets())
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from service.commands.inventory import Inventory
from service.library.assets import AssetDocument
from service.library.metadata import PATH_KEY, InvalidMetadata, read_annotations
from service.system.paths import show_path


@dataclass(kw_only=True)
class AnnotationReport:
    """What the rows of a file did: changed an asset, were already up to date, or (their paths) match no asset."""

    num_changed: int = 0
    num_unchanged: int = 0
    unmatched: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "changed": self.num_changed,
            "unchanged": self.num_unchanged,
            "unmatched": list(self.unmatched),
        }


def annotate(file: Path, inventory: Inventory) -> AnnotationReport:
    """Merge the metadata of a CSV or JSON file into the assets it names; other keys keep their values."""
    annotations = list(read_annotations(file))  # all of the file is checked before anything changes
    known = {path: asset for asset in inventory.list_assets() for path in asset["paths"]}
    report = AnnotationReport()
    for annotation in annotations:
        path = show_path(annotation.path)
        asset = known.get(path)
        if asset is None:
            report.unmatched.append(path)
        elif {**asset["metadata"], **annotation.values} == asset["metadata"]:
            report.num_unchanged += 1
        elif changed := inventory.merge_metadata(asset["asset_id"], annotation.values):
            asset["metadata"] = changed["metadata"]  # a later row may name another file of the same asset
            report.num_changed += 1
        else:  # deleted meanwhile
            report.unmatched.append(path)
    return report


def export(file: Path, assets: Iterable[AssetDocument], *, with_said: bool = False) -> int:
    """Write paths and metadata of assets to a .json or .csv file, and return how many there are.

    `with_said` adds what files say of themselves under keys that people left free.

    CSV cannot tell the text `12` from the number; JSON can. Raises `InvalidMetadata` if the name ends differently, or
    a key is the name of the column of paths.
    """
    rows = [_to_row(asset, with_said=with_said) for asset in assets]
    kind = file.suffix.lower()
    if kind not in (".csv", ".json"):
        raise InvalidMetadata(f"{file} must end in .csv or .json")
    with file.open("w", encoding="utf-8", newline="") as output:
        if kind == ".json":
            json.dump(rows, output, ensure_ascii=False, indent=1)
            output.write("\n")
        else:
            _write_csv(output, rows)
    return len(rows)


def _to_row(asset: AssetDocument, *, with_said: bool) -> dict[str, Any]:
    if PATH_KEY in asset["metadata"]:
        raise InvalidMetadata(f"{asset['path']} has metadata under {PATH_KEY!r}, which names the file here")
    said = asset["media"].get("said") or {} if with_said else {}
    return {PATH_KEY: asset["path"], **said, **asset["metadata"]}


def _write_csv(output: TextIO, rows: Sequence[Mapping[str, Any]]) -> None:
    keys = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(
        output, [PATH_KEY, *(key for key in keys if key != PATH_KEY)], lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
        )
