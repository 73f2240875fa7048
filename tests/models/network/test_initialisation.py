from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.network.geometry import TgdpConfig
from models.network.layers import sincos_positions
from models.network.published import WrongStateDict, initialise
from models.network.tgdp import Tgdp

CONFIG = TgdpConfig(width=48, num_heads=4, mlp_ratio=2, decoder_width=32, decoder_depth=2, decoder_heads=4)
TINY = TgdpConfig(
    width=16, num_heads=2, depth=2, mlp_ratio=2, decoder_width=8, decoder_heads=2, decoder_depth=1
)


def start(config: TgdpConfig) -> tuple[Tgdp, dict[str, Tensor]]:
    """A fresh network and a copy of its state."""
    torch.manual_seed(0)
    network = Tgdp(config)
    return network, copy.deepcopy(network.state_dict())


def plain_vit(config: TgdpConfig, *, with_decoder: bool, num_blocks: int | None = None) -> dict[str, Tensor]:
    """Random weights with the names and shapes of a plain MAE ViT, positions as it computes them."""
    generator = torch.Generator().manual_seed(1)
    weights: dict[str, Tensor] = {}

    def affine(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator)
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator)

    def stack(prefix: str, depth: int, width: int) -> None:
        hidden = int(config.mlp_ratio * width)
        for n in range(depth):
            affine(f"{prefix}.{n}.norm1", width)
            affine(f"{prefix}.{n}.attn.qkv", 3 * width, width)
            affine(f"{prefix}.{n}.attn.proj", width, width)
            affine(f"{prefix}.{n}.norm2", width)
            affine(f"{prefix}.{n}.mlp.fc1", hidden, width)
            affine(f"{prefix}.{n}.mlp.fc2", width, hidden)

    def positions(width: int) -> Tensor:
        return torch.cat([torch.zeros(1, width), sincos_positions(width, 14, 14)]).unsqueeze(0)

    weights["cls_token"] = torch.randn(1, 1, config.width, generator=generator)
    weights["pos_embed"] = positions(config.width)
    affine("patch_embed.proj", config.width, 3, 16, 16)
    stack("blocks", config.depth + 1 if num_blocks is None else num_blocks, config.width)
    affine("norm", config.width)
    if with_decoder:
        weights["mask_token"] = torch.randn(1, 1, config.decoder_width, generator=generator)
        weights["decoder_pos_embed"] = positions(config.decoder_width)
        affine("decoder_embed", config.decoder_width, config.width)
        stack("decoder_blocks", config.decoder_depth, config.decoder_width)
        affine("decoder_norm", config.decoder_width)
        affine("decoder_pred", 768, config.decoder_width)
    return weights


def save(weights, path: Path) -> Path:
    torch.save({"model": weights}, path)
    return path


def test_a_plain_vit_fills_both_streams_and_the_joint_block(tmp_path: Path) -> None:
    network, before = start(TINY)
    vit = plain_vit(TINY, with_decoder=False)
    done = initialise(network, save(vit | {"head.bias": torch.ones(5)}, tmp_path / "vit.pth"))
    state = network.state_dict()
    for ours, theirs in (
        ("streams.{m}.0.attention.qkv.weight", "blocks.0.attn.qkv.weight"),
        ("streams.{m}.1.mlp.2.bias", "blocks.1.mlp.fc2.bias"),
        ("streams.{m}.1.mlp_norms.{m}.weight", "blocks.1.norm2.weight"),
        ("joint_block.attention.projection.weight", "blocks.2.attn.proj.weight"),
        ("joint_block.attention_norms.joint.bias", "blocks.2.norm1.bias"),
        ("joint_block.attention_norms.{m}.bias", "blocks.2.norm1.bias"),
        ("norms.joint.weight", "norm.weight"),
        ("norms.{m}.weight", "norm.weight"),
        ("cls_tokens.{m}", "cls_token"),
        ("patch_embeddings.video.projection.weight", "patch_embed.proj.weight"),
        ("patch_embeddings.audio.projection.bias", "patch_embed.proj.bias"),
    ):
        for modality in ("audio", "video"):
            name = ours.replace("{m}", modality)
            assert name in done.taken
            assert torch.equal(state[name], vit[theirs]), name
    assert done.origin == "mae"
    assert done.unused == ("head.bias", "pos_embed")
    kept = {"registers.audio", "registers.video", "modality_vectors.audio", "modality_vectors.video"}
    decoder = {name for name in state if name.startswith(("decoder_", "mask_token"))}
    assert set(done.fresh) == kept | decoder | {"positions_audio", "positions_video"}
    assert all(torch.equal(state[name], before[name]) for name in done.fresh)
    assert set(done.taken) | set(done.fresh) == set(state)


def test_a_grey_picture_makes_the_same_token_as_one_channel(tmp_path: Path) -> None:
    network, _ = start(TINY)
    vit = plain_vit(TINY, with_decoder=True)
    initialise(network, save(vit, tmp_path / "vit.pth"))
    grey = torch.randn(1, 1, 16, 16)
    weight, bias = vit["patch_embed.proj.weight"], vit["patch_embed.proj.bias"]
    expected = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight, bias).flatten()
    assert torch.allclose(network.patch_embeddings["audio"](grey).flatten(), expected, atol=1e-4)


@torch.no_grad()
def test_a_decoder_comes_along_and_predicts_grey_for_audio(tmp_path: Path) -> None:
    network, _ = start(TINY)
    vit = plain_vit(TINY, with_decoder=True)
    done = initialise(network, save(vit, tmp_path / "vit.pth"))
    assert torch.equal(network.mask_token, vit["mask_token"])
    assert torch.equal(
        network.decoder_blocks[0].attention.qkv.weight, vit["decoder_blocks.0.attn.qkv.weight"]
    )
    assert not [
        name for name in done.fresh if name.startswith(("decoder_b", "decoder_e", "decoder_h", "mask"))
    ]
    x = torch.randn(8)
    colours = network.decoder_heads["video"](x).reshape(256, 3)  # pixel by pixel, as the targets are cut
    assert torch.allclose(network.decoder_heads["audio"](x), colours.mean(dim=1), atol=1e-5)


def test_learned_positions_of_a_vit_are_refused(tmp_path: Path) -> None:
    network, before = start(TINY)
    vit = plain_vit(TINY, with_decoder=False)
    vit["pos_embed"] = vit["pos_embed"] + 0.01
    with pytest.raises(WrongStateDict, match="pos_embed: not sine-cosine in the file"):
        initialise(network, save(vit, tmp_path / "vit.pth"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_checkpoint_is_taken_whole(prefix: str, golden_weights, golden, tmp_path: Path) -> None:
    network, _ = start(CONFIG)
    torch.save({prefix + name: tensor for name, tensor in golden_weights.items()}, tmp_path / "tgdp.pth")
    done = initialise(network, tmp_path / "tgdp.pth")
    assert (done.origin, done.fresh) == ("tgdp or cavmae-sync", ())
    assert set(done.taken) == set(network.state_dict())
    assert all(".norm" in name and name.split(".")[-2].endswith(("_a", "_v")) for name in done.unused)
    with torch.no_grad():
        found = network.embed(network.embed_patches(golden["video_frames"], "video"), "video")
    assert (found - golden["video_embedding"]).abs().max() < 1e-4


def test_cavmae_starts_a_network_with_cls_and_another_window(cavmae_weights, tmp_path: Path) -> None:
    network, before = start(CONFIG)
    save_file(cavmae_weights, tmp_path / "cavmae.safetensors")
    done = initialise(network, tmp_path / "cavmae.safetensors")
    assert done.origin == "cavmae"
    tokens = {f"{part}.{m}" for part in ("cls_tokens", "registers") for m in ("audio", "video")}
    assert set(done.fresh) == tokens | {"positions_audio", "decoder_positions_audio"}
    assert {"positions_audio", "decoder_positions_audio"} < set(done.unused)
    state = network.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in done.fresh)
    assert torch.equal(state["joint_block.mlp.0.weight"], cavmae_weights["blocks_u.0.mlp.fc1.weight"])
    assert torch.equal(state["modality_vectors.audio"], cavmae_weights["modality_a"])


def test_the_start_of_cavmae_itself_has_cls_tokens(cavmae_weights, tmp_path: Path) -> None:
    """Their `ori_mae_11.pth`: a ViT already under CAV-MAE's names, with three CLS tokens and no registers."""
    network, _ = start(CONFIG)
    cls = {f"cls_token_{letter}": torch.full((1, 1, 48), 0.5) for letter in ("a", "v", "av")}
    done = initialise(network, save(cavmae_weights | cls, tmp_path / "ori_mae_11.pth"))
    assert {"cls_tokens.audio", "cls_tokens.video"} < set(done.taken)
    assert "cls_token_av" in done.unused
    assert "registers.audio" in done.fresh


def checkpoint(folder: Path, config: TgdpConfig, *, num_heads: int | None = None) -> Tgdp:
    """Write what initialisation reads of a checkpoint of ours."""
    torch.manual_seed(5)
    network = Tgdp(config)
    save_file(network.state_dict(), folder / "student.safetensors")
    fields = config.to_json() | ({} if num_heads is None else {"num_heads": num_heads})
    (folder / "run.json").write_text(json.dumps({"config": {"network": fields}}))
    return network


@pytest.mark.parametrize("name", ["", "student.safetensors"])
def test_a_checkpoint_of_ours_is_taken_whole(name: str, tmp_path: Path) -> None:
    trained = checkpoint(tmp_path, TINY)
    network, _ = start(TINY)
    done = initialise(network, tmp_path / name)
    assert (done.origin, done.fresh, done.unused) == ("foley", (), ())
    assert all(torch.equal(tensor, trained.state_dict()[n]) for n, tensor in network.state_dict().items())


def test_tokens_that_only_the_file_has_are_named_as_unused(tmp_path: Path) -> None:
    checkpoint(tmp_path, TINY)
    network, _ = start(dataclasses.replace(TINY, pooling="patch_mean", num_registers=0))
    done = initialise(network, tmp_path)
    assert done.unused == ("cls_tokens.audio", "cls_tokens.video", "registers.audio", "registers.video")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 32, "num_heads": 4}, "width: 16 in the file, 32 in the network"),
        ({"depth": 3}, "blocks before the joint block: 2 in the file, 3 in the network"),
        ({"mlp_ratio": 4}, "hidden width of the MLPs: 32 in the file, 64 in the network"),
        ({"audio_patch": 32}, "side of an audio patch: 16 in the file, 32 in the network"),
        ({"video_patch": 8}, "side of a video patch: 16 in the file, 8 in the network"),
        ({"decoder_width": 16}, "width of the decoder: 8 in the file, 16 in the network"),
        ({"decoder_depth": 2}, "blocks of the decoder: 1 in the file, 2 in the network"),
        ({"num_registers": 4}, r"registers\.audio: \(1, 8, 16\) in the file, \(1, 4, 16\) in the network"),
        ({"num_heads": 4}, "attention heads: 2 in the file, 4 in the network"),
        ({"decoder_heads": 4}, "heads of the decoder: 2 in the file, 4 in the network"),
    ],
)
def test_another_geometry_is_an_error_that_names_both_sizes(fields, message: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, TINY)
    network, before = start(dataclasses.replace(TINY, **fields))
    with pytest.raises(WrongStateDict, match=message):
        initialise(network, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_heads_of_the_released_width_are_known(tmp_path: Path) -> None:
    config = TgdpConfig(depth=1, mlp_ratio=0.25, decoder_width=8, decoder_heads=2, decoder_depth=1)
    vit = plain_vit(config, with_decoder=False)
    network, _ = start(dataclasses.replace(config, num_heads=16))
    with pytest.raises(WrongStateDict, match="attention heads: 12 in the file, 16 in the network"):
        initialise(network, save(vit, tmp_path / "vit.pth"))
    initialise(Tgdp(config), tmp_path / "vit.pth")


def test_missing_and_unexpected_tensors_are_all_named(tmp_path: Path) -> None:
    vit = plain_vit(TINY, with_decoder=False)
    del vit["norm.weight"], vit["blocks.0.norm1.bias"]
    network, _ = start(TINY)
    with pytest.raises(WrongStateDict, match="fit the network") as caught:
        initialise(network, save(vit | {"surprise": torch.ones(1)}, tmp_path / "vit.pth"))
    assert "missing (5): norms.audio.weight, norms.joint.weight, norms.video.weight, streams" in str(
        caught.value
    )
    assert "unexpected (1): surprise" in str(caught.value)
    with pytest.raises(WrongStateDict, match=r"neither a plain ViT .+ it holds conv1\.weight"):
        initialise(network, save({"conv1.weight": torch.ones(1)}, tmp_path / "resnet.pth"))
