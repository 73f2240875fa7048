"""What thumbnails, filmstrips and waveforms cost: share of the processor time of indexing, and bytes of each asset.

    python -m benchmarks.preview_cost FOLDER

Goals: at most 5 % of the time, at most 40 KB of each asset. Each file is decoded in this process with and without
(the least of five, with the hash that indexing takes), and encoded by the starter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from models.media.clip import ClipSpec, DecodedMedia, UnreadableClip, decode_segments
from models.media.preview import join_parts
from service.encode.embedding import embed_clips
from service.foley import open_foley
from service.library.previews import Previews
from service.system.settings import Settings

T = TypeVar("T")
TRIES = 5


def measure(work: Callable[[], T]) -> tuple[float, T]:
    """The least processor time of some tries, in seconds, and what the last one gave."""
    times = []
    for _ in range(TRIES):
        began = time.process_time()
        given = work()
        times.append(time.process_time() - began)
    return min(times), given


def main() -> None:
    """Print the cost over the files of a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    spec, plain, more, encoding, sizes = ClipSpec(), 0.0, 0.0, 0.0, []
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(data=Path(scratch), device="cpu", min_free_bytes=0)
        with open_foley(settings) as foley:
            encoder = foley.snapshot().encoder
            previews = Previews(Path(scratch, "previews"), max_bytes=1 << 30)
            for number, path in enumerate(sorted(one for one in folder.iterdir() if one.is_file())):
                asset_id = f"{number:064x}"

                def decode(path: Path = path, *, with_preview: bool = False) -> DecodedMedia:
                    return decode_segments(path, spec, with_preview=with_preview, hashes_packets=True)

                try:
                    without, decoded = measure(decode)
                except UnreadableClip:
                    continue
                with_them, seen = measure(lambda decode=decode: decode(with_preview=True))  # type: ignore[misc]

                def keep(asset_id: str = asset_id, seen: DecodedMedia = seen) -> None:
                    assert seen.preview is not None
                    previews.put(asset_id, join_parts([seen.preview], seen.info.duration_seconds))

                keeping, _ = measure(keep)
                encode, _ = measure(
                    lambda decoded=decoded: embed_clips(  # type: ignore[misc]
                        decoded.clips, encoder=encoder, modalities=("audio", "video")
                    )
                )
                plain, encoding = plain + without, encoding + encode
                more += with_them - without + keeping
                sizes.append(next(Path(scratch, "previews").glob(f"??/{asset_id}")).stat().st_size)
    share = more / (plain + encoding + more)
    print(
        f"{len(sizes)} files: decoding {plain:.2f} s, encoding {encoding:.2f} s, previews {more:.3f} s: {share:.1%}"
    )
    print(f"bytes of an asset: mean {sum(sizes) / len(sizes):.0f}, largest {max(sizes)}")


if __name__ == "__main__":
    main()
