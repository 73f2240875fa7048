"""Damaged copies of small real files, made from a seed: bit flips, cuts, splices, repeats and zeros."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from tests.support.hostile.sources import PICTURE, REAL, SOUND, good

NUM_MUTANTS = int(os.environ.get("FOLEY_MUTANTS", "60"))


def sources() -> list[bytes]:
    """The real files, and one made file of each container."""
    return [path.read_bytes() for path in REAL] + [good(suffix) for suffix in (*SOUND, *PICTURE)]


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """One damaged copy."""
    data = bytearray(content)
    kind = rng.choice(("flip", "flip", "flip", "header", "cut", "splice", "zero", "repeat"))
    place, length = rng.randrange(len(data)), rng.randrange(1, 2000)
    if kind == "flip":
        for _ in range(rng.choice((1, 10, 100))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "header":
        for _ in range(5):
            data[rng.randrange(min(512, len(data)))] = rng.randrange(256)
    elif kind == "cut":
        del data[place:]
    elif kind == "splice":
        data[place:] = other[rng.randrange(len(other)) :]
    elif kind == "zero":
        data[place : place + length] = bytes(len(data[place : place + length]))
    else:
        data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
    return bytes(data) or b"\0"


def mutants(count: int = NUM_MUTANTS, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """Number and content of each."""
    originals = sources()
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        yield number, mutate(originals[number % len(originals)], rng.choice(originals), rng)
