"""One table says what every error of ours means to a client; none may be missing."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import service
from models.clip import EmptyFile, UnreadableClip
from service.errors import INTERNAL, PROBLEMS, problem_of
from service.index.contract import IndexFailure


def own_exceptions() -> list[type[Exception]]:
    """Every exception class that the service, or what it reads media and bundles with, defines."""
    names = ["models.clip", "models.media", "models.bundle"]
    names += [module.name for module in pkgutil.walk_packages(service.__path__, "service.")]
    found: set[type[Exception]] = set()
    for name in names:
        for _, value in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if issubclass(value, Exception) and value.__module__.split(".")[0] in ("models", "service"):
                found.add(value)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


# They end inside the part that raises them, or before the first request.
INTERNAL_ONLY = {"EngineDied", "LandedLate", "NoScalableNorm", "SkippingInexact"}
# Used by commands only; no request reaches them.
COMMANDS_ONLY = {
    "service.backup",
    "service.cli",
    "service.demo",
    "service.following",
    "service.library",
    "service.scanning",
    "service.server",
}


@pytest.mark.parametrize("kind", own_exceptions(), ids=lambda kind: kind.__name__)
def test_no_exception_is_missing(kind: type[Exception]) -> None:
    if kind.__name__ in INTERNAL_ONLY or kind.__module__ in COMMANDS_ONLY:
        return
    assert any(base in PROBLEMS for base in kind.__mro__), f"{kind.__name__} has no status and code"


def test_own_exceptions_are_found() -> None:
    names = {kind.__name__ for kind in own_exceptions()}
    assert {"EmptyFile", "IndexFull", "Overloaded", "DecodeTimedOut", "BrokenBundle", "NotReady"} <= names


def test_codes_of_files_are_those_of_the_command_line() -> None:
    for kind, problem in PROBLEMS.items():
        if issubclass(kind, UnreadableClip):
            assert problem.code == kind.code
            assert 400 <= problem.status < 500


def test_nearest_class_counts() -> None:
    class VeryEmpty(EmptyFile):
        pass

    assert problem_of(VeryEmpty("x")).code == "empty"
    assert problem_of(IndexFailure("x")).code == "index_failed"
    assert problem_of(ValueError("x")) is INTERNAL


def test_codes_are_names() -> None:
    for problem in PROBLEMS.values():
        assert problem.code.replace("_", "").isalpha()
        assert problem.code.islower()
        assert problem.title[0].isupper()
