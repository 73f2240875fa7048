"""What `foley-train adapt --finetune N` does: the last blocks of the encoders learn from the library's media."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from models.bundle.bundle import Bundle
from models.media.clip import ClipSpec
from models.media.names import find_path
from models.network.graph_weights import recover_network
from models.network.tgdp import Tgdp
from training.adapting.bundles import write_finetuned
from training.adapting.finetuning import LEARNING_RATE, TunedClips, finetune
from training.adapting.labels import Labels, read_labels
from training.commands.held_back import (
    AdaptRequest,
    Measured,
    check_kept,
    is_held_back,
    measure_tracks,
    print_labels,
    print_table,
    read_graph,
)
from training.data.segments import Segments
from training.data.sources import open_segments
from training.data.stored_tracks import StoredTracks

NUM_MEASURED = 500
"""At most so many held-back clips are embedded before and after."""


def finetune_library(
    request: AdaptRequest, tracks: StoredTracks, parent: Bundle, output: Path, console: Console
) -> dict[str, Any]:
    """Fine-tune the encoders of a bundle on the files that are indexed with it, and write a bundle.

    Args:
        request: What to learn; `finetune` blocks.
        tracks: What is indexed; the tracks themselves are not read.
        parent: Its bundle, whose graphs hold the weights.
        output: Folder of the bundle.
        console: Where progress and the table go.

    Returns:
        The table as JSON values.

    Raises:
        ValueError: If no file is there, too few are held back, or recall falls too far.
    """  # noqa: DOC502 - raised by what it calls
    network = recover_network(parent)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    labels = read_labels(tracks.assets, request.sources) if request.sources else None
    if labels is not None:
        print_labels(labels, console)
    held_files, files = _files_there(tracks)
    console.print(
        f"the last {request.finetune} blocks on {device}, from {len(files)} files: every one is decoded "
        f"({3.3 * len(files) / 1000:.1f} GB for segments of 10 s)"
        + ("" if device == "cuda" else "; without a GPU this may take hours, heads take minutes"),
        soft_wrap=True,
    )
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.media.", dir=output.parent) as folder:
        with console.status("decoding"):
            held = open_segments(list(held_files), Path(folder) / "held", ClipSpec())
            taught = open_segments(list(files), Path(folder) / "taught", ClipSpec())
        table: dict[str, Measured | None] = {"frozen": _measure(network, held, held_files, labels)}
        network.to(device)
        config = replace(request.config, learning_rate=LEARNING_RATE)
        truth = None if labels is None else _truth(taught, files, labels)
        graph = None if request.graph is None or labels is None else read_graph(request.graph, labels.names)
        seconds = time.monotonic()
        with console.status("") as status:
            finetune(
                network,
                TunedClips(
                    segments=taught, truth=truth, has_many=labels is not None and labels.has_many, graph=graph
                ),
                config,
                num_blocks=request.finetune,
                on_step=lambda step, steps, loss: status.update(f"step {step} of {steps}, loss {loss:.3f}"),
            )
        seconds = time.monotonic() - seconds
        network.to("cpu")
        table[f"{config.method}, tuned"] = found = _measure(network, held, held_files, labels)
    print_table(table, num_clips=min(len(held), NUM_MEASURED), console=console)
    check_kept(table["frozen"], found, request.max_drop)
    facts = {
        "command": request.command,
        "method": config.method,
        "finetuned": {"from": parent.bundle_id, "num_blocks": request.finetune},
        "library": {
            "num_files": len(files) + len(held_files),
            "num_clips": len(taught),
            "num_held_back": len(held),
        },
        "labels": None if labels is None else {"sources": list(request.sources), "names": list(labels.names)},
        "seconds": round(seconds, 1),
        "retrieval": {name: one and one.to_json() for name, one in table.items()},
    }
    bundle = write_finetuned(parent, network, output, name=request.name, training=facts)
    console.print(f"{bundle.bundle_id} in {output}", markup=False, soft_wrap=True)
    console.print(
        f"make it answer (the library is embedded again): foley releases create {output} --activate",
        markup=False,
        soft_wrap=True,
    )
    return {"bundle_id": bundle.bundle_id, **facts}


def _files_there(tracks: StoredTracks) -> tuple[dict[Path, int], dict[Path, int]]:
    """Files with sound and picture that exist, held back and others, with the number of their asset."""
    held, others = dict[Path, int](), dict[Path, int]()
    is_held = is_held_back(tracks)
    numbers = np.unique(tracks.asset_of_segments()[tracks.pairs()])
    for number in numbers:
        paths = (Path(find_path(path)) for path in tracks.assets[number].paths)
        if (path := next((path for path in paths if path.is_file()), None)) is not None:
            (held if is_held[number] else others)[path] = int(number)
    if len(held) < 2 or len(others) < 2:
        raise ValueError(
            f"fine-tuning decodes the files: of {len(numbers)} with sound and picture {len(held) + len(others)} are "
            f"there, {len(held)} of them held back to measure; 2 and 2 are the least. Heads need none (leave out "
            "--finetune)"
        )
    return held, others


def _truth(segments: Segments, files: dict[Path, int], labels: Labels) -> NDArray[np.bool_]:
    return np.asarray(labels.truth[[files[Path(path)] for path in segments.paths]])


@torch.no_grad()
def _measure(network: Tgdp, held: Segments, files: dict[Path, int], labels: Labels | None) -> Measured:
    rows = range(0, len(held), -(-len(held) // NUM_MEASURED))
    tracks: dict[str, list[NDArray[np.float32]]] = {"audio": [], "video": []}
    for row in rows:
        length, heard = (torch.tensor([int(numbers[row])]) for numbers in (held.lengths, held.heard))
        audio = network.audio_track(torch.from_numpy(held.samples_of(row))[None], length, heard)
        video = network.video_track(torch.from_numpy(held.frames_of(row))[None])
        tracks["audio"].append(audio[0].numpy())
        tracks["video"].append(video[0].numpy())
    truth = None if labels is None else _truth(held, files, labels)[list(rows)]
    return measure_tracks({name: np.stack(found) for name, found in tracks.items()}, truth)
