"""OpenVINO's engines of this process, compiled once: that takes 0.3 s, and tests open the starter a hundred times.

What runs is a real engine of the same files and options; only tests of engines themselves always compile their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.encode.engines.contract import EngineOptions, Graphs
from service.encode.engines.openvino_cpu import OpenVinoEngine

MAX_KEPT = 4
_compile = OpenVinoEngine.__init__
_kept: dict[object, dict[str, Any]] = {}


def keep_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines of the same files and options share what was compiled, until the test ends."""
    monkeypatch.setattr(OpenVinoEngine, "__init__", _take_or_compile)


def _take_or_compile(self: OpenVinoEngine, graphs: Graphs, options: EngineOptions, *, precision: Any) -> None:
    key = (_hash(graphs.audio), _hash(graphs.video), replace(options, cache=None), precision)
    if key not in _kept:
        _compile(self, graphs, options, precision=precision)
        _kept[key] = dict(vars(self))
        while len(_kept) > MAX_KEPT:
            del _kept[next(iter(_kept))]
    vars(self).update(_kept[key])


def _hash(path: Path | None) -> bytes | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).digest()
