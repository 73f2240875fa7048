"""`foley-train import --kind pe-av|clap` on folders that are not what they should be: one line, and nothing runs."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from models.network import published_folder
from tests.support.families import import_folder, write_clap, write_pe_av

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about its own internals

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "pe-av"
    write_pe_av(folder, num_frames=16)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy, file by file, whose large ones are not copied."""
    copy = tmp_path / "folder"
    copy.mkdir()
    for file in good.iterdir():
        os.link(file, copy / file.name)
    return copy


def replace(path: Path, content: str | bytes) -> None:
    path.unlink(missing_ok=True)  # it is a second name of the good file
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def change_config(change: Callable[[dict[str, Any]], object], name: str = "config.json") -> Spoil:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        change(config)
        replace(folder / name, json.dumps(config))

    return spoil


def change_tensors(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        (folder / "model.safetensors").unlink()
        save_file(tensors, folder / "model.safetensors")

    return spoil


def write_header(header: dict[str, Any], size: int | None = None) -> Spoil:
    text = json.dumps(header).encode()
    return lambda folder: replace(
        folder / "model.safetensors",
        struct.pack("<Q", len(text) if size is None else size) + text + bytes(64),
    )


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    replace(folder / "pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")


def link_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere")


def name_shard(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        replace(folder / "model.safetensors.index.json", json.dumps({"weight_map": {"a": name}}))

    return spoil


def large_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(100 << 20)


def vision(config: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = config["audio_video_config"]["video_config"]["vision_config"]
    return part


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no processor": (
        lambda f: (f / "video_preprocessor_config.json").unlink(),
        "has no settings of a video_processor",
    ),
    "a pickle": (
        pickle_only,
        "pytorch_model.bin is a pickle, which could run a program: take a revision with safetensors",
    ),
    "a link": (link_weights, "model.safetensors is a link"),
    "a dangling link": (lambda f: (f / "more").symlink_to("/nowhere"), "more is a link"),
    "a pipe": (lambda f: ((f / "tokenizer.json").unlink(), os.mkfifo(f / "tokenizer.json")), "regular file"),
    "a shard elsewhere": (name_shard("../../secret.safetensors"), "which is no shard of this folder"),
    "a shard missing": (name_shard("model-00001-of-00002.safetensors"), "is missing"),
    "huge header": (write_header({}, 1 << 62), "cannot be read as safetensors"),
    "huge tensor": (
        write_header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        "cannot be read as safetensors",
    ),
    "overflowing tensor": (
        write_header({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 64]}}),
        "cannot be read as safetensors",
    ),
    "inconsistent tensor": (
        write_header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 64]}}),
        "cannot be read as safetensors",
    ),
    "another shape": (
        change_tensors(
            lambda t: t.update(
                {
                    "audio_model.audio_head.layer_norm.weight": t[
                        "audio_model.audio_head.layer_norm.weight"
                    ].repeat(2)
                }
            )
        ),
        "the weights do not fit PeAudioVideoModel",
    ),
    "missing tensors": (
        change_tensors(lambda t: t.pop("audio_model.audio_head.layer_norm.weight")),
        "config.json asks for",
    ),
    "renamed tensors": (
        change_tensors(lambda t: t.update({"other": t.pop("audio_model.audio_head.layer_norm.weight")})),
        "1 missing: audio_model.audio_head.layer_norm.weight; 1 unexpected: other",
    ),
    "numbers that are none": (
        change_tensors(lambda t: t["audio_model.audio_head.layer_norm.weight"].fill_(float("nan"))),
        "embeddings of length nan",
    ),
    "tokenizer of 100 MB": (large_tokenizer, "tokenizer.json has 104857600 bytes"),
    "broken tokenizer": (lambda f: replace(f / "tokenizer.json", "{}"), "tokenizer.json cannot be read"),
    "unknown tokens": (
        lambda f: replace(
            f / "tokenizer.json", (f / "tokenizer.json").read_text().replace('"dog": 6', '"dog": 600')
        ),
        "has token 600, the network knows",
    ),
    "config without end": (lambda f: replace(f / "config.json", "[" * 200_000), "config.json is not JSON"),
    "config of a list": (lambda f: replace(f / "config.json", "[]"), "must hold a JSON object"),
    "config of 5 MB": (lambda f: replace(f / "config.json", " " * (5 << 20)), "at most 4194304 are allowed"),
    "remote code": (
        change_config(lambda c: c.update(auto_map={"AutoModel": "evil.Model"})),
        "config.json has auto_map: code",
    ),
    "remote code of the processor": (
        change_config(
            lambda c: c.update(auto_map={"AutoProcessor": "evil.P"}), "video_preprocessor_config.json"
        ),
        "video_preprocessor_config.json has auto_map: code",
    ),
    "a checkpoint of timm": (
        change_config(lambda c: vision(c)["model_args"].update(checkpoint_path="/tmp/evil.pth")),
        "config.json has checkpoint_path: code, files",
    ),
    "weights over the network": (
        change_config(lambda c: vision(c).update(architecture="hf-hub:evil/model")),
        "asks for the picture network 'hf-hub:evil/model'",
    ),
    "another network inside": (
        change_config(lambda c: c["text_config"].update(model_type="gpt2")),
        "has text_config of a 'gpt2', not of a 'modernbert'",
    ),
    "absurdly many frames": (
        change_config(lambda c: c.update(num_frames=1 << 20), "video_preprocessor_config.json"),
        "does what is not known here",
    ),
    "odd steps": (
        change_config(
            lambda c: c["audio_video_config"]["audio_config"]["dac_config"].update(
                downsampling_ratios=[8, 11]
            )
        ),
        "the weights do not fit",
    ),
    "absurd width": (
        change_config(lambda c: c["text_config"].update(hidden_size=1 << 40)),
        "asks for hidden_size 1099511627776",
    ),
    "absurd depth": (
        change_config(lambda c: c["text_config"].update(num_hidden_layers=100_000)),
        "asks for num_hidden_layers 100000, at most 512",
    ),
    "more than the weights": (
        change_config(lambda c: c["text_config"].update(vocab_size=1 << 20)),
        "numbers, the weights hold",
    ),
    "odd numbers": (
        change_config(lambda c: c["text_config"].update(hidden_size="many")),
        "config.json is no PeAudioVideoModel",
    ),
    "the authors' form": (
        change_config(
            lambda c: (c.clear(), c.update(audio_visual_model={}, text_model={}, nth_text_layer=22))
        ),
        "revision perception_models); download the revision main",
    ),
    "another model": (change_config(lambda c: c.update(model_type="clip")), "is of a 'clip'"),
    "another side": (
        change_config(lambda c: c["size"].update(height=42, width=42), "video_preprocessor_config.json"),
        "gives pictures of 42 pixels, the network reads",
    ),
    "another step": (
        change_config(lambda c: c.update(hop_length=100), "preprocessor_config.json"),
        "the processor pads to 100 samples, the network steps by 96",
    ),
    "a crop": (
        change_config(lambda c: c.update(do_center_crop=True), "video_preprocessor_config.json"),
        "does what is not known here",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_folder_that_is_not_what_it_should_be(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, said = HOSTILE[kind]
    spoil(folder)
    monkeypatch.chdir(folder.parent)
    output = import_folder(folder, "pe-av", folder.parent / "bundle", code=2)
    assert said in output
    assert len(output.strip().splitlines()) == 1
    assert sorted(path.name for path in folder.parent.iterdir()) in (["folder"], ["elsewhere", "folder"])


def test_what_is_given_wrongly_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "must be a folder with config.json" in import_folder(
        folder / "config.json", "clap", tmp_path / "b", code=2
    )
    assert "is of a 'pe_audio_video', not of a 'clap'" in import_folder(
        folder, "clap", tmp_path / "b", code=2
    )
    (tmp_path / "there").mkdir()
    assert "exists; a bundle never changes" in import_folder(folder, "pe-av", tmp_path / "there", code=2)
    assert "bundle name must be" in import_folder(folder, "pe-av", tmp_path / "b", "--name", "a b", code=2)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "timm is not installed: pip install 'foley-av[train,pe-av]'" in import_folder(
        folder, "pe-av", tmp_path / "b", code=2
    ).replace("import of timm halted; None in sys.modules", "timm")


def test_a_clap_folder_that_is_not_what_it_should_be(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_clap(folder)
    change_config(lambda c: c["audio_config"].update(depths=[1000, 1, 1, 1]))(folder)
    assert "asks for depths 1000, at most 512" in import_folder(folder, "clap", tmp_path / "b", code=2)
    change_config(lambda c: c["audio_config"].update(depths=[1, 1, 1, 1]))(folder)
    change_config(lambda c: c.update(fft_window_size=1 << 20), "preprocessor_config.json")(folder)
    assert "asks for fft_window_size 1048576, at most 4096" in import_folder(
        folder, "clap", tmp_path / "b", code=2
    )
    change_config(lambda c: c["audio_config"].update(enable_fusion=True))(folder)
    assert "is a CLAP with fusion" in import_folder(folder, "clap", tmp_path / "b", code=2)
    assert "--segment-seconds is for --kind pe-av" in import_folder(
        folder, "clap", tmp_path / "b", "--segment-seconds", "2", code=2
    )


def test_nothing_is_asked_for_over_the_network() -> None:
    published_folder.import_transformers()
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_DISABLE_TELEMETRY
