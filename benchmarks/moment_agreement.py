"""How far weights of moments help when half of each sound is another clip's, on the tracks of an indexed library.

    FOLEY_DATA=data python -m benchmarks.moment_agreement

For each seed the clips are halved; a network learned on one half judges the other, so every clip is judged by one that
has not seen it. R@1 of picture → sound among all clips, in percent.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models.bundle.moments import MomentWeights
from training.adapting.moments import AgreementConfig, Measured, fit_agreement, measure_agreement, to_arrays
from training.commands.agreement import tabulate
from training.data.stored_tracks import load_tracks

Floats = NDArray[np.float32]


def measure_seed(audio: Floats, video: Floats, seed: int) -> Measured:
    """Judge each half of the clips by a network that the other half taught."""
    halves = np.array_split(np.random.default_rng(seed).permutation(len(audio)), 2)
    tracks = {"audio": audio, "video": video}
    networks = []
    for half in halves:
        taught = fit_agreement(
            lambda modality, chosen, half=half: tracks[modality][half[chosen]],  # type: ignore[misc]
            len(half),
            width=audio.shape[-1],
            config=AgreementConfig(seed=seed),
        )
        networks.append(MomentWeights(arrays=to_arrays(taught)))

    def judge(sounds: Floats, pictures: Floats) -> Floats:
        logits = np.empty(sounds.shape[:2], np.float32)
        for half, network in zip(halves, networks[::-1], strict=True):
            logits[half] = network.logits(sounds[half], pictures[half])
        return logits

    return measure_agreement(judge, audio, video, seed=seed)


def main() -> None:
    """Print a row for each seed, and whether the figures meet what is asked of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tracks = load_tracks(Path(folder))
        pairs = tracks.pairs()
        audio, video = (tracks.read(modality, pairs) for modality in ("audio", "video"))
    rows = [measure_seed(audio, video, seed) for seed in range(options.seeds)]
    console = Console()
    console.print(tabulate(rows, title=f"{len(pairs)} clips of {tracks.bundle_id}, a row a seed"))
    passed = all(
        one.weighted >= max(one.uniform + 15, one.best_four + 4) and one.clean_weighted >= one.clean - 1
        for one in rows
    )
    console.print(
        f"off screen: {100 * np.mean([one.flagged for one in rows]):.1f} % of clean moments, all but "
        f"{100 * np.mean([one.missed for one in rows]):.1f} % of foreign ones"
    )
    console.print(
        f"weighted ≥ uniform + 15, ≥ best four + 4, clean − 1 at every seed: {'yes' if passed else 'no'}"
    )


if __name__ == "__main__":
    main()
