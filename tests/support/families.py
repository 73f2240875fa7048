"""Published models of other families at tiny random sizes, as folders, and the bundles that come of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.testing import CliRunner

from models.bundle.bundle import Bundle, load_bundle
from models.network.published_folder import import_transformers
from tests.support.paths import GOLDEN
from tests.support.sharing import made_once
from training.cli import app

SIDE = 28
WORDS = ("a", "b", "dog", "barks", "in", "the", "rain", "waves", "on", "beach", "Tür")
TOKENS = ("<s>", "<pad>", "</s>", "<unk>", *WORDS)
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
}


def write_pe_av(folder: Path, *, num_frames: int | None = None, shard_size: str = "1GB", **parts: Any) -> Any:
    """A PE-AV whose every number is random; returns the published class with these numbers."""
    transformers = import_transformers()
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "img_size": [SIDE, SIDE]}
    config = transformers.PeAudioVideoConfig(
        text_config={
            "model_type": "modernbert",
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": parts.pop("text_layers", 2),
            "num_attention_heads": 2,
            "vocab_size": len(TOKENS),
            "local_attention": 4,
            "max_position_embeddings": 40,
            "tie_last_hidden_states": False,  # the state before the last norm is what the authors trained
            **{f"{name}_token_id": TOKENS.index("<pad>") for name in ("pad", "bos", "eos", "cls", "sep")},
        },
        audio_video_config={
            **TOWER,
            "audio_config": {
                "model_type": "pe_audio_encoder",
                **TOWER,
                "dac_config": {
                    "model_type": "dac",
                    "encoder_hidden_size": 4,
                    "downsampling_ratios": [8, 12],
                    "hidden_size": 16,
                    "codebook_dim": 8,
                },
            },
            "video_config": {
                "model_type": "pe_video_encoder",
                **TOWER,
                "vision_config": {
                    "model_type": "timm_wrapper",
                    "architecture": "vit_pe_core_large_patch14_336",
                    "num_classes": 16,
                    "model_args": vision,
                },
            },
        },
    )
    model = _save(transformers.PeAudioVideoModel, config, folder, shard_size)
    transformers.PeAudioFeatureExtractor(hop_length=96).save_pretrained(folder)
    settings = {
        "video_processor_type": "PeVideoVideoProcessor",
        "do_sample_frames": num_frames is not None,
        "num_frames": num_frames,
        "size": {"height": SIDE, "width": SIDE},
        **dict.fromkeys(("do_normalize", "do_resize", "do_rescale", "do_convert_rgb"), True),
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    return model


def write_clap(folder: Path, **audio: Any) -> Any:
    """A CLAP whose every number is random; returns the published class with these numbers."""
    transformers = import_transformers()
    config = transformers.ClapConfig(
        text_config={
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": len(TOKENS),
            "max_position_embeddings": 40,
            "pad_token_id": TOKENS.index("<pad>"),
        },
        audio_config={
            "patch_embeds_hidden_size": 8,
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 2],
            "hidden_size": 64,
            **audio,
        },
        projection_dim=16,
    )
    model = _save(transformers.ClapModel, config, folder, "1GB")
    transformers.ClapFeatureExtractor(
        truncation="rand_trunc", padding="repeatpad", frequency_min=50
    ).save_pretrained(folder)
    return model


def _save(model_class: Any, config: Any, folder: Path, shard_size: str) -> Any:
    torch.manual_seed(0)
    model = model_class(config).eval()
    randomise(model)
    model.save_pretrained(folder, max_shard_size=shard_size)
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(TOKENS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_truncation(3)  # as published tokenizers come; the service takes it off
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 30}))
    return model


def randomise(model: torch.nn.Module) -> None:
    """Let no norm and no bias be 1 or 0, as they are in a new network."""
    random = torch.Generator().manual_seed(1)
    running = ((name, value) for name, value in model.named_buffers() if "running" in name)
    for name, value in (*model.named_parameters(), *running):
        if value.ndim <= 1 or "alpha" in name:
            is_factor = name.endswith(("weight", "alpha", "running_var", "gamma"))
            noise = torch.rand(value.shape, generator=random)
            value.data = 0.6 + 0.8 * noise if is_factor else 0.6 * noise - 0.3


def import_folder(folder: Path, kind: str, output: Path, *options: str, code: int = 0) -> str:
    """Run `foley-train import`, and return what it printed."""
    arguments = ["import", str(folder), "--kind", kind, "--output", str(output), "--clips", "2", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def published_and_imported(
    tmp_path_factory: pytest.TempPathFactory, kind: str, write: Callable[[Path], Any]
) -> tuple[Any, Bundle]:
    """The published class and the bundle of it, exported once in a run."""

    def make(folder: Path) -> None:
        write(folder / f"{kind} folder")
        short = ("--segment-seconds", "1") if kind == "pe-av" else ()
        import_folder(
            folder / f"{kind} folder", kind, folder / f"{kind} bundle", "--license", "a licence", *short
        )

    folder = made_once(tmp_path_factory, kind, make)
    reference = tmp_path_factory.mktemp("reference")
    return write(reference / kind), load_bundle(folder / f"{kind} bundle")


def shallow_weights(kind: str) -> dict[str, torch.Tensor]:
    """Golden weights of `tgdp` or `cavmae`, of each stream the first 2 of 11 blocks: time goes with their number."""
    weights = load_file(GOLDEN / f"{kind}_small_weights.safetensors")
    deep = re.compile(r"blocks_[av]\.([2-9]|10)\.")
    return {name: tensor for name, tensor in weights.items() if not deep.match(name)}


def golden_imported(tmp_path_factory: pytest.TempPathFactory, kind: str) -> tuple[Path, Bundle]:
    """The shallow weights of TG-DP as a pickle with the prefix of parallel training, or of CAV-MAE as safetensors; and
    the bundle of them, exported once in a run."""
    name = {"tgdp": "audio_model.25.pth", "cavmae": "cav-mae.safetensors"}[kind]

    def make(folder: Path) -> None:
        weights = shallow_weights(kind)
        if kind == "tgdp":
            torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, folder / name)
        else:
            save_file(weights, folder / name)
        options = ("--heads", "4", "--decoder-heads", "4", "--license", "BSD-2-Clause")
        import_folder(folder / name, kind, folder / "bundle", *options)

    folder = made_once(tmp_path_factory, f"imported {kind}", make)
    return folder / name, load_bundle(folder / "bundle")
