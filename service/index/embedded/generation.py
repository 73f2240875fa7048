"""Which of the shards in an index's folder is the current one, and whether it is whole.

FOLDER/
generation.json    names the current shard; without it, that is `shard`
shard.3/           a shard that was built aside
shard.3.json       its seal: how many points it was sealed with, size and sha256 of the files that never change again
shard.3.closed     what the other files were when it was closed: see `service.index.embedded.closed`
partial.json       what is known of a copy that was cut off: see `service.index.embedded.partial`
building/          changes on their way into a shard that is being built

The rename of generation.json is the switch: before it the old shard is current, after it the new one, each of them
whole. Whatever else lies there was left by a crash, and opening sweeps it away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from service.index.embedded.partial import read_partial
from service.index.failure import REPAIR, IndexDamaged

FIRST = "shard"
BUILDING = "building"
LOWEST_PRIORITY = 19
POINTER = "generation.json"
# Vectors and graphs of an optimized segment: Edge marks deleted points elsewhere.
IMMUTABLE = (
    "matrix.dat",
    "tq_vectors.dat",
    "quantized.data",
    "links_compressed.bin",
    "links.bin",
    "graph.bin",
)


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """A file as it was when its shard was sealed."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What a shard was when it was sealed: its points, and files that never change again, by path within it."""

    num_points: int
    files: Mapping[str, SealedFile]


def current_shard(folder: Path) -> str:
    """The name of the current shard; raises `IndexDamaged` if it is missing, or the pointer unreadable."""
    pointer = folder / POINTER
    if not pointer.exists():
        return FIRST
    try:
        name = str(json.loads(pointer.read_text("utf-8"))["shard"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise IndexDamaged(f"{pointer} cannot be read: {exc}; {REPAIR}") from exc
    if Path(name).name != name or not (folder / name).is_dir():
        raise IndexDamaged(f"{pointer} names the shard {name!r}, which is not there; {REPAIR}")
    return name


def next_shard(folder: Path) -> str:
    """A name for a new shard."""
    numbers = [int(path.name.partition(".")[2] or 0) for path in folder.glob("shard.[0-9]*") if path.is_dir()]
    return f"{FIRST}.{max(numbers, default=0) + 1}"


def seal_files(shard: Path) -> dict[str, SealedFile]:
    """Measure the files of a shard that never change again, by path within it. Nothing may optimize it meanwhile."""
    files = {}
    for path in sorted(shard.rglob("*")):
        if path.name in IMMUTABLE:
            files[str(path.relative_to(shard))] = SealedFile(
                num_bytes=path.stat().st_size, sha256=_hash(path)
            )
    return files


def describe_seal(seal: Seal) -> str:
    """The seal as JSON."""
    return json.dumps(asdict(seal), indent=1) + "\n"


def read_seal(shard: Path) -> Seal | None:
    """The seal of the shard in a folder; None if it was never optimized. Raises `IndexDamaged` if it cannot be read."""
    path = shard.with_name(f"{shard.name}.json")
    try:
        found = json.loads(path.read_text("utf-8"))
        files = {name: SealedFile(**facts) for name, facts in found["files"].items()}
        return Seal(num_points=int(found["num_points"]), files=files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise IndexDamaged(f"{path} cannot be read: {exc}; {REPAIR}") from exc


def check_shard(shard: Path, *, hashes: bool = False) -> None:
    """Raise `IndexDamaged` if files of a shard differ from its seal in size or, with `hashes`, in content."""
    seal = read_seal(shard)
    for name, facts in (seal.files if seal else {}).items():
        fault = _find_fault(shard / name, facts, hashes=hashes)
        segment = shard / Path(name).parts[0] / Path(name).parts[1]
        if fault and segment.exists():  # else Edge has merged it since
            raise IndexDamaged(f"{shard / name} is damaged: {fault}; {REPAIR}")


def _find_fault(path: Path, facts: SealedFile, *, hashes: bool) -> str | None:
    try:
        if path.stat().st_size != facts.num_bytes:
            return f"it had {facts.num_bytes} bytes when it was sealed"
        if hashes and _hash(path) != facts.sha256:
            return "its content is not what was sealed"
    except FileNotFoundError:
        return "it is not there"
    return None


class SealReading:
    """Reads the sealed files of a shard once, in a thread that gives way to all others."""

    def __init__(self, shard: Path) -> None:
        self._shard = shard
        self._fault: str | None = None
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Begin to read, at the first call; raises `IndexDamaged` once a damaged file was found."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="read-sealed", daemon=True)
            self._thread.start()
        if self._fault is not None:
            raise IndexDamaged(self._fault)

    def _read(self) -> None:
        with suppress(OSError):  # Linux has a priority for each thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        try:
            check_shard(self._shard, hashes=True)
        except IndexDamaged as exc:
            self._fault = str(exc)


def sweep_others(folder: Path, kept: str) -> None:
    """Remove what interrupted builds and switches have left in an index's folder.

    The current shard stays, and a copy that can be resumed.
    """
    shutil.rmtree(folder / BUILDING, ignore_errors=True)
    partial = read_partial(folder)
    spared = {kept, partial.shard} if partial else {kept}
    for path in (*folder.glob("shard*"), *folder.glob(".shard*")):
        if path.is_dir():
            if path.name not in spared:
                shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.name != f"{kept}.json":
            path.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
