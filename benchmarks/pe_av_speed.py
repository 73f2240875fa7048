"""Processor time and memory of one 10 s clip in PE-AV small of 16 frames, random weights, compared with torch eager.

    python -m benchmarks.pe_av_speed [--bundle /tmp/pe-av-small] [--rounds 2] [--engines 'openvino bf16'] [--with-text]

The bundle, 2.2 GB, or 3.5 GB with words, is made once, which compares its graphs with torch. Figures are medians of
core-seconds; the share is that of the fastest product of two large matrices in the same process. Memory is the peak of
a process that loads an engine and encodes four clips, without torch.

Sizes: 0.85 B parameters in all are published; 12 layers of sound, 6 of picture and 6 of both, 768 wide, make that.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encode_memory import measure, resident
from benchmarks.encode_speed import runnable
from benchmarks.matrix_peak import MatrixPeak
from models.bundle.bundle import Bundle, TextSpec, cosines, load_bundle
from models.cores import num_cores
from models.media.clip import ClipSpec
from models.network.encoders import Encoders, export_encoders, torch_outputs
from models.network.pe_av import PeAudio, PeText, PeVideo
from models.network.published_folder import import_transformers
from service.encode.agreement import ProbeClips, encode_clips
from service.encode.choice import load_graphs
from service.encode.engines.candidates import Candidate, open_candidate
from service.encode.engines.contract import EngineOptions
from service.encode.engines.hardware import processor_name
from training.corpus.clips import render_clips

TOWER = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 6, "head_dim": 128}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--engines", nargs="*", help="such as 'openvino bf16'; all that run here without it")
    parser.add_argument("--with-text", action="store_true", help="import the words too")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(num_cores())
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoders = build_small(with_text=options.with_text)
        bundle = open_bundle(options.bundle or Path(scratch) / "pe-av-small", encoders)
        print(f"{bundle.bundle_id}, {processor_name()}, {num_cores()} cores, {options.rounds} rounds")
        print("largest difference from torch:", bundle.manifest.agreement)
        candidates = [c for c in runnable(bundle) if not options.engines or str(c) in options.engines]
        print_speed(bundle, encoders, options.rounds, candidates)
        print_memory(bundle, candidates)


def build_small(*, with_text: bool) -> Encoders:
    """Build the published class with random numbers."""
    transformers = import_transformers()
    towers = {"audio_config": ("pe_audio_encoder", 12), "video_config": ("pe_video_encoder", 6)}
    both = {**TOWER, "num_hidden_layers": 1} | {  # that of both together is not used here
        name: {"model_type": kind, **TOWER, "num_hidden_layers": layers}
        for name, (kind, layers) in towers.items()
    }
    torch.manual_seed(0)
    model = transformers.PeAudioVideoModel(transformers.PeAudioVideoConfig(audio_video_config=both)).eval()
    model.set_attn_implementation("eager")
    model.requires_grad_(False)  # the counter of operations would look for gradients
    with torch.no_grad():  # equal norms would be one array in the graph, unlike in a trained network
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "dog": 1, "rain": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"audio": "text_audio", "video": "text_video"}
    return Encoders(
        family="pe-av",
        clip_spec=ClipSpec(
            num_moments=1,
            num_frames=16,
            frame_times="ends",
            frame_shape="stretch",
            frame_size=336,
            sample_rate_hz=48_000,
        ),
        audio=PeAudio(model, 1920),
        video=PeVideo(model, [0.5] * 3, [0.5] * 3),
        text=PeText(model) if with_text else None,
        text_outputs=tuple(names.values()),
        text_spec=TextSpec(outputs=names, max_tokens=512),
        tokenizer=tokenizer.to_str(),
        similarity="dot",
    )


def open_bundle(folder: Path, encoders: Encoders) -> Bundle:
    """Load the bundle, made if it is not there."""
    if folder.exists():
        return load_bundle(folder)
    began = time.process_time()
    clips = render_clips(encoders.clip_spec, 1)
    bundle = export_encoders(
        encoders,
        folder,
        name="pe-av-small-random",
        clips=clips,
        training={"weights": "random"},
        on_step=print,
    )
    print(f"import: {time.process_time() - began:.0f} core-s, peak {resident('VmHWM') / 1024:.1f} GiB")
    return bundle


def print_speed(bundle: Bundle, encoders: Encoders, rounds: int, candidates: Sequence[Candidate]) -> None:
    """Print core-seconds of the sound and of the picture of a clip, by engine, and their share of the peak."""
    golden = bundle.golden()
    arrays = {
        "audio": {"samples": golden.samples[None], "heard": torch.tensor([golden.num_heard]).numpy()},
        "video": {"frames": golden.frames[None]},
    }
    gflop = {}
    for modality, module in encoders.media.items():
        spent = []
        for _ in range(rounds):
            with FlopCounterMode(display=False) as counter:
                began = time.process_time()
                torch_outputs(module, arrays[modality])
                spent.append(time.process_time() - began)
        gflop[modality] = counter.get_total_flops() / 1e9
        print(
            f"torch eager fp32         {modality} {statistics.median(spent):6.2f} core-s, {gflop[modality]:.0f} GFLOP",
            flush=True,
        )
    peak = MatrixPeak(num_cores())
    clips = {
        "audio": ProbeClips(
            samples=[golden.samples], frames=[], description="", num_heard=[golden.num_heard]
        ),
        "video": ProbeClips(samples=[], frames=[golden.frames], description=""),
    }
    for candidate in candidates:
        engine = open_candidate(
            candidate, load_graphs(bundle, candidate), EngineOptions(num_threads=num_cores())
        )
        precision = "bf16" if candidate.precision == "bf16" else "fp32"
        for modality, clip in clips.items():
            found = encode_clips(engine, clip)
            spent = []
            for _ in range(rounds):
                spent.append(core_seconds(lambda e=engine, c=clip: encode_clips(e, c)))  # type: ignore[misc]
                peak.measure()
            seconds = statistics.median(spent)
            share = gflop[modality] / seconds / peak.best(precision)
            turned = 1 - cosines({modality: golden.tracks[modality][None]}, found).min()
            print(
                f"{candidate!s:24} {modality} {seconds:6.2f} core-s, {share:.0%} of the peak of {precision} "
                f"({peak.best(precision):.0f} GFLOP a core-s), 1 - cosine {turned:.1e}",
                flush=True,
            )
        del engine


def print_memory(bundle: Bundle, candidates: Sequence[Candidate]) -> None:
    """Print the memory of a process for each engine."""
    for candidate in candidates:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"{candidate!s:24} {pool.apply(measure, (bundle.path, candidate, 4))}", flush=True)


def core_seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()
