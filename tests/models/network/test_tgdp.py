from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.network.frontend import NUM_LOG_MEL_FRAMES, moment_starts, window_starts
from models.network.geometry import MAX_WINDOW_FRAMES, MODALITIES, Modality, TgdpConfig
from models.network.layers import Attention, Block, sincos_positions
from models.network.tgdp import Tgdp, take_tokens

TOLERANCE = 1e-4  # float32 of two implementations with the same arithmetic in another order


@pytest.fixture(scope="module")
def tokens(golden_network: Tgdp, golden: dict[str, Tensor]) -> dict[Modality, Tensor]:
    with torch.no_grad():
        return {
            "audio": golden_network.embed_patches(
                golden_network.audio_pictures(golden["audio_windows"]), "audio"
            ),
            "video": golden_network.embed_patches(golden["video_frames"], "video"),
        }


def differs(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@pytest.mark.parametrize("modality", MODALITIES)
@torch.no_grad()
def test_embedding_attention_and_ranks_match(golden_network, golden, tokens, modality: Modality) -> None:
    view = golden_network.full_view(tokens[modality], modality)
    assert differs(view.embedding, golden[f"{modality}_embedding"]) < TOLERANCE
    assert differs(view.embedding, golden[f"teacher_{modality}_embedding"]) < TOLERANCE
    assert differs(view.patch_to_cls, golden[f"attention_patch_to_cls_{modality}"]) < TOLERANCE
    assert differs(view.cls_to_patch, golden[f"attention_cls_to_patch_{modality}"]) < TOLERANCE
    assert (view.patch_to_cls.argsort(dim=1, descending=True) == golden[f"rank_{modality}"]).all()


@pytest.mark.parametrize("modality", MODALITIES)
@torch.no_grad()
def test_patch_mean_matches(golden_network, golden, tokens, modality: Modality) -> None:
    hidden = golden_network.joint_block(golden_network.encode(tokens[modality], modality), modality)
    mean = golden_network.norms[modality](hidden[:, 1:]).mean(dim=1)
    assert differs(mean, golden[f"{modality}_patch_mean"]) < TOLERANCE


@pytest.mark.parametrize("modality", MODALITIES)
@torch.no_grad()
def test_guided_embedding_matches(golden_network, golden, tokens, modality: Modality) -> None:
    ranked = golden[f"rank_{modality}"].long()
    visible = ranked[:, : ranked.shape[1] // 2]
    embedding = golden_network.embed(take_tokens(tokens[modality], visible), modality)
    assert differs(embedding, golden[f"guided_{modality}_embedding"]) < TOLERANCE


@torch.no_grad()
def test_a_swapped_norm_shows(golden_network, golden, tokens) -> None:
    """The control of the tests above: with the other modality's norms the numbers must not match."""
    hidden = golden_network.encode(tokens["audio"], "audio")
    wrong = golden_network.norms["video"](golden_network.joint_block(hidden, "video", num_queries=1)).squeeze(
        1
    )
    assert differs(wrong, golden["audio_embedding"]) > 100 * TOLERANCE


@torch.no_grad()
def test_reconstruction_matches(golden_network, golden, tokens) -> None:
    visible = {
        m: golden[f"noise_{m}"].argsort(dim=1)[:, : golden[f"noise_{m}"].shape[1] // 4] for m in MODALITIES
    }
    audio, video = golden_network.reconstruct(
        tokens["audio"], tokens["video"], visible["audio"], visible["video"]
    )
    assert differs(audio, golden["reconstruction_audio"]) < TOLERANCE
    assert differs(video[:, :32], golden["reconstruction_video"]) < TOLERANCE


def test_positions_match_the_published_ones(golden_weights: dict[str, Tensor]) -> None:
    assert differs(sincos_positions(48, 8, 26), golden_weights["pos_embed_a"][0]) < 1e-5
    assert differs(sincos_positions(32, 14, 14), golden_weights["decoder_pos_embed_v"][0]) < 1e-5


def test_published_size() -> None:
    config = TgdpConfig.published()
    assert (config.num_patches("audio"), config.num_patches("video")) == (208, 196)
    assert (config.patch_values("audio"), config.patch_values("video")) == (256, 768)
    with torch.device("meta"):
        network = Tgdp(config)
    count = sum(p.numel() for p in network.parameters())
    positions = sum(b.numel() for name, b in network.named_buffers() if "positions" in name)
    # The released blocks carry three LayerNorm sets everywhere; the two that the modality streams and the decoder
    # never use are not in ours: 2 · 11 · 4 · 2 · 768 + 8 · 4 · 2 · 512 numbers.
    unused = 2 * 11 * 4 * 2 * 768 + 8 * 4 * 2 * 512
    assert (count + positions + unused) / 1e6 == pytest.approx(190.66, abs=0.2)


@torch.no_grad()
def test_only_the_first_queries_give_the_same_numbers() -> None:
    torch.manual_seed(0)
    block = Block(32, 4, 2.0, ["audio"]).eval()
    x = torch.randn(3, 9, 32)
    assert differs(block(x, "audio", num_queries=1), block(x, "audio")[:, :1]) < 1e-6


@torch.no_grad()
def test_attention_weights_are_those_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 1)
    x = torch.randn(2, 5, 16)
    value = attention.qkv(x).chunk(3, dim=2)[2]
    assert differs(attention.projection(attention.weights(x) @ value), attention(x)) < 1e-6


@torch.no_grad()
def test_tracks_are_those_of_sixteen_windows() -> None:
    """Encoding 11 distinct windows and gathering gives what 16 separate passes give."""
    torch.manual_seed(0)
    config = TgdpConfig(width=32, num_heads=2, depth=1, decoder_width=16, decoder_heads=2, decoder_depth=1)
    network = Tgdp(config).eval()
    samples, lengths = torch.randn(2, 160_000) * 0.1, torch.tensor([160_000, 100_000])
    track = network.audio_track(samples, lengths)
    log_mel = network.log_mel(samples, lengths)
    starts = moment_starts(lengths, list(range(16)), num_moments=16, window_frames=416)
    assert starts[0].tolist() == window_starts()
    for moment in range(16):
        rows = [log_mel[row, start : start + 416] for row, start in enumerate(starts[:, moment].tolist())]
        window = network.audio_pictures(torch.stack(rows))
        one = torch.nn.functional.normalize(
            network.embed(network.embed_patches(window, "audio"), "audio"), dim=1
        )
        assert differs(track[:, moment], one) < 1e-6
    frames = torch.randint(256, (2, 16, 224, 224, 3), dtype=torch.uint8)
    track = network.video_track(frames)
    one = network.embed(network.embed_patches(network.pixels(frames[:, 5]), "video"), "video")
    assert differs(track[:, 5], torch.nn.functional.normalize(one, dim=1)) < 1e-6


SMALL = {"width": 32, "num_heads": 2, "depth": 1, "decoder_width": 16, "decoder_heads": 2, "decoder_depth": 1}


def small_network(**fields) -> Tgdp:
    torch.manual_seed(0)
    return Tgdp(TgdpConfig(**{**SMALL, **fields})).eval()


@torch.no_grad()
def test_one_window_of_a_whole_segment_is_encoded_once_for_all_moments() -> None:
    network = small_network(pooling="patch_mean", num_registers=0, window_frames=1024)
    encoded = []
    network.patch_embeddings["audio"].register_forward_hook(
        lambda _, inputs, __: encoded.append(len(inputs[0]))
    )
    samples, lengths = torch.randn(2, 160_000) * 0.1, torch.tensor([160_000, 30_000])
    track = network.audio_track(samples, lengths)
    assert encoded == [2]
    assert track.shape == (2, 16, 32)
    assert torch.equal(track, track[:, :1].expand(-1, 16, -1))
    patches = network.embed_patches(network.audio_pictures(network.log_mel(samples, lengths)), "audio")
    hidden = network.joint_block(network.encode(patches, "audio"), "audio")
    mean = network.norms["audio"](hidden).mean(dim=1)  # after the norm, and over every patch
    assert differs(track[:, 0], torch.nn.functional.normalize(mean, dim=1)) < 1e-6


@given(st.integers(1, 64), st.integers(1, 200_000))
def test_windows_of_every_length_lie_inside_and_are_shared_alike(num_patches: int, length: int) -> None:
    """`Tgdp.audio_track` encodes the windows that are distinct in a whole segment, whatever the segment's length."""
    width = 16 * num_patches
    whole = window_starts(window_frames=width)
    starts = moment_starts(torch.tensor([length]), list(range(16)), num_moments=16, window_frames=width)[
        0
    ].tolist()
    assert starts == sorted(starts)
    assert 0 <= starts[0] <= starts[-1] <= MAX_WINDOW_FRAMES - width
    for one in range(16):
        for other in range(16):
            assert whole[one] != whole[other] or starts[one] == starts[other]
    if length >= 160_000:
        assert starts == whole
    if width == MAX_WINDOW_FRAMES:
        assert starts == [0] * 16


def test_the_longest_window_is_a_whole_segment() -> None:
    assert MAX_WINDOW_FRAMES == NUM_LOG_MEL_FRAMES


@torch.no_grad()
@pytest.mark.parametrize(
    "fields", [{}, {"pooling": "patch_mean"}, {"pooling": "patch_mean", "num_registers": 0}]
)
def test_reconstruction_sees_all_visible_patches_with_and_without_cls(fields) -> None:
    """The first and the last patch of each modality count, and no hidden one does."""
    network = small_network(**fields)
    torch.manual_seed(1)
    tokens = {m: torch.randn(1, network.config.num_patches(m), 32) for m in MODALITIES}
    visible = {m: torch.tensor([[0, 3, network.config.num_patches(m) - 1]]) for m in MODALITIES}

    def predict(changed: Modality | None = None, position: int = 0) -> Tensor:
        now = {m: tokens[m].clone() for m in MODALITIES}
        if changed is not None:
            now[changed][0, position] *= -1
        audio, video = network.reconstruct(now["audio"], now["video"], visible["audio"], visible["video"])
        assert audio.shape == (1, 208, 256)
        assert video.shape == (1, 196, 768)
        return torch.cat([audio.flatten(), video.flatten()])

    for m in MODALITIES:
        for position in visible[m][0].tolist():
            assert differs(predict(m, position), predict()) > 1e-4
        assert differs(predict(m, 7), predict()) == 0


def test_networks_without_extra_parts_have_no_tensors_of_them() -> None:
    names = small_network(pooling="patch_mean", num_registers=0).state_dict().keys()
    assert not [name for name in names if name.startswith(("cls_tokens", "registers", "heads"))]


def test_a_full_view_needs_cls() -> None:
    network = small_network(pooling="patch_mean", num_registers=0)
    with pytest.raises(ValueError, match="a full view needs a CLS token, this network pools by patch_mean"):
        network.full_view(torch.zeros(1, 196, 32), "video")


@torch.no_grad()
def test_a_full_view_embeds_through_the_heads() -> None:
    network, tokens = small_network(head_depth=2), torch.randn(2, 196, 32)
    assert torch.equal(network.full_view(tokens, "video").embedding, network.embed(tokens, "video"))
    assert differs(network.embed(tokens, "video"), small_network().embed(tokens, "video")) > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 50, "num_heads": 4}, "width 50 must be a multiple of num_heads 4"),
        ({"width": 42, "num_heads": 3}, "width 42 must be a multiple of 4 for its sine-cosine"),
        ({"decoder_heads": 3}, "decoder_width 512 must be a multiple of decoder_heads 3"),
        ({"pooling": "mean"}, "pooling must be cls or patch_mean, got 'mean'"),
        ({"window_frames": 1040}, "window_frames must be at most 1024, got 1040"),
        ({"audio_patch": 15}, "num_mel_bins 128 must be a multiple of the patch side 15"),
        ({"video_patch": 17}, "frame_size 224 must be a multiple of the patch side 17"),
    ],
)
def test_geometry_that_does_not_fit_is_refused(fields, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TgdpConfig(**fields)
