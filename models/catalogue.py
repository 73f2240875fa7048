"""Encoders that others have published, by name: what they embed, under which licence, and where their files lie.

    find_model("pe-av-small").page

The facts are in catalogue.json. What its publisher does not say, a size or a hash, is None there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of a model.

    Attributes:
        name: Of the file.
        address: Where it is downloaded from; None if only a browser gets it.
        bytes: Its size; None if it is not published.
        sha256: Its hash; None if it is not published.
        members: sha256 of what is read from it, by path, if it is an archive.
    """

    name: str
    address: str | None
    bytes: int | None
    sha256: str | None
    members: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A published measurement: share of queries whose right answer is first, in percent, and whose figure it is."""

    measure: str
    percent: float
    source: str


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A published encoder.

    Attributes:
        name: As in `foley models get NAME`.
        kind: As in `foley-train import --kind`.
        family: Whose network it is.
        embeds: Some of audio, video, text.
        licence: Of the weights, for people.
        needs: Extras of this package with which it is imported.
        page: Where a browser finds it.
        repository: Name on Hugging Face, which lists the files, their sizes and hashes; None if it is not there.
        files: Its files; None if Hugging Face lists them.
        figures: What was published of its quality.
        attribution: Whose work it is.
    """

    name: str
    kind: str
    family: str
    embeds: tuple[str, ...]
    licence: str
    needs: tuple[str, ...]
    page: str
    repository: str | None
    files: tuple[PublishedFile, ...] | None
    figures: tuple[Figure, ...]
    attribution: tuple[str, ...]

    @property
    def by_hand(self) -> bool:
        """Whether a browser is needed to download it."""
        return self.repository is None and any(file.address is None for file in self.files or ())


@cache
def read_catalogue() -> Mapping[str, KnownModel]:
    """Read all models that are known, by name.

    Returns:
        In the order of the file.
    """
    known = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))["models"]
    return {name: _read_model(name, dict(fields)) for name, fields in known.items()}


def _read_model(name: str, fields: dict[str, Any]) -> KnownModel:
    files, figures = fields.pop("files"), fields.pop("figures")
    lists: dict[str, Any] = {key: tuple(fields.pop(key)) for key in ("embeds", "needs", "attribution")}
    return KnownModel(
        name=name,
        files=None if files is None else tuple(PublishedFile(**file) for file in files),
        figures=tuple(Figure(**figure) for figure in figures),
        **lists,
        **fields,
    )
