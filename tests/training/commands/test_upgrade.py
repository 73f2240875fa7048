from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from models.bundle.bundle import FORMAT, load_bundle, starter_path
from tests.support.bundles import copy_starter, join_lengths
from training.cli import app


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["upgrade", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_bundle_of_before_becomes_one_of_now(tmp_path: Path) -> None:
    old = load_bundle(join_lengths(copy_starter(tmp_path / "old [b]", name="mine")))
    assert old.manifest.format == 1
    assert f" in {tmp_path / 'new [b]'}, golden tracks within " in run(
        old.path, "--output", tmp_path / "new [b]"
    )
    new = load_bundle(tmp_path / "new [b]")
    assert (new.manifest.name, new.manifest.format) == ("mine", FORMAT)
    assert new.manifest.training["upgraded_from"] == old.bundle_id
    assert load_bundle(old.path).bundle_id == old.bundle_id
    assert "a bundle never changes, choose another folder" in run(
        old.path, "--output", tmp_path / "new [b]", code=2
    )
    assert "reads two lengths already" in run(starter_path(), "--output", tmp_path / "again", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new [b]", "old [b]"]
