"""Machines of a small network, as network namespaces: each can be cut off from the others and come back.

with small_network(3) as machines:
    subprocess.Popen([*machines[0].run, "command"])    # on machines[0].address; this process reaches all of them
    machines[0].cut_off()                              # packets vanish, nobody is told
    machines[0].heal()
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A namespace with one address; `link` is the end of its cable here."""

    name: str
    address: str
    link: str

    @property
    def run(self) -> tuple[str, ...]:
        """What runs a command there."""
        return ("ip", "netns", "exec", self.name)

    def cut_off(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.link, "nomaster")

    def heal(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.link, "master", _bridge())


@contextmanager
def small_network(count: int) -> Iterator[tuple[Machine, ...]]:
    """Make some machines on one bridge; skips where no namespace can be made."""
    if os.geteuid() != 0 or not shutil.which("ip") or _try("netns", "add", f"{_prefix()}0"):
        pytest.skip("only root may make network namespaces, and not in every container")
    net = f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"
    machines = tuple(
        Machine(name=f"{_prefix()}{number}", address=f"{net}.{number + 1}", link=f"{_prefix()}{number}h")
        for number in range(count)
    )
    try:
        _ip("link", "add", _bridge(), "type", "bridge")
        _ip("addr", "add", f"{net}.254/24", "dev", _bridge())
        _ip("link", "set", _bridge(), "up")
        for number, machine in enumerate(machines):
            if number:
                _ip("netns", "add", machine.name)
            _ip("link", "add", machine.link, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
            for command in (
                ("addr", "add", f"{machine.address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", machine.name, *command)
            _ip("link", "set", machine.link, "up")
            machine.heal()
        yield machines
    finally:
        for machine in machines:
            _try("link", "del", machine.link)  # a namespace lives on while it has sockets
            _try("netns", "del", machine.name)
        _try("link", "del", _bridge())


def _prefix() -> str:
    return f"fol{os.getpid() % 100_000}n"


def _bridge() -> str:
    return f"fol{os.getpid() % 100_000}br"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _try(*arguments: str) -> int:
    return subprocess.run(["ip", *arguments], capture_output=True).returncode
