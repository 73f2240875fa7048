"""One clip sent all the way from file to answer, stage by stage, for `foley doctor`.

The log-mel front end is a stage of its own only with the engine that runs it separately from the network.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray
from PIL import Image

from models.bundle.bundle import Golden
from models.media.clip import Clip, ClipSpec, decode_segments
from service.decode.decoder import Decoder
from service.encode.encoder import Encoder
from service.encode.engines.openvino_cpu import OpenVinoEngine
from service.index.contract import Index, VectorQuery
from service.operations.stopwatch import DecodedOnce, Stage, time_call, time_decoding
from service.search.sources import embedded
from service.system.modality import OPPOSITE, Modality

DECODE_SECONDS = 60.0
SIZE = (640, 360)
FRAME_RATE = 30


def time_clip(path: Path, *, encoder: Encoder, decoder: Decoder, index: Index | None) -> DecodedOnce:
    """Send the first segment of a file all the way, as a query goes, and time every stage; no index, no search."""
    spec, modalities = encoder.bundle.manifest.clip_spec, embedded(encoder.bundle)
    decoded = decoder.read(path, time_decoding, DECODE_SECONDS, spec, modalities)
    whole = time_call(
        "both, in a decode worker and back" if len(modalities) > 1 else "in a decode worker and back",
        lambda: decoder.read(path, decode_segments, DECODE_SECONDS, spec, count=1, modalities=modalities),
    )
    stages = [*decoded.stages, whole, *_time_encoding(encoder, decoded.clip)]
    if index is not None:
        stages += _time_search(encoder, decoded.clip, index)
    return DecodedOnce(info=decoded.info, clip=decoded.clip, stages=tuple(stages))


def _time_encoding(encoder: Encoder, clip: Clip) -> list[Stage]:
    stages = []
    if (samples := clip.samples) is not None:
        lengths, row, engine = np.array([len(samples)]), samples[None], encoder.engine
        heard = np.array([clip.num_heard])
        if isinstance(engine, OpenVinoEngine) and engine.has_front_end:
            cut = engine.run_front_end(row, lengths, heard)
            stages.append(time_call("sound: front end", lambda: engine.run_front_end(row, lengths, heard)))
            stages.append(time_call("sound: encoder", lambda: engine.run_network(cut, row, lengths, heard)))
        else:
            stages.append(time_call("sound: front end and encoder", lambda: encoder.encode_audio([samples])))
    if (frames := clip.frames) is not None:
        stages.append(time_call("picture: front end and encoder", lambda: encoder.encode_video([frames])))
    return stages


def _time_search(encoder: Encoder, clip: Clip, index: Index) -> list[Stage]:
    has: dict[Modality, bool] = {"audio": clip.samples is not None, "video": clip.frames is not None}
    source: Modality = "audio" if has["audio"] else "video"
    target = OPPOSITE[source] if encoder.bundle.manifest.compares else source
    if index.count_segments(modality=target) == 0:
        return []
    track = _track(encoder, clip)
    return [
        time_call("search", lambda: index.search_assets(VectorQuery(track=track, target=target, limit=10)))
    ]


def _track(encoder: Encoder, clip: Clip) -> NDArray[np.float32]:
    if clip.samples is not None:
        tracks = encoder.encode_audio([clip.samples], [clip.num_heard])
    else:
        assert clip.frames is not None, "a clip has sound or picture"
        tracks = encoder.encode_video([clip.frames])
    track: NDArray[np.float32] = tracks[0]
    return track


def write_golden_clip(golden: Golden, path: Path, *, spec: ClipSpec) -> None:
    """Write the golden clip of a bundle as a typical media file: .mp4, H.264 and AAC, 640 × 360, 30 frames/s."""
    with av.open(str(path), "w", format="mp4") as container:
        streams = [
            *([_add_picture(container, golden, spec)] if len(golden.frames) else []),
            *([_add_sound(container, golden, spec)] if len(golden.samples) else []),
        ]
        for write in streams:  # a header is written with the first packet: all streams must be there
            write()


def _add_picture(container: OutputContainer, golden: Golden, spec: ClipSpec) -> Callable[[], None]:
    num_frames = round(spec.segment_seconds * FRAME_RATE)
    pictures = [
        np.asarray(Image.fromarray(frame).resize(SIZE, Image.Resampling.BILINEAR)) for frame in golden.frames
    ]
    picture = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "threads": "1"})
    picture.width, picture.height = SIZE
    picture.pix_fmt = "yuv420p"

    def write() -> None:
        for number in range(num_frames):
            image = av.VideoFrame.from_ndarray(pictures[number * len(pictures) // num_frames], format="rgb24")
            image.pts, image.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(picture.encode(image))
        container.mux(picture.encode())

    return write


def _add_sound(container: OutputContainer, golden: Golden, spec: ClipSpec) -> Callable[[], None]:
    rate = spec.sample_rate_hz
    sound = container.add_stream("aac", rate=rate, layout="mono")

    def write() -> None:
        heard = golden.samples[None, : golden.num_heard]
        block = av.AudioFrame.from_ndarray(heard, format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        container.mux(sound.encode(block))
        container.mux(sound.encode())

    return write
