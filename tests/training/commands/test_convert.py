"""`foley-train convert` with real files: a variant beside a bundle, or a line that says why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle, load_variant, starter_path
from training.cli import app
from training.corpus.synthesis import write_corpus


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["convert", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_corpus(folder, num_scenes=3, seed=5, split="heldout", separate_fraction=0)
    for scene in [*folder.glob("*.mp4")]:
        for number in range(2):
            shutil.copy(scene, folder / f"{number}-{scene.name}")
    (folder / "broken.mp4").write_bytes(b"not media")
    return folder


def test_a_variant_appears_beside_the_bundle(tmp_path: Path, media: Path) -> None:
    bundle = load_bundle(Path(shutil.copytree(starter_path(), tmp_path / "mine [b]")))
    output = run(bundle.path, "--precision", "fp16", "--media", media, "--max-clips", "8")
    variant = load_variant(bundle, "fp16")
    assert variant is not None
    assert variant.agreement.num_embeddings == 2 * 8 * 16
    assert f"fp16 of {bundle.bundle_id} in {tmp_path / 'mine [b].fp16'}" in output
    assert str(variant.agreement) in output
    assert "exists; remove it" in run(bundle.path, "--precision", "fp16", "--media", media, code=2)


def test_reasons_are_one_line(tmp_path: Path, media: Path) -> None:
    assert "is not a bundle" in run(tmp_path, "--precision", "fp16", "--media", media, code=2)
    (tmp_path / "few").mkdir()
    shutil.copy(next(media.glob("0*.mp4")), tmp_path / "few")
    said = run(starter_path(), "--precision", "int8", "--media", tmp_path / "few", code=2)
    assert "at least 8 clips with picture and sound, got 1" in said
