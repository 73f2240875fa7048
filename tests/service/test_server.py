"""Starting and stopping the server process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from serving import run_server

from service.settings import Settings


def test_index_in_use_is_said_in_one_line(
    server: str, indexed_settings: Settings, library_files: Path
) -> None:
    environment = {
        "FOLEY_DATA": str(indexed_settings.data),
        "FOLEY_BUNDLE": str(indexed_settings.bundle),
        "FOLEY_PORT": "0",
        "FOLEY_DEVICE": "cpu",
        "FOLEY_PRECISION": "fp32",
    }
    assert httpx.get(f"{server}/livez").status_code == 200
    command = [sys.executable, "-m", "service.cli", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "open" in done.stderr
    assert "Traceback" not in done.stderr


def test_stop_answers_what_runs_and_leaves_nothing(
    indexed_settings: Settings, library_files: Path, tmp_path: Path
) -> None:
    settings = {"DATA": tmp_path, "BUNDLE": indexed_settings.bundle, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}
    content = (library_files / "long.mp4").read_bytes()
    statuses: list[int] = []

    def embed(address: str) -> None:
        statuses.append(
            httpx.post(f"{address}/v1/embeddings", files={"file": content}, timeout=60).status_code
        )

    with run_server(settings, tmp_path / "log") as address:
        running = threading.Thread(target=embed, args=(address,))
        running.start()
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob("uploads/*/*")) and time.monotonic() < deadline:
            time.sleep(0.005)
    running.join()
    assert statuses == [200]
    assert list(tmp_path.glob("uploads/*")) == []
    assert "Traceback" not in (tmp_path / "log").read_text()
