"""Libraries that are made in a moment: short sounds, each a content of its own, and files of every kind of bad."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

BAD: dict[str, tuple[bytes, str]] = {
    "empty.mp4": (b"", "empty"),
    "text.mp4": (b"no media at all " * 100, "not_media"),
    "zeros.wav": (bytes(4096), "not_media"),
    "riff.wav": (b"RIFF\xff\xff\xff\xffWAVEfmt ", "not_media"),
}


def write_tone(path: Path, number: int, *, seconds: float = 1.0) -> Path:
    """Write a sound that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = round(16_000 * seconds)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, count, "NONE", ""))
        tone = 3000 * np.sin(np.arange(count) * (0.02 + 1e-4 * number))
        file.writeframes(tone.astype("<i2").tobytes())
    return path


def write_tones(folder: Path, count: int, *, first: int = 0, seconds: float = 1.0) -> list[Path]:
    """Write several sounds."""
    return [
        write_tone(folder / f"{number:05}.wav", number, seconds=seconds)
        for number in range(first, first + count)
    ]


def write_bad(folder: Path, count: int) -> dict[str, str]:
    """Write bad files, each with its own content; returns the code of each by its path."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = list(BAD.items())
    codes = {}
    for number in range(count):
        name, (content, code) = kinds[number % len(kinds)]
        path = folder / f"bad-{number:03}-{name}"
        path.write_bytes(content + (f"{number}".encode() if content else b""))
        codes[str(path)] = code
    return codes
