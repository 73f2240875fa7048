"""`foley-train text`: words learned from what files are called, and a bundle that embeds them without any package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from models.bundle.bundle import TEXT_GRAPH, Bundle, load_bundle, starter_path, unit_rows
from models.bundle.manifest import DATA_SUFFIX
from models.network.minilm import Minilm
from service.encode.text import TextEncoder
from service.index.layout import VectorLayout
from service.releases.deriving import open_heads
from service.search.calibration import TooFewPairs
from service.search.captions import choose_captions
from tests.support.bundles import make_text_graph, make_worded, write_tokenizer
from tests.support.index_contract import make_segment
from tests.support.interrupting import check_interrupted
from tests.support.memory_index import MemoryIndex
from training.adapting.captions import UnknownCaptions, read_captions, words_of
from training.adapting.heads import Projection
from training.adapting.sentences import PACKAGES, VECTORS, Sentences, SentencesUnavailable, _find
from training.adapting.wording import Worded, WordingConfig, fit_wording, measure_wording
from training.commands import text as command
from training.commands.stored_library import pooled
from training.data.stored_tracks import StoredAsset, StoredTracks

WIDTH = 24
TEXTS = ("dog barking", "rain", "door", "night", "dog night", "door barking rain")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Sentences:
    folder = tmp_path_factory.mktemp("sentences")
    (folder / "graph.onnx").write_bytes(make_text_graph({VECTORS: WIDTH}).SerializeToString())
    write_tokenizer(folder / "tokenizer.json")
    return Sentences(
        graph=folder / "graph.onnx",
        tokenizer=(folder / "tokenizer.json").read_text(),
        max_tokens=16,
        facts={"name": "tiny", "version": "1", "weights_sha256": "0" * 64, "width": WIDTH},
        attribution="words: nobody",
    )


def make_assets(count: int, **metadata: Any) -> list[StoredAsset]:
    return [
        StoredAsset(
            asset_id=f"{number % 10:08x}{number:056x}",
            paths=(f"/library/{number}.wav",),
            metadata={"title": TEXTS[number % len(TEXTS)]} | metadata,
            first_segment=number,
            num_segments=1,
        )
        for number in range(count)
    ]


def make_tracks(sentences: Sentences, count: int) -> StoredTracks:
    """Clips whose sound is what their title says, through an unknown matrix, with noise; every third has no picture."""
    rng = np.random.default_rng(0)
    said = sentences.embed(TEXTS)[np.arange(count) % len(TEXTS)]
    hidden = said @ rng.standard_normal((WIDTH, 128)).astype(np.float32)
    rows = unit_rows(hidden[:, None] + 0.5 * rng.standard_normal((count, 16, 128)).astype(np.float32))
    shown = np.arange(count) % 3 > 0
    places = np.where(shown, np.cumsum(shown) - 1, -1)
    return StoredTracks(
        bundle_id="b",
        release_id="r",
        derived_from=None,
        shapes={"audio": (16, 128), "video": (16, 128)},
        assets=tuple(make_assets(count)),
        spans=np.zeros((count, 2)),
        rows={"audio": np.arange(count), "video": places},
        tracks={"audio": rows.astype(np.float16), "video": rows[shown].astype(np.float16)},
    )


@pytest.fixture(scope="module")
def learned(sentences: Sentences, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Bundle]:
    output = tmp_path_factory.mktemp("bundles") / "worded"
    request = command.TextRequest(config=WordingConfig(num_epochs=20), sources=["metadata:title"])
    tracks = make_tracks(sentences, 240)
    found = command.learn(
        request, tracks, load_bundle(starter_path()), sentences, output, Console(quiet=True)
    )
    return found, load_bundle(output)


def test_the_bundle_embeds_words_that_find_their_clips(
    learned: tuple[dict[str, Any], Bundle], sentences: Sentences
) -> None:
    bundle = learned[1]
    assert bundle.manifest.text is not None
    assert bundle.manifest.text.encoder == sentences.facts
    assert "words: nobody" in bundle.manifest.attribution
    assert TEXT_GRAPH + DATA_SUFFIX in bundle.manifest.files
    encoder = TextEncoder(bundle, num_threads=1)
    assert encoder.check_golden() <= 1e-5
    tracks = make_tracks(sentences, 12)
    vectors = unit_rows(tracks.read("audio", np.arange(12)).mean(axis=1))
    for number, text in enumerate(TEXTS):
        likeness = vectors @ encoder.embed(text, target="audio")
        assert set(np.argsort(-likeness)[:2]) == {number, number + 6}
    open_heads(bundle, starter_path(), num_threads=1)


def test_words_are_learned_again_but_never_in_place_of_trained_ones(
    learned: tuple[dict[str, Any], Bundle], sentences: Sentences, tmp_path: Path
) -> None:
    request = command.TextRequest(config=WordingConfig(num_epochs=1), sources=["metadata:title"])
    tracks, quiet = make_tracks(sentences, 60), Console(quiet=True)
    again = command.learn(request, tracks, learned[1], sentences, tmp_path / "again", quiet)
    assert again["bundle_id"] != learned[1].bundle_id
    assert TextEncoder(load_bundle(tmp_path / "again"), num_threads=1).check_golden() <= 1e-5
    with pytest.raises(ValueError, match="embeds words already"):
        command.learn(request, tracks, make_worded(tmp_path / "own"), sentences, tmp_path / "none", quiet)
    assert not (tmp_path / "none").exists()


def test_an_adapted_bundle_keeps_the_words_of_the_active_one(
    learned: tuple[dict[str, Any], Bundle], sentences: Sentences, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    heads = {name: Projection(128, 128) for name in ("audio", "video")}
    heads["video"] = heads["audio"]
    tracks, said = make_tracks(sentences, 240), Console(record=True, width=300)
    adapted = load_bundle(shutil.copytree(starter_path(), tmp_path / "mine"))

    def learn_again(export: Callable[[str, Path], Sentences]) -> Bundle:
        return command.learn_again(learned[1], tracks, adapted, heads, tmp_path, said, export=export)

    def fail(kind: str, folder: Path) -> NoReturn:
        raise SentencesUnavailable("not installed: pip install it")

    assert learn_again(fail) is adapted
    assert (
        "not installed: pip install it; once its release is active: foley-train text --output"
        in said.export_text()
    )
    bundle = learn_again(lambda kind, folder: sentences)
    assert (bundle.path, bundle.manifest.name) == (adapted.path, adapted.manifest.name)
    assert bundle.manifest.training["words"]["captions"] == ["metadata:title"]
    assert command.words_of_bundle(bundle) == replace(command.words_of_bundle(learned[1]), name="starter")
    encoder = TextEncoder(bundle, num_threads=1)
    vectors = pooled(tracks, "audio", np.arange(12), heads["audio"])
    for number, text in enumerate(TEXTS):
        likeness = vectors @ encoder.embed(text, target="audio")
        assert set(np.argsort(-likeness)[:2]) == {number, number + 6}
    assert command.learn_again(adapted, tracks, adapted, heads, tmp_path, said) is adapted  # it had no words


def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(
    sentences: Sentences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = make_tracks(sentences, 60), load_bundle(starter_path())
    monkeypatch.setattr(command, "read_active", lambda *_, **__: library)
    monkeypatch.setattr(command, "export_sentences", lambda *_: sentences)
    request = command.TextRequest(config=WordingConfig(num_epochs=1), sources=["metadata:title"])
    check_interrupted(
        lambda output: command.text(request, output, console=Console(quiet=True)), tmp_path, monkeypatch
    )


def test_texts_of_files() -> None:
    assert words_of("DOORWood_Squeak-02 (take 3)") == "door wood squeak take"
    assert words_of("MVI_0034") == "mvi"
    assets = [
        replace(asset, paths=(path,))
        for asset, path in zip(
            make_assets(2, tags=["wet", "loud"]), ("/a/doors/DOORWood_Squeak.wav", "/b/0002.wav"), strict=True
        )
    ]
    sources = ["metadata:title", "metadata:tags", "ucs", "filename", "folder"]
    assert read_captions(assets, sources) == [
        ("dog barking", "loud, wet", "door wood", "door wood squeak", "doors"),
        ("rain", "loud, wet"),
    ]


def test_too_little_is_said_plainly(tmp_path: Path) -> None:
    assets = make_assets(3, tags=["wet"])
    with pytest.raises(UnknownCaptions, match="none of 3 files has words in metadata:mood"):
        read_captions(assets, ["metadata:mood"])
    with pytest.raises(
        UnknownCaptions, match="3 files have words in metadata:tags, and all the same ones, 'wet'"
    ):
        read_captions(assets, ["metadata:tags"])
    for source in ("smell", f"csv:{tmp_path / 'missing.csv'}"):
        with pytest.raises(UnknownCaptions):
            read_captions(assets, [source])
    (tmp_path / "said.csv").write_text("path,caption\n0.wav,a bell\n/library/1.wav,a dog\n")
    assert read_captions(assets, [f"csv:{tmp_path / 'said.csv'}"]) == [("a bell",), ("a dog",), ()]
    with pytest.raises(SentencesUnavailable, match=r"is not installed: pip install 'foley-av\[text\]'"):
        _find(replace(PACKAGES["use"], module="no_such_module"))


def test_a_projection_finds_what_is_linear() -> None:
    rng = np.random.default_rng(2)
    features = unit_rows(rng.standard_normal((200, 16)).astype(np.float32))
    hidden = unit_rows(features @ rng.standard_normal((16, 8)).astype(np.float32))
    has = {"audio": np.ones(200, bool), "video": np.arange(200) % 2 == 0}
    clips = Worded(
        vectors={"audio": hidden, "video": hidden * has["video"][:, None]},
        has=has,
        texts=[[number] for number in range(200)],
        features=features,
    )
    taught, asked = clips.choose(np.arange(100)), clips.choose(np.arange(100, 200))
    projection = fit_wording(taught, ("audio", "video"), WordingConfig(num_epochs=30))
    found = measure_wording(asked, {"audio": projection, "video": projection})
    assert found["at_10_audio"] >= 5 * found["at_10_chance"]
    assert found["at_10_video"] >= 5 * found["at_10_chance"]


def test_a_rare_modality_learns_with_the_other() -> None:
    """Thirty pictures among a thousand sounds say little; in a space of its own nothing else is said of them."""
    has = {"audio": np.ones(10, bool), "video": np.arange(10) < 4}
    clips = Worded(
        vectors=dict.fromkeys(has, np.zeros((10, 2), np.float32)), has=has, texts=[], features=np.eye(2)
    )
    assert command.learn_with(clips, "audio", compares=True) == ("audio",)
    assert command.learn_with(clips, "video", compares=True) == ("audio", "video")
    assert command.learn_with(clips, "video", compares=False) == ("video",)


def test_captions_that_taught_do_not_calibrate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = unit_rows(rng.standard_normal((310, 2, 8)).astype(np.float32))
    with MemoryIndex.open(tmp_path, layout=VectorLayout(tracks={"audio": (2, 8)})) as index:
        for number, asset in enumerate(make_assets(310)):
            segment = make_segment(
                number, asset_id=asset.asset_id, audio_track=rows[number], metadata=dict(asset.metadata)
            )
            index.write_asset([segment], is_last=True)
            if number == 289:
                with pytest.raises(
                    TooFewPairs, match="29 assets with audio have captions that taught nothing"
                ):
                    choose_captions(index, target="audio", num_queries=500, seed=0, held_back=True)
        chosen = choose_captions(index, target="audio", num_queries=500, seed=0, held_back=True)
        assert len(chosen) == 31
        assert all(int(asset.asset_id[:8], 16) % 10 == 0 for asset, _ in chosen)
        assert len(choose_captions(index, target="audio", num_queries=500, seed=0)) == 310


def test_minilm_is_the_mean_of_berts_tokens() -> None:
    """Against transformers' own BERT."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=24, num_hidden_layers=2, num_attention_heads=12, intermediate_size=40
    )
    config.layer_norm_eps = 1e-12
    model = BertModel(config).eval()
    ids = torch.tensor([[1, 7, 9, 2], [1, 5, 2, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        found = Minilm(model.state_dict())(ids, mask).numpy()
    expected: NDArray[np.float32] = np.stack([hidden[0].mean(0).numpy(), hidden[1, :3].mean(0).numpy()])
    np.testing.assert_allclose(found, unit_rows(expected), atol=1e-5)
