from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY
from training.data.files import FolderInUse, only_one, written_through


def test_a_folder_belongs_to_one_process_until_it_ends(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from training.data.files import only_one
with only_one(Path({str(tmp_path)!r})):
    print("mine", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with (
            pytest.raises(FolderInUse, match="another process is working in"),
            only_one(tmp_path, waits=False),
        ):
            pass
        other.kill()
        other.wait()
    with only_one(tmp_path, waits=False):
        pass


def test_who_reads_a_file_keeps_it_when_it_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"old")
    with (tmp_path / "rows").open("rb") as reader:
        with written_through(tmp_path / "rows") as file:
            file.write(b"new rows")
        assert reader.read() == b"old"
    assert (tmp_path / "rows").read_bytes() == b"new rows"
