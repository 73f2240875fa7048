"""Which tests start a process: `make quick` leaves them out.

A test is looked through with its fixtures and with the helpers that they call: it is marked `process` if one of them
names something that starts one. What slips through fails in `make quick`, which refuses to start a process.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NoReturn

import pytest

STARTERS = frozenset(
    {
        # Python's own
        "Popen",
        "get_context",
        # ours: each opens a shard process or decode workers, or both
        "_run_builder",
        "CliRunner",
        "Decoder",
        "EmbeddedIndex",
        "configure_server",
        "create_app",
        "embed_data",
        "embed_media",
        "examine",
        "indexed_paths",
        "open_foley",
        "index_place",
        "load_tracks",
        "measure_protocol",
        "open_index",
        "open_patiently",
        "open_release",
        "prepare",
        "start_child",
        "stdio_client",
        "try_bundle",
        "work_on_pairs",
        "write_shards",
        # no process, and some seconds of both cores
        "convert_bundle",
        "export_bundle",
        "pretrain",
        "published_and_imported",
    }
)
"""Names of what starts a process, or takes as long as if it did."""


def mark_processes(items: list[pytest.Item]) -> None:
    """Mark the tests that start a process."""
    for item in items:
        if isinstance(item, pytest.Function) and any(starts_process(one) for one in _functions_of(item)):
            item.add_marker(pytest.mark.process)


def _functions_of(item: pytest.Function) -> Iterator[Callable[..., object]]:
    """A test and all of its fixtures."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        yield from (definition.func for definition in definitions if "tests" in definition.func.__module__)


@cache
def starts_process(thing: Any) -> bool:
    """Whether a function or class of the tests, or one that it names, names something that starts a process."""
    todo, seen = [thing], set()
    while todo:
        one = inspect.unwrap(todo.pop())
        if one in seen:
            continue
        seen.add(one)
        if isinstance(one, type) and STARTERS & {base.__name__ for base in one.__mro__}:
            return True
        for code, scope in _codes_of(one):
            names = set(_names_in(code))
            if names & STARTERS or ("subprocess" in names and "run" in names):
                return True
            known = (scope.get(name) for name in names)
            todo += [
                found for found in known if getattr(found, "__module__", None) and _is_of_the_tests(found)
            ]
    return False


def _is_of_the_tests(thing: Any) -> bool:
    return isinstance(thing, types.FunctionType | type) and str(thing.__module__).startswith("tests.")


def _codes_of(thing: Any) -> Iterator[tuple[types.CodeType, dict[str, Any]]]:
    """Code of a function, or of each method of a class, with the names that it may use."""
    members = vars(thing).values() if isinstance(thing, type) else [thing]
    for member in members:
        member = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if isinstance(member, types.FunctionType):
            yield member.__code__, member.__globals__


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def refuse_processes() -> None:
    """Let every start of a process fail from now on."""
    import _posixsubprocess
    import os
    import subprocess

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("this test starts a process: name what starts it in tests/support/quick.py")

    _posixsubprocess.fork_exec = refuse
    subprocess._fork_exec = refuse  # type: ignore[attr-defined]
    os.fork = refuse
