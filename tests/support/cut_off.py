"""Commands in a network namespace with a home folder of their own: what they look up, and what they leave in it.

In the namespace there is loopback alone, and on it a name server that knows no name and writes down what it is asked.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Traces:
    looked_up: list[str]
    left_in_home: list[str]
    output: str


def run_cut_off(folder: Path, *commands: list[str]) -> Traces:
    """Run commands, each of which must succeed; skips where no namespace can be made."""
    namespace = ["unshare", "--net", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("only root may make a network namespace, and not in every container")
    folder.mkdir()
    (folder / "home").mkdir()
    # A build machine's `CI` quietens OpenVINO; the folders of XDG are in the home folder unless they are named.
    environment = {n: v for n, v in os.environ.items() if n != "CI" and not n.startswith(("FOLEY_", "XDG_"))}
    environment |= {"HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)  # this process has set it for its children
    done = subprocess.run(
        [*namespace, sys.executable, "-m", "tests.support.cut_off", str(folder)],
        input=json.dumps(commands),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Traces(
        looked_up=(folder / "names").read_text().splitlines(),
        left_in_home=[str(path) for path in (folder / "home").rglob("*") if path.is_file()],
        output=done.stdout + done.stderr,
    )


def _record(server: socket.socket, names: Path) -> None:
    while True:
        question, client = server.recvfrom(4096)
        at, labels = (
            12,
            [],
        )  # behind the header: each label has its length before it, an empty one ends the name
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        with names.open("a") as file:
            file.write(".".join(labels) + "\n")
        server.sendto(question[:2] + b"\x81\x83" + question[4:6] + bytes(6) + question[12:], client)


def _main(folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    place = os.path.realpath("/etc/resolv.conf")
    subprocess.run(["mount", "--bind", str(folder / "resolv.conf"), place], check=True)
    (folder / "names").touch()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        threading.Thread(target=_record, args=(server, folder / "names"), daemon=True).start()
        for command in json.load(sys.stdin):
            subprocess.run(command, check=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
