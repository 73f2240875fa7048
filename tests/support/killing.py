"""A server that indexes, and whose processes are killed at random; run as a program, one with a broken ledger.

python killing.py            a server as it is
python killing.py broken     the control: it notes files as done when they start, and believes its notes
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from service.jobs.journal import LedgerJournal
from service.library.journal import FileRow
from service.library.run import LibraryRun
from service.library.scanning import FoundFile
from service.library.stages import Chunk, EncodeThread, Tracks
from tests.support.paths import REPOSITORY
from tests.support.serving import find_free_port
from tests.support.waiting import wait_until

TARGETS = ("server", "decode worker", "index engine")


class Victim:
    """A server process that is started again whenever it was killed."""

    def __init__(self, settings: Mapping[str, object], log: Path, *, is_broken: bool = False) -> None:
        self.port = find_free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.address, timeout=30)
        self.killed: dict[str, int] = dict.fromkeys(TARGETS, 0)
        self._log = log.open("ab")
        self._embedded = log.with_suffix(".embedded")
        self._is_broken = is_broken
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")},
            "PYTHONPATH": str(REPOSITORY),
            "FOLEY_PRECISION": "fp32",
            "FOLEY_DECODE_WORKERS": "1",
            **{f"FOLEY_{name}": str(value) for name, value in settings.items()},
            "FOLEY_PORT": str(self.port),
            "KILLING_EMBEDDED": str(self._embedded),
        }
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, __file__, *(["broken"] if self._is_broken else [])]
        self.process = subprocess.Popen(command, env=self._environment, stdout=self._log, stderr=self._log)
        wait_until(self._is_ready, every=0.02)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, Path(self._log.name).read_text()[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get("/livez").status_code == 200
        return False

    def kill(self, target: str) -> bool:
        """Kill -9 the server, one of its decode workers or its index engine; False where there is none."""
        pid = self.process.pid if target == "server" else self._find_child(target)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(pid, signal.SIGKILL)
        self.killed[target] += 1
        if target == "server":
            self.process.wait()
            self.start()
        return True

    def _find_child(self, target: str) -> int | None:
        marks = {"decode worker": "spawn_main", "index engine": "service.index.embedded.shard_process"}
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                if any(marks[target] in argument for argument in child.cmdline()):
                    found.append(child.pid)
        return random.choice(found) if found else None

    def count_redone(self) -> int:
        """Segments that were embedded more than once, all lives of the server together."""
        chunks = Counter(self._embedded.read_text().splitlines())
        return sum(int(chunk.split()[-1]) * (count - 1) for chunk, count in chunks.items())

    def count_embedded(self) -> int:
        """Segments that were embedded, all lives of the server together."""
        lines = self._embedded.read_text().splitlines() if self._embedded.exists() else ()
        return sum(int(line.split()[-1]) for line in lines)

    def close(self) -> None:
        """End it."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        self._log.close()


def count_embedded(path: Path) -> None:
    """Write down every chunk of a file that the encoder has embedded."""
    embed = EncodeThread._embed_together

    def embed_counted(self: EncodeThread, chunks: Sequence[Chunk]) -> dict[int, Tracks]:
        embedded = embed(self, chunks)
        with path.open("a") as file:
            file.writelines(f"{c.file.asset_id} {c.number} {len(c.clips)}\n" for c in chunks)
        return embedded

    EncodeThread._embed_together = embed_counted  # type: ignore[method-assign]


def break_ledger() -> None:
    """Say done first, and believe it: what is being decoded when the process is killed is lost."""

    def start(self: LedgerJournal, found: FoundFile, asset_id: str) -> None:
        row = FileRow(
            path=str(found.path),
            size_bytes=found.size_bytes,
            modified_ns=found.modified_ns,
            asset_id=asset_id,
        )
        self.end(row.ended("indexed", num_segments=1))
        self.flush()

    def keep(self: LibraryRun, row: FileRow, found: FoundFile) -> bool:
        return row.outcome == "indexed"

    LedgerJournal.start = start  # type: ignore[method-assign]
    LibraryRun._keep = keep  # type: ignore[method-assign]


if __name__ == "__main__":
    if "broken" in sys.argv:
        break_ledger()
    count_embedded(Path(os.environ["KILLING_EMBEDDED"]))
    from service.cli import app

    app(["serve"])
