"""The weights of a bundle out of its graphs, and what is said where they are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.bundle.bundle import load_bundle, starter_path
from models.network.geometry import TgdpConfig
from models.network.graph_weights import is_unused, recover_network
from models.network.initialisation import find_weights, initialise
from models.network.tgdp import Tgdp
from models.network.weights import WrongStateDict
from tests.support.tiny_bundles import make_tiny
from training.adapting.bundles import write_adapted
from training.adapting.heads import TrackHead


def test_training_starts_from_the_starter_itself() -> None:
    """There is no checkpoint of it here. The decoder is in no graph and stays at its start; all else is taken."""
    bundle = load_bundle(starter_path())
    network = Tgdp(TgdpConfig(**bundle.manifest.network))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    done = initialise(network, bundle.path)
    assert done.origin == "bundle"
    assert all(is_unused(name) for name in done.fresh)
    golden = bundle.golden()
    with torch.no_grad():
        track = network.eval().video_track(torch.from_numpy(golden.frames)[None])[0].numpy()
    assert abs(track - golden.video_track).max() < 1e-5
    assert torch.equal(network.state_dict()["mask_token"], before["mask_token"])
    assert find_weights(bundle.path).name == "manifest.json"
    with pytest.raises(WrongStateDict, match="attention heads: 4 in the file, 2 in the network"):
        initialise(Tgdp(replace(network.config, num_heads=2)), bundle.path)


def test_where_the_weights_are_is_said(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path / "tiny", tracks={"audio": (1, 24), "video": (1, 24)})
    with pytest.raises(
        WrongStateDict, match=r"of the family tiny, .* start from the `checkpoint` in the folder"
    ):
        recover_network(tiny)


def test_training_starts_below_learned_heads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    starter = load_bundle(starter_path())
    heads = {name: TrackHead(128, 16) for name in ("audio", "video")}
    for head in heads.values():
        torch.nn.init.normal_(head.up.weight, std=0.1)
    adapted = write_adapted(starter, heads, tmp_path / "adapted", name="adapted", training={})
    with caplog.at_level("INFO"):
        found = recover_network(adapted).state_dict()
    assert (
        f"{adapted.bundle_id} is learned heads on {starter.bundle_id}: the network below them" in caplog.text
    )
    for name, tensor in recover_network(starter).state_dict().items():
        assert is_unused(name) or torch.equal(found[name], tensor), name
