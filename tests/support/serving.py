"""Servers for tests: one in a process of its own, and one in this process that a test can reach into."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

from service.system.settings import Settings
from tests.support.waiting import GENEROUS_SECONDS, wait_until

if TYPE_CHECKING:
    from fastapi import FastAPI

SERVE = (sys.executable, "-m", "service.cli", "serve")


class run_server:  # noqa: N801 - a context manager that reads as a call
    """Run a server process with settings from the environment until the block ends."""

    def __init__(self, settings: dict[str, object], log: Path, *, command: Sequence[str] = SERVE) -> None:
        self.log = log
        self.command = command
        self.port = find_free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")},
            "FOLEY_PRECISION": "fp32",
            "FOLEY_DECODE_WORKERS": "1",
            **{f"FOLEY_{name}": str(value) for name, value in settings.items()},
            "FOLEY_PORT": str(self.port),
        }

    def __enter__(self) -> str:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{self.port}"
        try:
            wait_until(lambda: self._answers(address) or self.process.poll() is not None, every=0.02)
            assert self.process.poll() is None
        except AssertionError:
            self.process.kill()
            raise AssertionError(f"the server did not start:\n{self.log.read_text()}") from None
        return address

    def _answers(self, address: str) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()  # a client of httpx takes 10 ms
            return httpx.get(f"{address}/livez").is_success
        except (OSError, httpx.HTTPError):
            return False

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=GENEROUS_SECONDS) == 0, self.log.read_text()


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class serve_in_thread:  # noqa: N801 - a context manager that reads as a call
    """Run a server in this process, so that a test can reach into its application, until the block ends."""

    def __init__(self, settings: Settings) -> None:
        # Not at the top: who only starts a server process need not load it.
        import uvicorn

        from service.http.server import configure_server

        config = configure_server(settings.replace(port=find_free_port()))
        self.app: FastAPI = config.app  # type: ignore[assignment]
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.address = f"http://127.0.0.1:{config.port}"

    def __enter__(self) -> Self:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        self.client = httpx.Client(base_url=self.address, timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join()
