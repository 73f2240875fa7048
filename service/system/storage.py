"""How an index of this machine stores tracks: 16, 8 or 4 bits a number; see `service.index.codec`."""

from __future__ import annotations

from typing import Literal

Storage = Literal["float16", "fine", "compact"]
STORAGES: tuple[Storage, ...] = ("float16", "fine", "compact")
