"""Fine-tuning the last blocks: a few steps on the CPU, from the graphs of the starter into graphs again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from models.bundle.bundle import load_bundle, starter_path
from models.network.graph_weights import recover_network
from tests.support.stored_tracks import make_stream
from training.adapting.bundles import write_finetuned
from training.adapting.finetuning import LEARNING_RATE, TunedClips, finetune, last_blocks
from training.adapting.fitting import FitConfig
from training.commands.finetune import finetune_library
from training.commands.held_back import AdaptRequest
from training.data.segments import PairedSegments
from training.data.stored_tracks import unpack_tracks


def test_only_the_last_blocks_learn_and_the_graphs_say_so(segments: PairedSegments, tmp_path: Path) -> None:
    parent = load_bundle(starter_path())
    network = recover_network(parent)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    truth = np.eye(2, dtype=bool)[np.arange(len(segments)) % 2]
    config = FitConfig(method="distill", num_epochs=4, batch_size=4, learning_rate=100 * LEARNING_RATE)
    losses: list[float] = []
    finetune(
        network,
        TunedClips(segments=segments, truth=truth),
        config,
        num_blocks=1,
        on_step=lambda *said: losses.append(said[2]),
    )
    assert len(losses) == 4
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(("joint_block.", "norms.")) and ".joint." not in name for name in changed)
    bundle = write_finetuned(
        parent, network, tmp_path / "tuned", name="tuned", training={"method": "distill"}
    )
    assert max(bundle.manifest.agreement.values()) < 1e-5
    assert bundle.manifest.derived_from is None
    moved = np.abs(bundle.golden().audio_track - parent.golden().audio_track).max()
    assert moved > 1e-3
    assert len(last_blocks(network, 2)) > len(last_blocks(network, 1))
    with pytest.raises(ValueError, match="the network has 5 blocks, 6 cannot be tuned"):
        last_blocks(network, 6)


def test_what_it_lacks_is_said(tmp_path: Path) -> None:
    tracks = unpack_tracks(io.BytesIO(make_stream(tmp_path)), tmp_path / "tracks")  # of files that never were
    request = AdaptRequest(config=FitConfig(), finetune=2)
    with pytest.raises(ValueError, match=r"decodes the files: of 600 .* 0 are there, .* Heads need none"):
        finetune_library(request, tracks, load_bundle(starter_path()), tmp_path / "out", Console(quiet=True))
