"""Which of the shards in an index's folder counts, and that it is whole.

FOLDER/
generation.json    names the shard; where there is none, it is `shard`
shard.3/           a shard that was built aside
shard.3.json       its seal: how many points it was sealed with, size and sha256 of the files that never change again
building/          changes on their way into a shard that is being built

The rename of generation.json is the switch: before it the old shard counts, after it the new one, each of them whole.
Whatever else lies there was left by a crash, and opening sweeps it away.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from service.index.failure import IndexFailure

FIRST = "shard"
BUILDING = "building"
POINTER = "generation.json"
# Vectors and graphs of a segment that was optimized: the engine marks points as deleted elsewhere.
IMMUTABLE = ("matrix.dat", "quantized.data", "links_compressed.bin", "links.bin", "graph.bin")
BUFFER_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """A file as it was when its shard was sealed."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What a shard was when it was sealed.

    Attributes:
        num_points: Points in it.
        files: Files that never change again, by path within the shard.
    """

    num_points: int
    files: Mapping[str, SealedFile]


def current_shard(folder: Path) -> str:
    """The name of the shard that counts.

    Args:
        folder: The index's folder.

    Returns:
        A name in the folder.

    Raises:
        IndexFailure: If the pointer cannot be read, or names what is not there.
    """
    pointer = folder / POINTER
    if not pointer.exists():
        return FIRST
    try:
        name = str(json.loads(pointer.read_text("utf-8"))["shard"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise IndexFailure(f"{pointer} cannot be read: {exc}") from exc
    if Path(name).name != name or not (folder / name).is_dir():
        raise IndexFailure(f"{pointer} names the shard {name!r}, which is not there")
    return name


def next_shard(folder: Path) -> str:
    """A name for a shard that is not taken, and was never that of the current one."""
    numbers = [int(path.name.partition(".")[2] or 0) for path in folder.glob("shard.[0-9]*") if path.is_dir()]
    return f"{FIRST}.{max(numbers, default=0) + 1}"


def seal_files(shard: Path) -> dict[str, SealedFile]:
    """Take down the files of a shard that never change again. Nothing optimizes it meanwhile.

    Args:
        shard: Its folder.

    Returns:
        Size and hash of each, by path within the shard.
    """
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
    """The seal of a shard, None where it has none: it was not built aside.

    Args:
        shard: Its folder.

    Returns:
        The seal.

    Raises:
        IndexFailure: If it cannot be read.
    """
    path = shard.with_name(f"{shard.name}.json")
    try:
        found = json.loads(path.read_text("utf-8"))
        files = {name: SealedFile(**facts) for name, facts in found["files"].items()}
        return Seal(num_points=int(found["num_points"]), files=files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise IndexFailure(f"{path} cannot be read: {exc}") from exc


def check_shard(shard: Path, *, hashes: bool = False) -> None:
    """Compare a shard with its seal.

    Args:
        shard: Its folder.
        hashes: Whether to read the files, and not their sizes alone.

    Raises:
        IndexFailure: If a file is not what it was.
    """
    seal = read_seal(shard)
    for name, facts in (seal.files if seal else {}).items():
        path = shard / name
        if not (shard / Path(name).parts[0] / Path(name).parts[1]).exists():
            continue  # the engine has merged this segment since
        if not path.exists() or path.stat().st_size != facts.num_bytes:
            raise IndexFailure(f"{path} is damaged: it had {facts.num_bytes} bytes when it was sealed")
        if hashes and _hash(path) != facts.sha256:
            raise IndexFailure(f"{path} is damaged: its content is not what was sealed")


def sweep_others(folder: Path, kept: str) -> None:
    """Remove what builds and switches that a crash cut off have left.

    Args:
        folder: The index's folder.
        kept: The shard that counts.
    """
    shutil.rmtree(folder / BUILDING, ignore_errors=True)
    for path in (*folder.glob("shard*"), *folder.glob(".shard*")):
        if path.is_dir() and path.name != kept:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.name != f"{kept}.json":
            path.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BUFFER_BYTES):
            digest.update(block)
    return digest.hexdigest()
