"""PE-AV and CLAP: a bundle against the published class with its published processor, on media files and texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from models.bundle import conversion
from models.bundle.bundle import GRAPHS, TEXT_GRAPH, Bundle, cosines
from models.inference import onnxruntime
from models.media.clip import Clip, ClipSpec, decode_clip, decode_segments
from models.network.clap import read_clap
from models.network.pe_av import PeText, read_pe_av
from models.network.published_folder import PublishedFolder, import_transformers
from service.encode.encoder import Encoder
from service.encode.engines.hardware import has_bf16
from service.encode.text import TextEncoder
from tests.support.families import SIDE, TOKENS, write_pe_av
from tests.support.media_files import (
    AudioTrack,
    VideoTrack,
    decode_frames_plainly,
    decode_plainly,
    every,
    make_tone,
    write_media,
)
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # the exporter and transformers warn about their own internals

Family = tuple[Any, Bundle]
RATE = 48_000
TEXTS = ["a dog barks in the rain", "waves", "Tür on the beach in the rain dog waves a b a b a b a b"]


@pytest.fixture(params=["pe_av", "clap"])
def bundle(request: pytest.FixtureRequest, pe_av: Family, clap: Family) -> Bundle:
    return {"pe_av": pe_av, "clap": clap}[request.param][1]


def noise(num_samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.2 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.9 s of picture and sound at the rate of both families, not compressed."""
    sound = AudioTrack(samples=make_tone(0.9, RATE, [440, 440]) + noise(43_200), codec="pcm_f32le")
    video = VideoTrack(times=every(0.9, 10), options={"qp": "0"})
    return write_media(tmp_path_factory.mktemp("film") / "film.mkv", video=video, audio=sound)


@pytest.mark.long  # the first makes it
def test_a_pe_av_bundle_says_what_it_is(pe_av: Family) -> None:
    manifest = pe_av[1].manifest
    assert dict(manifest.tracks) == {"audio": (1, 24), "video": (1, 24)}
    assert (manifest.family, manifest.similarity, manifest.compares) == ("pe-av", "dot", True)
    assert manifest.text is not None
    assert dict(manifest.text.outputs) == {"audio": "text_audio", "video": "text_video"}
    assert manifest.text.max_tokens == 30
    assert max(manifest.agreement.values()) < 1e-5
    assert manifest.training["imported"]["license"] == "a licence"
    assert "Apache-2.0" in manifest.attribution[0]
    spec = manifest.clip_spec
    assert (spec.frame_times, spec.frame_shape, spec.frame_size) == ("all", "stretch", SIDE)
    assert (spec.sample_rate_hz, spec.segment_seconds, spec.min_segment_seconds) == (RATE, 1.0, 0.5)


@torch.no_grad()
def test_pe_av_embeds_a_film_as_the_published_class_does(pe_av: Family, film: Path) -> None:
    published, bundle = pe_av
    transformers = import_transformers()
    clip = decode_clip(film, bundle.manifest.clip_spec)
    plain = decode_plainly(film)
    frames = decode_frames_plainly(film, plain, set(range(len(plain.times))))
    processor = transformers.AutoVideoProcessor.from_pretrained(bundle.path.parent / "pe-av folder")
    video = np.stack([frames[number] for number in range(len(frames))])
    pixels = processor([video], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    sound = transformers.PeAudioFeatureExtractor(hop_length=96)(
        plain.samples, sampling_rate=RATE, return_tensors="pt"
    )
    encoder = Encoder(bundle)
    # The class's own get_video_embeds calls a method that transformers 5.24 does not have.
    tower = published.video_model
    expected = tower.video_head(tower.video_encoder(pixels).pooler_output)
    assert clip.frames is not None
    # A grey level more or less is what two resizers may differ by; on the published pixels it is exact.
    levels = (
        pixels[0].permute(0, 2, 3, 1) * torch.tensor([0.5, 0.6, 0.7]) + torch.tensor([0.5, 0.4, 0.3])
    ) * 255
    assert np.abs(levels.numpy() - clip.frames).max() <= 1.001
    ours = encoder.encode_video([levels.round().to(torch.uint8).numpy()])[0]
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-4)
    expected = published.get_audio_embeds(sound["input_values"], sound["padding_mask"])
    assert clip.samples is not None
    np.testing.assert_allclose(clip.samples[: len(plain.samples)], plain.samples, atol=1e-4)
    np.testing.assert_allclose(
        encoder.encode_audio([clip.samples], [clip.num_heard])[0], expected.numpy(), atol=1e-4
    )


@torch.no_grad()
def test_words_are_those_of_the_published_heads(pe_av: Family) -> None:
    published, bundle = pe_av
    texts = TextEncoder(bundle, num_threads=1)
    for text in TEXTS:
        ids = torch.from_numpy(texts.tokenize(text))[None]
        hidden = published.text_model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, 0]
        heads = {
            "audio": published.audio_model.text_audio_head,
            "video": published.video_model.text_video_head,
        }
        for target, head in heads.items():
            np.testing.assert_allclose(texts.embed(text, target=target), head(hidden)[0].numpy(), atol=1e-4)


@torch.no_grad()
def test_words_are_taken_after_22_layers_before_the_last_norm(tmp_path: Path) -> None:
    published = write_pe_av(tmp_path, text_layers=24)
    ids = torch.tensor([[0, 5, 6, 7, 8, 9, 10, 4, 5, 2]])
    hidden = published.text_model(input_ids=ids, output_hidden_states=True).hidden_states[22][:, 0]
    expected = published.audio_model.text_audio_head(hidden)
    torch.testing.assert_close(PeText(published)(ids, torch.ones_like(ids))[0], expected)


def test_a_row_is_the_same_alone_and_in_a_batch(bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(bundle.audio_graph, providers=["CPUExecutionProvider"])
    heard = [48_000, 21_000, 1_200, 1]
    batch = np.full((4, 48_000), 7, np.float32)  # what follows the sound is not read
    for number, end in enumerate(heard):
        batch[number, :end] = noise(end, number)
    together = session.run(None, {"samples": batch, "heard": np.array(heard)})[0]
    for number, end in enumerate(heard):
        row = {"samples": batch[number : number + 1, :end], "heard": np.array([end])}
        np.testing.assert_allclose(session.run(None, row)[0][0], together[number], atol=1e-5)
    # A GPU's batches are filled up with rows without sound.
    filled = {"samples": np.zeros((1, 48_000), np.float32), "heard": np.zeros(1, np.int64)}
    assert np.isfinite(session.run(None, filled)[0]).all()


def test_words_are_the_same_alone_and_padded(bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(bundle.path / TEXT_GRAPH, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(4, len(TOKENS), (2, 12))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    together = session.run(None, {"input_ids": ids, "attention_mask": mask})
    alone = session.run(None, {"input_ids": ids[1:, :5], "attention_mask": mask[1:, :5]})
    for padded, plain in zip(together, alone, strict=True):
        np.testing.assert_allclose(padded[1], plain[0], atol=1e-5)


def test_16_frames_are_those_of_the_published_processor(tmp_path: Path, film: Path) -> None:
    write_pe_av(tmp_path / "folder", num_frames=16)
    spec = read_pe_av(PublishedFolder.open(tmp_path / "folder")).clip_spec
    assert (spec.num_frames, spec.frame_times, spec.num_moments) == (16, "ends", 1)
    plain = decode_plainly(film)
    frames = decode_frames_plainly(film, plain, set(range(len(plain.times))))
    processor = import_transformers().AutoVideoProcessor.from_pretrained(tmp_path / "folder")
    video = np.stack([frames[number] for number in range(len(frames))])
    metadata = {"total_num_frames": len(video), "fps": 10.0}
    pixels = processor([video], video_metadata=[metadata], return_tensors="pt")["pixel_values_videos"][0]
    levels = (
        pixels.permute(0, 2, 3, 1) * torch.tensor([0.5, 0.6, 0.7]) + torch.tensor([0.5, 0.4, 0.3])
    ) * 255
    clip = decode_clip(film, spec)
    assert clip.frames is not None
    assert clip.frames.shape == levels.shape == (16, SIDE, SIDE, 3)
    assert np.abs(levels.numpy() - clip.frames).max() <= 1.001


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    published = write_pe_av(tmp_path, shard_size="60KB")
    folder = PublishedFolder.open(tmp_path)
    assert len(folder.weights) > 2
    loaded = folder.load_model("PeAudioVideoModel", "PeAudioVideoConfig")
    for name, value in published.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_segments_may_be_shorter(tmp_path: Path) -> None:
    write_pe_av(tmp_path, num_frames=16)
    spec = read_pe_av(PublishedFolder.open(tmp_path), segment_seconds=2.0).clip_spec
    assert (spec.segment_seconds, spec.segment_samples, spec.min_segment_seconds) == (2.0, 96_000, 1.0)


@pytest.mark.long  # likewise
@torch.no_grad()
def test_clap_embeds_sound_as_the_published_class_does(clap: Family, film: Path) -> None:
    published, bundle = clap
    assert dict(bundle.manifest.tracks) == {"audio": (1, 16)}
    assert (bundle.manifest.family, bundle.manifest.similarity) == ("clap", "cosine")
    assert bundle.manifest.clip_spec == ClipSpec(num_moments=1, sample_rate_hz=RATE)
    assert not (bundle.path / "video.onnx").exists()
    extractor = import_transformers().ClapFeatureExtractor.from_pretrained(
        bundle.path.parent / "clap folder", local_files_only=True
    )
    encoder = Encoder(bundle)
    clip = decode_segments(film, bundle.manifest.clip_spec, modalities=("audio",)).clips[0]
    assert clip.samples is not None
    for samples in (
        clip.samples[: clip.num_heard],
        noise(480_000),
        make_tone(4.0, RATE, [440])[0],
        noise(1_300),
    ):
        features = extractor(samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
        expected = published.get_audio_features(features).pooler_output
        np.testing.assert_allclose(encoder.encode_audio([samples])[0], expected.numpy(), atol=1e-4)


@torch.no_grad()
def test_clap_embeds_words_as_the_published_class_does(clap: Family) -> None:
    published, bundle = clap
    texts = TextEncoder(bundle, num_threads=1)
    for text in TEXTS:
        ids = torch.from_numpy(texts.tokenize(text))[None]
        expected = published.get_text_features(ids, torch.ones_like(ids)).pooler_output[0]
        np.testing.assert_allclose(texts.embed(text, target="audio"), expected.numpy(), atol=1e-4)


def test_a_fused_clap_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "clap", "audio_config": {"enable_fusion": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "ClapFeatureExtractor", "truncation": "fusion"})
    )
    with pytest.raises(ValueError, match="fusion, which needs random crops"):
        read_clap(PublishedFolder.open(tmp_path))


SERVE = """
import sys
from pathlib import Path
from models.bundle.bundle import load_bundle
from service.encode.encoder import Encoder
from service.encode.text import TextEncoder

for path in sys.argv[1:]:
    bundle = load_bundle(Path(path))
    Encoder(bundle).check_golden()
    TextEncoder(bundle, num_threads=1).check_golden()
print(sorted({"torch", "torchvision", "transformers", "timm", "onnx", "safetensors"} & set(sys.modules)))
"""


def test_a_process_that_serves_them_loads_no_torch(pe_av: Family, clap: Family) -> None:
    command = [sys.executable, "-c", SERVE, str(pe_av[1].path), str(clap[1].path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.skipif(not has_bf16(), reason="the processor has neither avx512_bf16 nor amx_bf16")
def test_bfloat16_agrees(bundle: Bundle, tmp_path: Path) -> None:
    encoder = Encoder(bundle, precision="bf16", agreement=tmp_path)
    assert encoder.choice.agreement is not None
    assert encoder.choice.agreement.stressed_min > 0.9995
    encoder.check_golden()


@pytest.mark.parametrize("precision", conversion.CONVERTERS)
def test_variants_agree(bundle: Bundle, precision: str, tmp_path: Path) -> None:
    golden = bundle.golden()
    clip = Clip(
        start_seconds=0.0,
        end_seconds=10.0,
        frames=golden.frames if "video" in golden.tracks else None,
        frame_times_seconds=np.zeros(len(golden.frames)) if "video" in golden.tracks else None,
        samples=golden.samples,
        num_heard=golden.num_heard,
    )
    for modality, expected in golden.tracks.items():
        target = tmp_path / GRAPHS[modality]
        conversion.CONVERTERS[precision](bundle.path / GRAPHS[modality], target)
        found = conversion.encode(target, modality, [clip])
        assert cosines({modality: expected[None]}, {modality: found}).min() > 0.999
        model = onnx.load(target)
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        convolutions = [kinds[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
        if precision == "fp16":  # of a sound all before the last convolution stays as it is
            onnx.checker.check_model(model, full_check=True)
            assert convolutions[-1] == TensorProto.FLOAT16
            kept = convolutions[:-1] if modality == "audio" else []
            assert set(kept) <= {TensorProto.FLOAT}
            assert modality == "audio" or set(convolutions) == {TensorProto.FLOAT16}
