"""A disk that goes in the middle of a `sync`, in `make soak`: a real one on a loop device, and the real commands.

The control says `--allow-empty`: then the same steps do forget everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.jobs.documents import LEDGER_NAME
from service.jobs.files import count_outcomes
from service.jobs.ledger import Ledger
from tests.support.libraries import write_tone, write_tones
from tests.support.small_disk import MIB, unmount
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.environ.get("FOLEY_SOAK") != "1", reason="long: `make soak` runs it")

NUM_BEFORE, NUM_NEW = 71, 200


def _mount(image: Path, folder: Path) -> None:
    command = ["mount", "-o", "loop", str(image), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop device can be mounted: {done.stderr.strip()}")


@contextmanager
def _loop_disk(folder: Path) -> Iterator[Path]:
    """A disk of 32 MiB in a file, mounted until the block ends; gives the file."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    except FileNotFoundError:
        pytest.skip("needs mkfs.ext4")
    folder.mkdir()
    _mount(image, folder)
    try:
        yield image
    finally:
        unmount(folder)


@pytest.mark.parametrize("options", [(), ("--allow-empty",)], ids=["guards", "no guards"])
def test_nothing_is_forgotten_of_a_disk_that_is_lost_during_a_sync(
    options: tuple[str, ...], tmp_path: Path, bundle_path: Path
) -> None:
    data, media = tmp_path / "data", tmp_path / "media"
    environment = {
        **os.environ,
        "FOLEY_DATA": str(data),
        "FOLEY_BUNDLE": str(bundle_path),
        "FOLEY_DEVICE": "cpu",
        "FOLEY_MIN_FREE_BYTES": "0",
        "FOLEY_PORT": "9",  # no server is asked
    }
    foley = [sys.executable, "-m", "service.cli"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*foley, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    def assets() -> list[dict[str, Any]]:
        return list(json.loads(run("assets", "list", "--json").stdout)["assets"])

    with _loop_disk(media) as image:
        write_tones(media, NUM_BEFORE, seconds=0.2)
        assert run("index", str(media)).returncode == 0
        write_tones(media, NUM_NEW, first=NUM_BEFORE, seconds=0.2)
        with Ledger.open(data / LEDGER_NAME, is_worker=False) as ledger:
            with subprocess.Popen(
                [*foley, "sync", str(media), *options], env=environment, stderr=subprocess.PIPE, text=True
            ) as sync:

                def num_indexed() -> int:
                    newest = ledger.list_jobs(limit=1)[0]
                    return count_outcomes(ledger, newest.job_id).get("indexed", 0) * (newest.kind == "sync")

                wait_until(lambda: num_indexed() > 10)
                unmount(media)
                write_tone(media / "stray.wav", 9999)
                _, said = sync.communicate()
            num_done = num_indexed()
        later = [run("sync", str(media), *options, "--settle", "0") for _ in range(2)]
        left = len(assets())
        print(f"{num_done} of {NUM_NEW} new files were indexed, {left} assets are left: {said[-200:]}")  # noqa: T201
        if options:
            assert left <= 1
            return
        assert 10 < num_done < NUM_NEW, "the disk did not go in mid-run"
        assert all("no disk is mounted at" in text for text in (said, *(one.stderr for one in later)))
        assert left >= NUM_BEFORE + num_done
        (media / "stray.wav").unlink()
        _mount(image, media)
        assert run("sync", str(media)).returncode == 0
        assert len(assets()) == NUM_BEFORE + NUM_NEW
