"""Cost of one 10 s clip with sound, from file to embeddings, compared with the plain way of each stage.

    python -m benchmarks.clip_speed [--media FILE] [--bundle FOLDER] [--rounds 7]

Each stage and its baseline take turns in one process. A line gives the median processor seconds (all threads), the
median wall seconds, and the ratio of the processor seconds. Baselines:

decode    every frame decoded, converted and resized whole, sound resampled: nothing skipped, nothing cropped first
encode    torch in eager mode, 16 log-mel windows computed one by one, 16 + 16 forward passes
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from models.bundle.bundle import Bundle, load_bundle, starter_path
from models.media.clip import Clip, ClipSpec, decode_clip
from models.network.geometry import TgdpConfig
from models.network.tgdp import Tgdp
from service.encode.encoder import Encoder
from training.corpus.synthesis import write_corpus


def decode_plainly(path: Path, spec: ClipSpec) -> None:
    """Decode every frame and all sound of the first segment, resize whole frames, keep the 16."""
    with av.open(str(path)) as container:
        times, frames = [], []
        for frame in container.decode(container.streams.best("video")):
            if frame.time is not None and frame.time < spec.segment_seconds:
                times.append(frame.time)
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                scale = spec.frame_size / min(image.size)
                size = (round(image.width * scale), round(image.height * scale))
                frames.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR)))
        wanted = np.arange(spec.num_moments) * spec.segment_seconds / spec.num_moments
        picked = np.searchsorted(times, wanted + 1e-6) - 1
        [frames[max(0, index)] for index in picked]
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=spec.sample_rate_hz)
        for frame in container.decode(container.streams.best("audio")):
            resampler.resample(frame)
        resampler.resample(None)


def plain_network(bundle: Bundle) -> Tgdp:
    """Return a torch network of the bundle's geometry with random weights, which cost the same time."""
    torch.manual_seed(0)
    return Tgdp(TgdpConfig(**bundle.manifest.network)).eval()


@torch.no_grad()
def encode_plainly(network: Tgdp, clip: Clip) -> None:
    """Encode 16 windows and 16 frames one by one; compute the log-mel for each window, as the released loader does."""
    device = next(network.parameters()).device
    samples = torch.from_numpy(clip.samples)[None].to(device)
    lengths = torch.tensor([samples.shape[1]], device=device)
    frames = torch.from_numpy(clip.frames).to(device)
    width = network.config.window_frames
    for moment in range(network.config.num_moments):
        start = min(max(0, 64 * moment - width // 2), 1024 - width)
        window = network.log_mel(samples, lengths)[:, start : start + width]
        network.embed(network.embed_patches(network.audio_pictures(window), "audio"), "audio")
        network.embed(network.embed_patches(network.pixels(frames[moment : moment + 1]), "video"), "video")


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return median processor and wall seconds of each call; the calls take turns."""
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # warm up
    for _ in range(rounds):
        for name, call in calls.items():
            processor, wall = time.process_time(), time.perf_counter()
            call()
            costs[name].append((time.process_time() - processor, time.perf_counter() - wall))
    return {
        name: (statistics.median(c[0] for c in cost), statistics.median(c[1] for c in cost))
        for name, cost in costs.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--media", type=Path, help="file with picture and sound; default: a synthetic clip")
    parser.add_argument("--bundle", type=Path, default=starter_path())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    spec = bundle.manifest.clip_spec
    encoder = Encoder(bundle, device="cpu")
    network = plain_network(bundle)
    with tempfile.TemporaryDirectory() as folder:
        media = options.media
        if media is None:
            write_corpus(Path(folder), num_scenes=1, seed=0, split="demo")
            media = next(Path(folder).glob("*.mp4"))
        clip = decode_clip(media, spec)
        assert clip.samples is not None
        assert clip.frames is not None
        samples, frames = clip.samples, clip.frames

        def encode() -> None:
            encoder.encode_audio([samples])
            encoder.encode_video([frames])

        costs = measure(
            {
                "decode": lambda: decode_clip(media, spec) and None,
                "decode, plain": lambda: decode_plainly(media, spec),
                "encode": encode,
                "encode, plain": lambda: encode_plainly(network, clip),
            },
            options.rounds,
        )
    print(f"{media.name}, {bundle.bundle_id}, {encoder.provider}, {options.rounds} rounds")
    for stage in ("decode", "encode"):
        (ours, our_wall), (plain, plain_wall) = costs[stage], costs[f"{stage}, plain"]
        print(
            f"{stage:8} {ours:.3f} core-s, {our_wall:.3f} s wall; plain {plain:.3f} core-s, {plain_wall:.3f} s wall; "
            f"{ours / plain:.2f} of plain"
        )


if __name__ == "__main__":
    main()
