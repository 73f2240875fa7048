"""Every error of ours has a code that the table of problems knows."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import service
from models.bundle.bundle import BrokenBundle
from models.media.clip import EmptyFile, UnreadableClip
from service.http.problems import INTERNAL, PROBLEMS, code_of
from service.index.failure import IndexFailure
from service.system.failure import Failure


def own_exceptions() -> list[type[Exception]]:
    """Every exception class that the service, or what it reads media and bundles with, defines."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        importlib.import_module(module.name)
    found: set[type[Exception]] = set()
    waiting: list[type[Exception]] = [Failure, UnreadableClip, BrokenBundle]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting.extend(kind.__subclasses__())
    ours = [kind for kind in found if kind.__module__.split(".")[0] in ("models", "service")]
    return sorted(ours, key=lambda kind: (kind.__module__, kind.__name__))


@pytest.mark.parametrize("kind", own_exceptions(), ids=lambda kind: kind.__name__)
def test_every_code_is_in_the_table(kind: type[Failure]) -> None:
    assert kind.code in PROBLEMS


def test_own_exceptions_are_found() -> None:
    names = {kind.__name__ for kind in own_exceptions()}
    assert {"EmptyFile", "IndexFull", "Overloaded", "DecodeTimedOut", "BrokenBundle", "NotReady"} <= names


def test_errors_of_files_are_the_clients() -> None:
    for kind in own_exceptions():
        if issubclass(kind, UnreadableClip):
            assert 400 <= PROBLEMS[kind.code].status < 500


def test_nearest_class_counts() -> None:
    class VeryEmpty(EmptyFile):
        pass

    assert code_of(VeryEmpty("x")) == "empty"
    assert code_of(IndexFailure("x")) == "index_failed"
    assert code_of(ValueError("x")) == INTERNAL


def test_codes_are_names() -> None:
    for code, problem in PROBLEMS.items():
        assert code.replace("_", "").isalpha()
        assert code.islower()
        assert problem.title[0].isupper()
