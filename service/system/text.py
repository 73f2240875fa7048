"""Counts in words."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Write how many of something there are: `1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
