"""A part of a library for one of several machines: `3/8` are the files whose paths' hashes leave 2, divided by 8."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Self

PATTERN = r"^[1-9][0-9]{0,5}/[1-9][0-9]{0,5}$"


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1 on, of `count`: all parts are disjoint, and together the whole."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3/8`; the empty text is the whole. Raises ValueError."""
        if not text:
            return cls()
        number, count = map(int, text.split("/")) if re.fullmatch(PATTERN, text) else (1, 0)
        if number > count:
            raise ValueError(
                f"a part is written as its number and how many there are (3/8), got {text[:40]!r}"
            )
        return cls(number, count)

    def holds(self, path: os.PathLike[str] | str) -> bool:
        """Whether a file is in this part: by the bytes of its absolute path, the same on every machine."""
        if self.count == 1:
            return True
        digest = hashlib.sha256(os.fsencode(path)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


WHOLE = Part()
