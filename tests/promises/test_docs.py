"""What README, docs and CONTRIBUTING name exists: files, links, headings, commands, options, settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

import service.cli
import training.cli
from service.system.settings import Settings
from tests.support.paths import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
FILE = re.compile(r"(?<![\w/.~-])(?:service|training|models|tests|benchmarks|docs|docker)(?:/[\w.-]+)+")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
COMMANDS = {"foley": service.cli.app, "foley-train": training.cli.app}
# Read by tests and by the Makefile, not by the service.
FOR_TESTS = {
    "KILLS",
    "SWAP_CLIENTS",
    "BAD_BUNDLES",
    "MUTANTS",
    "TEST_QDRANT_URL",
    "TEST_QDRANT",
    "TEST_QDRANT_HTTP",
    "TEST_QDRANT_GRPC_PORT",
}
MAX_README_LINES = 180
ROOMED = {"service", "models", "training"}


@pytest.fixture(params=PAGES, ids=NAMES)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def missing_files(text: str) -> set[str]:
    return {name for name in FILE.findall(text) if not (REPOSITORY / name.rstrip(".")).exists()}


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = (heading.lower() for heading in HEADING.findall(path.read_text()))
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


def command_lines(text: str) -> list[list[str]]:
    """The words of every `foley` and `foley-train` line in the blocks of shell."""
    found = []
    for kind, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines() if kind == "sh" else ():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words and words[0] in COMMANDS:
                found.append(words)
    return found


def wrong_words(words: list[str]) -> set[str]:
    """Subcommands and options of a line that do not exist."""
    command = typer.main.get_command(COMMANDS[words[0]])
    wrong = set()
    options = {"--help"}
    for word in words[1:]:
        if isinstance(command, TyperGroup) and not word.startswith("-"):
            if word not in command.commands:
                if command.invoke_without_command:
                    break
                return {word}
            command = command.commands[word]
        elif word.startswith("--"):
            options |= {
                option
                for parameter in command.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            wrong |= {word} - options
    return wrong


def test_a_file_that_is_named_exists(page: Path) -> None:
    assert missing_files(page.read_text()) == set()


def test_a_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_a_command_that_is_shown_exists(page: Path) -> None:
    for words in command_lines(page.read_text()):
        assert wrong_words(words) == set(), " ".join(words)


def test_a_benchmark_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"python -m benchmarks\.(\w+)", page.read_text()):
        assert (REPOSITORY / "benchmarks" / f"{name}.py").exists(), name


def test_a_setting_that_is_named_exists(page: Path) -> None:
    names = set(re.findall(r"FOLEY_([A-Z_]+[A-Z])", page.read_text())) - FOR_TESTS
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


def test_readme_is_short_and_shows_every_room() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    (layout,) = [block for _, block in BLOCK.findall(text) if block.startswith("service/")]
    for section in re.split(r"^(?=\w+/)", layout, flags=re.M)[1:]:
        top = REPOSITORY / section.split("/")[0]
        rooms = {path.name for path in top.iterdir() if path.is_dir()} if top.name in ROOMED else set()
        assert {room for room in rooms - {"__pycache__"} if f" {room}/" not in section} == set()
        shown = re.findall(r"^  (\w[\w.]*)", section, re.M)
        assert [name for name in shown if not (top / name).exists()] == []


def test_the_checks_find_what_is_wrong() -> None:
    assert missing_files("see `service/no/such.py`") == {"service/no/such.py"}
    assert wrong_words(["foley", "searhc", "clip.mp4"]) == {"searhc"}
    assert wrong_words(["foley", "search", "clip.mp4", "--taget", "audio"]) == {"--taget"}
    assert wrong_words(["foley", "releases", "create", "my-bundle", "--activate"]) == set()
    assert "measured-figures" in anchors(REPOSITORY / "docs" / "figures.md")
