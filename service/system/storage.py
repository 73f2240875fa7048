"""How an index of this machine stores tracks: 16, 8 or 4 bits a number; see `service.index.codec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Storage = Literal["float16", "fine", "compact"]
STORAGES: tuple[Storage, ...] = ("float16", "fine", "compact")
BITS: Mapping[Storage, Literal[8, 4]] = {"fine": 8, "compact": 4}
