from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import Tensor

from models.network.frontend import window_starts
from models.network.geometry import MODALITIES, TgdpConfig
from models.network.published import Heads, WrongStateDict, import_network, load_tgdp
from tests.support.families import shallow_weights
from tests.support.published_reference import HEADS, embed, random_blocks

SMALL = Heads(encoder=4, decoder=4)
SMALL_CONFIG = TgdpConfig(
    width=48, num_heads=4, mlp_ratio=2, decoder_width=32, decoder_depth=2, decoder_heads=4
)
CAVMAE_CONFIG = dataclasses.replace(SMALL_CONFIG, num_registers=0, pooling="patch_mean", window_frames=1024)
TOLERANCE = 1e-4  # float32 of two implementations with the same arithmetic in another order


@pytest.fixture(params=["tgdp", "cavmae"])
def shallow(request) -> tuple[dict[str, Tensor], str]:
    """Weights of two blocks, for what does not depend on their number; and their kind."""
    return shallow_weights(request.param), request.param


@pytest.fixture(params=["tgdp", "cavmae"])
def published(request, golden, golden_weights, cavmae_golden, cavmae_weights):
    """Weights, recorded inputs and outputs, kind."""
    if request.param == "tgdp":
        return golden_weights, golden, "tgdp"
    return cavmae_weights, cavmae_golden, "cavmae"


def pictures(recorded, modality: str) -> Tensor:
    """Recorded inputs as pictures (N, C, H, W)."""
    if modality == "audio":
        return recorded["audio_windows"].transpose(1, 2).unsqueeze(1)
    return recorded["video_frames"]


@torch.no_grad()
def embed_with(network, given: Tensor, modality: str) -> Tensor:
    return network.embed(network.embed_patches(given, modality), modality)


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def differs(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@pytest.mark.parametrize("modality", MODALITIES)
def test_recorded_embeddings_of_both_forms(published, modality: str) -> None:
    """Torch on the recorded windows and frames; through ONNX Runtime it is tests/training/commands/test_imports.py."""
    weights, recorded, kind = published
    network = import_network(weights, kind=kind, heads=SMALL)
    found = embed_with(network, pictures(recorded, modality), modality)
    assert differs(found, recorded[f"{modality}_embedding"]) < TOLERANCE


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_plain_reference_gives_the_recorded_embeddings(published, modality: str) -> None:
    """So that the tests below, where nothing is recorded, stand on it."""
    weights, recorded, _ = published
    found = embed(weights, pictures(recorded, modality), modality, heads=4)
    assert differs(found, recorded[f"{modality}_embedding"]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("name", ["pig", "guitar"])
def test_sound_that_ends_early_is_padded_after_the_logarithm(shallow, golden_frontend, name: str) -> None:
    """6.5 s of sound in a segment of 10 s: the recorded log-mel at the published windows, plainly embedded."""
    weights, kind = shallow
    network = import_network(weights, kind=kind, heads=SMALL)
    heard = golden_frontend[f"{name}_pcm16"].float() / 32768
    samples, length = torch.zeros(1, 160_000), torch.tensor([160_000])
    samples[0, : len(heard)] = heard
    width = network.config.window_frames
    log_mel = (golden_frontend[f"{name}_log_mel"] + 5.081) / 4.4849
    windows = torch.stack([log_mel[first : first + width].T for first in window_starts(window_frames=width)])
    expected = unit(embed(weights, windows.unsqueeze(1), "audio", heads=4))
    assert differs(network.audio_track(samples, length, torch.tensor([len(heard)]))[0], expected) < TOLERANCE
    if name == "pig":  # the control: silence that is heard turns the last windows
        assert differs(network.audio_track(samples, length)[0], expected) > 0.1


def test_geometry_is_read_from_the_shapes(golden_weights, cavmae_weights) -> None:
    assert import_network(golden_weights, kind="tgdp", heads=SMALL).config == SMALL_CONFIG
    assert import_network(golden_weights, kind="cavmae-sync", heads=SMALL).config == SMALL_CONFIG
    assert import_network(cavmae_weights, kind="cavmae", heads=SMALL).config == CAVMAE_CONFIG


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("tgdp", TgdpConfig(depth=1, decoder_depth=1)),
        ("cavmae-sync", TgdpConfig(depth=1, decoder_depth=1, num_registers=4, window_frames=192, mlp_ratio=1)),
        (
            "cavmae",
            TgdpConfig(
                depth=2, decoder_depth=1, pooling="patch_mean", num_registers=0, window_frames=1024,
                frame_size=128, audio_patch=32, video_patch=8, mlp_ratio=1,
            ),
        ),
    ],
)  # fmt: skip
def test_geometry_of_other_sizes_and_released_heads(kind, config: TgdpConfig) -> None:
    """Width 768 and a decoder of width 512 have the released heads; every other number is in a shape."""
    assert import_network(published_tensors(config), kind=kind).config == config


def published_tensors(config: TgdpConfig) -> dict[str, Tensor]:
    """Zeros with the released names and shapes, from what method and released code say of them."""
    d, e, hidden = config.width, config.decoder_width, round(config.width * config.mlp_ratio)
    shapes: dict[str, tuple[int, ...]] = {}

    def affine(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, width: int, wide: int) -> None:
        for norm in ("norm1", "norm1_a", "norm1_v", "norm2", "norm2_a", "norm2_v"):
            affine(f"{name}.{norm}", width)
        affine(f"{name}.attn.qkv", 3 * width, width)
        affine(f"{name}.attn.proj", width, width)
        affine(f"{name}.mlp.fc1", wide, width)
        affine(f"{name}.mlp.fc2", width, wide)

    for letter, channels, patch, tokens in (
        ("a", 1, config.audio_patch, 128 * config.window_frames // config.audio_patch**2),
        ("v", 3, config.video_patch, (config.frame_size // config.video_patch) ** 2),
    ):
        affine(f"patch_embed_{letter}.proj", d, channels, patch, patch)
        affine(f"norm_{letter}", d)
        affine(f"decoder_pred_{letter}", channels * patch**2, e)
        shapes |= {f"pos_embed_{letter}": (1, tokens, d), f"decoder_pos_embed_{letter}": (1, tokens, e)}
        shapes |= {f"modality_{letter}": (1, 1, d), f"decoder_modality_{letter}": (1, 1, e)}
        if config.pooling == "cls":
            shapes[f"cls_token_{letter}"] = (1, 1, d)
        for n in range(config.depth):
            block(f"blocks_{letter}.{n}", d, hidden)
    if config.num_registers:
        shapes["register_tokens"] = (2 * config.num_registers, d)
    block("blocks_u.0", d, hidden)
    affine("norm", d)
    affine("decoder_embed", e, d)
    shapes["mask_token"] = (1, 1, e)
    for n in range(config.decoder_depth):
        block(f"decoder_blocks.{n}", e, round(e * config.mlp_ratio))
    affine("decoder_norm", e)
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_half_precision_becomes_float32(golden_weights: dict[str, Tensor]) -> None:
    half = {name: tensor.half() for name, tensor in golden_weights.items()}
    network = import_network(half, kind="tgdp", heads=SMALL)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_one_error_lists_everything_that_is_wrong(golden_weights: dict[str, Tensor]) -> None:
    wrong = {
        name: tensor for name, tensor in golden_weights.items() if name not in ("cls_token_a", "norm.bias")
    }
    wrong |= {
        "surprise": torch.zeros(1),
        "blocks_u.1.attn.qkv.bias": torch.zeros(144),
        "norm_a.weight": torch.zeros(47),
        "register_tokens": torch.zeros(15, 48),
        "pos_embed_v": torch.zeros(1, 197, 48),
        "blocks_a.3.mlp.fc1.bias": torch.zeros(96, dtype=torch.int64),
    }
    with pytest.raises(WrongStateDict) as caught:
        import_network(wrong, kind="tgdp")
    assert str(caught.value).split("\n") == [
        "the weights do not tell the number of attention heads; give it at width 48 (--heads) and in a decoder of "
        "width 32 (--decoder-heads)",
        "missing (2): cls_token_a, norm.bias",
        "unexpected (2): blocks_u.1.attn.qkv.bias, surprise",
        "wrong shape or type (4): blocks_a.3.mlp.fc1.bias is torch.int64, must be a floating-point type; "
        "norm_a.weight is (47,), must be (48,); pos_embed_v is (1, 197, 48), must be (1, 196, 48); "
        "register_tokens is (15, 48), must be (14, 48)",
        "part of the file is of a network of another size",
    ]


@pytest.mark.parametrize("name", ["pos_embed_a", "pos_embed_v", "decoder_pos_embed_a", "decoder_pos_embed_v"])
@pytest.mark.parametrize("length", [100, 196, 208, 400, 512])
def test_positions_of_another_length_are_named_alone(published, name: str, length: int) -> None:
    """And not those of the decoder, which are right, because the wrong ones come first."""
    weights, _, kind = published
    if weights[name].shape[1] == length:
        return
    wrong = weights | {name: torch.zeros(1, length, weights[name].shape[2])}
    shape = tuple(weights[name].shape)
    with pytest.raises(WrongStateDict) as caught:
        import_network(wrong, kind=kind, heads=SMALL)
    assert str(caught.value).split("\n") == [
        f"wrong shape or type (1): {name} is {tuple(wrong[name].shape)}, must be {shape}",
        "part of the file is made for pictures or windows of another size",
    ]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda name: f"student.{name}", "every name has student. before it, .+: take it off"),
        (lambda name: name.replace("blocks_a", "blocks"), "blocks.0 is of a plain ViT, .+ --initialise"),
        (lambda name: f"{name}.x", "not one name is right: it is the checkpoint of another network"),
        (lambda name: None if "blocks_v.1" in name else name, "the file holds a part of the network: saved"),
    ],
)
def test_a_refusal_names_ten_of_each_kind_and_the_likeliest_cause(golden_weights, change, cause: str) -> None:
    renamed = {change(name): tensor for name, tensor in golden_weights.items() if change(name)}
    with pytest.raises(WrongStateDict) as caught:
        import_network(renamed, kind="tgdp", heads=SMALL)
    *kinds, last = str(caught.value).split("\n")
    assert re.match(cause, last)
    for line in kinds:
        kind, number, names = re.fullmatch(r"(\w+) \((\d+)\): (.+), and \d+ more", line).groups()
        assert kind in ("missing", "unexpected")
        assert int(number) > len(names.split(", ")) == 10


def test_shapes_that_make_no_network_are_named_with_the_rest(golden_weights: dict[str, Tensor]) -> None:
    wrong = {**golden_weights, "patch_embed_a.proj.weight": torch.zeros(48, 1, 15, 15), "x": torch.zeros(1)}
    with pytest.raises(WrongStateDict, match=r"multiple of the patch side 15\nunexpected \(1\): x"):
        import_network(wrong, kind="tgdp", heads=SMALL)


def test_the_wrong_kind_is_refused(golden_weights, cavmae_weights) -> None:
    names = "cls_token_a, cls_token_v, register_tokens"
    with pytest.raises(WrongStateDict, match=rf"unexpected \(3\): {names}\n.+--kind tgdp or cavmae-sync"):
        import_network(golden_weights, kind="cavmae", heads=SMALL)
    for kind in ("tgdp", "cavmae-sync"):
        with pytest.raises(WrongStateDict, match=rf"missing \(3\): {names}\n.+--kind cavmae$"):
            import_network(cavmae_weights, kind=kind, heads=SMALL)


def test_numbers_that_are_none_are_named(golden_weights: dict[str, Tensor]) -> None:
    """Before the export, which takes minutes and could only say that the graphs differ by nan."""
    wrong = {name: tensor.clone() for name, tensor in golden_weights.items()}
    wrong["norm_v.bias"][3] = torch.nan
    wrong["blocks_a.0.attn.qkv.weight"][5, 5] = -torch.inf
    wrong["register_tokens"] = wrong["register_tokens"].double() * 1e300
    with pytest.raises(WrongStateDict) as caught:
        import_network(wrong, kind="tgdp", heads=SMALL)
    assert str(caught.value) == (
        "not finite in float32 (3): blocks_a.0.attn.qkv.weight, norm_v.bias, register_tokens"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"patch_embed_a.proj.weight": (48, 1, 256, 256)},
            "audio patches 1 to 128 mel bins high, got 48 and 256",
        ),
        ({"patch_embed_a.proj.weight": (48, 1, 0, 0)}, "audio patches 1 to 128 mel bins high, got 48 and 0"),
        ({"patch_embed_v.proj.weight": (48, 3, 0, 0)}, r"frame_size must be in \[1, 65536\], got 0"),
        (
            {"pos_embed_a": (1, 0, 48), "decoder_pos_embed_a": (1, 0, 32)},
            r"window_frames must be in \[1, 65536\], got 0",
        ),
        ({"register_tokens": (0, 48)}, r"register_tokens is \(0, 48\), must be \(2, 48\)"),
        ({"register_tokens": (1, 48)}, r"register_tokens is \(1, 48\), must be \(2, 48\)"),
    ],
)
def test_sizes_of_nothing_and_too_large_ones(golden_weights, changes, message: str) -> None:
    wrong = golden_weights | {name: torch.zeros(shape) for name, shape in changes.items()}
    with pytest.raises(WrongStateDict, match=message):
        import_network(wrong, kind="tgdp", heads=SMALL)


def test_numbers_of_a_wrong_shape_are_not_read(golden_weights: dict[str, Tensor]) -> None:
    """A file of a few bytes may hold a tensor that would fill 200 TiB: one number, repeated by its strides."""
    wrong = golden_weights | {"pos_embed_a": torch.ones(1).expand(1, 2**40, 48)}
    with pytest.raises(
        WrongStateDict, match=r"pos_embed_a is \(1, 1099511627776, 48\), must be \(1, 208, 48\)"
    ):
        import_network(wrong, kind="tgdp", heads=SMALL)


def test_tensors_without_numbers_make_no_width(golden_weights: dict[str, Tensor]) -> None:
    nothing = {name: torch.zeros(0) for name in golden_weights}
    with pytest.raises(WrongStateDict, match="width must be at least 1"):
        import_network(nothing, kind="tgdp", heads=SMALL)


def test_a_block_of_an_absurd_number_is_unexpected(golden_weights: dict[str, Tensor]) -> None:
    """Rather than a network of so many blocks, whose missing names alone would fill the memory."""
    absurd = f"blocks_a.{10**8}.norm1.weight"
    with pytest.raises(WrongStateDict) as caught:
        import_network(golden_weights | {absurd: torch.ones(48)}, kind="tgdp", heads=SMALL)
    assert str(caught.value) == f"unexpected (1): {absurd}"


def test_a_geometry_that_is_known_is_held_to(golden_weights: dict[str, Tensor]) -> None:
    assert load_tgdp(golden_weights, SMALL_CONFIG).config == SMALL_CONFIG
    with pytest.raises(WrongStateDict, match=r"missing .+blocks_a\.11\.attn"):
        load_tgdp(golden_weights, dataclasses.replace(SMALL_CONFIG, depth=12))


def test_a_decoder_is_left_out_only_by_name(golden_weights, golden) -> None:
    encoder_only = {n: t for n, t in golden_weights.items() if not n.startswith(("decoder_", "mask_token"))}
    with pytest.raises(
        WrongStateDict,
        match=r"missing \(\d+\): decoder_.+ and \d+ more\nonly the decoder lacks .+--without-decoder",
    ):
        import_network(encoder_only, kind="tgdp", heads=SMALL)
    some = {name: t for name, t in golden_weights.items() if name != "decoder_pred_a.bias"}
    with pytest.raises(WrongStateDict, match=r"missing \(1\): decoder_pred_a\.bias\nonly the decoder"):
        import_network(some, kind="tgdp", heads=SMALL)
    for weights in (encoder_only, golden_weights):
        network = import_network(weights, kind="tgdp", heads=Heads(encoder=4), without_decoder=True)
        assert network.config.decoder_depth == 0
        assert (
            differs(embed_with(network, golden["video_frames"], "video"), golden["video_embedding"])
            < TOLERANCE
        )


@pytest.mark.parametrize("modality", MODALITIES)
def test_contrastive_heads_are_part_of_the_embedding(shallow, golden, cavmae_golden, modality: str) -> None:
    """Nothing is recorded with heads: held to the plain reference, and the control without them must differ."""
    weights, kind = shallow
    given = pictures({"tgdp": golden, "cavmae": cavmae_golden}[kind], modality)
    headless = embed(weights, given, modality, heads=4)
    for seed, prefix in enumerate(HEADS.values()):
        for number in range(2):
            weights = weights | random_blocks(prefix, weights, number, seed=2 * seed + number)
    network = import_network(weights, kind=kind, heads=SMALL)
    assert network.config.head_depth == 2
    found = embed_with(network, given, modality)
    assert differs(found, embed(weights, given, modality, heads=4)) < TOLERANCE
    assert differs(found, headless) > 100 * TOLERANCE

    without = import_network(weights, kind=kind, heads=SMALL, without_contrastive_heads=True)
    assert without.config.head_depth == 0
    assert differs(embed_with(without, given, modality), headless) < TOLERANCE


def test_a_contrastive_head_of_one_modality_alone_lacks_the_other(golden_weights) -> None:
    weights = golden_weights | random_blocks(HEADS["audio"], golden_weights, 0, seed=0)
    with pytest.raises(WrongStateDict, match=r"missing \(12\): constrative_head_visual\.0\.attn\.proj\.bias"):
        import_network(weights, kind="tgdp", heads=SMALL)
