"""How far the combs of interlaced pictures move an embedding, and whether dropping a field brings it back.

    python -m benchmarks.interlaced ../shared/media/v*.mp4

Each two frames of a file become the fields of one: 576 lines, so at twice the speed of the film, and nothing is coded
in between. Prints the cosines with the first of the two; exit code 1 if a mean is below 0.99, where it would be time
to deinterlace.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import load_bundle, starter_path
from models.media.frame import crop_square
from service.encode.encoder import Encoder

LINES = 576
MIN_COSINE = 0.99
Pictures = NDArray[np.uint8]


def read_pictures(path: Path, num_pictures: int) -> list[Pictures]:
    """The first pictures of a file, 576 lines high."""
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), num_pictures)
        return [
            frame.reformat(
                width=frame.width * LINES // frame.height // 2 * 2, height=LINES, format="rgb24"
            ).to_ndarray()
            for frame in frames
        ]


def weave(first: Pictures, second: Pictures) -> Pictures:
    """Even lines of one moment, odd lines of the next: what an interlaced frame holds."""
    woven = first.copy()
    woven[1::2] = second[1::2]
    return woven


def drop_field(woven: Pictures) -> Pictures:
    """The even lines, and their means between them."""
    field = woven[::2].astype(np.uint16)
    shown = woven.copy()
    shown[1::2] = (field + np.roll(field, -1, axis=0)) // 2
    shown[-1] = field[-1]
    return shown


def main() -> int:
    """Measure files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    files = parser.parse_args().files
    bundle = load_bundle(starter_path())
    spec = bundle.manifest.clip_spec
    encoder = Encoder(bundle, device="cpu")
    lowest = 1.0
    for path in files:
        pictures = read_pictures(path, 10 * spec.num_moments)
        if len(pictures) < 2 * spec.num_moments:
            continue
        step = len(pictures) // spec.num_moments
        pairs = [(pictures[at], pictures[at + 1]) for at in range(0, step * spec.num_moments, step)]
        woven = [weave(*pair) for pair in pairs]
        shown = {"woven": woven, "one field": [drop_field(picture) for picture in woven]}
        squares = [np.stack([crop_square(p, spec.frame_size) for p, _ in pairs])]
        squares += [np.stack([crop_square(p, spec.frame_size) for p in those]) for those in shown.values()]
        whole, *others = encoder.encode_video(squares)
        told = []
        for name, other, pixels in zip(shown, others, squares[1:], strict=True):
            cosines = (whole * other).sum(axis=-1)
            error = np.abs(pixels.astype(int) - squares[0]).mean()
            told.append(
                f"{name}: cosine {cosines.mean():.4f}, lowest {cosines.min():.4f}, pixels {error:.2f}"
            )
            lowest = min(lowest, float(cosines.mean())) if name == "woven" else lowest
        print(f"{path.name}: {'; '.join(told)}")
    print(f"lowest mean {lowest:.4f}, limit {MIN_COSINE}")
    return int(lowest < MIN_COSINE)


if __name__ == "__main__":
    sys.exit(main())
