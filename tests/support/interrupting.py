"""Ctrl-C at the worst moment of a command that learns: its bundle has all its files but the manifest."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle.bundle import load_bundle
from training.adapting import bundles


def check_interrupted(run: Callable[[Path], Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt `run`, which writes a bundle to the folder it is given: nothing is left, and it can run again.

    What a run that was killed left beside it goes, too.
    """
    output = folder / "bundles" / "mine"
    with monkeypatch.context() as patched:
        patched.setattr(bundles, "_seal", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(output)
    assert list(output.parent.iterdir()) == []
    for left in (".mine.4242", ".mine.learning/work"):
        (output.parent / left).mkdir(parents=True)
        (output.parent / left / "audio.onnx").write_bytes(b"half")
    run(output)
    assert list(output.parent.iterdir()) == [output]
    load_bundle(output)
