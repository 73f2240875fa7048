"""What `pip install` gives: requirements that agree with constraints.txt, and packages with all of their files."""

from __future__ import annotations

import subprocess
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
GROUPS: dict[str, list[str]] = {
    "base": PROJECT["project"]["dependencies"],
    **PROJECT["project"]["optional-dependencies"],
}


def constraints() -> dict[str, str]:
    """Version of every package in constraints.txt."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def disagreements(requirements: list[str], pinned: dict[str, str]) -> list[str]:
    """Requirements that constraints.txt does not hold, or holds at a version that they do not allow."""
    wanted = [Requirement(text) for text in requirements]
    return [
        str(one) for one in wanted if not one.specifier.contains(pinned.get(canonicalize_name(one.name), "0"))
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_constraints_are_what_the_project_asks_for(group: str) -> None:
    assert disagreements(GROUPS[group], constraints()) == []


def test_what_must_match_is_pinned_to_the_same_number() -> None:
    train = {one.name: one for one in map(Requirement, GROUPS["train"])}
    pinned = constraints()
    for name in ("torch", "torchaudio"):
        assert str(train[name].specifier) == f"=={pinned[name]}"
    assert pinned["torch"] == pinned["torchaudio"]
    with_another = {**pinned, "torchaudio": "2.11.1"}
    assert disagreements(GROUPS["train"], with_another) == ["torchaudio==2.11.0"]  # the control


def test_every_file_of_a_package_is_installed() -> None:
    """A file that is no Python lies where `package-data` takes it along."""
    packages: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
    tracked = subprocess.run(
        ["git", "ls-files", "service", "training", "models"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("needs git and a checkout")
    page = "service/http/web/"  # what is not built is for who changes the page
    tracked = [name for name in tracked if not name.startswith(page) or name.startswith(f"{page}built/")]
    data = {REPOSITORY / name for name in tracked if not name.endswith(".py")}
    taken = {
        file
        for package, patterns in packages.items()
        for pattern in patterns
        for file in (REPOSITORY / package).glob(pattern)
    }
    assert {"index.html", "py.typed", "manifest.json"} <= {file.name for file in data}
    assert data <= taken
