"""Processor time of one 10 s clip with sound in every engine and precision, compared with the plain way.

    python -m benchmarks.encode_speed                          the starter
    python -m benchmarks.encode_speed --published /tmp/base    the published size with random weights, made once
    python -m benchmarks.encode_speed --parts speed media runs --rounds 5

speed   core-seconds of a clip: every engine that runs here compared with the plain way, which is torch eager in float32
        with 16 windows and 16 frames (the log-mel computed for each window, as the released loader does). All of them
        and products of large matrices, which show the machine's peak, take turns in one process; figures are medians.
        1 - cosine compares with the tracks that torch recorded in the bundle. The share is of the fastest product of
        the run, per core-second
media   the same with decoding, from H.264 files of 360 and 1080 lines at 30 frames a second (plain: every frame is
        decoded, 16 of them are converted and resized whole, then cropped)
runs    segments a second with one run on all cores, and with one run on each core
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Colorspace
from PIL import Image

from benchmarks.clip_speed import encode_plainly, plain_network
from benchmarks.matrix_peak import MatrixPeak
from models.bundle.bundle import Bundle, Golden, cosines, load_bundle, starter_path
from models.cores import num_cores
from models.media.clip import Clip, ClipSpec, decode_clip
from models.network.export import export_bundle
from models.network.geometry import TgdpConfig
from models.network.tgdp import Tgdp
from service.encode.agreement import ProbeClips, encode_clips
from service.encode.choice import load_graphs
from service.encode.engines.candidates import RANKING, Candidate, check_hardware, find_variant, open_candidate
from service.encode.engines.contract import Engine, EngineMissing, EngineOptions
from service.encode.engines.hardware import processor_name

PARTS = ("speed", "media", "runs")
HEIGHTS = (360, 1080)
FRAME_RATE = 30
WIDTHS = {360: 640, 720: 1280, 1080: 1920}


def main() -> None:
    """Measure and print."""
    parser = bundle_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["speed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of one run, for the part `speed`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bundle = open_bundle(options)
    candidates = runnable(bundle)
    print(f"{bundle.bundle_id}, {processor_name()}, {num_cores()} cores, {options.rounds} rounds")
    if {"speed", "media"} & set(options.parts):
        print_speed(bundle, candidates, options.rounds, options.threads, with_media="media" in options.parts)
    if "runs" in options.parts:
        print_runs(bundle, candidates, options.rounds)


def bundle_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that choose the bundle."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=starter_path())
    parser.add_argument(
        "--published", type=Path, help="folder of a bundle of the published size; made if missing"
    )
    return parser


def open_bundle(options: argparse.Namespace) -> Bundle:
    """Load the bundle that the options name."""
    return load_bundle(options.bundle if options.published is None else published_bundle(options.published))


def golden_clip(golden: Golden) -> Clip:
    """Return the golden clip as the decoder would return it."""
    return Clip(
        start_seconds=0.0,
        end_seconds=10.0,
        frames=golden.frames,
        frame_times_seconds=np.arange(16) * 0.625,
        samples=golden.samples,
    )


def published_bundle(folder: Path) -> Path:
    """Make a bundle of the published size with random weights, unless it exists; takes a minute and 690 MB."""
    if not folder.exists():
        torch.manual_seed(0)
        network = Tgdp(TgdpConfig.published())
        with torch.no_grad():  # equal norms would be one array in the graph, unlike in a trained network
            for parameter in network.parameters():
                if parameter.ndim <= 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        export_random(network, folder)
    return folder


def export_random(network: Tgdp, folder: Path) -> None:
    """Export a network with random weights, with the golden clip of the starter."""
    clip = golden_clip(load_bundle(starter_path()).golden())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        export_bundle(network, folder, name="random", clips=[clip], training={"weights": "random"})


def runnable(bundle: Bundle) -> list[Candidate]:
    """Return every candidate that can run here, slowest first."""
    found = []
    for candidate in reversed(RANKING):
        try:
            check_hardware(candidate)
            find_variant(candidate, bundle)
        except EngineMissing:
            continue
        found.append(candidate)
    return found


def print_speed(
    bundle: Bundle, candidates: list[Candidate], rounds: int, num_threads: int, *, with_media: bool
) -> None:
    """Time all engines and the plain way in turns."""
    golden = bundle.golden()
    clip = ProbeClips(samples=[golden.samples], frames=[golden.frames], description="the golden clip")
    plain_clip = golden_clip(golden)
    network = plain_network(bundle)
    expected = {"audio": golden.audio_track[None], "video": golden.video_track[None]}
    engines = {str(c): open_engine(bundle, c, num_threads) for c in candidates}
    calls: dict[str, Callable[[], object]] = {"plain": lambda: encode_plainly(network, plain_clip)}
    for name, engine in engines.items():
        calls[name] = lambda engine=engine: encode_clips(engine, clip)  # type: ignore[misc]
    with media_calls(bundle, with_media) as decoding:
        seconds, peak = take_turns({**calls, **decoding}, rounds, MatrixPeak(num_threads))
    gflop = clip_gflop(TgdpConfig(**bundle.manifest.network))
    rates = ", ".join(f"{precision} {peak.best(precision):.0f}" for precision in ("fp32", "bf16"))
    print(f"one core multiplies GFLOP/s: {rates}; one clip: {gflop:.0f} GFLOP; {num_threads} threads")
    plain = seconds["plain"]
    print(f"{'':24} core-s  speed-up   1 - cosine mean / maximum   share of peak")
    print(f"{'plain':24} {plain:6.2f}     1.00")
    for candidate in candidates:
        name, cost = str(candidate), seconds[str(candidate)]
        turned = 1 - cosines(expected, encode_clips(engines[name], clip))
        share = gflop / cost / peak.best("bf16" if candidate.precision == "bf16" else "fp32")
        print(
            f"{name:24} {cost:6.2f}  {plain / cost:7.2f}   {turned.mean():.1e} / {turned.max():.1e}", end=""
        )
        print("" if candidate.precision == "int8" else f"        {share:.0%}")
    print_media(seconds, [str(c) for c in candidates], with_media)


def print_media(seconds: dict[str, float], names: list[str], with_media: bool) -> None:
    """Print the cost from file to tracks: decoding plus encoding of the same run."""
    for height in HEIGHTS if with_media else ():
        ours, plain = seconds[f"decode {height}"], seconds[f"decode {height} plain"]
        print(f"{height} lines: decoding {ours:.3f} core-s, {ours / plain:.2f} of plain; file to tracks:")
        for name in names:
            ratio = (plain + seconds["plain"]) / (ours + seconds[name])
            print(f"  {name:22} {ours + seconds[name]:6.2f} core-s, {ratio:.2f} times as fast as plain")


def open_engine(bundle: Bundle, candidate: Candidate, num_threads: int, num_runs: int = 1) -> Engine:
    """Load an engine without checking its agreement."""
    options = EngineOptions(num_threads=num_threads, num_runs=num_runs)
    return open_candidate(candidate, load_graphs(bundle, candidate), options)


def take_turns(
    calls: dict[str, Callable[[], object]], rounds: int, peak: MatrixPeak
) -> tuple[dict[str, float], MatrixPeak]:
    """Return median processor seconds of each call, all threads together."""
    costs: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            costs[name].append(time.process_time() - began)
            peak.measure()
    return {name: statistics.median(values) for name, values in costs.items()}, peak


def clip_gflop(config: TgdpConfig) -> float:
    """Return the GFLOP of one clip's matrix products: 11 windows and 16 frames, the last block for CLS only."""

    def picture(num_patches: int, patch_values: int) -> float:
        width, registers = config.width, config.num_registers
        dense = 2 * (4 + 2 * config.mlp_ratio) * width**2  # a token in a block: qkv, projection, MLP
        length = 1 + num_patches + registers
        blocks = config.depth * length * (dense + 4 * length * width)
        joint = (length - registers) * (4 * width**2 + 4 * width) + dense - 4 * width**2
        return blocks + joint + 2 * num_patches * patch_values * width

    sound = picture(config.num_patches("audio"), config.patch_values("audio"))
    image = picture(config.num_patches("video"), config.patch_values("video"))
    return (11 * sound + config.num_moments * image) / 1e9


@contextmanager
def media_calls(bundle: Bundle, with_media: bool) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield calls that decode one file of each height, our way and the plain way."""
    spec = bundle.manifest.clip_spec
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for height in HEIGHTS if with_media else ():
            path = Path(folder) / f"{height}.mp4"
            write_clip(bundle, path, height)
            calls[f"decode {height}"] = lambda path=path: decode_clip(path, spec)  # type: ignore[misc]
            calls[f"decode {height} plain"] = lambda path=path: decode_as_published(path, spec)  # type: ignore[misc]
        yield calls


def decode_as_published(path: Path, spec: ClipSpec) -> list[np.ndarray]:
    """Decode every frame; convert, resize and crop the 16 on screen at the moments; resample all sound."""
    wanted = iter(np.arange(spec.num_moments) * spec.segment_seconds / spec.num_moments)
    frames, shown, target = [], None, next(wanted)
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.best("video")):
            while shown is not None and target is not None and frame.time > target + 1e-6:
                frames.append(resize_whole(shown, spec.frame_size))
                target = next(wanted, None)
            shown = frame
    assert len(frames) == spec.num_moments
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=spec.sample_rate_hz)
        for frame in container.decode(container.streams.best("audio")):
            resampler.resample(frame)
        resampler.resample(None)
    return frames


def resize_whole(frame: av.VideoFrame, side: int) -> np.ndarray:
    """Resize a frame so that its shorter side is `side`, and return its centre square."""
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def write_clip(bundle: Bundle, path: Path, height: int) -> None:
    """Write 10 s of H.264 and AAC: the golden frames enlarged and sliding to the left, so that every frame differs."""
    golden, size = bundle.golden(), (WIDTHS[height], height)
    pictures = [np.asarray(Image.fromarray(frame).resize(size)) for frame in golden.frames]
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast"})
        picture.width, picture.height = size
        picture.pix_fmt, picture.colorspace = (
            "yuv420p",
            Colorspace.SMPTE170M,
        )  # untagged ones of 720 lines are BT.709
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        for number in range(10 * FRAME_RATE):
            moved = np.roll(pictures[number * 16 // (10 * FRAME_RATE)], -2 * number, axis=1)
            image = av.VideoFrame.from_ndarray(moved, format="rgb24")
            image.pts, image.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(picture.encode(image))
        container.mux(picture.encode())
        block = av.AudioFrame.from_ndarray(golden.samples[None], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(block))
        container.mux(sound.encode())


def print_runs(bundle: Bundle, candidates: list[Candidate], rounds: int) -> None:
    """Print the throughput of one run on all cores and of one run on each core, in turns."""
    golden, cores = bundle.golden(), num_cores()
    clip = ProbeClips(samples=[golden.samples], frames=[golden.frames], description="the golden clip")
    for candidate in candidates:
        shapes = {f"1 run × {cores} threads": (cores, 1), f"{cores} runs × 1 thread": (1, cores)}
        walls: dict[str, list[float]] = {name: [] for name in shapes}
        costs: dict[str, list[float]] = {name: [] for name in shapes}
        engines = {name: open_engine(bundle, candidate, *shape) for name, shape in shapes.items()}
        with ThreadPoolExecutor(cores) as pool:
            for _ in range(rounds):
                for name, engine in engines.items():
                    began, used = time.perf_counter(), time.process_time()
                    list(pool.map(lambda _, engine=engine: encode_clips(engine, clip), range(2 * cores)))
                    walls[name].append((time.perf_counter() - began) / (2 * cores))
                    costs[name].append((time.process_time() - used) / (2 * cores))
        for name in shapes:
            wall, cost = statistics.median(walls[name]), statistics.median(costs[name])
            print(f"{candidate!s:24} {name}: {1 / wall:.2f} segments/s, {cost:.2f} core-s each")


if __name__ == "__main__":
    main()
