"""The example of docs/encoders.md makes a bundle that serves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.bundle.bundle import load_bundle
from service.encode.encoder import Encoder
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter warns about its own internals


def test_the_example_makes_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "encoders.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    lines = [line for line in example.splitlines() if line and not line.startswith(("from ", "import "))]
    assert len(lines) <= 30
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/encoders.md", "exec"), {"__name__": "example"})
    bundle = load_bundle(tmp_path / "my-bundle")
    assert dict(bundle.manifest.tracks) == {"audio": (4, 64), "video": (4, 64)}
    assert bundle.manifest.compares
    assert Encoder(bundle).check_golden() < 1e-5
